"""The page of `regrip rewards compare`: one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

import regrip

from ..datasets.statistics import Rate
from ..rewards.estimates import Estimate
from ..rewards.trust import Findings
from .charts import Point, Series, at_both_widths, line_chart
from .durable import write_durably
from .report import template
from .rewards_compare import Data, Judged, learned_note

FRAMES = 8  # pictures in a strip
_FRAME = 96  # pixels of each, at most
_WIDE, _NARROW = (430, 250), (320, 230)

# Columns of the table: number, head, what it should be, how it is written.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("auroc", "success above failure", "AUROC inside tasks; 1 is perfect, 0.5 chance"),
    ("auprc", "AUPRC", "average precision for success inside tasks; chance is said below the table"),
    ("voc", "order, VOC", "rank correlation of levels with time, on successes; 1 is perfect"),
    ("vroc", "VROC", "the same on reversed videos; 1 is perfect"),
    ("negative_steps", "falling steps", "share of steps of successes whose level falls"),
    ("dithering", "to and fro", "earned on top by going there, back and there again; 0 is right"),
    ("hallucination", "wrongly done", "of the moments called done (level above 0.7), the share in failures"),
    ("ece", "ECE", "mean gap between score and success rate, ten bins; 0 is right"),
    ("brier", "Brier", "mean squared gap between score and outcome; 0 is right"),
    ("starc", "STARC", "distance to the sparse reward; 0 same, 1.41 unrelated, 2 opposite"),
    ("kendall", "policies", "Kendall's tau of policies ranked by score and by true success"),
    ("failure_ranking", "failures", "rank correlation with how near failures came"),
)


def render(path: Path, judged: Sequence[Judged], data: Data, known: Mapping[str, Any], shown: int) -> None:
    """Write the page.

    Args:
        path: of the page.
        judged: the rewards.
        data: the episodes they were judged on.
        known: what is known about them, see `rewards_compare.facts`.
        shown: failures and successes to draw for each reward.

    Raises:
        StorageError: if it cannot be written.
    """
    strips: dict[int, str] = {}
    page = template("rewards.html").render(
        version=regrip.__version__,
        known=known,
        rate=_rate(known["successes"], known["episodes"]),
        by_policy={name: _rate(**held) for name, held in known["policies"].items()},
        by_task={name: _rate(**held) for name, held in known["tasks"].items()},
        learned=learned_note(known) if known["learned_from"] else "",
        columns=[column for column in COLUMNS if _somewhere(judged, column[0])],
        absent=[(head, _reasons(judged, name)) for name, head, _ in COLUMNS if not _somewhere(judged, name)],
        rewards=[_reward(one, data, shown, strips) for one in judged],
    )
    write_durably(path, page.encode())


def _rate(successes: int, episodes: int) -> Rate:
    return Rate(successes, episodes)


def _somewhere(judged: Sequence[Judged], number: str) -> bool:
    return any(one.findings is not None and one.findings.numbers[number].value is not None for one in judged)


def _reasons(judged: Sequence[Judged], number: str) -> str:
    found = {one.findings.numbers[number].why for one in judged if one.findings is not None}
    return "; ".join(sorted(found)) or "no reward could be asked"


def _reward(one: Judged, data: Data, shown: int, strips: dict[int, str]) -> dict[str, Any]:
    """What the page says about one reward."""
    told: dict[str, Any] = {
        "name": one.name, "sentence": one.sentence, "findings": one.findings, "learned": one.learned,
    }  # fmt: skip
    if one.findings is None or not one.findings.num_judged:
        return told | {"numbers": {}, "films": [], "charts": []}
    findings = one.findings
    charts = [
        ("Scores of successes (up) and failures (down)", _distribution(findings, data.rollouts.success)),
        ("Successes against their own copies", _margins(findings.numbers)),
        ("Is the score a probability of success?", _reliability(findings)),
    ]
    return told | {
        "numbers": findings.numbers,
        "films": _films(findings, data, shown, strips),
        "charts": charts,
    }


def _films(findings: Findings, data: Data, shown: int, strips: dict[int, str]) -> list[dict[str, Any]]:
    """The best-scored failures, for exploits show there, then the worst-scored successes."""
    reading, rollouts = findings.reading, data.rollouts
    order = np.argsort(-reading.score, kind="stable")
    order = order[reading.judged[order]]
    lost, won = order[~rollouts.success[order]][:shown], order[rollouts.success[order]][::-1][:shown]
    films = []
    for row in (*lost, *won):
        count = int(rollouts.decision_valid[row].sum())
        if reading.level is not None:
            curve = reading.level[row, :count].astype(np.float64)
        else:
            curve = np.cumsum(reading.value[row, :count].sum(-1, dtype=np.float64))
        low, high = _span(findings)
        row = int(row)
        if row not in strips:
            strips[row] = _strip(next(iter(rollouts.images.values()))[row, :count]) if rollouts.images else ""
        films.append(
            {
                "start": rollouts.start[row],
                "said": rollouts.instruction[row],
                "policy": data.policies[row],
                "success": bool(rollouts.success[row]),
                "score": float(reading.score[row]),
                "strip": strips[row],
                "curve": Markup(_curve(curve, low, high)),
                "low": low,
                "high": high,
                "what": "level" if reading.level is not None else "paid so far",
            }
        )
    return films


def _span(findings: Findings) -> tuple[float, float]:
    """The range of curves, the same for all episodes of a reward; [0, 1] if they lie in it."""
    reading = findings.reading
    every = reading.level if reading.level is not None else np.cumsum(reading.value.sum(-1), 1)
    every = every[reading.judged]
    low, high = float(every.min()), float(every.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (min(0.0, low), max(high, low + 1e-6))


def _strip(frames: NDArray[np.uint8]) -> str:
    """Pictures (T,H,W,3) at even times, side by side, as WebP in a data URL."""
    at = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    tiles = []
    for frame in frames[at]:
        picture = Image.fromarray(frame)
        picture.thumbnail((_FRAME, _FRAME))
        tiles.append(np.pad(np.asarray(picture), ((0, 0), (1, 1), (0, 0)), constant_values=255))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, 1)).save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(levels: NDArray[np.float64], low: float, high: float) -> str:
    """Levels over a strip: each stands above the picture of its moment."""
    share = (levels - low) / (high - low)
    x = (0.5 + np.linspace(0, 1, len(levels)) * (FRAMES - 1)) / FRAMES * 100
    points = " ".join(f"{a:.1f},{96 - 92 * b:.1f}" for a, b in zip(x, share, strict=True))
    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (4, 50, 96))
    return (
        '<svg class="curve" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="levels from {levels[0]:.2f} to {levels[-1]:.2f}">{grid}'
        f'<polyline class="line" points="{points}"/></svg>'
    )


def _distribution(findings: Findings, success: NDArray[np.bool_]) -> Markup:
    """A histogram of scores, successes upward and failures downward, each as a share of its own."""
    fine = findings.reading.judged
    score, won = findings.reading.score[fine], success[fine]
    low, high = float(score.min()), float(score.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    edges = np.linspace(low, high if high > low else low + 1, 21)
    shares = [np.histogram(score[which], edges)[0] / max(1, which.sum()) for which in (won, ~won)]
    tallest = max(float(part.max()) for part in shares) or 1.0
    bars = []
    for part, colour, name, up in (
        (shares[0], "after", "successes", True),
        (shares[1], "bad", "failures", False),
    ):
        for number, share in enumerate(part):
            if share:
                size = 60 * share / tallest
                bars.append(
                    f'<rect class="fill {colour}" x="{5 * number + 0.4:.1f}%" width="4.2%" '
                    f'y="{62 - size if up else 64:.1f}" height="{size:.1f}"><title>{100 * share:.0f} % of '
                    f"{name} score {edges[number]:.2f} to {edges[number + 1]:.2f}</title></rect>"
                )
    return Markup(
        '<svg class="bars" height="126" role="img" aria-label="distribution of scores">'
        f'<line class="grid" x1="0" x2="100%" y1="63" y2="63"/>{"".join(bars)}</svg>'
        f'<div class="scale"><span>{edges[0]:.2f}</span><span>score</span><span>{edges[-1]:.2f}</span></div>'
    )


def _margins(numbers: Mapping[str, Estimate]) -> Markup:
    """How much more a success scores than its copy, with its interval, and how often."""
    rows = [
        (words, numbers[f"margin_{name}"], numbers[f"wins_{name}"])
        for name, words in (
            ("reversed", "played backwards"),
            ("frozen", "held still"),
            ("words", "wrong words"),
        )
    ]
    ends = [
        end for _, margin, _ in rows for end in (margin.value, margin.low, margin.high) if end is not None
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0

    def place(value: float) -> str:
        return f"{2 + 96 * (value - low) / span:.2f}%"

    parts = []
    for words, margin, wins in rows:
        if margin.value is None or wins.value is None:
            parts.append(f'<p class="margin">{words}: <small>{escape(margin.why)}</small></p>')
            continue
        near, far = sorted((0.0, margin.value))
        ends_at = (
            margin.value if margin.low is None else margin.low,
            margin.value if margin.high is None else margin.high,
        )
        colour = "after" if wins.value >= 0.75 else "bad"
        width = 96 * (far - near) / span
        parts.append(
            f'<p class="margin">{words}: {margin.value:+.2f} <small>scores more in {100 * wins.value:.0f} %'
            f'</small></p><svg class="bars {colour}" height="16" role="img" aria-label="{words}">'
            f'<rect class="fill" x="{place(near)}" width="{width:.2f}%" y="2" height="12"/>'
            f'<line class="whisker" x1="{place(ends_at[0])}" x2="{place(ends_at[1])}" y1="8" y2="8"/>'
            f'<line class="axis" x1="{place(0)}" x2="{place(0)}" y1="0" y2="16"/></svg>'
        )
    return Markup("".join(parts))


def _reliability(findings: Findings) -> Markup:
    """True success over score, with Wilson intervals, beside the diagonal."""
    if not findings.bins:
        return Markup(f'<p class="soft">Not drawn: {escape(findings.numbers["ece"].why)}.</p>')
    points = [
        Point(
            b.score, b.rate.value, b.rate.interval.low, b.rate.interval.high, f"score {b.score:.2f}: {b.rate}"
        )
        for b in findings.bins
    ]
    ideal = [Point(x, x, x, x, "as it should be") for x in (0.0, 1.0)]
    series = [Series("as it should be", "third", ideal), Series("episodes", "after", points, dots=True)]
    return at_both_widths(
        lambda **size: line_chart(series, x_label="score", label="Success over score", percent=True, **size),
        _WIDE,
        _NARROW,
    )

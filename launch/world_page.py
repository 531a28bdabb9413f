"""The page of `regrip world check`: one self-contained HTML file, and the videos beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

import regrip

from ..sim.world.checks import Seen, decoded
from ..sim.world.estimates import Curve
from ..sim.world.judging import Ranking, Verdicts, probability
from ..sim.world.model import WorldModel
from ..sim.world.verdict import Findings, sentence
from .charts import Point, Series, at_both_widths, line_chart
from .durable import explain, write_durably
from .report import template
from .videos import write_mp4
from .world_check import percent, rows

_WIDE, _NARROW = (540, 260), (320, 230)
_TILE = 96  # pixels of a picture in a strip
_TILES = 8
_SIDE = 192  # of a picture in a video, at least
_GAP = 4

_COLOURS = {"world": "after", "hold": "third", "linear": "bad", "eyes": "before"}
_NAMES = {"world": "world model", "hold": "still frame", "linear": "linear world", "eyes": "its eyes alone"}
_MEASURES = {
    "moving": "Error of pixels that move, root mean square of 255",
    "psnr": "PSNR of all pixels, dB (more is better)",
    "tokens": "Error of tokens, in units of their spread",
}


def render(
    path: Path, model: WorldModel, seen: Seen, findings: Findings, known: Mapping[str, Any], videos: int
) -> None:
    """Write the page, and a video of each episode shown beside it.

    Args:
        path: of the page.
        model: the world.
        seen: unseen episodes, imagined.
        findings: of `world_check.examine`.
        known: what was checked.
        videos: how many episodes to show.

    Raises:
        StorageError: if something cannot be written.
    """
    charts = [
        (
            _MEASURES.get(measure, f"Error of the {measure.replace(' ', ', ')}"),
            legend(curves),
            over_horizon(curves, _COLOURS, _NAMES),
        )
        for measure, curves in findings.open_loop.curves.items()
    ]
    said = {"real": "real pictures", "imagined": "imagined", "others": "other commands"}
    colours = {"real": "third", "imagined": "after", "others": "bad"}
    obedience = over_horizon(findings.following.curves, colours, said)
    page = template("world.html").render(
        version=regrip.__version__,
        known=known,
        sentence=sentence(findings),
        tables=rows(findings),
        obeyed=percent(findings.following.obeyed),
        charts=charts,
        obedience=(
            "Commands read back from pictures (1 is all)",
            [(said[name], colours[name]) for name in said],
            obedience,
        ),
        reliability=[
            (f"Success by {by}: is its probability one?", reliability(held))
            for by, held in findings.reflector.imagined.items()
        ],
        rankings=[(held.how, scatter(held)) for held in (findings.recorded, findings.closed) if held],
        films=films(path.parent, model, seen, videos),
    )
    write_durably(path, page.encode())


def legend(curves: Mapping[str, Curve]) -> list[tuple[str, str]]:
    return [(_NAMES[name], _COLOURS[name]) for name in curves]


def over_horizon(curves: Mapping[str, Curve], colours: Mapping[str, str], names: Mapping[str, str]) -> Markup:
    """Curves with their intervals over decisions ahead."""
    series = [
        Series(
            names[name],
            colours[name],
            [
                Point(i + 1, float(v), float(low), float(high), f"{names[name]}, {i + 1} ahead: {v:.3g}")
                for i, (v, low, high) in enumerate(zip(held.value, held.low, held.high, strict=True))
            ],
        )
        for name, held in curves.items()
    ]
    if not any(np.isfinite(held.value).any() for held in curves.values()):
        return Markup('<p class="soft">Nothing to draw.</p>')
    return _both(lambda **size: line_chart(series, x_label="decisions ahead", label="over decisions", **size))


def reliability(held: Verdicts) -> Markup:
    """True success over the model's probability, with Wilson intervals, beside the diagonal."""
    points = [Point(p, r.value, r.interval.low, r.interval.high, f"said {p:.2f}: {r}") for p, r in held.bins]
    return _diagonal(points, "probability, says the model", "episodes")


def scatter(held: Ranking) -> Markup:
    """Real success of each group over imagined."""
    points = [
        Point(a.value, b.value, b.interval.low, b.interval.high, f"{name}: {a} imagined, {b} real")
        for name, a, b in zip(held.names, held.imagined, held.real, strict=True)
    ]
    return _diagonal(points, "success in the model", "groups")


def _diagonal(points: list[Point], x_label: str, name: str) -> Markup:
    ideal = [Point(x, x, x, x, "as it should be") for x in (0.0, 1.0)]
    series = [Series("as it should be", "third", ideal), Series(name, "after", points, dots=True)]
    return _both(lambda **size: line_chart(series, x_label=x_label, label=x_label, percent=True, **size))


def _both(draw: Callable[..., str]) -> Markup:
    return at_both_widths(draw, _WIDE, _NARROW)


def films(folder: Path, model: WorldModel, seen: Seen, most: int) -> list[dict[str, Any]]:
    """The first unseen episodes of each task, whatever came of them: strips, and videos in `folder`."""
    chance = probability(model, seen.played.logit, seen.played.windows.there).max(1)
    rate = Fraction(model.spec.control_rate_hz).limit_denominator(1000) / model.config.chunk
    found = []
    for row in first_of_each_task(seen.clips.task, most):
        real, dreamt = both_sides(model, seen, row)
        file = folder / f"episode-{row}.mp4"
        write_mp4(file, side_by_side(real, dreamt), rate)
        try:
            data = base64.b64encode(file.read_bytes()).decode()
        except OSError as error:
            raise explain(error, "read", file) from error
        found.append(
            {
                "task": seen.clips.task[row],
                "policy": seen.clips.policy[row],
                "success": bool(seen.clips.success[row]),
                "chance": float(chance[row]),
                "said": bool(chance[row] > model.calibration.needed(seen.clips.task[row])),
                "strip": strip(real, dreamt),
                "video": f"data:video/mp4;base64,{data}",
                "name": file.name,
            }
        )
    return found


def first_of_each_task(tasks: Any, most: int) -> list[int]:
    """Rows of the first episode of each task, then of the second of each, at most so many."""
    turn: dict[str, int] = {}
    ranked = []
    for row, task in enumerate(tasks):
        turn[task] = turn.get(task, -1) + 1
        ranked.append((turn[task], row))
    return [row for _, row in sorted(ranked)[:most]]


def both_sides(model: WorldModel, seen: Seen, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An episode (T,C,h,w,3) as it was and as imagined; both begin with the same real frame."""
    at = np.flatnonzero(seen.known[row])
    first = seen.clips.pictures[seen.played.windows.frame[row, :1]]
    real = seen.clips.pictures[seen.after[row, at]]
    dreamt = decoded(model, seen.played.tokens[row, at]) if len(at) else real
    return np.concatenate([first, real]), np.concatenate([first, dreamt])


def side_by_side(real: NDArray[np.uint8], dreamt: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T,C,h,w,3) each to frames (T,H,W,3): real on the left, cameras below one another."""
    scale = max(1, -(-_SIDE // real.shape[3]))
    columns = []
    for pictures in (real, dreamt):
        large = pictures.repeat(scale, 2).repeat(scale, 3)
        rows = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0), (0, 0)), constant_values=255)
        columns.append(rows.reshape(len(rows), -1, *rows.shape[3:])[:, :-_GAP])
    gap = np.full((*columns[0].shape[:2], _GAP, 3), 255, np.uint8)
    return np.concatenate([columns[0], gap, columns[1]], 2)


def strip(real: NDArray[np.uint8], dreamt: NDArray[np.uint8]) -> str:
    """Pictures at even times, for each camera a row as it was above a row as imagined, as a data URL."""
    at = np.unique(np.linspace(0, len(real) - 1, _TILES).round().astype(int))
    lines = []
    for camera in range(real.shape[1]):
        for side, pictures in enumerate((real, dreamt)):
            tiles = [np.asarray(_small(pictures[time, camera])) for time in at]
            tiles = [np.pad(tile, ((1, 5 * side + 1), (1, 1), (0, 0)), constant_values=255) for tile in tiles]
            blank = np.full_like(tiles[0], 255)
            lines.append(np.concatenate([*tiles, *[blank] * (_TILES - len(tiles))], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _small(frame: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(frame).resize((_TILE, _TILE * frame.shape[0] // frame.shape[1]))

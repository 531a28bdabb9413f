"""Curves of a run's page: success while it practised, and what imagination and reality each said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..datasets.statistics import Rate
from .charts import Point, Series, at_both_widths, line_chart

# Chart sizes in pixels, for a desktop and for a phone.
_WIDE, _NARROW = (920, 300), (350, 250)
Row = Mapping[str, float]


def both(draw: Callable[..., str]) -> Markup:
    """A chart at the desktop's and at the phone's width."""
    return at_both_widths(draw, _WIDE, _NARROW)


def rates(rows: Sequence[Row], part: str, words: str) -> list[Point]:
    """Success with its Wilson interval, over episodes played."""
    points = []
    for row in rows:
        if not row.get(f"{part}/episodes"):
            continue
        rate = Rate(int(row[f"{part}/successes"]), int(row[f"{part}/episodes"]))
        interval = rate.interval
        title = f"iteration {row['iteration']:.0f}, {words}: {rate}"
        points.append(Point(x_of(row), rate.value, interval.low, interval.high, title))
    return points


def x_of(row: Row) -> float:
    return row.get("episodes", row["iteration"])


def x_label(rows: Sequence[Row]) -> str:
    return "episodes played" if rows and "episodes" in rows[0] else "iteration"


def learning(rows: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Success while training."""
    inside = config.get("env", {}).get("name") == "world"
    mixed = "imagined, some really played" if config.get("real_share") else "imagined"
    where = f", {mixed}" if inside else "", ", imagined" if inside and not config.get("check_real") else ""
    series = [
        Series(f"sampled, on training start states{where[0]}", "third", rates(rows, "train", "training")),
        Series(
            f"greedy, on selection start states{where[1]}", "after", rates(rows, "select", "selection"),
            dots=True,
        ),
    ]  # fmt: skip
    series = [one for one in series if one.points]
    if not series:
        return None
    return {
        "legend": [(one.name, one.colour) for one in series],
        "chart": both(
            lambda **size: line_chart(
                series, x_label=x_label(rows), label="Success while training", percent=True, **size
            )
        ),
    }


def imagined(
    rows: Sequence[Row], config: Mapping[str, Any], measured: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What to say of a run that practised in a learned world; None of one that did not.

    Args:
        rows: of its metrics.
        config: of the run.
        measured: the environment in which it was evaluated, if it was.
    """
    env = config.get("env", {})
    if env.get("name") != "world":
        return None
    checks = [row for row in rows if row.get("imagined/episodes")]
    checking = int(sum(row["select/episodes"] for row in checks))
    last = rows[-1] if rows else {}
    real = int(last.get("real_episodes", 0)) - checking
    found: dict[str, Any] = {
        "model": env.get("suite", "?"),
        "real": config.get("real", ""),
        "dreamt": max(0, int(last.get("episodes", 0)) - real),
        "practised": real,
        "checking": checking,
        "unproven": measured is not None and measured.get("name") == "world",
        "parted": bool(checks and checks[-1].get("parted")),
        "chart": None,
    }
    series = [
        Series("imagined", "before", rates(checks, "imagined", "imagined")),
        Series("real", "after", rates(checks, "select", "real"), dots=True),
    ]
    if checks:
        gaps = [a.y - b.y for a, b in zip(series[0].points, series[1].points, strict=True)]
        found |= {
            "gaps": (100 * gaps[0], 100 * gaps[-1]),
            "legend": [(one.name, one.colour) for one in series],
            "chart": both(
                lambda **size: line_chart(
                    series, x_label=x_label(rows), label="Imagined and real success", percent=True, **size
                )
            ),
        }
    return found

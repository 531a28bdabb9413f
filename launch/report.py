"""`regrip report`: one self-contained HTML page that says what a run did and what came of it."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import tyro
from markupsafe import Markup

import regrip

from ..datasets.statistics import PairedDifference, Rate, format_p
from . import report_curves as curves
from .alarms import read_alarms
from .charts import Point, Series, dumbbell, line_chart, stacked_bars
from .compare import difference, require_comparable
from .config import parse_options
from .durable import StorageError, explain, read_json, write_durably
from .measurement import Measurement, load_measurement
from .metrics import read_metrics
from .report_curves import Row
from .run_directory import RunDirectory
from .videos import Video, read_index


@dataclass(frozen=True)
class Options:
    """`regrip report`.

    Attributes:
        run: a run directory.
        out: the page; by default report.html in the run directory.
    """

    run: tyro.conf.Positional[Path]
    out: Path | None = None


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip report", description="Turn a run directory into one HTML page."
    )
    path = write_report(RunDirectory(options.run), options.out)
    print(f"report: {path.resolve()}")
    return 0


def write_report(run: RunDirectory, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not; what was not recorded is said, not invented.

    Args:
        run: its directory.
        out: the page; ``report.html`` in the run directory if None.

    Returns:
        the path of the page.

    Raises:
        StorageError: if the run directory is missing or a file in it is damaged.
        ValueError: if the two evaluations are not of the same start states.
    """
    if not run.config.exists():
        raise StorageError(
            f"{run.path} is not a run directory: it has no config.json. "
            "Give the directory that `regrip train` wrote, for instance runs/demo-001."
        )
    settings = read_json(run.config, "a run's configuration")
    config = settings.get("config", {})
    rows = read_metrics(run.path)
    before = load_measurement(run.eval_before) if run.eval_before.exists() else None
    after = load_measurement(run.eval_after) if run.eval_after.exists() else None
    if before and after:
        require_comparable(before, after, run.eval_before.name, run.eval_after.name)
    page = template("report.html").render(
        name=run.path.resolve().name,
        format_p=format_p,
        version=regrip.__version__,
        settings=settings,
        command=shlex.join(settings.get("command", [])),
        code=settings.get("code", {}),
        config_toml=to_toml(config),
        practice=_practice(rows),
        headline=_headline(before, after),
        modes=_modes(before, after),
        tasks=_tasks(before, after),
        before=before,
        after=after,
        videos=_videos(read_index(run.videos / "before"), read_index(run.videos / "after")),
        learning=curves.learning(rows, config),
        imagined=curves.imagined(rows, config, one.environment if (one := after or before) else None),
        reward=_reward(rows),
        waste=_waste(rows),
        budget=_budget(rows),
        incidents=_incidents(run.read_incidents()),
        alarms=_alarms(run.alarms),
    )
    path = out or run.report
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", path) from error
    write_durably(path, page.encode())
    return path


def template(name: str) -> jinja2.Template:
    """One of the pages in ``templates/``; what is put into it is escaped."""
    folder = resources.files("regrip.launch") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    environment.filters["duration"] = duration
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """``4.2 s``, ``48 s``, ``14 min``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def to_toml(config: Mapping[str, Any], prefix: str = "") -> str:
    """A configuration as a preset: saved to a .toml file, `regrip train` takes it. None is left out."""
    lines = [
        f"{key} = {_toml_value(value)}"
        for key, value in config.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            inner = to_toml(value, f"{prefix}{key}.")
            own = inner if inner.startswith("[") else f"[{prefix}{key}]\n{inner}"
            text += f"\n{own}" if text else own
    return text


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return json.dumps(value)  # TOML writes texts, numbers and booleans as JSON does


def _practice(rows: Sequence[Row]) -> dict[str, Any]:
    """How much the policy practised."""
    last = rows[-1] if rows else {}
    return {
        "iterations": int(last.get("iteration", 0)),
        "episodes": last.get("episodes"),
        "seconds": last.get("elapsed_s") or sum(_spent(rows).values()),
    }


def _headline(before: Measurement | None, after: Measurement | None) -> dict[str, Any]:
    """The two numbers, and in words what may be said about them."""
    found: dict[str, Any] = {"before": None, "after": None, "change": None, "verdict": "unmeasured"}
    if before:
        found["before"] = before.headline.rate
    if after:
        found["after"] = after.headline.rate
    if before and after:
        mode = _headline_mode(before, after)
        change = difference(before.modes[mode], after.modes[mode])
        found |= {
            "before": before.modes[mode].rate,
            "after": after.modes[mode].rate,
            "mode": mode,
            "change": change,
            "verdict": _verdict(change),
        }
    bars = [(rate, name) for name in ("before", "after") if (rate := found[name]) is not None]
    found["chart"] = Markup(dumbbell(bars, "Success before and after, with 95 % intervals")) if bars else ""
    return found


def _headline_mode(before: Measurement, after: Measurement) -> str:
    common = [mode for mode in before.modes if mode in after.modes]
    return "greedy" if "greedy" in common else common[0]


def _verdict(change: PairedDifference) -> str:
    if change.interval.low > 0:
        return "better"
    return "worse" if change.interval.high < 0 else "undecided"


def _modes(before: Measurement | None, after: Measurement | None) -> list[dict[str, Any]]:
    """Greedy and sampled, all tasks together."""
    if not (before and after):
        return []
    return [
        {
            "name": mode,
            "before": before.modes[mode].rate,
            "after": after.modes[mode].rate,
            "change": difference(before.modes[mode], after.modes[mode]),
        }
        for mode in before.modes
        if mode in after.modes
    ]


def _tasks(before: Measurement | None, after: Measurement | None) -> list[dict[str, Any]]:
    """One row for each task, in the headline's mode."""
    mode = _headline_mode(before, after) if before and after else None
    rates = {
        label: (measured.modes[mode] if mode else measured.headline).by_task()
        for label, measured in (("before", before), ("after", after))
        if measured
    }
    rows = []
    for task in dict.fromkeys(task for found in rates.values() for task in found):
        pair = {label: rates.get(label, {}).get(task, Rate(0, 0)) for label in ("before", "after")}
        bars = [(pair[label], label) for label in pair if label in rates]
        title = f"{task}: " + ", ".join(f"{label} {rate}" for label, rate in pair.items())
        name = task.split("/", 1)[1].replace("_", " ")
        rows.append({"name": name, **pair, "chart": Markup(dumbbell(bars, title))})
    return rows


def _videos(before: Sequence[Video], after: Sequence[Video]) -> list[dict[str, Any]]:
    """Pairs of the same start state."""
    later = {video.start: video for video in after}
    return [
        {
            "instruction": video.instruction,
            "start": video.start,
            "pair": [
                {"label": label, "video": one, "data": _data_url(one.file)}
                for label, one in (("before", video), ("after", later[video.start]))
            ],
        }
        for video in before
        if video.start in later
    ]


def _data_url(file: Path) -> str:
    try:
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise explain(error, "read the video", file) from error


def _reward(rows: Sequence[Row]) -> dict[str, Any] | None:
    """What the reward says about episodes that truly succeeded, and about those that did not."""

    def series(name: str, label: str, colour: str) -> Series:
        points = [
            Point(curves.x_of(row), y, y, y, f"iteration {row['iteration']:.0f}, {label}: {y:.3f}")
            for row in rows
            if math.isfinite(y := row.get(name, math.nan))
        ]
        return Series(label, colour, points)

    both = [
        series("reward/successes", "episodes that succeeded", "after"),
        series("reward/failures", "episodes that failed", "bad"),
    ]
    both = [one for one in both if one.points]
    if not both:
        return None
    ranking = [row["reward/ranking"] for row in rows if math.isfinite(row.get("reward/ranking", math.nan))]
    return {
        "legend": [(one.name, one.colour) for one in both],
        "chart": curves.both(
            lambda **size: line_chart(
                both, x_label=curves.x_label(rows), label="Mean reward of successes and failures", **size
            )
        ),
        "ranking": sum(ranking) / len(ranking) if ranking else None,
        "worst": min(ranking) if ranking else None,
    }


def _waste(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Groups in which every episode got the same reward teach a group-relative method nothing."""
    kept = [row for row in rows if row.get("groups/played")]
    if not kept:
        return None
    parts = {"live": "that taught something", "solved": "all succeeded alike", "failed": "all failed alike"}
    columns = []
    for row in kept:
        solved = row.get("groups/all_won", 0.0)
        failed = row.get("groups/all_failed", 0.0) + row.get("groups/tied", 0.0)
        sizes = [row["groups/played"] - solved - failed, solved, failed]
        counts = ", ".join(f"{size:.0f} {label}" for size, label in zip(sizes, parts.values(), strict=True))
        columns.append((row["iteration"], sizes, f"iteration {row['iteration']:.0f}: {counts}"))
    live, solved, failed = (sum(sizes[part] for _, sizes, _ in columns) for part in range(3))
    colours = ("after", "third", "bad")
    return {
        "played": live + solved + failed,
        "solved": solved,
        "failed": failed,
        "episodes": sum(row.get("episodes/wasted", 0.0) for row in rows),
        "all_episodes": rows[-1].get("episodes"),
        "legend": list(zip(parts.values(), colours, strict=True)),
        "chart": curves.both(
            lambda **size: stacked_bars(
                columns, colours, x_label="iteration", label="Groups by what they taught", **size
            )
        ),
    }


def _spent(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of each part, over the whole run."""
    spent: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("seconds/") and math.isfinite(value):
                part = name.removeprefix("seconds/").replace("_", " ")
                spent[part] = spent.get(part, 0.0) + value
    return spent


def _budget(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Where the seconds went."""
    spent = _spent(rows)
    total = sum(spent.values())
    if not total:
        return None
    ordered = sorted(spent.items(), key=lambda part: -part[1])
    episodes, steps = rows[-1].get("episodes"), rows[-1].get("env_steps")
    return {
        "parts": [
            {"name": name, "seconds": seconds, "share": seconds / total, "shade": min(number, 5)}
            for number, (name, seconds) in enumerate(ordered)
        ],
        "total": total,
        "episodes_per_second": episodes / total if episodes else None,
        "steps_per_second": steps / total if steps else None,
    }


def _alarms(folder: Path) -> list[dict[str, Any]]:
    """What the reward's monitor noticed, each with its first film."""
    found = []
    for alarm in read_alarms(folder):
        films = [{**one, "url": _data_url(folder / one["file"])} for one in alarm["episodes"][:1]]
        found.append({**alarm, "episodes": films})
    return found


def _incidents(listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Workers that were lost; nothing else was, or the run would not have gone on."""
    counts = Counter(str(incident.get("kind", "unknown")) for incident in listed)
    return {"counts": dict(counts), "total": len(listed), "listed": list(listed[-20:])}

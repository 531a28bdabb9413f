"""`regrip data page`: a data set as one HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

import regrip

from ..datasets.formats import open_source
from ..datasets.frames import encode_jpeg
from ..datasets.inspecting.evidence import is_action, is_state, numbers
from ..datasets.inspecting.inspection import SAMPLE_EPISODES, SURE, Inspection, inspect, spread
from ..datasets.inspecting.row_summaries import Clock, EntryRange
from ..datasets.ledger import DataError
from ..datasets.recording import Frames, Recording, Source
from ..datasets.statistics import Rate
from .config import parse_options
from .data_inspect import hours
from .durable import explain, write_durably
from .report import template

_ROWS = 1000  # episodes in the table
_CAMERAS = 4  # of an episode that are shown
_THUMBS, _THUMB_HEIGHT = 6, 44
_FRAMES, _FRAME_HEIGHT = 16, 132
_POINTS = 160  # of a curve
_ENTRIES = 16  # of a stream that are drawn
_STREAMS = 8  # of numbers that are drawn
_HISTOGRAMS = 64
_BUDGET = 24_000_000  # bytes of pictures, whatever was asked for


@dataclass(frozen=True)
class Options:
    """`regrip data page`.

    Attributes:
        src: a data set of any format.
        out: the page.
        format: the set's format, where looking at it would find another.
        pictures: episodes shown with pictures and curves, evenly spread.
        episodes: how many are read for ranges and conventions, evenly spread; 0 for all.
    """

    src: tyro.conf.Positional[Path]
    out: Path
    format: str = ""
    pictures: int = 40
    episodes: int = SAMPLE_EPISODES


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip data page", description="Show a data set on one HTML page."
    )
    if options.pictures < 0 or options.episodes < 0:
        raise ValueError("--pictures and --episodes cannot be negative")
    source = open_source(options.src, options.format)
    try:
        with Console(stderr=True).status("reading") as status:
            found = inspect(
                source,
                options.episodes or None,
                lambda done, total: status.update(f"reading episode {done} of {total}"),
            )
            status.update("drawing")
            write_page(options.out, source, found, options.pictures)
    finally:
        source.close()
    print(f"page: {options.out.resolve()}")
    return 0


def write_page(path: Path, source: Source, found: Inspection, pictures: int = 40) -> None:
    """Write the page of a set.

    Args:
        path: of the page; folders are made.
        source: the set, to take pictures and curves from.
        found: what inspecting it gave.
        pictures: episodes shown with pictures and curves, evenly spread.

    Raises:
        StorageError: it cannot be written.
    """
    shown = spread(len(source), _ROWS)
    drawn = {shown[i] for i in spread(len(shown), pictures)} if pictures else set()
    problems: dict[int, list[str]] = defaultdict(list)
    for one in found.problems:
        if one.episode is not None:
            problems[one.episode].append(one.what)
    spent, rows = 0, []
    for episode in shown:
        wanted = episode in drawn and spent < _BUDGET
        row = _episode(source, episode, wanted, problems.get(episode, []))
        spent += sum(len(film["src"]) for film in row["detail"]["films"]) if row["detail"] else 0
        rows.append(row)
    numbered = {task: number for number, task in enumerate(found.tasks)}
    for row in rows:
        row["tasknum"] = numbered.get(row["task"], "")
    script = (resources.files("regrip.launch") / "templates" / "data.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template("data.html").render(
        version=regrip.__version__,
        found=found,
        name=Path(found.path).name or found.path,
        hours=hours(found.hours),
        success=Rate(found.successes, found.judged) if found.judged else None,
        rows=rows,
        cut=len(shown) < len(source),
        num_pictures=sum(row["detail"] is not None for row in rows),
        details={row["index"]: row["detail"] for row in rows if row["detail"] is not None},
        most={"cameras": _CAMERAS, "entries": _ENTRIES, "frames": _FRAMES, "points": _POINTS},
        tasks=list(found.tasks.items()),
        streams=_streams(found),
        clocks=[(clock, Markup(_clock(clock))) for clock in found.clocks if clock.steps],
        histograms=_histograms(found.ranges[:_HISTOGRAMS]),
        more_histograms=max(0, len(found.ranges) - _HISTOGRAMS),
        conventions=[_convention(name, one.value, one) for name, one in found.conventions.items()],
        sure=SURE,
        script=Markup(script),
        digest=digest,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", path) from error
    write_durably(path, page.encode(errors="replace"))


def _episode(source: Source, episode: int, drawn: bool, problems: Sequence[str]) -> dict[str, Any]:
    """A row of the table, and what a click on it shows."""
    row: dict[str, Any] = {
        "index": episode, "task": "", "success": None, "reward": None, "steps": 0, "seconds": 0.0,
        "thumbs": "", "problems": list(problems), "detail": None,
    }  # fmt: skip
    try:
        recording = source[episode]
    except DataError as error:
        row["problems"] = [*row["problems"], f"not readable: {error.what}"]
        return row
    times = [track.time for track in recording.streams.values() if len(track)]
    row |= {
        "task": recording.task, "success": recording.success, "steps": recording.num_steps,
        "seconds": _finite(max((float(t[-1] - t[0]) for t in times), default=0.0)),
    }  # fmt: skip
    if "reward" in recording.streams:
        row["reward"] = _finite(float(numbers(recording.streams["reward"]).sum()))
    if drawn:
        films, row["thumbs"], torn = _films(source, recording)
        row["problems"] = [*row["problems"], *torn]
        row["detail"] = {
            "task": recording.task, "success": recording.success, "problems": row["problems"], "films": films,
            "curves": _curves(source, recording), "seconds": row["seconds"], "steps": row["steps"],
            "about": _about(recording.about),
        }  # fmt: skip
    return row


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _about(about: Mapping[str, Any]) -> str:
    text = ", ".join(
        f"{key}: {value}" for key, value in about.items() if isinstance(value, str | int | float)
    )
    return text[:400]


def _films(source: Source, recording: Recording) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Pictures at even times of each camera side by side, small ones of the first, and what is torn."""
    films: list[dict[str, Any]] = []
    thumbs, torn = "", []
    cameras = [k for k in source.contents.of_kind("image", "depth") if k in recording.streams]
    for key in cameras[:_CAMERAS]:
        track = recording.streams[key]
        frames: Any = track.rows
        if not len(track):
            continue
        at = [round(x) for x in np.linspace(0, len(track) - 1, min(_FRAMES, len(track)))]
        try:
            pictures = [_picture(frames, index, _FRAME_HEIGHT) for index in at]
        except DataError as error:
            torn.append(f"{key}: {error.what}")
            continue
        films.append(
            {
                "key": key, "src": _url(pictures), "frames": len(at),
                "width": pictures[0].shape[1], "height": pictures[0].shape[0],
                "time": [round(float(t), 4) for t in track.time[at]],
            }
        )  # fmt: skip
        if not thumbs:
            few = [pictures[round(x)] for x in np.linspace(0, len(at) - 1, min(_THUMBS, len(at)))]
            thumbs = _url([_resized(picture, _THUMB_HEIGHT) for picture in few])
    return films, thumbs, torn


def _picture(frames: Frames, index: int, height: int) -> NDArray[np.uint8]:
    image = np.asarray(frames[index])
    if image.ndim == 2:  # depth: near is dark, nothing measured is black
        seen = image[np.isfinite(image) & (image > 0)].astype(np.float64)
        low, high = np.quantile(seen, [0.01, 0.99]) if seen.size else (0.0, 1.0)
        grey = np.clip(
            40 + 215 * (np.nan_to_num(image.astype(np.float64)) - low) / max(high - low, 1e-9), 0, 255
        )
        image = np.repeat(np.where(image > 0, grey, 0).astype(np.uint8)[:, :, None], 3, axis=2)
    return _resized(image, height)


def _resized(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """At most so high, and not wider than twice that."""
    scale = min(height / image.shape[0], 2 * height / image.shape[1], 1.0)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _url(pictures: Sequence[NDArray[np.uint8]]) -> str:
    data = encode_jpeg(np.concatenate(pictures, 1), 78)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _curves(source: Source, recording: Recording) -> list[dict[str, Any]]:
    """State, action, reward and other numbers over time, thinned."""
    keys = [
        k for k in source.contents.of_kind("vector") if k in recording.streams and len(recording.streams[k])
    ]
    keys.sort(key=lambda key: (not is_action(key), not is_state(key), key != "reward"))
    curves = []
    for key in keys[:_STREAMS]:
        track, spec = recording.streams[key], source.contents.streams[key]
        rows = numbers(track)
        at = np.unique(np.linspace(0, len(track) - 1, min(_POINTS, len(track))).round().astype(int))
        width = min(rows.shape[1], _ENTRIES)
        names = spec.names or (key.rsplit(".", 1)[-1],) * (not spec.shape)
        curves.append(
            {
                "key": key, "entries": rows.shape[1], "time": [_short(t) for t in track.time[at]],
                "names": [names[i] if i < len(names) else f"[{i}]" for i in range(width)],
                "values": [[_short(value) for value in rows[at, i]] for i in range(width)],
            }
        )  # fmt: skip
    return curves


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _streams(found: Inspection) -> list[dict[str, Any]]:
    cameras = {camera.stream: camera for camera in found.cameras}
    told = []
    for key, spec in found.streams.items():
        camera = cameras.get(key)
        notes = [str(spec.about[name]) for name in ("codec", "unit") if name in spec.about]
        if camera is not None:
            notes = [camera.codec, *(str(spec.about[name]) for name in ("unit",) if name in spec.about)]
            if math.isfinite(camera.brightness):
                notes.append(f"mean brightness {camera.brightness:.0f}")
        told.append(
            {
                "key": key, "kind": spec.kind, "dtype": spec.dtype, "rows": found.rows.get(key, 0),
                "shape": "×".join(map(str, spec.shape)) or "1", "notes": ", ".join(notes),
                "rate": f"{spec.rate_hz:g} Hz" if spec.rate_hz else "",
            }
        )  # fmt: skip
    return told


def _convention(name: str, value: Any, one: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        ends = (
            f"{end} {'unknown' if value[end] is None else format(value[end], '.4g')}"
            for end in ("open", "closed")
        )
        value = f"{value['kind']}, {', '.join(ends)} {value['unit']}".rstrip()
    return {"name": name, "value": value, "confidence": one.confidence, "evidence": one.evidence}


def _histograms(ranges: Sequence[EntryRange]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The entries of each stream, drawn."""
    streams: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in ranges:
        notes = [f"{one.nan} NaN"] if one.nan else []
        notes += [f"{one.inf} infinite"] if one.inf else []
        down = f"{one.min:.4g}" if one.min < one.low else ""
        up = f"{one.max:.4g}" if one.max > one.high else ""
        svg = Markup(_bars(one.counts, f"distribution of entry {one.index}"))
        streams[one.stream].append(
            {
                "label": one.label, "unit": one.unit, "constant": one.constant, "notes": ", ".join(notes),
                "median": one.median, "low": one.low, "high": one.high, "beyond": [down, up], "svg": svg,
                "empty": one.rows == one.nan + one.inf,
            }
        )  # fmt: skip
    for key, entries in streams.items():
        if len(entries) == 1 and entries[0]["label"] == "[0]":
            entries[0]["label"] = key.rsplit(".", 1)[-1]
    return list(streams.items())


def _bars(counts: Sequence[int], label: str, height: int = 56) -> str:
    """A histogram that stretches to its width; a bar that is not empty is seen, however small."""
    tallest, width = max(counts, default=0) or 1, 100 / max(len(counts), 1)
    bars = "".join(
        f'<rect class="fill" x="{width * i + 0.06 * width:.2f}%" width="{0.88 * width:.2f}%" '
        f'y="{height - size:.1f}" height="{size:.1f}"/>'
        for i, count in enumerate(counts)
        if count
        for size in (max(1.5, (height - 2) * count / tallest),)
    )
    return f'<svg class="bars" height="{height}" role="img" aria-label="{label}">{bars}</svg>'


def _clock(clock: Clock) -> str:
    return _bars(clock.counts, "distribution of steps in time", 72)

"""`regrip data view`: a data set in the viewer Rerun, pictures and curves on one time line."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from ..datasets.formats import open_source
from ..datasets.frames import codec_of, encode_jpeg
from ..datasets.inspecting.evidence import is_action, is_state, numbers
from ..datasets.ledger import DataError
from ..datasets.recording import Contents, Recording, Source, StreamSpec, Track
from .config import parse_options
from .data_inspect import plain
from .durable import explain

if TYPE_CHECKING:
    import rerun

_SHOWN_AS_THEY_ARE = {"jpeg": "image/jpeg", "png": "image/png"}
_BATCH = 32  # pictures handed over at a time
_ENTRIES = 64  # curves of a stream
_COLOURS = (  # told apart on light and on dark
    0x2A78D6FF, 0xE0663CFF, 0x1D9E75FF, 0xB455C9FF, 0xC9940AFF, 0x5A6BD8FF, 0xD6478AFF, 0x5B8F1FFF,
    0x7D8496FF, 0x9C5B32FF,
)  # fmt: skip
_METRES = {"m": 1.0, "mm": 1000.0}  # values in a metre, by a depth image's unit


@dataclass(frozen=True)
class Options:
    """`regrip data view`.

    Attributes:
        src: a data set of any format.
        format: its name, where looking at it would find another.
        episodes: which to show, for instance 0 3 8; the first five if none are given.
        save: write a Rerun recording (.rrd) instead of opening the viewer.
        web: serve the viewer to a browser until Ctrl-C.
    """

    src: tyro.conf.Positional[Path]
    format: str = ""
    episodes: tuple[int, ...] = ()
    save: Path | None = None
    web: bool = False


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip data view", description="Show a data set in the viewer Rerun."
    )
    if options.save is not None and options.web:
        raise ValueError("--save writes a file and --web serves a browser: give one of them")
    rr = _rerun()
    source = open_source(options.src, options.format)
    try:
        episodes = chosen(source, options.episodes)
        if options.save is not None:
            save(source, episodes, options.save)
            print(f"recording: {options.save.resolve()}   (open it with: rerun {options.save})")
            return 0
        # The viewer would report its use to its makers; in what it takes for a test machine it does not.
        os.environ.setdefault("CI", "1")
        stream = rr.RecordingStream("regrip", recording_id=plain(Path(source.path).name) or "data")
        if options.web:
            address = stream.serve_grpc(default_blueprint=_blueprint(source.contents, episodes))
            rr.serve_web_viewer(connect_to=address)
        else:
            stream.spawn(default_blueprint=_blueprint(source.contents, episodes))
        for episode in episodes:
            log_episode(stream, episode, source.contents, source[episode])
        stream.flush()
        if options.web:
            print("serving the viewer; Ctrl-C ends it")
            while True:
                time.sleep(3600)
    finally:
        source.close()
    return 0


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise DataError(
            "looking at data in Rerun needs the package rerun-sdk",
            "install it: pip install 'regrip[view]'; or write a page with `regrip data page`",
        ) from error
    return rerun


def chosen(source: Source, episodes: Sequence[int]) -> list[int]:
    """The episodes asked for, or the first five.

    Raises:
        DataError: one of them is not there.
    """
    for episode in episodes:
        if not 0 <= episode < len(source):
            raise DataError(
                f"there is no episode {episode}",
                f"the set has {len(source)}: 0 to {len(source) - 1}" if len(source) else "the set is empty",
                file=source.path,
            )
    return list(dict.fromkeys(episodes)) or list(range(min(5, len(source))))


def save(source: Source, episodes: Sequence[int], path: Path) -> None:
    """Write episodes to a Rerun recording; nothing is opened, served or sent.

    Raises:
        DataError: an episode cannot be read, or rerun-sdk is missing.
        StorageError: it cannot be written.
    """
    rr = _rerun()
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
    except OSError as error:
        raise explain(error, "write", path) from error
    try:
        stream = rr.RecordingStream("regrip", recording_id=plain(Path(source.path).name) or "data")
        stream.save(str(beside), default_blueprint=_blueprint(source.contents, episodes))
        for episode in episodes:
            log_episode(stream, episode, source.contents, source[episode])
        stream.flush()
        stream.disconnect()
        os.replace(beside, path)
    except OSError as error:
        raise explain(error, "write", path) from error
    finally:
        beside.unlink(missing_ok=True)


def entity(episode: int, key: str = "") -> str:
    """Where a stream of an episode is logged: ``/episode_003/observation/images/front``."""
    path: str = _rerun().new_entity_path([f"episode_{episode:03d}", *(p for p in key.split(".") if p)])
    return path


def log_episode(
    stream: rerun.RecordingStream, episode: int, contents: Contents, recording: Recording
) -> None:
    """Log an episode on the time lines ``time`` (seconds since it began) and ``frame`` (row of the stream).

    Image files go in as they are where the viewer can show them (JPEG, PNG); other pictures become JPEG.
    """
    rr = _rerun()
    stream.set_log_time_enabled(False)  # when it was logged says nothing of the data
    stream.set_log_tick_enabled(False)
    words = [recording.task or "(no task)", ""]
    if recording.success is not None:
        words.append("success" if recording.success else "failure")
    words += [
        f"{key}: {value}" for key, value in recording.about.items() if isinstance(value, str | int | float)
    ]
    stream.log(entity(episode, "task"), rr.TextDocument("\n".join(words)), static=True)
    for key, track in recording.streams.items():
        spec = contents.streams.get(key)
        if spec is None or not len(track):
            continue
        path = entity(episode, key)
        if spec.kind == "image":
            _log_images(stream, path, track)
        elif spec.kind == "depth":
            _log_depth(stream, path, track, spec)
        elif spec.kind == "text":
            rows = [str(row) for row in track.rows]
            at = [i for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]
            stream.send_columns(path, _times(track, at), rr.TextLog.columns(text=[rows[i] for i in at]))
        else:
            _log_numbers(stream, path, track, spec)


def _times(track: Track, at: Sequence[int]) -> list[rerun.TimeColumn]:
    rr = _rerun()
    return [rr.TimeColumn("time", duration=track.time[list(at)]), rr.TimeColumn("frame", sequence=list(at))]


def _log_numbers(stream: rerun.RecordingStream, path: str, track: Track, spec: StreamSpec) -> None:
    rr = _rerun()
    rows = numbers(track)[:, :_ENTRIES]
    width = rows.shape[1]
    if not width:
        return
    own = spec.key.rsplit(".", 1)[-1]
    names = [
        plain(spec.names[i]) if i < len(spec.names) else own if width == 1 else f"{own}[{i}]"
        for i in range(width)
    ]
    colours = np.resize(np.asarray(_COLOURS, dtype=np.uint32), width)
    stream.log(path, rr.SeriesLines(names=names, colors=colours), static=True)
    columns = rr.Scalars.columns(scalars=rows.ravel()).partition([width] * len(rows))
    stream.send_columns(path, _times(track, range(len(rows))), columns)


def _log_images(stream: rerun.RecordingStream, path: str, track: Track) -> None:
    rr = _rerun()
    frames: Any = track.rows
    pictures = None if frames.encoded(0) is not None else iter(frames)
    for first in range(0, len(track), _BATCH):
        at = range(first, min(first + _BATCH, len(track)))
        files, kinds = [], []
        for i in at:
            data = frames.encoded(i)
            kind = _SHOWN_AS_THEY_ARE.get(codec_of(data)) if data is not None else None
            if data is None or kind is None:
                image = next(pictures) if pictures is not None else frames[i]
                data, kind = encode_jpeg(np.asarray(image)), "image/jpeg"
            files.append(data)
            kinds.append(kind)
        stream.send_columns(path, _times(track, at), rr.EncodedImage.columns(blob=files, media_type=kinds))


def _log_depth(stream: rerun.RecordingStream, path: str, track: Track, spec: StreamSpec) -> None:
    rr = _rerun()
    frames: Any = track.rows
    meter = _METRES.get(str(spec.about.get("unit", "")), 1000.0 if spec.dtype == "uint16" else 1.0)
    for i, image in enumerate(frames):
        stream.set_time("time", duration=float(track.time[i]))
        stream.set_time("frame", sequence=i)
        stream.log(path, rr.DepthImage(np.asarray(image), meter=meter))
    stream.reset_time()


def _blueprint(contents: Contents, episodes: Sequence[int]) -> Any:
    """One tab for each episode: cameras above, curves of action, state, reward and the rest below."""
    import rerun.blueprint as rrb

    keys = [key for key, spec in contents.streams.items() if spec.kind == "vector" and 0 not in spec.shape]
    keys.sort(key=lambda key: (not is_action(key), not is_state(key), key != "reward"))
    tabs = []
    for episode in episodes:
        cameras = [
            rrb.Spatial2DView(origin=entity(episode, key), name=plain(key.rsplit(".", 1)[-1]))
            for key in contents.of_kind("image", "depth")
        ]
        texts: list[Any] = [rrb.TextDocumentView(origin=entity(episode, "task"), name="task")]
        texts += [
            rrb.TextLogView(origin=entity(episode, key), name=plain(key))
            for key in contents.of_kind("text")
            if key != "task"
        ]
        plots = [rrb.TimeSeriesView(origin=entity(episode, key), name=plain(key)) for key in keys[:9]]
        shares = [3.0] * len(cameras) + [2.0] * len(texts)
        above = rrb.Horizontal(*cameras, *texts, column_shares=shares)
        parts = [above, rrb.Grid(*plots)] if plots else [above]
        tabs.append(rrb.Vertical(*parts, name=f"episode {episode}"))
    return rrb.Blueprint(rrb.Tabs(*tabs), rrb.TimePanel(timeline="time"), collapse_panels=True)

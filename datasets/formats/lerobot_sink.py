"""Writing a LeRobot set, v2.1 or v3.0.

Every episode becomes a parquet file and an mp4 file of each camera, whole on disk before the journal says so;
that is v2.1's layout already. v3.0 joins them into larger files: which episodes share one follows from their
sizes alone, so that a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..ledger import DataError, Ledger, Loss
from ..recording import Recording
from ..video import VideoFrames, close_videos, probe_video
from ..video_write import copy_clips
from .lerobot_bundles import CHUNK, ROWS, Bundle, Bundles
from .lerobot_journal import WORK, Journal, replace
from .lerobot_layout import Layout
from .lerobot_meta import write_meta
from .lerobot_prepare import ReadyFiles, ReadyVideo, prepare_recording
from .lerobot_rows import column_of, image_column, write_table
from .lerobot_side import line_of
from .lerobot_stats import of_rows, to_json

DATA_MB, VIDEO_MB = 100, 200


class LeRobotSink:
    """`Sink` of LeRobot's formats.

    Attributes:
        done: episodes that are whole on disk.

    Raises:
        DataError: the destination exists, or an unfinished set there was begun otherwise.
    """

    def __init__(
        self, path: Path, layout: Layout, ledger: Ledger, *, version: int,
        finish: Callable[[Path, Layout, list[str]], None] | None = None,
        data_mb: float = DATA_MB, video_mb: float = VIDEO_MB,
    ) -> None:  # fmt: skip
        if path.exists() or path.is_symlink():
            raise DataError("the destination exists", "delete it, or choose another", file=path)
        self.path, self.layout, self.ledger, self.version = path, layout, ledger, version
        self._finish, self._bundles = finish, Bundles(data_mb, video_mb)
        self._partial = path.parent / f".{path.name}.partial"
        # Features and options alike, or the episodes of two runs would not fit together.
        begun = {
            "version": version,
            "fps": layout.fps,
            "features": layout.features({}),
            "options": dataclasses.asdict(layout.options),
            "sizes": [data_mb, video_mb],
        }
        self._partial.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._partial, begun)
        self.done, self._rows = 0, 0
        self._tasks: dict[str, int] = {}
        for line in self._journal.lines():
            for task in line["new_tasks"]:
                self._tasks[task] = len(self._tasks)
            self._count(line)
        self._journal.recall_losses(ledger, self.done)

    def write(self, recording: Recording) -> None:
        """Add an episode; images that `prepare_recording` has not made ready are made so here."""
        self._check(recording)
        folder = self._journal.folder / "preparing"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        line = self._write(prepare_recording(recording, self.layout, folder, self.ledger))
        self._journal.save_losses(self.ledger, self.done + 1)
        self._journal.add(line)
        close_videos()
        shutil.rmtree(folder, ignore_errors=True)
        self._count(line)

    def close(self) -> None:
        """Join what is not joined yet, write the metadata, and put the set in its place."""
        for left in self._partial.rglob("*.part"):
            left.unlink()
        if self.version == 2:  # files of an episode that a killed process had not finished
            for path in self._partial.rglob(f"episode_{self.done:06d}.*"):
                path.unlink()
        for name, bundle in self._bundles.open.items():
            self._join(name, bundle)
        write_meta(
            self._partial,
            self.layout,
            self.ledger,
            self.version,
            self._journal,
            list(self._tasks),
            self._bundles.caps_mb,
        )
        if self._finish is not None:
            self._finish(self._partial, self.layout, list(self._tasks))
        self._journal.release()
        if self.path.exists():
            raise DataError("the destination has appeared meanwhile", "move it away", file=self.path)
        os.rename(self._partial, self.path)
        shutil.rmtree(self.path / WORK, ignore_errors=True)

    def abandon(self) -> None:
        self._journal.release()

    def _check(self, recording: Recording) -> None:
        laid = self.layout.laid
        unknown = sorted(set(recording.streams) - set(laid))
        if unknown:
            raise DataError(
                f"the streams {', '.join(unknown)} are not in the set's contents",
                "leave them out in the mapping",
                episode=self.done,
            )
        if not recording.num_steps:
            raise DataError("the episode has no rows", "drop it in the mapping", episode=self.done)
        if not recording.aligned:
            raise DataError(
                "its streams have clocks of their own, and LeRobot has one row for all",
                "resample it in the mapping",
                episode=self.done,
            )
        for key, one in laid.items():
            if key not in recording.streams:
                if one.spec.kind in ("vector", "text") and key != "task":
                    raise DataError(
                        "the episode lacks this stream, and LeRobot has every column in every row",
                        "drop the episode, or leave the stream out in the mapping",
                        episode=self.done,
                        key=key,
                    )
                continue
            rows = recording.streams[key].rows
            if one.spec.kind == "vector":
                is_like = isinstance(rows, np.ndarray) and (rows.dtype, rows.shape[1:]) == (
                    np.dtype(one.spec.dtype),
                    one.spec.shape,
                )
                if not is_like:
                    held = f"{rows.dtype} {rows.shape[1:]}" if isinstance(rows, np.ndarray) else type(rows)
                    raise DataError(
                        f"its rows are {held}, the set's {one.spec.dtype} {one.spec.shape}",
                        "cast it in the mapping",
                        episode=self.done,
                        key=key,
                    )

    def _write(self, ready: Recording) -> dict[str, Any]:
        """Write the files of an episode; its line for the journal."""
        episode, count = self.done, ready.num_steps
        time = next(iter(ready.streams.values())).time
        nominal = np.arange(count) / self.layout.fps
        texts = list(ready.streams["task"].rows) if "task" in ready.streams else [ready.task] * count
        known = len(self._tasks)
        indices = self._indices(texts)
        columns: dict[str, Any] = {}
        stats: dict[str, Any] = {}
        videos: dict[str, Any] = {}
        pixels: dict[str, str] = {}
        for key, laid in self.layout.laid.items():
            if laid.storage == "task":
                continue
            rows: Any = ready.streams[key].rows
            if isinstance(rows, ReadyVideo):
                videos[laid.name] = self._keep_video(rows, laid.name, episode)
                pixels[laid.name] = rows.pixels
            elif isinstance(rows, ReadyFiles):
                columns[laid.name] = image_column(rows.files)
                if rows.pixels:
                    pixels[laid.name] = rows.pixels
                else:
                    stats[laid.name] = rows.stats
            elif laid.storage == "annotation":
                columns[laid.name] = pa.array(self._indices(rows))
                stats[laid.name] = to_json(of_rows(self._indices(rows)))
            else:
                columns[laid.name] = column_of(laid.spec, rows)
                if laid.spec.kind == "vector":
                    stats[laid.name] = to_json(of_rows(rows))
        kept: dict[str, Any] = {
            "timestamp": nominal.astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode),
            "index": np.arange(self._rows, self._rows + count),
            "task_index": indices,
        }
        for name, values in kept.items():
            columns[name] = pa.array(values)
            stats[name] = to_json(of_rows(values))
        path = self.data_file(episode)
        write_table(path, columns)
        error = float(np.abs(time - time[0] - nominal).max())
        if error > 1e-6 or time[0] != 0:
            how = "capture times become k / fps; regrip reads them back from meta/regrip_times.parquet"
            worst = max(error, abs(float(time[0])))
            self.ledger.add(Loss("", "time", how, rows=count, measure={"max_error": worst}))
        missing = set(self.layout.laid) - set(ready.streams)
        missing |= {key for key, track in ready.streams.items() if getattr(track.rows, "absent", False)}
        return {
            "episode_index": episode,
            "length": count,
            "tasks": list(dict.fromkeys(texts)),
            "new_tasks": list(self._tasks)[known:],
            "bytes": path.stat().st_size,
            "videos": videos,
            "stats": stats,
            "pixels": pixels,
            "time": None if np.array_equal(time, nominal) else time.tolist(),
            "side": line_of(ready, missing),
            "black": sorted(self.layout.laid[key].name for key in missing if key != "task"),
        }

    def _indices(self, texts: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([self._tasks.setdefault(text, len(self._tasks)) for text in texts], dtype=np.int64)

    def _keep_video(self, rows: ReadyVideo, name: str, episode: int) -> dict[str, Any]:
        path = self.video_file(name, episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        shutil.copyfile(rows.path, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        info = rows.info or probe_video(path)
        setup = f"{info.codec} {info.height}x{info.width} {info.pix_fmt} {info.setup.hex()}"
        said = {
            "video.height": info.height,
            "video.width": info.width,
            "video.codec": info.codec,
            "video.pix_fmt": info.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": self.layout.fps,
            "video.channels": 3,
            "has_audio": info.audio,
        }
        return {"bytes": path.stat().st_size, "setup": setup, "info": said}

    def data_file(self, episode: int) -> Path:
        """The parquet file of one episode, in v3.0 until it is joined."""
        if self.version == 2:
            return self._partial / f"data/chunk-{episode // CHUNK:03d}/episode_{episode:06d}.parquet"
        return self._journal.folder / f"data/episode_{episode:06d}.parquet"

    def video_file(self, name: str, episode: int) -> Path:
        if self.version == 2:
            return self._partial / f"videos/chunk-{episode // CHUNK:03d}/{name}/episode_{episode:06d}.mp4"
        return self._journal.folder / f"videos/{name}/episode_{episode:06d}.mp4"

    def _count(self, line: dict[str, Any]) -> None:
        """Take note of an episode that is whole; files that are full are joined."""
        episode = line["episode_index"]
        self.done, self._rows = episode + 1, self._rows + line["length"]
        if self.version == 2:
            return
        for name, bundle in self._bundles.add(line):
            self._join(name, bundle)

    def _join(self, name: str, bundle: Bundle) -> None:
        """The file of a bundle, of its episodes' files, which stay until the set is whole."""
        place = f"chunk-{bundle.chunk:03d}/file-{bundle.file:03d}"
        if name == ROWS:
            path = self._partial / f"data/{place}.parquet"
        else:
            path = self._partial / f"videos/{name}/{place}.mp4"
        done = self._journal.folder / "joined" / f"{name.lstrip('/')}-{bundle.number}-{bundle.episodes[-1]}"
        if done.exists() and path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        if name == ROWS:
            self._join_tables(part, bundle.episodes)
        else:
            self._join_videos(part, name, bundle.episodes)
        part.replace(path)
        done.parent.mkdir(exist_ok=True)
        replace(done, b"")

    def _join_tables(self, path: Path, episodes: list[int]) -> None:
        writer = None
        try:
            for episode in episodes:
                table = pq.read_table(self.data_file(episode))
                writer = writer or pq.ParquetWriter(path, table.schema, compression="snappy")
                writer.write_table(table, row_group_size=table.num_rows)
        finally:
            if writer is not None:
                writer.close()

    def _join_videos(self, path: Path, name: str, episodes: list[int]) -> None:
        if len(episodes) == 1:
            shutil.copyfile(self.video_file(name, episodes[0]), path)
            return
        clips = []
        for episode in episodes:
            file = self.video_file(name, episode)
            info = probe_video(file)
            clips.append(VideoFrames(file, info.frames, self.layout.fps, (info.height, info.width, 3)))
        copy_clips(clips, path, self.layout.fps)
        first = 0
        for clip in clips:
            joined = dataclasses.replace(clip, path=path, start_s=first / self.layout.fps)
            if any(not np.array_equal(joined[i], clip[i]) for i in {0, clip.count - 1}):
                raise DataError(
                    "its packets decode to other frames when it is joined to others",
                    "encode all videos anew: --images video",
                    file=clip.path,
                )
            first += clip.count

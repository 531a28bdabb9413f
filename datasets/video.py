"""Video as frames, read lazily from mp4 files with PyAV, which has FFmpeg in it; `video_write.py` writes.

A frame is found by its time in the file, as LeRobot finds it, never by counting. Containers that were opened
for single frames stay open, a few at a time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from .ledger import DataError

MAX_OPEN = 8  # containers that stay open in a process
MAX_PIXELS = 1 << 27
_NEAR = 16  # frames ahead that are reached by decoding on rather than by seeking
_DAMAGED = "the file is damaged: take it from its source again, or drop the episode"
ERRORS = (av.FFmpegError, OSError, ValueError, EOFError, MemoryError, IndexError, OverflowError)


@dataclass(frozen=True)
class DepthCode:
    """How LeRobot 0.6 writes depth as 12-bit video: logarithmic codes between two distances.

    Attributes:
        nearest_m: distance of code 0.
        farthest_m: distance of code 4095.
        shift_m: added before the logarithm.
        log: false for codes that are linear in the distance.
        unit: what decoded frames are in, ``m`` or ``mm``.
    """

    nearest_m: float = 0.01
    farthest_m: float = 10.0
    shift_m: float = 3.5
    log: bool = True
    unit: str = "m"

    def decode(self, codes: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Distances of codes 0..4095, float32 in `unit`."""
        return self._table()[np.minimum(codes, 4095)]

    def encode(self, depth: NDArray[Any]) -> NDArray[np.uint16]:
        """The nearest codes of distances in `unit`; what lies outside is clipped."""
        metres = np.asarray(depth, np.float64) / (1000.0 if self.unit == "mm" else 1.0)
        low, high = self._ends()
        metres = np.clip(metres, self.nearest_m, self.farthest_m)
        scaled = np.log(metres + self.shift_m) if self.log else metres
        return np.round(4095 * (scaled - low) / (high - low)).astype(np.uint16)

    def _ends(self) -> tuple[float, float]:
        if not self.log:
            return self.nearest_m, self.farthest_m
        return float(np.log(self.nearest_m + self.shift_m)), float(np.log(self.farthest_m + self.shift_m))

    def _table(self) -> NDArray[np.float32]:
        low, high = self._ends()
        scaled = low + np.arange(4096) / 4095 * (high - low)
        metres = np.exp(scaled) - self.shift_m if self.log else scaled
        metres = np.clip(metres, self.nearest_m, self.farthest_m)
        return (metres * (1000.0 if self.unit == "mm" else 1.0)).astype(np.float32)


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video file says.

    Attributes:
        codec: canonical name, ``av1``, ``h264``, ``hevc``, ...
        pix_fmt: FFmpeg's name of the pixel format.
        height: in pixels.
        width: in pixels.
        rate: mean frames per second.
        frames: number of frames; 0 where the header does not say.
        audio: whether there is a sound track.
        setup: the decoder's parameters; two clips can lie in one file only if theirs are equal.
    """

    codec: str
    pix_fmt: str
    height: int
    width: int
    rate: float
    frames: int
    audio: bool
    setup: bytes


@dataclass(frozen=True)
class VideoFrames:
    """Some frames of a video file: `Frames` of one stream of one episode.

    Attributes:
        path: the mp4 file.
        count: number of frames.
        fps: of the rows: frame k is the one shown at ``start_s + k / fps``.
        shape: (H,W,3) or, for depth, (H,W) of every frame.
        start_s: time of the first frame, from the beginning of the file.
        depth: for depth video, what its codes mean.
        episode: for messages.
        key: for messages.
    """

    path: Path
    count: int
    fps: float
    shape: tuple[int, ...]
    start_s: float = 0.0
    depth: DepthCode | None = None
    episode: int | None = field(default=None, compare=False)
    key: str = field(default="", compare=False)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """All frames in order, decoded once, from a container of its own."""
        wanted = 0
        with closing(self._open()) as video:
            for frame in self._from(video, 0):
                index = self._index(video, frame)
                if index < wanted:
                    continue
                if index > wanted:
                    raise self._missing(wanted)
                yield self._pixels(frame, wanted)
                wanted += 1
                if wanted == self.count:
                    return
        if wanted < self.count:
            raise self._missing(wanted, ended=True)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """One frame, found by seeking to the keyframe before it.

        Raises:
            DataError: the video has no such frame, or cannot be decoded.
            IndexError: the episode has no such row.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        with self.reading(index), _borrowed(self.path) as video:
            ahead = index - self._last(video)
            if not 0 < ahead <= _NEAR:
                video.seek(self.start_s + (index - 0.5) / self.fps)
            again = False
            while True:
                frame = video.next()
                if frame is None:
                    raise self._missing(index, ended=True)
                here = self._index(video, frame)
                if here == index:
                    return self._pixels(frame, index)
                if here > index:
                    if again:
                        raise self._missing(index)
                    video.seek(-1.0)  # some files seek to a keyframe behind the target: from the beginning
                    again = True

    def encoded(self, index: int) -> bytes | None:
        return None

    def _open(self) -> OpenVideo:
        with self.reading(None):
            return OpenVideo(self.path)

    def _from(self, video: OpenVideo, first: int) -> Iterator[Any]:
        """Decoded frames from the keyframe before a frame on."""
        with self.reading(first):
            video.seek(self.start_s + (first - 0.5) / self.fps)
            frame = video.next()
            if frame is not None and self._index(video, frame) > first:
                video.seek(-1.0)
                frame = video.next()
        while frame is not None:
            yield frame
            with self.reading(None):
                frame = video.next()

    def _last(self, video: OpenVideo) -> int:
        return -(1 << 60) if video.at_s is None else round((video.at_s - self.start_s) * self.fps)

    def _index(self, video: OpenVideo, frame: Any) -> int:
        return round((video.time(frame) - self.start_s) * self.fps)

    def _pixels(self, frame: Any, index: int) -> NDArray[Any]:
        if (frame.height, frame.width) != self.shape[:2]:
            raise DataError(
                f"a frame of {frame.height} x {frame.width} pixels, not {self.shape[0]} x {self.shape[1]}",
                "resize this camera in the mapping, or drop the episode",
                file=self.path,
                episode=self.episode,
                frame=index,
                key=self.key,
            )
        with self.reading(index):
            if self.depth is not None:
                return self.depth.decode(_codes(frame))
            return np.asarray(frame.to_ndarray(format="rgb24"))

    def _missing(self, index: int, *, ended: bool = False) -> DataError:
        what = "the video ends before this frame" if ended else "the video has no frame at this time"
        return DataError(
            f"{what}, {self.start_s + index / self.fps:.6g} s into the file; the data have {self.count} rows",
            f"trim the episode to {index} rows in the mapping, or drop it",
            file=self.path,
            episode=self.episode,
            frame=index,
            key=self.key,
        )

    @contextmanager
    def reading(self, index: int | None) -> Iterator[None]:
        try:
            yield
        except (DataError, RecursionError):
            raise
        except ERRORS as error:
            raise DataError(
                f"the video cannot be read ({type(error).__name__}: {error})",
                _DAMAGED,
                file=self.path,
                episode=self.episode,
                frame=index,
                key=self.key,
            ) from error


def probe_video(path: Path) -> VideoInfo:
    """What a file's header says, without decoding.

    Raises:
        DataError: it is no mp4 file with a picture, or declares a senseless size.
    """
    try:
        with closing(OpenVideo(path)) as video:
            context, stream = video.stream.codec_context, video.stream
            return VideoInfo(
                codec=str(context.codec.canonical_name),
                pix_fmt=str(context.pix_fmt),
                height=int(context.height),
                width=int(context.width),
                rate=float(stream.average_rate or 0),
                frames=int(stream.frames),
                audio=bool(video.container.streams.audio),
                setup=bytes(context.extradata or b""),
            )
    except DataError:
        raise
    except ERRORS as error:
        raise DataError(
            f"the video cannot be opened ({type(error).__name__}: {error})", _DAMAGED, file=path
        ) from error


class OpenVideo:
    """An open container, and where its decoder stands."""

    def __init__(self, path: Path) -> None:
        # The format is named: left to guess, FFmpeg would follow a playlist that calls itself .mp4 anywhere.
        self.container = av.open(str(path), format="mp4", metadata_errors="ignore")
        try:
            if not self.container.streams.video:
                raise ValueError("no picture in it")
            self.stream = self.container.streams.video[0]
            context = self.stream.codec_context
            if context is None:
                raise ValueError("a codec that this FFmpeg does not have")
            if not 0 < context.width * context.height <= MAX_PIXELS:
                raise ValueError(f"it declares {context.height} x {context.width} pixels")
            context.thread_count = 1  # workers are processes; and threads do not survive a fork
            context.options = {"max_pixels": str(MAX_PIXELS)}
            self.base = Fraction(self.stream.time_base or 0)
            if not self.base:
                raise ValueError("it has no clock")
        except BaseException:
            self.container.close()
            raise
        self.origin = self.stream.start_time or 0
        self.at_s: float | None = None  # time of the frame decoded last
        self._frames: Iterator[Any] | None = None

    def time(self, frame: Any) -> float:
        """Seconds from the beginning of the file's picture."""
        if frame.pts is None:
            raise ValueError("a frame without a time")
        return float((frame.pts - self.origin) * self.base)

    def seek(self, seconds: float) -> None:
        """To the keyframe at or before a time."""
        self._frames, self.at_s = None, None
        self.container.seek(max(int(seconds / self.base), 0) + self.origin, stream=self.stream)

    def next(self) -> Any:
        """The next frame, or None at the end."""
        frames = self._frames = self._frames or iter(self.container.decode(self.stream))
        frame = next(frames, None)
        self.at_s = None if frame is None else self.time(frame)
        return frame

    def close(self) -> None:
        self._frames = None
        self.container.close()


_idle: OrderedDict[tuple[str, int, int], OpenVideo] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def _borrowed(path: Path) -> Iterator[OpenVideo]:
    """An open container, for nobody else while it is used."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    with _lock:
        video = _idle.pop(key, None)
    if video is None:
        video = OpenVideo(path)
    try:
        yield video
    except BaseException:
        video.close()
        raise
    with _lock:
        _idle[key] = video
        spare = [_idle.popitem(last=False)[1] for _ in range(len(_idle) - MAX_OPEN)]
    for old in spare:
        old.close()


def close_videos() -> None:
    """Close the containers that stayed open, as before their files are moved on Windows."""
    with _lock:
        spare = list(_idle.values())
        _idle.clear()
    for video in spare:
        video.close()


_parents: list[OpenVideo] = []


def _forget() -> None:
    """In a forked child: containers share their place in the file with the parent's, and lack threads."""
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    _parents.extend(_idle.values())  # never closed here: FFmpeg would wait for threads that are not there
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _codes(frame: Any) -> NDArray[np.uint16]:
    """The 12-bit numbers of a grey frame."""
    if frame.format.name not in ("gray12le", "gray10le", "gray16le"):
        raise ValueError(f"depth video holds {frame.format.name}, expected gray12le")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint16).reshape(frame.height, plane.line_size // 2)
    return rows[:, : frame.width]

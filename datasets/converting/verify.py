"""Are two sets equal, up to what a conversion says it changed? Read back, compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..frames import psnr
from ..ledger import Ledger, place
from ..recording import Frames, Recording, Source, Track

Depth = Literal["ends", "sample", "all"]

# Below this a re-encoded picture is broken, or another one: the worst codecs of the reference kept 27 dB.
PSNR_DB = 20.0
_CHANGED_PIXELS = ("re-encoded", "resized", "reoriented", "padded", "computed", "decoded", "resampled")


@dataclass(frozen=True)
class Difference:
    """Something that differs and that the ledger does not account for."""

    what: str
    episode: int | None = None
    frame: int | None = None
    key: str = ""

    def __str__(self) -> str:
        return place("", self.episode, self.frame, self.key) + self.what


@dataclass
class Verified:
    """What comparing two sets found.

    Attributes:
        episodes: compared.
        rows: numbers compared, per stream.
        images: images compared, per stream.
        equal_files: how many of them are the same image file, byte for byte.
        lowest_psnr: per stream, of images whose pixels differ.
        largest_error: per vector stream, where numbers differ.
        differences: what the ledger does not account for; empty means verified. At most `MOST` are kept.
        more: differences beyond those.
    """

    episodes: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    equal_files: dict[str, int] = field(default_factory=dict)
    lowest_psnr: dict[str, float] = field(default_factory=dict)
    largest_error: dict[str, float] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    more: int = 0

    def differ(self, what: str, episode: int | None = None, frame: int | None = None, key: str = "") -> None:
        if len(self.differences) < MOST:
            self.differences.append(Difference(what, episode, frame, key))
        else:
            self.more += 1


MOST = 50


def verify(
    first: Source,
    second: Source,
    ledger: Ledger | None = None,
    *,
    depth: Depth = "sample",
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Verified:
    """Compare two sets.

    Args:
        first: what was converted, as its mapping shows it (`mapping.Mapped`).
        second: what came out.
        ledger: what may differ, and only that; None allows nothing.
        depth: which images are decoded: first and last of each episode (``ends``), those and every tenth
            (``sample``), or ``all``. Numbers, times and texts are compared whole in any case.
        progress: called with (episodes done, all, a note).
    """
    found, losses = Verified(), (ledger or Ledger()).losses
    allowed: dict[str, set[str]] = {}
    for loss in losses:
        allowed.setdefault(loss.stream, set()).add(loss.what)
    if len(first) != len(second):
        found.differ(f"{len(first)} episodes against {len(second)}")
    _compare_contents(first, second, allowed, found)
    total = min(len(first), len(second))
    for episode in range(total):
        _compare(first[episode], second[episode], episode, allowed, depth, found)
        found.episodes += 1
        progress(episode + 1, total, f"{len(found.differences)} differences" if found.differences else "")
    return found


def _compare_contents(
    first: Source, second: Source, allowed: Mapping[str, set[str]], found: Verified
) -> None:
    a, b = first.contents.streams, second.contents.streams
    for key in a:
        if key not in b and "dropped" not in allowed.get(key, ()):
            found.differ("is lacking in the second set", key=key)
    for key in b:
        if key not in a and not allowed.get(key, set()) & {"computed", "padded"}:
            found.differ("is in the second set alone", key=key)
    for key in a.keys() & b.keys():
        said, may = [], allowed.get(key, set())
        if a[key].kind != b[key].kind:
            said.append(f"kind {a[key].kind} against {b[key].kind}")
        if a[key].dtype != b[key].dtype and "cast" not in may:
            said.append(f"dtype {a[key].dtype} against {b[key].dtype}")
        if a[key].shape != b[key].shape and not may & {"resized", "padded", "cast"}:
            said.append(f"shape {a[key].shape} against {b[key].shape}")
        if a[key].names != b[key].names and not (may | allowed.get("", set())) & {"metadata", "renamed"}:
            said.append(f"names {list(a[key].names)} against {list(b[key].names)}")
        for text in said:
            found.differ(text, key=key)
    mine, theirs = first.contents.conventions, second.contents.conventions
    if mine != theirs and "metadata" not in allowed.get("", set()):
        found.differ(f"conventions {mine} against {theirs}")


def _compare(
    a: Recording,
    b: Recording,
    episode: int,
    allowed: Mapping[str, set[str]],
    depth: Depth,
    found: Verified,
) -> None:
    whole = allowed.get("", set())
    if a.task != b.task and "metadata" not in whole:
        found.differ(f"task {a.task!r} against {b.task!r}", episode)
    for name in ("success", "terminated", "truncated", "began_ns"):
        if getattr(a, name) != getattr(b, name) and "metadata" not in whole:
            found.differ(f"{name} {getattr(a, name)} against {getattr(b, name)}", episode)
    for key, track in a.streams.items():
        may = allowed.get(key, set()) | (whole & {"time", "resampled"})
        other = b.streams.get(key)
        if other is None:
            if "dropped" not in may:
                found.differ("is lacking in the second set", episode, key=key)
            continue
        if len(track) != len(other):
            if "resampled" not in may:
                found.differ(f"{len(track)} rows against {len(other)}", episode, key=key)
            continue
        if not np.array_equal(track.time, other.time) and not may & {"time", "resampled"}:
            late = float(np.abs(track.time - other.time).max(initial=0))
            found.differ(f"times differ by up to {late:.3g} s", episode, key=key)
        _compare_rows(track, other, episode, key, may, depth, found)
    for key in b.streams.keys() - a.streams.keys():
        if not allowed.get(key, set()) & {"computed", "padded"}:
            found.differ("is in the second set alone", episode, key=key)


def _compare_rows(
    track: Track, other: Track, episode: int, key: str, may: set[str], depth: Depth, found: Verified
) -> None:
    a, b = track.rows, other.rows
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        found.rows[key] = found.rows.get(key, 0) + len(a)
        _compare_numbers(a, b, episode, key, may, found)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        found.rows[key] = found.rows.get(key, 0) + len(a)
        wrong = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if wrong is not None and "computed" not in may:
            found.differ(f"{a[wrong]!r} against {b[wrong]!r}", episode, wrong, key)
    elif hasattr(a, "encoded") and hasattr(b, "encoded"):
        _compare_images(a, b, episode, key, may, depth, found)  # type: ignore[arg-type]
    else:
        found.differ(f"{type(a).__name__} against {type(b).__name__}", episode, key=key)


def _compare_numbers(
    a: NDArray[Any], b: NDArray[Any], episode: int, key: str, may: set[str], found: Verified
) -> None:
    if a.shape != b.shape:
        if "padded" not in may:
            found.differ(f"rows of shape {a.shape[1:]} against {b.shape[1:]}", episode, key=key)
        return
    same = (a == b) | ((a != a) & (b != b))
    if same.all() and (a.dtype == b.dtype or "cast" in may):
        return
    frame = int(np.argmin(same.reshape(len(a), -1).all(1)))
    error = float(np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    found.largest_error[key] = max(found.largest_error.get(key, 0.0), error)
    if not may & {"cast", "computed", "resampled", "padded"}:
        found.differ(f"{a[frame]!r} against {b[frame]!r} (largest error {error:.3g})", episode, frame, key)


def _chosen(length: int, depth: Depth) -> Iterable[int]:
    if depth == "all":
        return range(length)
    ends = {0, length - 1} if length else set()
    return sorted(ends if depth == "ends" else ends | set(range(0, length, 10)))


def _compare_images(
    a: Frames, b: Frames, episode: int, key: str, may: set[str], depth: Depth, found: Verified
) -> None:
    for frame in _chosen(len(a), depth):
        found.images[key] = found.images.get(key, 0) + 1
        mine, theirs = a.encoded(frame), b.encoded(frame)
        if mine is not None and mine == theirs:
            found.equal_files[key] = found.equal_files.get(key, 0) + 1
            continue
        x, y = a[frame], b[frame]
        if x.shape == y.shape and np.array_equal(x, y):
            continue
        if "resized" in may or "padded" in may:
            continue
        if x.shape != y.shape or x.dtype != y.dtype:
            found.differ(f"{x.dtype} {x.shape} against {y.dtype} {y.shape}", episode, frame, key)
            continue
        ratio = psnr(x, y)
        found.lowest_psnr[key] = min(found.lowest_psnr.get(key, float("inf")), ratio)
        if not may & set(_CHANGED_PIXELS):
            found.differ(f"pixels differ (PSNR {ratio:.1f} dB)", episode, frame, key)
        elif ratio < PSNR_DB:
            found.differ(
                f"PSNR {ratio:.1f} dB, expected {PSNR_DB:.0f} after encoding again", episode, frame, key
            )

"""Which episodes share a file in LeRobot v3.0.

It follows from their sizes alone, so that a run that was killed goes on as if it had not been, and that the
metadata can be written from the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

CHUNK = 1000  # files in a folder
ROWS = "/rows"  # the bundle of parquet files; those of videos are called as their features, without a slash


@dataclass
class Bundle:
    """Consecutive episodes that share a file.

    Attributes:
        number: of the file, counted over all folders.
        setup: of the decoder; clips of another kind cannot lie in the same file.
        episodes: those in it.
        size: of their own files, in bytes.
    """

    number: int = 0
    setup: str = ""
    episodes: list[int] = field(default_factory=list)
    size: int = 0

    @property
    def chunk(self) -> int:
        return self.number // CHUNK

    @property
    def file(self) -> int:
        return self.number % CHUNK


class Bundles:
    """The bundles that are still open, by `ROWS` or feature.

    Args:
        data_mb: most megabytes of a parquet file.
        video_mb: the same of a video.
    """

    def __init__(self, data_mb: float, video_mb: float) -> None:
        self.caps_mb = (data_mb, video_mb)
        self.open: dict[str, Bundle] = {}

    def add(self, line: Mapping[str, Any]) -> Iterator[tuple[str, Bundle]]:
        """Put the episode of a journal's line where it belongs; yields each bundle that is full by that."""
        parts = [(ROWS, line["bytes"], "", self.caps_mb[0])]
        parts += [(name, v["bytes"], v["setup"], self.caps_mb[1]) for name, v in line["videos"].items()]
        for name, size, setup, cap in parts:
            bundle = self.open.setdefault(name, Bundle(setup=setup))
            if bundle.episodes and (bundle.size + size > cap * 2**20 or bundle.setup != setup):
                self.open[name] = Bundle(bundle.number + 1, setup)
                yield name, bundle
                bundle = self.open[name]
            bundle.episodes.append(line["episode_index"])
            bundle.size += size

"""Keep the last ten seconds: what happened just now, as an episode, when a person asks for it afterwards."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.formats import WriteOptions
from ..datasets.ledger import DataError
from ..datasets.recording import Contents
from ..datasets.store.writer import StoreWriter
from .background import Background
from .messages import Decision, Frame, Joints, Keep, Tick
from .recorder import RecorderConfig
from .rows import Rows, arrived

Told = Frame | Joints | Decision | Tick
_SMALL = 1024  # bytes, about, of what holds no picture


class Recent:
    """The last seconds of what a node's watchers are told, and never more than so many bytes of pictures.

    Args:
        seconds: by the node's clock.
        max_bytes: of memory; then less than `seconds` are held.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.seconds, self.max_bytes, self.bytes = seconds, max_bytes, 0
        self._held: deque[tuple[Told, int]] = deque()

    def add(self, what: Told) -> None:
        """Hold it, and forget what is too old or too much."""
        size = _size(what)
        self._held.append((what, size))
        self.bytes += size
        oldest = arrived(what) - self.seconds
        while self._held and (self.bytes > self.max_bytes or arrived(self._held[0][0]) < oldest):
            self.bytes -= self._held.popleft()[1]

    def since(self, when: float) -> list[Told]:
        """What is held from then on, in the order in which it came."""
        return [what for what, _ in self._held if arrived(what) >= when]


def _size(what: Told) -> int:
    if isinstance(what, Frame):
        return _SMALL + len(what.encoded or b"") + (what.image.nbytes if what.image is not None else 0)
    if isinstance(what, Decision):
        seen = what.request.observation.images.values()
        return _SMALL + sum(images.nbytes for images in seen) + what.reply.actions.nbytes
    return _SMALL


@dataclass(frozen=True)
class KeeperConfig:
    """How much is held.

    Attributes:
        seconds: before the moment at which a person asks.
        max_bytes: of pictures and all else in memory: enough for ten seconds of two cameras of 640x480 pixels
            at 30 Hz, not compressed. As much again is taken while an episode is written.
    """

    seconds: float = 10.0
    max_bytes: int = 600 << 20

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 600:
            raise ValueError(f"keep: {self.seconds} seconds, expected more than 0 and at most 600")


class Keeper:
    """A watcher of a node that writes the last seconds as one episode whenever it is told `Keep`.

    It has a set of its own: the episodes that a `Recorder` writes hold most of the same moments, and nothing
    should be learnt from twice.

    Args:
        path: of the set; episodes are added to one that is there.
        contents: from `contents_of_node`.
        about: said of every episode.
        config: how much is held.
        recording: how pictures are written.
        say: told in words what was kept, from a thread.

    Raises:
        DataError: the set is another one, or somebody else writes to it.
    """

    def __init__(
        self,
        path: Path,
        contents: Contents,
        about: Mapping[str, Any],
        config: KeeperConfig | None = None,
        recording: RecorderConfig | None = None,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.config, self._path, self._about, self._say = config or KeeperConfig(), path, dict(about), say
        self._encode = (recording or RecorderConfig()).encode
        self.problems: list[str] = []
        self._contents = contents
        self._recent = Recent(self.config.seconds, self.config.max_bytes)
        self._lock = threading.Lock()
        self._task = ""
        self._writing = False
        self._writer = StoreWriter.record(path, contents, WriteOptions("copy"), source="regrip node, kept")
        self._thread: Background[tuple[float, str, list[Told]]] = Background(self._write, "keeper", 1)

    @property
    def episodes(self) -> int:
        """How many are safe."""
        return self._writer.done

    def __call__(self, what: object) -> None:
        if isinstance(what, Keep):
            self._keep(what.now)
        elif isinstance(what, (Frame, Joints, Decision, Tick)):
            with self._lock:
                self._recent.add(what)
                if isinstance(what, Tick):
                    self._task = what.task

    def _keep(self, now: float) -> None:
        with self._lock:
            if self._writing:
                self._say("not kept: what was asked for before is still being written")
                return
            held, task = self._recent.since(now - self.config.seconds), self._task
            self._writing = True
        self._thread.put((now, task, held))

    def _write(self, kept: tuple[float, str, list[Told]]) -> None:
        now, task, held = kept
        try:
            words = self._written(now, task, held)
        except DataError as error:
            self.problems.append(str(error))
            words = f"not kept: {error}"
        self._writing = False
        self._say(words)

    def _written(self, now: float, task: str, held: list[Told]) -> str:
        if not held:
            return "nothing to keep: nothing has come from the robot"
        began = arrived(held[0])
        about = {**self._about, "kept": {"seconds": now - began}}
        self._writer.begin_episode(task, about=about)
        rows = Rows(self._contents, began, self._encode, self._writer.add)
        for what in held:
            rows.take(what)
        self._writer.end_episode(about=rows.about)
        words = f"kept the last {now - began:.1f} s: episode {self._writer.done - 1} of {self._path}"
        if now - began < self.config.seconds - 0.5 and self._recent.bytes > 0.9 * self.config.max_bytes:
            words += f"; {self.config.max_bytes >> 20} MB hold no more"
        return words

    def close(self) -> None:
        """Write what was asked for, and let go of the set."""
        self._thread.close()
        self._writer.close()

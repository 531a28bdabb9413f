"""Everything that happens is data: each step of the node goes into regrip's own store, episode by episode.

An episode begins when the arm is enabled or taken over and ends when it is neither; then it is safe from any
crash. What the store holds trains again (`regrip train --data`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..datasets.formats import WriteOptions
from ..datasets.frames import encode_jpeg, encode_png
from ..datasets.ledger import DataError
from ..datasets.recording import Contents
from ..datasets.store.writer import StoreWriter
from .background import Background
from .messages import Decision, Frame, Joints, Tick
from .rows import Encode, Rows

ACTING = ("active", "hold", "human")


@dataclass(frozen=True)
class RecorderConfig:
    """How much is kept.

    Attributes:
        images: of frames that do not come as image files: ``png`` (what the policy saw, to the bit) or
            ``jpeg`` (quality 95).
        before_s: seconds of pictures and joints from before an episode that are kept with it.
    """

    images: Literal["png", "jpeg"] = "png"
    before_s: float = 0.5

    @property
    def encode(self) -> Encode:
        return encode_png if self.images == "png" else encode_jpeg


class Recorder:
    """A watcher of a node (`Node(watchers=(recorder,))`).

    Writing is done by a thread of its own, so that a slow disk never holds up the arm; a queue that grows too
    long ends the episode as an incomplete one, which is said, rather than filling the memory.

    Args:
        path: of the set; episodes are added to one that is there.
        contents: from `contents_of_node`.
        about: said of every episode: checkpoint, configuration, who.
        config: how much is kept.
        threaded: False writes at once, for simulated time.

    Raises:
        DataError: the set is another one, or somebody else writes to it.
    """

    LONGEST_QUEUE = 2000

    def __init__(
        self,
        path: Path,
        contents: Contents,
        about: Mapping[str, Any],
        config: RecorderConfig | None = None,
        *,
        threaded: bool = True,
    ) -> None:
        self.config = config or RecorderConfig()
        self.about = dict(about)
        self.problems: list[str] = []
        self._writer = StoreWriter.record(path, contents, WriteOptions("copy"), source="regrip node")
        self._contents = contents
        self._recent: deque[Frame | Joints | Decision] = deque(maxlen=512)
        self._rows: Rows | None = None  # of the open episode
        self._thread: Background[object] | None = None
        if threaded:
            self._thread = Background(self._take, "recorder", self.LONGEST_QUEUE)

    @property
    def episodes(self) -> int:
        """How many are safe."""
        return self._writer.done

    def __call__(self, what: object) -> None:
        if self._thread is None:
            self._take(what)
        elif not self._thread.put(what) and isinstance(what, Tick):
            self._thread.put("full", anyway=True)

    def _take(self, what: object) -> None:
        try:
            if isinstance(what, Tick):
                self._tick(what)
            elif isinstance(what, (Frame, Joints, Decision)):
                if self._rows is not None:
                    self._rows.take(what)
                else:  # the decision that an episode begins with comes before its first tick, too
                    self._recent.append(what)
            elif what == "full" and self._rows is not None:
                self.problems.append("the disk is too slow: the rest of an episode was not recorded")
                self._end()
        except DataError as error:  # the arm goes on; the episode is lost, and that is said
            self.problems.append(str(error))
            self._rows = None

    def _tick(self, tick: Tick) -> None:
        acting = tick.state in ACTING
        if acting and self._rows is None:
            self._begin(tick)
        if self._rows is not None:
            self._rows.take(tick)
            if not acting:
                self._end(tick.outcome)

    def _begin(self, tick: Tick) -> None:
        began = tick.now - self.config.before_s
        self._writer.begin_episode(tick.task, about=self.about)
        self._rows = Rows(self._contents, began, self.config.encode, self._writer.add)
        for one in self._recent:
            if isinstance(one, Decision):
                if one.request.stamp >= tick.now - 1.0 and one.request.step == 0:
                    self._rows.take(one)
            elif one.stamp >= began:
                self._rows.take(one)
        self._recent.clear()

    def _end(self, outcome: bool | None = None) -> None:
        assert self._rows is not None, "an episode is open"
        rows, self._rows = self._rows, None
        if not rows.acted:  # enabled and disabled again: nothing happened
            self._writer.discard_episode()
            return
        self._writer.end_episode(success=outcome, terminated=outcome is not None, about=rows.about)

    def close(self) -> None:
        """Write what is waiting, end an open episode, and let go of the set."""
        if self._thread is not None:
            self._thread.close()
        if self._rows is not None:
            self._end()
        self._writer.close()

"""Everything that happens is data: each step of the node goes into regrip's own store, episode by episode.

An episode begins when the arm is enabled or taken over and ends when it is neither; then it is safe from any
crash. What the store holds trains again (`regrip train --data`).
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..datasets.formats import WriteOptions
from ..datasets.frames import encode_jpeg, encode_png
from ..datasets.ledger import DataError
from ..datasets.recording import Contents, StreamSpec
from ..datasets.spec import RobotSpec
from ..datasets.store.writer import StoreWriter
from .core import without_numbers
from .messages import Decision, Frame, Joints, Tick

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


def contents_of_node(
    spec: RobotSpec,
    joints: tuple[str, ...],
    sent: tuple[str, ...],
    chunk_size: int,
    latent: Mapping[str, tuple[str, tuple[int, ...]]],
) -> Contents:
    """What a node's recording holds.

    Args:
        spec: of the policy.
        joints: names of the measured joints.
        sent: names of the joints in commands.
        chunk_size: H of the policy's chunks.
        latent: name to dtype and shape of what the policy says besides.
    """
    rate = spec.control_rate_hz
    action = tuple(axis.name for axis in spec.action)
    units = tuple(axis.unit for axis in spec.action)
    made = [
        StreamSpec(f"observation.images.{c.name}", "image", "uint8", (c.height, c.width, 3))
        for c in spec.cameras
    ]
    state = tuple(axis.name for axis in spec.state)
    made += [
        StreamSpec("observation.joints", "vector", "float64", (len(joints),), joints),
        StreamSpec(
            "observation.state", "vector", "float32", (len(state),), state, about={"what": "decisions"}
        ),
        StreamSpec("decision.chunk", "vector", "float32", (chunk_size, spec.action_dim)),
        StreamSpec("decision.step", "vector", "int64", ()),
        StreamSpec("action", "vector", "float32", (len(action),), action, units, rate),
        StreamSpec("action.step", "vector", "int64", ()),
        StreamSpec("command", "vector", "float64", (len(sent),), sent, rate_hz=rate),
        StreamSpec("command.intervention", "vector", "bool", ()),
        StreamSpec("command.clamped", "text", "str", ()),
        StreamSpec("node.state", "text", "str", ()),
        StreamSpec("person.action", "vector", "float32", (len(action),), action, units, rate),
        StreamSpec("person.state", "vector", "float32", (len(state),), state),
    ]
    made += [StreamSpec(f"decision.latent.{k}", "vector", d, s) for k, (d, s) in latent.items()]
    return Contents({one.key: one for one in made}, rate, spec.name, spec=spec)


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
        self._open = False
        self._began = 0.0
        self._last: dict[str, float] = {}
        self._state = ""
        self._acted = False
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()

    @property
    def episodes(self) -> int:
        """How many are safe."""
        return self._writer.done

    def __call__(self, what: object) -> None:
        if self._thread is None:
            self._take(what)
        elif self._queue.qsize() < self.LONGEST_QUEUE:
            self._queue.put(what)
        elif isinstance(what, Tick):
            self._queue.put("full")

    def _run(self) -> None:
        while True:
            what = self._queue.get()
            if what is None:
                return
            self._take(what)

    def _take(self, what: object) -> None:
        try:
            if isinstance(what, Tick):
                self._tick(what)
            elif isinstance(what, (Frame, Joints)):
                if self._open:
                    self._sensed(what)
                else:
                    self._recent.append(what)
            elif isinstance(what, Decision):
                if self._open:
                    self._decided(what)
                else:  # the one that an episode begins with comes before its first tick
                    self._recent.append(what)
            elif what == "full" and self._open:
                self.problems.append("the disk is too slow: the rest of an episode was not recorded")
                self._end()
        except DataError as error:  # the arm goes on; the episode is lost, and that is said
            self.problems.append(str(error))
            self._open = False

    def _tick(self, tick: Tick) -> None:
        acting = tick.state in ACTING
        if acting and not self._open:
            self._begin(tick)
        if not self._open:
            return
        said = f"{tick.state}: {tick.reason}" if tick.reason else tick.state
        if without_numbers(said) != self._state:
            self._state = without_numbers(said)
            self._add("node.state", said, tick.now)
        if tick.action is not None:
            self._add("action", tick.action, tick.now)
            self._add("action.step", np.int64(tick.step - 1), tick.now)
            self._acted = True
        if tick.shown is not None and tick.shown_state is not None:
            self._add("person.action", tick.shown, tick.now)
            self._add("person.state", tick.shown_state, tick.now)
        if tick.sent is not None and len(tick.sent) == self._contents.streams["command"].shape[0]:
            self._add("command", tick.sent, tick.now)
            self._add("command.intervention", np.bool_(tick.intervention), tick.now)
            self._add("command.clamped", ", ".join(tick.clamped), tick.now)
            self._acted = self._acted or tick.intervention
        if not acting:
            self._end(tick.outcome)

    def _begin(self, tick: Tick) -> None:
        self._began = tick.now - self.config.before_s
        self._last, self._state, self._open, self._acted = {}, "", True, False
        self._writer.begin_episode(tick.task, about=self.about)
        for one in self._recent:
            if isinstance(one, Decision):
                if one.request.stamp >= tick.now - 1.0 and one.request.step == 0:
                    self._decided(one)
            elif one.stamp >= self._began:
                self._sensed(one)
        self._recent.clear()

    def _end(self, outcome: bool | None = None) -> None:
        self._open = False
        if not self._acted:  # enabled and disabled again: nothing happened
            self._writer.discard_episode()
            return
        self._writer.end_episode(success=outcome, terminated=outcome is not None)

    def _sensed(self, one: Frame | Joints) -> None:
        if isinstance(one, Joints):
            names = self._contents.streams["observation.joints"].names
            place = {name: index for index, name in enumerate(one.names)}
            if all(name in place for name in names):
                row = np.array([one.position[place[name]] for name in names], np.float64)
                self._add("observation.joints", row, one.stamp)
            return
        key = f"observation.images.{one.camera}"
        if key in self._contents.streams:
            file = one.encoded
            if file is None and one.image is not None:
                file = encode_png(one.image) if self.config.images == "png" else encode_jpeg(one.image)
            self._add(key, file, one.stamp)

    def _decided(self, one: Decision) -> None:
        reply, request = one.reply, one.request
        if reply.error or reply.actions.shape != self._contents.streams["decision.chunk"].shape:
            return
        self._add("observation.state", request.observation.state[0], request.stamp)
        self._add("decision.chunk", reply.actions, request.stamp)
        self._add("decision.step", np.int64(request.step), request.stamp)
        for name, value in reply.latent.items():
            if f"decision.latent.{name}" in self._contents.streams:
                self._add(f"decision.latent.{name}", value, request.stamp)

    def _add(self, key: str, row: Any, stamp: float) -> None:
        time = stamp - self._began
        if time < self._last.get(key, -np.inf):  # a clock that jumped; the gate has said so
            return
        self._last[key] = time
        self._writer.add(key, row, time)

    def close(self) -> None:
        """Write what is waiting, end an open episode, and let go of the set."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        if self._open:
            self._end()
        self._writer.close()

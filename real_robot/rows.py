"""What a node's watchers are told, as rows of a recording: one way for all that record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.recording import Contents, StreamSpec
from ..datasets.spec import RobotSpec
from .core import without_numbers
from .messages import Decision, Frame, Joints, Tick

# A picture that did not come as an image file -> what is written of it.
Encode = Callable[[NDArray[np.uint8]], bytes | NDArray[np.uint8]]


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


def arrived(what: Frame | Joints | Decision | Tick) -> float:
    """When it came, on the node's clock, which never jumps."""
    if isinstance(what, Decision):
        return what.reply.received
    return what.now if isinstance(what, Tick) else what.received


class Rows:
    """Turns what happens from a moment on into rows.

    Args:
        contents: from `contents_of_node`.
        began: time 0 of the rows.
        encode: of pictures.
        add: takes key, row and time, which never falls within a key.

    Attributes:
        acted: something was done: an action, or a person's drive.
        versions: of the policy, as its answers said, each once.
    """

    def __init__(
        self, contents: Contents, began: float, encode: Encode, add: Callable[[str, Any, float], None]
    ) -> None:
        self._contents, self._began, self._encode, self._write = contents, began, encode, add
        self._last: dict[str, float] = {}
        self._state = ""
        self.acted = False
        self.versions: list[str] = []

    def take(self, what: Frame | Joints | Decision | Tick) -> None:
        """Add what there is to add of it."""
        if isinstance(what, Frame):
            self._frame(what)
        elif isinstance(what, Joints):
            self._joints(what)
        elif isinstance(what, Decision):
            self._decided(what)
        else:
            self._tick(what)

    @property
    def about(self) -> dict[str, str]:
        """What is to be said of the episode: a policy behind a server may be another than at the start."""
        return {"checkpoint": ", ".join(self.versions)} if self.versions else {}

    def _frame(self, one: Frame) -> None:
        key = f"observation.images.{one.camera}"
        if key not in self._contents.streams:
            return
        if one.encoded is not None:
            self._add(key, one.encoded, one.stamp)
        elif one.image is not None:
            self._add(key, self._encode(one.image), one.stamp)

    def _joints(self, one: Joints) -> None:
        names = self._contents.streams["observation.joints"].names
        place = {name: index for index, name in enumerate(one.names)}
        if all(name in place for name in names):
            row = np.array([one.position[place[name]] for name in names], np.float64)
            self._add("observation.joints", row, one.stamp)

    def _decided(self, one: Decision) -> None:
        reply, request = one.reply, one.request
        if reply.error or reply.actions.shape != self._contents.streams["decision.chunk"].shape:
            return
        if reply.version and reply.version not in self.versions:
            self.versions.append(reply.version)
        self._add("observation.state", request.observation.state[0], request.stamp)
        self._add("decision.chunk", reply.actions, request.stamp)
        self._add("decision.step", np.int64(request.step), request.stamp)
        for name, value in reply.latent.items():
            if f"decision.latent.{name}" in self._contents.streams:
                self._add(f"decision.latent.{name}", value, request.stamp)

    def _tick(self, tick: Tick) -> None:
        said = f"{tick.state}: {tick.reason}" if tick.reason else tick.state
        if without_numbers(said) != self._state:
            self._state = without_numbers(said)
            self._add("node.state", said, tick.now)
        if tick.action is not None:
            self._add("action", tick.action, tick.now)
            self._add("action.step", np.int64(tick.step - 1), tick.now)
            self.acted = True
        if tick.shown is not None and tick.shown_state is not None:
            self._add("person.action", tick.shown, tick.now)
            self._add("person.state", tick.shown_state, tick.now)
        if tick.sent is not None and len(tick.sent) == self._contents.streams["command"].shape[0]:
            self._add("command", tick.sent, tick.now)
            self._add("command.intervention", np.bool_(tick.intervention), tick.now)
            self._add("command.clamped", ", ".join(tick.clamped), tick.now)
            self.acted = self.acted or tick.intervention

    def _add(self, key: str, row: Any, stamp: float) -> None:
        time = stamp - self._began
        if time < self._last.get(key, -np.inf):  # a clock that jumped; the gate has said so
            return
        self._last[key] = time
        self._write(key, row, time)

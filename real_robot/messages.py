"""What passes between a robot and the node, in no transport's own words. Times are seconds as float64.

Two clocks. ``stamp`` is when something was true, on the robot's clock (header stamps, or simulated time).
``received`` and every ``now`` are the node's steady clock, which never jumps. The gate learns the offset
between them; nothing else compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation


@dataclass(frozen=True)
class Frame:
    """One picture of one camera.

    Attributes:
        camera: the name that the policy knows it by.
        stamp: when it was taken, on the robot's clock.
        received: when it came, on the node's clock.
        image: uint8 (H,W,3) RGB, row 0 at the top; None until `encoded` is decoded.
        encoded: the JPEG or PNG file that came, if it came as one; recorded as it is.
    """

    camera: str
    stamp: float
    received: float
    image: NDArray[np.uint8] | None = None
    encoded: bytes | None = None


@dataclass(frozen=True)
class Joints:
    """A joint state, of any joints in any order: by name alone is it known which is which.

    Attributes:
        stamp: on the robot's clock.
        received: on the node's clock.
        names: N names.
        position: float64 (N,) rad or m.
        velocity: float64 (N,) per second; empty if the robot does not say.
    """

    stamp: float
    received: float
    names: tuple[str, ...]
    position: NDArray[np.float64]
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


State = Literal["unconfigured", "inactive", "active", "hold", "human", "estop"]


@dataclass(frozen=True)
class Command:
    """What the robot is told at one tick: where the joints should be, soon.

    Attributes:
        names: N joints, grippers included.
        positions: float64 (T,N), rad or m; row i is due (i+1)/rate seconds after it is sent. The last is due
            when the next command is expected.
        rate_hz: of the rows.
        kind: ``move``; ``hold`` (stay where you are); ``stop`` (come to rest within the limits).
        why: in words; ``""`` for a move.
        tail: float64 (K,N), the rows after those: they bring the arm to rest within its limits if no further
            command comes. What takes trajectories is sent both, see `trajectory`.
    """

    names: tuple[str, ...]
    positions: NDArray[np.float64]
    rate_hz: float
    kind: Literal["move", "hold", "stop"] = "move"
    why: str = ""
    tail: NDArray[np.float64] | None = None

    @property
    def trajectory(self) -> NDArray[np.float64]:
        """(T+K,N) all rows, that end at rest."""
        return self.positions if self.tail is None else np.concatenate([self.positions, self.tail])


@dataclass(frozen=True)
class Request:
    """An observation for the policy to answer. The core makes it; who runs the policy answers with `Reply`.

    Attributes:
        id: counts up; a reply to an older one than the newest answered is dropped.
        made: node time.
        stamp: robot time that the observation was assembled for.
        observation: a batch of one.
        step: index of the control step at which the first action of the answer belongs.
        prefix: float32 (K,A) actions of the present chunk from `step` on that are not executed yet, for
            real-time chunking; empty if there are none.
        frozen: how many rows of `prefix` will be executed before an answer can come: they are to be kept.
        episode: identifies the episode; a policy with memory begins anew when it changes.
    """

    id: int
    made: float
    stamp: float
    observation: Observation
    step: int
    prefix: NDArray[np.float32]
    frozen: int
    episode: str


@dataclass(frozen=True)
class Reply:
    """A policy's answer.

    Attributes:
        id: of the request.
        actions: float32 (H,A), in the units of the RobotSpec; row 0 belongs to the request's `step`.
        received: node time.
        warm_up: it was slow because something was compiled or loaded; left out of latency statistics.
        error: why there is no answer, in words; then `actions` is empty.
        latent: what a learner needs to learn from this decision: name to array; recorded, not looked at.
        version: of the policy that answered, for the recording; ``""`` if it does not say.
    """

    id: int
    actions: NDArray[np.float32]
    received: float
    warm_up: bool = False
    error: str = ""
    latent: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class Decision:
    """A request and its answer, for who records."""

    request: Request
    reply: Reply


@dataclass(frozen=True)
class Tick:
    """What one tick of the core gives.

    Attributes:
        now: node time.
        state: after the tick.
        reason: in words, why it is not active, or active but without a move; ``""`` while it moves.
        command: to be sent; None: send nothing.
        request: to be answered; None: nothing to ask.
        action: float32 (A,) the policy's action of this step, before limits; None if there was none.
        sent: float64 (N,) joint positions that were really sent, in `names` order; None if nothing was.
        clamped: names of joints (and limits) that the limiter held back.
        intervention: true while a person drives.
        step: index of the control step in the episode.
        task: the instruction.
        outcome: what a person said of the episode; None until they do.
        shown: float32 (A,) while a person drives, the action with which the policy would have asked for the
            same; None if that cannot be said.
        shown_state: float32 (S,) the policy's state then.
    """

    now: float
    state: State
    reason: str
    command: Command | None = None
    request: Request | None = None
    action: NDArray[np.float32] | None = None
    sent: NDArray[np.float64] | None = None
    clamped: tuple[str, ...] = ()
    intervention: bool = False
    step: int = 0
    task: str = ""
    outcome: bool | None = None
    shown: NDArray[np.float32] | None = None
    shown_state: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Keep:
    """A person wants what happened just before `now` (node time) kept."""

    now: float


class Policy(Protocol):
    """Whoever answers requests: in this process, or behind a server.

    It may have attributes that tell of its last answer, for `Reply`: ``version``, and, if it explores,
    ``latent``, name to array.
    """

    def answer(self, request: Request) -> NDArray[np.float32]:
        """(H,A) actions.

        Raises:
            PolicyError: it cannot answer; the node holds and says why.
        """
        ...


class PolicyError(RuntimeError):
    """A policy that does not answer: unreachable, too slow, or out of its mind."""


class Events(Protocol):
    """What a transport tells the node; `core.Core` has these methods."""

    def on_frame(self, frame: Frame) -> None: ...

    def on_joints(self, joints: Joints) -> None: ...

    def on_enable(self, on: bool, now: float) -> None: ...

    def on_estop(self, on: bool, now: float) -> None: ...

    def on_deadman(self, alive: bool, now: float) -> None:
        """The heartbeat of a dead-man switch: true while it is pressed, again and again."""
        ...

    def on_takeover(self, on: bool, now: float) -> None: ...

    def on_human(self, joints: Joints) -> None:
        """Where a person wants the joints, while they have taken over."""
        ...

    def on_task(self, task: str, now: float) -> None: ...

    def on_outcome(self, success: bool, now: float) -> None:
        """A person says how the episode ended."""
        ...

    def on_keep(self, now: float) -> None:
        """A person wants the last seconds kept."""
        ...


class Transport(Protocol):
    """A way to a robot. Thin: it turns its own messages into those above, and back.

    `connect` subscribes and, unless `shadow`, creates publishers; callbacks may come from threads of its own,
    and go to `events` one at a time. In shadow mode no publisher of commands exists at all.
    """

    name: str

    def connect(self, events: Events) -> None:
        """Begin.

        Raises:
            TransportError: something is not there: package, master, topic, wrong type or QoS (in words).
        """
        ...

    def now(self) -> float:
        """The node's steady clock; in simulation, simulated time."""
        ...

    def sleep_until(self, when: float) -> None:
        """Wait until the node's clock says `when`, and let callbacks come meanwhile."""
        ...

    def send(self, command: Command) -> None: ...

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None:
        """The policy's raw chunk, for looking at; published in shadow mode too."""
        ...

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None:
        """State, reason and figures, for monitors; published in shadow mode too."""
        ...

    def close(self) -> None: ...


class TransportError(RuntimeError):
    """A transport that cannot work: what is missing or does not match, and the next step."""

"""Demonstrations by a scripted expert, and scenes seen from random poses, through the same worker pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Episode, Outcome, Provenance
from ..datasets.protocols import VectorEnv
from ..datasets.spec import RobotSpec
from ..datasets.starts import StartState, counter_generator, refuse_test
from .env import Env, EnvStep
from .worker import resolve

_EVERY, _FOR = 10, 2  # control steps: a disturbance begins, and lasts
_TURN = 4  # control steps of wandering in one direction


class Expert(Protocol):
    """Plays the present episode of an environment; one for each episode, it remembers its phase."""

    def act(self) -> NDArray[np.float32]:
        """The clean action (A,) for the present state."""
        ...


class Teacher(Env, Protocol):
    """An environment whose tasks come with a scripted expert."""

    def expert(self) -> Expert:
        """A fresh expert for the present episode, from its present state on."""
        ...


class WithExpert:
    """Appends the expert's action to the privileged state, so that the worker protocol carries it."""

    def __init__(self, env: Teacher) -> None:
        self.env = env
        self.spec: RobotSpec = env.spec
        self.privileged_dim = env.privileged_dim + env.spec.action_dim
        self._begin()

    def _begin(self) -> None:
        self._expert: Expert | None = None
        self._label: NDArray[np.float32] = np.zeros(self.spec.action_dim, np.float32)

    def _look(self) -> None:
        """Ask the expert once for each state, whether or not anyone reads the answer: it keeps a phase."""
        if self._expert is None:
            self._expert = self.env.expert()
        self._label = self._expert.act()

    @property
    def instruction(self) -> str:
        return self.env.instruction

    @property
    def max_steps(self) -> int:
        return self.env.max_steps

    def reset(self, start: StartState) -> None:
        self.env.reset(start)
        self._begin()
        self._look()

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        outcome = self.env.step(action)
        if not outcome.over:
            self._look()
        return outcome

    def state(self) -> NDArray[np.float32]:
        return self.env.state()

    def privileged(self) -> NDArray[np.float32]:
        return np.concatenate([self.env.privileged(), self._label]).astype(np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        return self.env.render(camera)

    def snapshot(self) -> bytes:
        return self.env.snapshot()

    def restore(self, snapshot: bytes) -> None:
        self.env.restore(snapshot)
        self._begin()
        self._look()

    def close(self) -> None:
        self.env.close()


def with_expert(factory: str, kwargs: Mapping[str, Any]) -> WithExpert:
    """Factory for a `WorkerPool`: the environment of another factory, with its expert.

    Raises:
        ValueError: if that environment has no expert.
    """
    env = resolve(factory)(**kwargs)
    if not hasattr(env, "expert"):
        raise ValueError(f"{factory} gives environments without an expert(): nobody can demonstrate there")
    return WithExpert(env)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Demonstration:
    """A recorded episode with every frame.

    Attributes:
        episode: its `action` is what was executed, now and then disturbed (or random).
        label: float32 (T,A), what the expert would have done at each step; never disturbed.
        privileged: float32 (T,P).
        clean: bool (T,), true where the executed action was the label. What the expert did after a
            disturbance cannot be foretold from a picture taken before it.
    """

    episode: Episode
    label: NDArray[np.float32]
    privileged: NDArray[np.float32]
    clean: NDArray[np.bool_]


def demonstrate(
    env: VectorEnv,
    starts: Sequence[StartState],
    *,
    behaviour: Literal["expert", "wander"],
    key: tuple[str | int, ...],
    noise: float = 0.0,
    astray: float = 0.0,
    wander_steps: int = 12,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
) -> list[Demonstration]:
    """Play `starts` with the expert, or wander about to see the scene from many poses.

    Wandering is what a clumsy policy does: the expert's action by a share that is drawn for the episode, and
    a random direction that is drawn anew every few steps, gripper included.

    Args:
        env: a pool of `with_expert` environments with chunks of one action.
        starts: of the train split.
        behaviour: ``expert`` or ``wander``.
        key: names this data set; all random numbers depend on it and on the start.
        noise: standard deviation of a disturbance, as a share of each dimension's range: two steps of it,
            then eight without, so that the expert is seen coming back from real displacements.
        astray: share of the expert's episodes that begin with up to `wander_steps` of wandering, so that it
            is seen starting from where a clumsy policy ends up.
        wander_steps: length of a wandering episode.
        on_episode: progress callback.

    Returns:
        one demonstration a start, in order; unsuccessful expert episodes included (the caller decides).

    Raises:
        SplitError: if a start is of the test split.
    """
    refuse_test(starts, "demonstrate")
    if env.chunk_size != 1:
        raise ValueError(f"demonstrations are recorded step by step: chunk_size {env.chunk_size}, expected 1")
    spec, dims = env.spec, env.spec.action_dim
    # Knock the arm about in position and hardly in angle: a tilted hand teaches little but to right itself.
    span = (spec.action_high - spec.action_low) * np.array(
        [{"m": 1.0, "rad": 0.1}.get(axis.unit, 1.0) for axis in spec.action], np.float32
    )
    queue = list(range(len(starts)))[::-1]
    record: dict[int, list[tuple[Any, ...]]] = {}
    playing: dict[int, int] = {}  # slot -> start index
    draws: dict[int, np.random.Generator] = {}
    wandering: dict[int, tuple[int, float]] = {}  # for how many steps, and the expert's share in it
    drift: dict[int, NDArray[np.float32]] = {}
    finished: dict[int, Demonstration] = {}

    def begin(slots: list[int]) -> None:
        fresh = [slot for slot in slots if queue]
        chosen = [queue.pop() for _ in fresh[: len(queue)]]
        for slot, index in zip(fresh, chosen, strict=False):
            playing[slot], record[index] = index, []
            draw = counter_generator("demonstrate", *key, behaviour, repr(starts[index]))
            draws[index] = draw
            if behaviour == "wander":
                wandering[index] = (wander_steps, float(draw.random()))
            elif draw.random() < astray:
                wandering[index] = (int(draw.integers(1, wander_steps + 1)), float(draw.random()))
            else:
                wandering[index] = (0, 0.0)
        if chosen:
            env.reset(fresh[: len(chosen)], [starts[index] for index in chosen])

    def move(index: int, label: NDArray[np.float32]) -> NDArray[np.float32]:
        """What to execute where the expert would do `label`."""
        step, draw = len(record[index]), draws[index]
        wander, share = wandering[index]
        if step < wander:
            if step % _TURN == 0:
                drift[index] = draw.uniform(spec.action_low, spec.action_high).astype(np.float32)
            mixed = (share * label + (1.0 - share) * drift[index]).astype(np.float32)
            mixed[-1] = drift[index][-1]
            return np.clip(mixed, spec.action_low, spec.action_high).astype(np.float32)
        since = step - wander
        if noise and since % _EVERY == 0:
            drift[index] = (noise * span * draw.standard_normal(dims)).astype(np.float32)
            drift[index][-1] = 0.0  # the gripper does what the expert says
        if noise and since % _EVERY < _FOR:
            knocked: NDArray[np.float32] = np.clip(label + drift[index], spec.action_low, spec.action_high)
            return knocked
        return label

    begin(list(range(env.num_slots)))
    while playing:
        slots = sorted(playing)
        result = env.receive(slots)
        free: list[int] = []
        chunk = np.zeros((len(slots), 1, dims), np.float32)
        go: list[int] = []
        for row, slot in enumerate(slots):
            index = playing[slot]
            steps = record[index]
            if steps:
                steps[-1] = (*steps[-1][:-1], float(result.reward[row, 0]))
            wandered = behaviour == "wander" and len(steps) >= wander_steps
            if result.done[row] or wandered:
                finished[index] = _demonstration(
                    starts[index], result.observation.instruction[row], steps, bool(result.success[row]),
                    spec, behaviour, noise,
                )  # fmt: skip
                on_episode(len(finished), len(starts))
                free.append(slot)
                del playing[slot], record[index]
                continue
            label = result.privileged[row, -dims:].copy()
            executed = move(index, label)
            frames = {name: images[row].copy() for name, images in result.observation.images.items()}
            state, privileged = result.observation.state[row].copy(), result.privileged[row, :-dims].copy()
            steps.append((frames, state, privileged, label, executed, 0.0))
            chunk[row, 0] = executed
            go.append(row)
        if go:
            env.step([slots[row] for row in go], chunk[go])
        begin(free)
    return [finished[index] for index in range(len(starts))]


def _demonstration(
    start: StartState,
    instruction: str,
    steps: Sequence[tuple[Any, ...]],
    success: bool,
    spec: RobotSpec,
    behaviour: str,
    noise: float,
) -> Demonstration:
    frames, state, privileged, label, executed, reward = zip(*steps, strict=True)
    count = len(steps)
    episode = Episode(
        images={name: np.stack([frame[name] for frame in frames]) for name in frames[0]},
        frame_steps=np.arange(count),
        state=np.stack(state),
        action=np.stack(executed).astype(np.float32),
        reward=np.array(reward, np.float32),
        timestamp=np.arange(count) / spec.control_rate_hz,  # a simulator's capture times are exact
        task=instruction,
        outcome=Outcome(success, terminated=success, truncated=not success),
        provenance=Provenance(start.suite, start, start.seed, f"{behaviour}, noise {noise}"),
    )
    clean = np.array([np.array_equal(a, b) for a, b in zip(label, executed, strict=True)])
    return Demonstration(episode, np.stack(label), np.stack(privileged), clean)

"""How fast episodes with pictures are played: our worker pool against gymnasium's AsyncVectorEnv.

    python benchmarks/sim.py            # about four minutes on two cores
    python benchmarks/sim.py --quick

All contenders play the same tabletop suite with the same cameras, image size and actions, in turns, several
times over. The first is what people do: one environment per process, mujoco.Renderer as it comes (shadows,
4x multisampling), a frame from each camera after every step. The others change one thing at a time. A rate is
control steps per second of CPU time, summed over all processes and threads, that is, per core; it holds on a
busy machine. Wall rates need an idle one. Starting up, and the first episodes, are not counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
import psutil
from numpy.typing import NDArray

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState, counter_generator
from regrip.sim.collect import collect
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.env import TabletopEnv, make
from regrip.sim.tabletop.scenes import SUBSTEPS
from regrip.sim.tabletop.tasks import task_names

CHUNK = 5
SUITE = "demo"


def starts(num: int) -> list[StartState]:
    names = task_names(SUITE)
    return [StartState(names[index % len(names)], "train", index) for index in range(num)]


def chunks(low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """(64, CHUNK, A): a slow random walk of the arm, the same for all contenders."""
    span = counter_generator("benchmark").uniform(0.35, 0.65, (64, CHUNK, len(low)))
    return (low + span * (high - low)).astype(np.float32)


class GymTabletop(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """The tabletop environment as AsyncVectorEnv wants it.

    Args:
        image_size: pixels.
        stock: draw with mujoco.Renderer and MuJoCo's own quality settings, instead of ours.
        chunk: control steps in one `step`; frames are drawn after the last.
    """

    def __init__(self, image_size: int, stock: bool, chunk: int) -> None:
        self.env: TabletopEnv = make(suite=SUITE, image_size=image_size)
        self.chunk, self.index = chunk, 0
        self.stock: mujoco.Renderer | None = None
        if stock:
            model = mujoco.MjModel.from_xml_string(self.env.world.scene.mjcf)
            default = mujoco.MjModel.from_xml_string("<mujoco/>").vis.quality
            for name in ("offsamples", "shadowsize", "numslices", "numstacks", "numquads"):
                setattr(model.vis.quality, name, getattr(default, name))
            model.light_castshadow[:] = True
            self.stock = mujoco.Renderer(model, image_size, image_size)
        spec = self.env.spec
        self.action_space = gymnasium.spaces.Box(
            np.repeat(spec.action_low[None], chunk, 0), np.repeat(spec.action_high[None], chunk, 0)
        )
        frame = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        state = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"state": state, **{camera.name: frame for camera in spec.cameras}}
        )

    def observe(self) -> dict[str, Any]:
        frames = {}
        for camera in self.env.spec.cameras:
            if self.stock is not None:
                self.stock.update_scene(self.env.world.data, camera.name)
                frames[camera.name] = self.stock.render()
            else:
                frames[camera.name] = self.env.render(camera.name)
        return {"state": self.env.state(), **frames}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self.env.reset(starts(self.index + 1)[-1])
        self.index += 1
        return self.observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        for num_executed, one in enumerate(action, start=1):  # noqa: B007 - counted for the caller
            step = self.env.step(one)
            if step.success or step.truncated:
                break
        return self.observe(), step.reward, step.success, step.truncated, {"executed": num_executed}

    def close(self) -> None:
        if self.stock is not None:
            self.stock.close()
        self.env.close()


@dataclass
class Contender:
    """Something that plays, and how fast it did.

    Attributes:
        play: plays at least so many control steps and says how many it were.
        pids: its processes, besides this one.
        close: ends them.
        num_steps: control steps in one turn.
        per_cpu_s: control steps per CPU second, one entry per repetition.
        per_wall_s: control steps per wall second.
    """

    name: str
    play: Callable[[int], int]
    pids: Sequence[int]
    close: Callable[[], None]
    num_steps: int = 0
    per_cpu_s: list[float] = field(default_factory=list)
    per_wall_s: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        times = [psutil.Process(pid).cpu_times() for pid in (*self.pids, os.getpid())]
        return float(sum(one.user + one.system for one in times))

    def warm_up(self, seconds: float) -> None:
        """Play a little, then decide how much a turn of so many seconds is."""
        self.play(20)
        began_s = time.perf_counter()
        played = self.play(20)
        self.num_steps = round(seconds * played / (time.perf_counter() - began_s))

    def measure(self) -> None:
        cpu_s, wall_s = self.cpu_s(), time.perf_counter()
        played = self.play(self.num_steps)
        self.per_wall_s.append(played / (time.perf_counter() - wall_s))
        self.per_cpu_s.append(played / (self.cpu_s() - cpu_s))


class TableActor:
    """A policy that costs nothing: it reads its actions from a table."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        rows = [int(episode) + int(decision) for episode, decision in noise_keys or ()]
        action = self.table[np.array(rows) % len(self.table)]
        return ActionSample(action, np.zeros(action.shape[:2], dtype=np.float32))


def play_pool(pool: WorkerPool, num_steps: int) -> int:
    table = chunks(pool.spec.action_low, pool.spec.action_high)
    actor = TableActor(table.reshape(-1, pool.chunk_size, table.shape[-1]))
    played = 0
    while played < num_steps:
        queue = starts(2 * pool.num_slots)
        _, stats = collect(pool, actor, queue, range(len(queue)), run_key=(), greedy=False, policy_version=0)
        played += stats.num_steps
    return played


def play_gym(envs: gymnasium.vector.AsyncVectorEnv, num_steps: int) -> int:
    space = envs.single_action_space
    assert isinstance(space, gymnasium.spaces.Box), "GymTabletop says so"
    table = chunks(space.low[0], space.high[0]).reshape(-1, *space.shape)
    envs.reset()
    played, decision = 0, 0
    while played < num_steps:
        rows = (np.arange(envs.num_envs) + decision) % len(table)
        *_, infos = envs.step(table[rows])
        # The step that resets an environment plays none, and says nothing.
        played += int(infos["executed"].sum()) if "executed" in infos else 0
        decision += 1
    return played


@dataclass(frozen=True)
class Bare:
    """What one thread does with nothing around it, per CPU second.

    Attributes:
        steps: control steps of `mj_step` alone.
        frames: rendered frames.
        env_looking: control steps of the environment in a plain loop, looking after every step.
        env_chunks: the same, looking after every fifth.
    """

    steps: float
    frames: float
    env_looking: float
    env_chunks: float

    def allowed(self, steps_per_look: int) -> float:
        """Control steps per CPU second if there were only physics and two frames for each look."""
        return 1 / (1 / self.steps + 2 / steps_per_look / self.frames)


def measure_bare(image_size: int, seconds: float) -> Bare:
    env = make(suite=SUITE, image_size=image_size)
    world, model = env.world, env.world.model
    table = chunks(env.spec.action_low, env.spec.action_high)
    actions = table.reshape(-1, table.shape[-1])
    for camera in env.spec.cameras:
        env.reset(starts(1)[0])
        env.render(camera.name)

    def play(steps_per_look: int) -> Iterator[None]:
        for start in itertools.cycle(starts(8)):
            env.reset(start)
            for index, action in enumerate(actions):
                step = env.step(action)
                if (index + 1) % steps_per_look == 0:
                    env.state()
                    env.privileged()
                    for camera in env.spec.cameras:
                        env.render(camera.name)
                yield
                if step.success or step.truncated:
                    break

    # The commands to the motors are those of real episodes, so that contacts are as many.
    episodes = []
    for start in starts(8):
        env.reset(start)
        begin, commands = world.get_state(), []
        for action in actions[: env.max_steps - 1]:
            if env.step(action).success:
                break
            commands.append(world.data.ctrl.copy())
        episodes.append((begin, commands))
    data = mujoco.MjData(model)

    def step_physics() -> Iterator[None]:
        for begin, commands in itertools.cycle(episodes):
            mujoco.mj_setState(model, data, begin, mujoco.mjtState.mjSTATE_INTEGRATION)
            for command in commands:
                data.ctrl[:] = command
                mujoco.mj_step(model, data, SUBSTEPS)
                yield

    def render() -> Iterator[None]:
        for camera in itertools.cycle(env.spec.cameras):
            env.render(camera.name)
            yield

    found = Bare(*(rate(one, seconds) for one in (step_physics(), render(), play(1), play(CHUNK))))
    env.close()
    return found


def rate(work: Iterator[None], seconds: float) -> float:
    """Pieces of work per CPU second of this process."""
    began_s = time.process_time()
    for done, _ in enumerate(work, start=1):  # noqa: B007 - counted
        if (passed_s := time.process_time() - began_s) > seconds:
            break
    return done / passed_s


def open_gym(name: str, image_size: int, num_envs: int, stock: bool, chunk: int) -> Contender:
    make_env = partial(GymTabletop, image_size, stock, chunk)
    envs = gymnasium.vector.AsyncVectorEnv([make_env] * num_envs, context="spawn")
    pids = [process.pid for process in envs.processes if process.pid is not None]
    return Contender(name, partial(play_gym, envs), pids, envs.close)


def open_pool(name: str, image_size: int, num_workers: int, num_slots: int, chunk: int) -> Contender:
    pool = WorkerPool(
        "regrip.sim.tabletop.env:make",
        {"suite": SUITE, "image_size": image_size},
        num_slots=num_slots,
        num_workers=num_workers,
        chunk_size=chunk,
    )
    return Contender(name, partial(play_pool, pool), pool.worker_pids, pool.close)


def spread(values: Sequence[float]) -> str:
    return f"{min(values):8.1f} {statistics.median(values):8.1f} {max(values):8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes of each contender"
    )
    parser.add_argument("--slots", type=int, default=48, help="environments of the pool")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="aimed at for each turn")
    parser.add_argument("--quick", action="store_true", help="two short repetitions")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds = 2, 1.0

    size, workers = args.image_size, args.workers
    contenders = [
        open_gym("gymnasium, stock renderer, frame every step (usual)", size, workers, True, 1),
        open_gym("gymnasium, stock renderer, frame every 5 steps", size, workers, True, CHUNK),
        open_gym("gymnasium, our renderer, frame every step", size, workers, False, 1),
        open_gym("gymnasium, our renderer, frame every 5 steps", size, workers, False, CHUNK),
        open_pool("our pool, frame every step", size, workers, args.slots, 1),
        open_pool("our pool, chunks of 5, frame every 5 steps", size, workers, args.slots, CHUNK),
    ]
    bare = list[Bare]()
    try:
        for contender in contenders:
            contender.warm_up(args.seconds)
        for repetition in range(args.repetitions):
            for contender in contenders:
                contender.measure()
            bare.append(measure_bare(size, args.seconds / 4))
            print(f"repetition {repetition + 1} of {args.repetitions} done", flush=True)
    finally:
        for contender in contenders:
            contender.close()
    report(contenders, bare, args)


def report(contenders: Sequence[Contender], bare: Sequence[Bare], args: argparse.Namespace) -> None:
    print(
        f"\ntabletop/{SUITE}, 2 cameras of {args.image_size} px, {SUBSTEPS} physics steps in a control step, "
        f"{args.workers} processes, {args.repetitions} repetitions\n{platform.platform()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, mujoco {mujoco.__version__}, "
        f"gymnasium {gymnasium.__version__}\n"
    )
    print(f"{'':52} control steps per CPU second      per wall second       ratio of CPU rates")
    print(f"{'':52}      min   median      max      min   median      max   min  median  max")
    usual = contenders[0]
    for contender in contenders:
        ratios = [ours / theirs for ours, theirs in zip(contender.per_cpu_s, usual.per_cpu_s, strict=True)]
        print(
            f"{contender.name:52} {spread(contender.per_cpu_s)} {spread(contender.per_wall_s)} "
            f"{min(ratios):6.2f} {statistics.median(ratios):6.2f} {max(ratios):6.2f}"
        )
    print(f"\n{'one thread with nothing around it, per CPU second':52}")
    for name, of_bare in (
        ("mj_step alone, control steps", [one.steps for one in bare]),
        ("render alone, frames", [one.frames for one in bare]),
        ("environment in a loop, frame every step", [one.env_looking for one in bare]),
        ("environment in a loop, frame every 5 steps", [one.env_chunks for one in bare]),
    ):
        print(f"{name:52} {spread(of_bare)}")
    print()
    for contender, steps_per_look in ((contenders[-2], 1), (contenders[-1], CHUNK)):
        pairs = list(zip(contender.per_cpu_s, bare, strict=True))
        of_engine = [rate / one.allowed(steps_per_look) for rate, one in pairs]
        of_loop = [rate / (one.env_looking if steps_per_look == 1 else one.env_chunks) for rate, one in pairs]
        print(
            f"{contender.name:52} reaches {percent(of_engine)} of bare mj_step and render, "
            f"{percent(of_loop)} of the environment in a loop"
        )


def percent(shares: Sequence[float]) -> str:
    low, middle, high = (round(100 * of(shares)) for of in (min, statistics.median, max))
    return f"{middle} % ({low}-{high})"


if __name__ == "__main__":
    main()

"""Random motions in every slot of an environment at once: what the benchmarks of speed play."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import psutil

from regrip.datasets.protocols import VectorEnv
from regrip.datasets.starts import StartState, counter_generator

CHUNK = 5


def cpu_s() -> float:
    """CPU seconds of this process and its living children."""
    me = psutil.Process()
    return sum(one.user + one.system for one in (p.cpu_times() for p in (me, *me.children(recursive=True))))


def begin(env: VectorEnv, tasks: Sequence[str], key: str) -> Callable[[], int]:
    """Start an episode in every slot.

    Args:
        env: plays chunks of `CHUNK` actions.
        tasks: the slots take them in turn.
        key: of the random numbers.

    Returns:
        Plays a chunk in all slots, begins again what ended, and says how many control steps that was.
    """
    slots = list(range(env.num_slots))
    starts = [StartState(tasks[slot % len(tasks)], "train", slot) for slot in slots]
    span = (env.spec.action_high - env.spec.action_low).astype(np.float64)
    draw = counter_generator(key)

    def one() -> int:
        shape = (len(slots), CHUNK, env.spec.action_dim)
        chunks = env.spec.action_low + draw.uniform(0.35, 0.65, shape) * span
        env.step(slots, chunks.astype(np.float32))
        result = env.receive(slots)
        over = [slots[row] for row in np.flatnonzero(result.done)]
        if over:
            env.reset(over, [starts[slot] for slot in over])
            env.receive(over)
        return int(result.executed.sum())

    env.reset(slots, starts)
    env.receive(slots)
    return one

"""Where imagination begins: real frames of recorded episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import Split, StartState, counter_generator
from .clips import Clips
from .config import WorldConfig
from .fit import split

_MOST = 4000  # frames from the middle of episodes


@dataclass(frozen=True)
class Starts:
    """N frames to begin with, and what each is of.

    Attributes:
        pictures: uint8 (N,C,h,w,3).
        state: float32 (N,S), physical units.
        task: (N,) index into `tasks`.
        decision: (N,) how many decisions of the recorded episode came before; 0 is a real beginning.
        origin: (N,) the frame with which that episode began.
        split: (N,) 0 train, 1 select, 2 test. What the model was trained on is `train`; of the episodes held
            out every second one of a task is `select` and every other `test`.
        tasks: ``suite/task`` of each task.
        instructions: of each task.
        limits: of each task, decisions of its longest training episode.
    """

    pictures: NDArray[np.uint8]
    state: NDArray[np.float32]
    task: NDArray[np.int64]
    decision: NDArray[np.int64]
    origin: NDArray[np.int64]
    split: NDArray[np.int64]
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    limits: tuple[int, ...]

    def rows(self, task: str, split: Split, anywhere: bool) -> NDArray[np.int64]:
        """The frames of a task and split; only real beginnings, unless `anywhere`.

        Raises:
            ValueError: if the task is not known or nothing of it was recorded.
        """
        if task not in self.tasks:
            raise ValueError(f"the world model knows no task {task!r}; it knows {', '.join(self.tasks)}")
        number = ("train", "select", "test").index(split)
        fits = (self.task == self.tasks.index(task)) & (self.split == number)
        if not anywhere:
            fits &= self.decision == 0
        if not fits.any():
            raise ValueError(
                f"of task {task} no {split} episode was recorded, so imagination has nowhere to begin: "
                "record more of it, or hold out a larger share when fitting"
            )
        return np.flatnonzero(fits)

    def row(self, start: StartState, anywhere: bool) -> int:
        """The frame that `start` names: its index counts through the task's frames, and begins again."""
        rows = self.rows(start.task, start.split, anywhere)
        turn, place = divmod(start.index, len(rows))
        order = counter_generator("world start", start.task, start.split, start.seed, turn).permutation(
            len(rows)
        )
        return int(rows[order[place]])


def starts_of(clips: Clips, config: WorldConfig) -> Starts:
    """Every episode's beginning, and frames from the middle of those trained on, a decision apart."""
    train, held = split(clips, config)
    names = [_task(clips, episode) for episode in range(len(clips))]
    rank = {
        int(one): [names[int(e)] for e in held[:number]].count(names[int(one)])
        for number, one in enumerate(held)
    }
    tasks = tuple(sorted(set(names)))
    frames = [clips.frame_of[clips.first[:-1]]]
    middle = np.flatnonzero(
        (clips.step > 0) & (clips.step % config.chunk == 0) & np.isin(clips.episode, train)
    )
    middle = middle[clips.step[middle] + config.chunk < clips.num_steps[clips.episode[middle]]]
    if len(middle) > _MOST:
        middle = np.sort(counter_generator("world middle", config.seed).choice(middle, _MOST, replace=False))
    rows = np.concatenate([*frames, middle])
    episode = clips.episode[rows]
    decisions = clips.decisions(config.chunk)
    instruction = {name: clips.task[index] for index, name in reversed(list(enumerate(names)))}
    of_task = np.array([tasks.index(name) for name in names])
    limits = [int(decisions[train][of_task[train] == number].max(initial=1)) for number in range(len(tasks))]
    return Starts(
        pictures=np.asarray(clips.pictures[rows]),
        state=clips.state[rows],
        task=of_task[episode],
        decision=clips.step[rows] // config.chunk,
        origin=episode,  # for the beginnings of all episodes come first, in order
        split=np.array([1 + rank[int(e)] % 2 if int(e) in rank else 0 for e in episode]),
        tasks=tasks,
        instructions=tuple(instruction[name] for name in tasks),
        limits=tuple(limits),
    )


def _task(clips: Clips, episode: int) -> str:
    """``suite/task``, by the recording's start state, else by its instruction."""
    start = clips.start[episode]
    if start.count("/") >= 4:  # suite/task/split/index/seed
        return "/".join(start.split("/")[:2])
    return "world/" + "_".join(clips.task[episode].lower().split())

"""Videos of episodes that were played: the same start state and actions again, this time with a camera on.

Environments are deterministic, so nothing has to be filmed while it happens. Which episodes are shown follows
a rule, never a choice: the first start states of each task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation
from ..datasets.protocols import ActionSample
from ..datasets.starts import StartState
from ..sim.collect import collect
from . import environments
from .durable import StorageError, explain, read_json, write_json
from .environments import EnvConfig
from .evaluate import Played

INDEX = "videos.json"
_SIZE = 256  # pixels, of the first camera
_STEPS_PER_FRAME = 2
_HOLD_S = 0.8  # how long the last frame stands, so that a loop is read as an end and a beginning


@dataclass(frozen=True)
class Video:
    """One recorded episode.

    Attributes:
        start: where it began.
        greedy: how the policy acted.
        instruction: what the policy was told.
        success: how it ended.
        steps: control steps.
        file: the MP4.
    """

    start: StartState
    greedy: bool
    instruction: str
    success: bool
    steps: int
    file: Path


def record(config: EnvConfig, played: Played, folder: Path, per_task: int = 1) -> Path:
    """Record the `per_task` lowest start states of each task as MP4 files, with an index beside them.

    Args:
        config: of the environment in which the episodes were played.
        played: the episodes.
        folder: made if it does not exist.
        per_task: how many of each task.

    Returns:
        `folder`.

    Raises:
        StorageError: if it cannot be written.
        RuntimeError: if an episode ended differently when it was played again.
    """
    rows = _first_of_each_task(played.outcomes.starts, per_task)
    config = dataclasses.replace(config, image_size=_SIZE, slots=min(len(rows), config.slots))
    with environments.open_pool(config, _STEPS_PER_FRAME) as pool:
        rollouts, _ = collect(
            pool,
            _Replay([played.actions[row] for row in rows]),
            [played.outcomes.starts[row] for row in rows],
            list(range(len(rows))),
            run_key=("replay",),
            greedy=False,
            policy_version=0,
        )
        camera = pool.spec.cameras[0].name
        rate_hz = Fraction(pool.spec.control_rate_hz).limit_denominator(1000) / _STEPS_PER_FRAME
    entries = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", folder) from error
    for number, row in enumerate(rows):
        start, success = played.outcomes.starts[row], played.outcomes.success[row]
        if bool(rollouts.success[number]) != success:
            raise RuntimeError(
                f"{start} ended in {'success' if success else 'failure'} when it was measured and otherwise "
                "when it was played again: the environment is not deterministic on this machine"
            )
        count = int(rollouts.decision_valid[number].sum())
        frames = rollouts.images[camera][number, :count]
        name = f"{start.task_name}-{start.index}.mp4"
        write_mp4(folder / name, frames, rate_hz)
        entries.append(
            {
                **dataclasses.asdict(start),
                "greedy": played.greedy,
                "instruction": played.instructions[row],
                "success": success,
                "steps": played.outcomes.steps[row],
                "file": name,
            }
        )
    write_json(folder / INDEX, {"videos": entries})
    return folder


def read_index(folder: Path) -> list[Video]:
    """The videos of a folder; empty if there is none.

    Raises:
        StorageError: if the index is damaged.
    """
    if not (folder / INDEX).exists():
        return []
    data = read_json(folder / INDEX, "an index of videos")
    try:
        return [_video(folder, entry) for entry in data["videos"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{folder / INDEX} is damaged: {error}. Record the videos again.") from error


def _video(folder: Path, entry: Mapping[str, Any]) -> Video:
    return Video(
        start=StartState(entry["task"], entry["split"], entry["index"], entry["seed"]),
        greedy=bool(entry["greedy"]),
        instruction=entry["instruction"],
        success=bool(entry["success"]),
        steps=int(entry["steps"]),
        file=folder / Path(entry["file"]).name,  # never outside the folder
    )


@dataclass(frozen=True)
class _Replay:
    """An actor that repeats actions. It is never greedy: the noise keys tell it episode and decision."""

    actions: Sequence[NDArray[np.float32]]

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        assert noise_keys is not None, "a replay needs to be told which episode it is in"
        chunks = np.stack([self._chunk(int(key[-2]), int(key[-1])) for key in noise_keys])
        return ActionSample(chunks, np.zeros(chunks.shape[:2], np.float32))

    def _chunk(self, episode: int, decision: int) -> NDArray[np.float32]:
        actions = self.actions[episode]
        chunk = np.zeros((_STEPS_PER_FRAME, actions.shape[1]), np.float32)
        rest = actions[decision * _STEPS_PER_FRAME :][:_STEPS_PER_FRAME]
        chunk[: len(rest)] = rest  # what is missing is never executed: the episode is over
        return chunk


def _first_of_each_task(starts: Sequence[StartState], per_task: int) -> list[int]:
    """Rows of the `per_task` lowest indices of each task, task by task."""
    rows: list[int] = []
    for task in dict.fromkeys(start.task for start in starts):
        of_task = [row for row, start in enumerate(starts) if start.task == task]
        rows += sorted(of_task, key=lambda row: starts[row].index)[:per_task]
    return rows


def write_mp4(path: Path, frames: NDArray[np.uint8], rate_hz: Fraction) -> None:
    """Write (F,H,W,3) RGB frames as H.264 that every browser plays; the last frame stands for a moment.

    Raises:
        StorageError: if it cannot be written.
    """
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file:
            stream = file.add_stream("libx264", rate=rate_hz, options={"crf": "27", "preset": "medium"})
            stream.height, stream.width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
            stream.pix_fmt = "yuv420p"
            hold = [frames[-1]] * round(_HOLD_S * rate_hz)
            for frame in [*frames, *hold]:
                even = np.ascontiguousarray(frame[: stream.height, : stream.width])
                file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            file.mux(stream.encode())
    except OSError as error:  # av's errors are OSErrors
        raise explain(error, "write", path) from error

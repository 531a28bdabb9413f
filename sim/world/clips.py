"""Recorded episodes as a world model reads them: frames, and the chunks that lead from one to another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.formats import open_source
from ...datasets.ledger import DataError
from ...datasets.recording import Recording
from ...datasets.spec import RobotSpec
from ...datasets.starts import counter_generator

_ALIGNED = 0.25  # of a control period that a frame may lie beside its action


@dataclass(frozen=True)
class Windows:
    """B stretches of at most L decisions; what is beyond an episode's end is not `there`.

    Attributes:
        frame: int64 (B,L), row of the frame before each decision.
        following: int64 (B,L), row of the frame after it; -1 where the episode ended within the chunk.
        action: float32 (B,L,H,A), physical units; a chunk that the episode's end cut short is completed, see
            `Clips.tail`, and what is not `there` is zero.
        success: bool (B,L), the episode succeeded within this chunk.
        there: bool (B,L).
        episode: int64 (B,).
    """

    frame: NDArray[np.int64]
    following: NDArray[np.int64]
    action: NDArray[np.float32]
    success: NDArray[np.bool_]
    there: NDArray[np.bool_]
    episode: NDArray[np.int64]


@dataclass(frozen=True)
class Clips:
    """E episodes with F frames in all. The pictures lie in a file that is gone when this object is.

    Attributes:
        spec: what state and action mean.
        pictures: uint8 (F,C,h,w,3), cameras in the spec's order.
        state: float32 (F,S), taken with the frame.
        episode: int64 (F,); `step`: int64 (F,), the control step before which the frame was taken.
        first: int64 (E+1,), first row of each episode in `action`.
        action: float32 (T,A) of all episodes, one after the other.
        tail: float32 (E,H-1,A), what might have been done after each episode's end. Success cuts a recorded
            chunk short, a time limit seldom does, and a policy in imagination never: a model that could see
            how much of a chunk was executed would read the verdict there. So every chunk is whole: a random
            walk from the last action on, by steps that the episode itself took, that nothing stands out.
        frame_of: int64 (T,), the frame taken before each action, -1 where there is none.
        success: bool (E,).
        task: E instructions.
        start: E names of the start states, ``""`` where the recording says none.
        policy: E names of who played, likewise.
    """

    spec: RobotSpec
    pictures: NDArray[np.uint8]
    state: NDArray[np.float32]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]
    first: NDArray[np.int64]
    action: NDArray[np.float32]
    tail: NDArray[np.float32]
    frame_of: NDArray[np.int64]
    success: NDArray[np.bool_]
    task: Sequence[str]
    start: Sequence[str]
    policy: Sequence[str]

    def __len__(self) -> int:
        return len(self.success)

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """(E,) control steps."""
        return np.diff(self.first)

    def decisions(self, chunk: int) -> NDArray[np.int64]:
        """(E,) chunks from the first frame to the end, the last one perhaps cut short."""
        return np.asarray(-(-self.num_steps // chunk))

    def windows(self, frames: NDArray[np.int64], chunk: int, length: int) -> Windows:
        """Stretches that begin at `frames` (B,) and go on by whole chunks of `chunk` actions.

        A stretch ends where the episode does, or where the recording has no frame at that step.
        """
        episode, begin = self.episode[frames], self.step[frames]
        low, steps = self.first[episode], self.num_steps[episode]
        at = begin[:, None] + chunk * np.arange(length)  # (B,L) control steps
        inside = at < steps[:, None]
        frame = np.where(inside, self.frame_of[np.where(inside, low[:, None] + at, 0)], -1)
        there = np.logical_and.accumulate(frame >= 0, axis=1)
        each = at[..., None] + np.arange(chunk)  # (B,L,H)
        done = each < steps[:, None, None]
        beyond = np.clip(each - steps[:, None, None], 0, max(0, chunk - 2))
        own = self.action[np.where(done, low[:, None, None] + each, 0)]
        after = self.tail[episode[:, None, None], beyond] if chunk > 1 else own
        action = np.where(there[..., None, None], np.where(done[..., None], own, after), np.float32(0))
        over = at + chunk >= steps[:, None]
        later = np.where(over, 0, low[:, None] + at + chunk)
        following = np.where(over | ~there, -1, self.frame_of[later])
        return Windows(
            frame=np.where(there, frame, 0),
            following=following,
            action=action,
            success=over & there & self.success[episode][:, None],
            there=there,
            episode=episode,
        )

    def beginnings(self, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first frame of each of `episodes`."""
        return self.frame_of[self.first[episodes]]


def read_clips(
    paths: Sequence[Path],
    chunk: int,
    *,
    spec: RobotSpec | None = None,
    on_episode: Callable[[int, int], None] = lambda done, total: None,
) -> Clips:
    """Read data sets of any format that `regrip inspect` knows.

    Episodes too short for one whole chunk, and those nobody called a success or a failure, are left out and
    counted.

    Args:
        paths: the sets.
        chunk: actions in one step of the world.
        spec: what the sets must mean by their numbers; None takes the first set's word.
        on_episode: called with (episodes read, episodes in all).

    Raises:
        DataError: naming set, episode and key: no RobotSpec, a camera or a stream missing, a size that is
            not the spec's, numbers that are not finite, times that do not fit, or nothing to learn from.
        SpecMismatchError: a set is of another robot.
    """
    sources = [(path, open_source(Path(path))) for path in paths]
    total = sum(len(source) for _, source in sources)
    for path, source in sources:
        if source.contents.spec is None:
            raise DataError(
                "the set has no RobotSpec, so nothing says what its actions mean",
                "give a set that regrip recorded, or convert this one with a mapping (docs/data.md)",
                file=path,
            )
        if spec is None:
            spec = source.contents.spec
        spec.require_match(
            source.contents.spec, "the first set" if len(paths) > 1 else "the model", f"{path}"
        )
    if spec is None or not total:
        raise DataError("there is no episode to learn from", "record or name a set that has some")
    shape = (len(spec.cameras), spec.cameras[0].height, spec.cameras[0].width, 3)
    if any((camera.height, camera.width) != shape[1:3] for camera in spec.cameras):
        sizes = ", ".join(f"{camera.name} {camera.height}x{camera.width}" for camera in spec.cameras)
        raise DataError(
            f"the cameras differ in size ({sizes}), and a world model has one tokenizer for all",
            "resize them to one size: regrip data view --resize",
        )

    spool = tempfile.TemporaryFile(prefix="regrip-world-")  # noqa: SIM115 - gone with the last reference
    gathered: dict[str, list[Any]] = {
        name: []
        for name in (
            "state",
            "episode",
            "step",
            "action",
            "tail",
            "frame_of",
            "success",
            "task",
            "start",
            "policy",
        )
    }
    frames, first, left_out, read = 0, [0], dict[str, int](), 0
    for path, source in sources:
        for index in range(len(source)):
            recording = source[index]
            read += 1
            on_episode(read, total)
            why = _unfit(recording, chunk)
            if why:
                left_out[why] = left_out.get(why, 0) + 1
                continue
            one = _align(recording, spec, path, index)
            spool.write(np.ascontiguousarray(one.pictures).tobytes())
            frame_of = np.full(len(one.action), -1, np.int64)
            frame_of[one.step] = frames + np.arange(len(one.step))
            frames += len(one.step)
            first.append(first[-1] + len(one.action))
            about = recording.about
            gathered["state"].append(one.state)
            gathered["episode"].append(np.full(len(one.step), len(gathered["success"])))
            gathered["step"].append(one.step)
            gathered["action"].append(one.action)
            gathered["frame_of"].append(frame_of)
            gathered["tail"].append(_tail(one.action, spec, chunk, len(gathered["success"])))
            gathered["success"].append(bool(recording.success))
            gathered["task"].append(recording.task)
            start = about.get("start") or about.get("start_state") or ""
            gathered["start"].append(_name(start))
            gathered["policy"].append(str(about.get("policy", "")))
        source.close()
    said = ", ".join(f"{count} {why}" for why, count in left_out.items())
    if not frames:
        raise DataError(f"no episode can be learnt from ({said})", "record episodes that say how they ended")
    if said:
        print(f"{len(gathered['success'])} episodes; left out: {said}", flush=True)
    spool.flush()
    return Clips(
        spec=spec,
        pictures=np.memmap(spool, np.uint8, "r", shape=(frames, *shape)),
        state=np.concatenate(gathered["state"]),
        episode=np.concatenate(gathered["episode"]),
        step=np.concatenate(gathered["step"]),
        first=np.array(first, np.int64),
        action=np.concatenate(gathered["action"]),
        tail=np.stack(gathered["tail"]),
        frame_of=np.concatenate(gathered["frame_of"]),
        success=np.array(gathered["success"], np.bool_),
        task=gathered["task"],
        start=gathered["start"],
        policy=gathered["policy"],
    )


def _tail(action: NDArray[np.float32], spec: RobotSpec, chunk: int, episode: int) -> NDArray[np.float32]:
    """(H-1,A), see `Clips.tail`."""
    steps = np.diff(action[-4 * chunk :], axis=0) if len(action) > 1 else np.zeros_like(action)
    draw = counter_generator("world tail", episode, len(action))
    walk = action[-1] + np.cumsum(steps[draw.integers(len(steps), size=chunk - 1)], 0)
    tail: NDArray[np.float32] = np.clip(walk, spec.action_low, spec.action_high).astype(np.float32)
    return tail


def _unfit(recording: Recording, chunk: int) -> str:
    """Why an episode cannot be used, in words; empty if it can."""
    if recording.success is None:
        return "that nobody called a success or a failure"
    if recording.num_steps <= chunk:
        return f"of {chunk} steps or fewer, too short to have a step of {chunk} actions and what follows it"
    return ""


def _name(start: Any) -> str:
    """``task/split/index/seed`` of a start state as a recording holds it."""
    if isinstance(start, dict):
        return "/".join(str(start.get(key, "")) for key in ("task", "split", "index", "seed"))
    return str(start)


@dataclass(frozen=True)
class _Aligned:
    pictures: NDArray[np.uint8]
    state: NDArray[np.float32]
    step: NDArray[np.int64]
    action: NDArray[np.float32]


def _align(recording: Recording, spec: RobotSpec, path: Path, index: int) -> _Aligned:
    """The frames that were taken as an action began, by all cameras, and the state then."""

    def wrong(what: str, hint: str, key: str) -> DataError:
        return DataError(what, hint, file=path, episode=index, key=key)

    def track(key: str) -> Any:
        if key not in recording.streams:
            raise wrong(
                "the episode lacks this stream",
                f"it has {', '.join(recording.streams)}; leave the episode out, or fit a model without it",
                key,
            )
        return recording.streams[key]

    actions = track("action")
    action = np.asarray(actions.rows, np.float32)
    if action.ndim != 2 or action.shape[1] != spec.action_dim:
        raise wrong(
            f"rows of shape {action.shape[1:]}, expected ({spec.action_dim},)", "is it this robot?", "action"
        )
    states = track("observation.state")
    state = np.asarray(states.rows, np.float32)
    if state.ndim != 2 or state.shape[1] != spec.state_dim:
        raise wrong(
            f"rows of shape {state.shape[1:]}, expected ({spec.state_dim},)",
            "is it this robot?",
            "observation.state",
        )
    for key, values in (("action", action), ("observation.state", state)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise wrong(
                f"row {row} is not finite: {values[row]}", "leave the episode out: regrip data edit", key
            )
    near = _ALIGNED / spec.control_rate_hz
    rows_of: list[NDArray[np.int64]] = [_nearest(states.time, actions.time, near)]
    cameras = [track(f"observation.images.{camera.name}") for camera in spec.cameras]
    rows_of += [_nearest(camera.time, actions.time, near) for camera in cameras]
    step = np.flatnonzero(np.logical_and.reduce([rows >= 0 for rows in rows_of]))
    if not len(step) or step[0] != 0:
        raise wrong(
            "no frame was taken as the first action began",
            "cut the episode's beginning: regrip data edit",
            "action",
        )
    pictures = []
    for camera, rows, named in zip(cameras, rows_of[1:], spec.cameras, strict=True):
        key = f"observation.images.{named.name}"
        seen = list(camera.rows)
        if seen[0].shape != (named.height, named.width, 3):
            raise wrong(
                f"frames of {seen[0].shape}, expected ({named.height}, {named.width}, 3)",
                "resize them: regrip data view --resize",
                key,
            )
        pictures.append(np.stack([seen[int(row)] for row in rows[step]]))
    return _Aligned(np.stack(pictures, 1), state[rows_of[0][step]], step, action)


def _nearest(time: NDArray[np.float64], wanted: NDArray[np.float64], near: float) -> NDArray[np.int64]:
    """For each of `wanted` the row of `time` (rising) nearest to it; -1 if it is over `near` seconds off."""
    after = np.clip(np.searchsorted(time, wanted), 0, len(time) - 1)
    before = np.maximum(after - 1, 0)
    row = np.where(np.abs(time[before] - wanted) < np.abs(time[after] - wanted), before, after)
    return np.where(np.abs(time[row] - wanted) <= near, row, -1)

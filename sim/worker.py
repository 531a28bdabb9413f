"""The worker process: owns some slots of a `WorkerPool` and plays their episodes.

It imports numpy, the two smallest modules of `datasets` and whatever the factory needs, so it also runs
under the interpreter of another virtual environment. It reads JSON lines from stdin, answers with JSON lines
on what was stdout, and exchanges arrays through a memory file it inherited; nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import importlib
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec
from ..datasets.starts import StartState
from .env import EnvStep

if TYPE_CHECKING:
    from .env import Env

# The head of the memory file, one row per worker: the parent sees signs of life inside a long call.
TICKS, CURRENT_SLOT, BUSY_NS, NUM_FRAMES, HEAD_COLUMNS = 0, 1, 2, 3, 8
PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY_EXIT = 77
GOES_ON = EnvStep(0.0, success=False, truncated=False)


@dataclass(frozen=True)
class SharedArrays:
    """What parent and workers exchange, one row per slot (N slots, chunks of H actions).

    Attributes:
        action: float32 (N,H,A), written by the parent.
        images: camera name to uint8 (N,h,w,3); zero where the episode is over.
        state: float32 (N,S).
        privileged: float32 (N,P).
        executed: int64 (N,), actions executed of the last chunk.
        reward: float32 (N,H).
        success: bool (N,).
        invalid: bool (N,).
        done: bool (N,).
    """

    action: NDArray[np.float32]
    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    privileged: NDArray[np.float32]
    executed: NDArray[np.int64]
    reward: NDArray[np.float32]
    success: NDArray[np.bool_]
    invalid: NDArray[np.bool_]
    done: NDArray[np.bool_]


def head_bytes(num_workers: int) -> int:
    """Size of the memory file's head."""
    return num_workers * HEAD_COLUMNS * 8


def map_head(file: int, num_workers: int) -> NDArray[np.int64]:
    """The int64 (num_workers, HEAD_COLUMNS) head of the memory file `file` (a descriptor)."""
    buffer = mmap.mmap(file, head_bytes(num_workers))
    return np.frombuffer(buffer, dtype=np.int64).reshape(num_workers, HEAD_COLUMNS)


def map_arrays(
    file: int, num_workers: int, num_slots: int, chunk_size: int, spec: RobotSpec, privileged_dim: int
) -> SharedArrays:
    """Map the arrays behind the head of the memory file, growing it to the size they need."""
    n = num_slots
    layout: list[tuple[str, type[np.generic], tuple[int, ...]]] = [
        ("action", np.float32, (n, chunk_size, spec.action_dim)),
        ("state", np.float32, (n, spec.state_dim)),
        ("privileged", np.float32, (n, privileged_dim)),
        ("executed", np.int64, (n,)),
        ("reward", np.float32, (n, chunk_size)),
        ("success", np.bool_, (n,)),
        ("invalid", np.bool_, (n,)),
        ("done", np.bool_, (n,)),
    ]
    layout += [
        (f"images.{camera.name}", np.uint8, (n, camera.height, camera.width, 3)) for camera in spec.cameras
    ]
    offsets, end = {}, head_bytes(num_workers)
    for name, dtype, shape in layout:
        offsets[name] = end = -(-end // 64) * 64
        end += int(np.prod(shape)) * np.dtype(dtype).itemsize
    if os.fstat(file).st_size < end:
        os.ftruncate(file, end)
    buffer = mmap.mmap(file, end)
    arrays: dict[str, NDArray[Any]] = {
        name: np.ndarray(shape, dtype, buffer, offsets[name]) for name, dtype, shape in layout
    }
    images = {camera.name: arrays.pop(f"images.{camera.name}") for camera in spec.cameras}
    return SharedArrays(images=images, **arrays)


def encode(data: bytes) -> str:
    """Bytes as text for a JSON line."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """The bytes `encode` was given."""
    return base64.b64decode(text)


def resolve(factory: str) -> Callable[..., Env]:
    """Import ``package.module:function``.

    Raises:
        ValueError: if the text has no colon or the module has no such function.
    """
    module, colon, name = factory.partition(":")
    if not colon:
        raise ValueError(f"environment factory {factory!r} is not of the form package.module:function")
    found: Callable[..., Env] | None = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ValueError(f"environment factory {factory!r}: module {module} has no {name!r}")
    return found


class Worker:
    """Plays the episodes of some slots, one `Env` for each."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.head = map_head(config["file"], config["num_workers"])[config["worker"]]
        make, kwargs = resolve(config["factory"]), config["kwargs"]
        self.envs: dict[int, Env] = {}
        for slot in config["slots"]:
            self.head[CURRENT_SLOT] = slot
            self.envs[slot] = make(**kwargs)
            self.tick()
        first = next(iter(self.envs.values()))
        self.spec, self.privileged_dim = first.spec, int(first.privileged_dim)
        self.arrays = map_arrays(
            config["file"],
            config["num_workers"],
            config["num_slots"],
            config["chunk_size"],
            self.spec,
            self.privileged_dim,
        )
        self.playing: dict[int, bool] = dict.fromkeys(self.envs, False)

    def tick(self) -> None:
        self.head[TICKS] += 1

    def begin(self, order: dict[str, Any]) -> str:
        """Start, restore or replay one slot's episode, up to the end of its last logged chunk.

        Returns:
            the episode's instruction.
        """
        slot = order["slot"]
        env: Any = self.envs[slot]  # some can help, see `env.Assisting`
        self.playing[slot] = False
        if order["snapshot"] is not None:
            env.restore(decode(order["snapshot"]))
        else:
            for help in ("assist", "relax"):
                if hasattr(env, help):
                    setattr(env, help, order[help])
                elif order[help]:
                    raise ValueError(
                        f"{help} {order[help]} was asked for, but {type(env).__name__} cannot make its tasks "
                        f"easier: set {help} to 0"
                    )
            env.reset(StartState(**order["start"]))
        self.playing[slot] = True
        self.tick()
        chunks = np.frombuffer(decode(order["chunks"]), dtype=np.float32)
        executed, reward, last = 0, np.zeros(self.arrays.reward.shape[1], dtype=np.float32), GOES_ON
        for chunk in chunks.reshape(-1, *self.arrays.action.shape[1:]):
            executed, reward, last = self.play(slot, chunk.copy())
        if order["answer"]:
            self.answer(slot, executed, reward, last)
        instruction: str = env.instruction
        return instruction

    def step(self, slot: int) -> None:
        self.answer(slot, *self.play(slot, self.arrays.action[slot].copy()))

    def play(self, slot: int, chunk: NDArray[np.float32]) -> tuple[int, NDArray[np.float32], EnvStep]:
        """Execute (H,A) actions until the episode ends: (executed, reward (H,), how the last one ended)."""
        if not self.playing[slot]:
            raise ValueError("a step was asked for, but no episode is being played: reset the slot first")
        env, reward = self.envs[slot], np.zeros(len(chunk), dtype=np.float32)
        for index, action in enumerate(chunk):
            outcome = env.step(action)
            self.tick()
            reward[index] = outcome.reward
            if outcome.over:
                self.playing[slot] = False
                return index + 1, reward, outcome
        return len(chunk), reward, GOES_ON

    def answer(self, slot: int, executed: int, reward: NDArray[np.float32], last: EnvStep) -> None:
        """Write what the policy will look at; a frame is rendered only if the episode goes on."""
        env, arrays, playing = self.envs[slot], self.arrays, self.playing[slot]
        arrays.state[slot] = env.state()
        arrays.privileged[slot] = env.privileged()
        arrays.executed[slot] = executed
        arrays.reward[slot] = reward
        arrays.success[slot] = last.success and not last.invalid
        arrays.invalid[slot] = last.invalid
        arrays.done[slot] = not playing
        for camera, frames in arrays.images.items():
            frames[slot] = env.render(camera) if playing else 0
            self.head[NUM_FRAMES] += playing
            self.tick()

    def run(self, call: dict[str, Any]) -> dict[str, Any]:
        """Carry out one call for all of its slots; an exception in one of them does not stop the others."""
        results: list[str | None] = []
        errors: list[dict[str, Any]] = []
        for order in call["orders"]:
            slot = order["slot"]
            self.head[CURRENT_SLOT] = slot
            try:
                if call["call"] == "begin":
                    results.append(self.begin(order))
                elif call["call"] == "step":
                    self.step(slot)
                    results.append(None)
                else:
                    results.append(encode(self.envs[slot].snapshot()))
            except Exception as error:
                if is_out_of_memory(error):
                    raise  # the process is no longer fit to go on
                self.playing[slot] = False
                results.append(None)
                errors.append({"slot": slot, **describe(error)})
        return {"results": results, "errors": errors}


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as JSON, for the parent to raise again."""
    return {
        "types": [kind.__name__ for kind in type(error).__mro__],
        "message": str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error),
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before we could ask
        os._exit(1)


def lines(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in stream:
        yield json.loads(line)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a simulator prints must not end up among the replies

    def reply(message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[replies.write(data) or 0 :]

    calls = lines(sys.stdin.buffer)
    config = next(calls)
    if config["die_with_parent"]:
        die_with_parent(config["parent"])
    try:
        if config["memory_limit_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_AS, (config["memory_limit_bytes"],) * 2)
        try:
            worker = Worker(config)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reply({"id": config["id"], "fatal": describe(error)})
            return
        reply({"id": config["id"], "spec": worker.spec.to_json(), "privileged_dim": worker.privileged_dim})
        for call in calls:
            began = time.perf_counter_ns()
            answer = worker.run(call)
            worker.head[BUSY_NS] += time.perf_counter_ns() - began
            reply({"id": call["id"], **answer})
        for env in worker.envs.values():
            env.close()
    except BrokenPipeError:  # the parent is gone
        os._exit(1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # lets go of what filled the memory
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(OUT_OF_MEMORY_EXIT)
    sys.stderr.flush()
    os._exit(0)  # skips the teardown of GL drivers, which now and then crashes


if __name__ == "__main__":
    main()

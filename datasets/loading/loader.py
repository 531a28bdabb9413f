"""Batches for training: numpy arrays in one process, or from workers, and from there to the device.

    store = Store("cups.regrip")
    samples = Samples([Member(store)])
    loader = BatchLoader(samples, EpochOrder(len(samples), batch_size=256, seed=0), workers=4)
    for batch in loader.iterate(start=step, device="cuda"):
        loss = policy(batch.tensors, batch.task)

`RobotDataset` and `OrderSampler` are the same for those who keep torch's own DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from .batches import Batch, Buffers, MapMaker, Workers
from .mixture import Samples
from .sampler import Order
from .samples import Field


@dataclass(frozen=True)
class DeviceBatch:
    """A batch as tensors.

    Attributes:
        step: counted from the start of training.
        tensors: by name; images uint8 with channels first (n,3,H,W) or (n,T,3,H,W), strided as they were.
        task: the instruction of each sample.
        place: (n,) place of each sample in the global batch, for `augmentation`.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    task: list[str]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.task)


class BatchLoader:
    """Batches by their step, in this process or from workers; the same ones in either case."""

    def __init__(
        self,
        samples: Samples,
        order: Order,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        ahead: int = 2,
    ) -> None:
        """Nothing is read yet.

        Args:
            samples: what is read.
            order: which samples come when.
            rank: of this process in the training run.
            world: number of its processes.
            workers: processes that make batches for this one; 0 makes them here.
            ahead: batches that each worker may have ready; memory is held for them.
        """
        if workers < 0 or ahead < 1:
            raise ValueError(f"{workers} workers, {ahead} batches ahead: not negative, and at least 1")
        self.samples, self.order = samples, order
        self._buffers = Buffers(samples.fields)
        self.rank, self.world, self.workers, self.ahead = rank, world, workers, ahead

    def batch(self, step: int) -> Batch:
        """This rank's part of the batch of a step, made here and now.

        Raises:
            DataError: a row is damaged.
        """
        draw = self.order.draw(step, self.rank, self.world)
        arrays = self._buffers.take(len(draw))
        return Batch(step, arrays, self.samples.fill(draw, arrays), draw.place)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """All batches from a step on, without end, in numpy.

        Raises:
            DataError: a row is damaged, or there is too little shared memory.
            RuntimeError: a worker died.
        """
        if self.workers:
            with self._start(start) as workers:
                for batch in workers:
                    yield self._buffers.copy(batch)
        step = start
        while True:
            yield self.batch(step)
            step += 1

    def iterate(self, start: int = 0, device: torch.device | str = "cpu") -> Iterator[DeviceBatch]:
        """All batches from a step on, without end, on a device.

        To CUDA they go through pinned memory without waiting: a batch is copied while the next is made.

        Raises:
            DataError: a row is damaged, or there is too little shared memory.
            RuntimeError: a worker died.
        """
        target = torch.device(device)
        if not self.workers:
            for batch in self.batches(start):
                yield to_device(batch, self.samples.fields, target)
            return
        with self._start(start) as workers:
            for batch in workers:
                if target.type == "cpu":  # out of the shared memory, which the next batch will overwrite
                    batch = self._buffers.copy(batch)
                yield to_device(batch, self.samples.fields, target)

    def _start(self, start: int) -> Workers:
        maker = MapMaker(self.samples, self.order, self.rank, self.world)
        return Workers(maker, self.workers, ahead=self.ahead, start=start)


def to_device(batch: Batch, fields: dict[str, Field], device: torch.device | str) -> DeviceBatch:
    """A batch as tensors; on the CPU they share its memory.

    To CUDA: through pinned memory of torch's own, which it keeps until the copy is done.
    """
    target = torch.device(device)
    tensors = {}
    for name, array in batch.arrays.items():
        tensor = torch.from_numpy(array)
        if target.type == "cuda":
            tensor = tensor.pin_memory().to(target, non_blocking=True)
        elif target.type != "cpu":
            tensor = tensor.to(target)
        tensors[name] = _channels_first(tensor, fields[name])
    return DeviceBatch(batch.step, tensors, batch.task, batch.place)


def _channels_first(tensor: torch.Tensor, one: Field) -> torch.Tensor:
    if one.kind == "image" and one.dtype == "uint8" and one.shape[-1] == 3:
        return tensor.movedim(-1, -3)
    return tensor


class RobotDataset(Dataset[dict[str, Any]]):
    """Samples by number, for torch's DataLoader.

    With a batch sampler it reads whole batches at once (`__getitems__`): use ``collate_fn=as_it_is``.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: tensors without the batch dimension, images uint8 (3,H,W), and ``task``.

        Raises:
            IndexError: there is no such sample.
            DataError: a row is damaged.
        """
        if index < 0:
            index += len(self)
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Samples as one batch, and ``task``, a list."""
        draw = self.samples.locate(np.asarray(indices, dtype=np.int64))
        arrays, tasks = self.samples.batch(draw)
        made = to_device(Batch(-1, arrays, tasks, draw.place), self.samples.fields, "cpu")
        return {**made.tensors, "task": made.task}


def as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """The collate function for `RobotDataset`, whose batches are whole already."""
    return batch


class OrderSampler(Sampler[list[int]]):
    """An order as the ``batch_sampler`` of torch's DataLoader: from a step on, `num` steps."""

    def __init__(
        self, samples: Samples, order: Order, start: int, num: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self._starts = np.concatenate([[0], np.cumsum(samples.sizes)])
        self._order, self._steps, self._rank, self._world = order, range(start, start + num), rank, world

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            draw = self._order.draw(step, self._rank, self._world)
            yield (self._starts[draw.set] + draw.sample).tolist()

"""Training from an object store: what is not in the buffer is not here, and nothing is fetched twice.

The set's episodes are cut into blocks of neighbours, which are dealt to lanes in an order that is new in
every epoch. A lane reads some blocks at a time, shuffles the samples of these together, and goes on. Batches
take as many samples from every lane, and ranks and their workers own whole lanes: so every sample comes once
in an epoch, each block is fetched by one worker only, and batches are the same whatever the number of ranks
and workers. To resume is to begin at a step: the blocks it needs are fetched, no others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batches import Batch, Buffers, Workers
from .normalization import Scaling
from .remote_rows import FetchedRows, RemoteSet
from .sampler import permute
from .samples import Arrays, Field, Reading, SampleReader

_MIXED = 4  # blocks that are shuffled together, at least, where episodes are short enough


@dataclass(frozen=True)
class Lane:
    """One lane of one epoch: groups of blocks, in the order in which they are read.

    Attributes:
        groups: blocks that are shuffled together.
        ends: (groups,) samples up to the end of each group.
    """

    groups: tuple[tuple[int, ...], ...]
    ends: NDArray[np.int64]

    @property
    def size(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0


@dataclass(frozen=True)
class StreamOrder:
    """The order of samples; a pure function of what stands here.

    Attributes:
        blocks: samples of each block.
        batch_size: of all ranks together; a multiple of `lanes`.
        lanes: a multiple of the number of ranks.
        mixed: samples that are shuffled together in a lane, unless one block has more.
        seed: of the run.
    """

    blocks: tuple[int, ...]
    batch_size: int
    lanes: int
    mixed: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.batch_size < 1 or self.batch_size % self.lanes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot take as many from each of {self.lanes} lanes"
            )
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError("there are no samples, or empty blocks")

    def to_json(self) -> dict[str, Any]:
        """What the order depends on, for a checkpoint; see `sampler.check_same_order`."""
        return {"order": "stream", **asdict(self), "blocks": list(self.blocks)}

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.blocks) // self.batch_size)

    def lanes_of(self, epoch: int) -> list[Lane]:
        """The lanes of an epoch; they differ by less than two blocks."""
        return _deal(self.blocks, self.lanes, self.mixed, self.seed, epoch)

    def step(self, step: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Of the batch of a step, counted from the start of training.

        Returns:
            The epoch, and for each place of the global batch its lane (n,) and its number in that lane (n,).

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, inside = divmod(step, self.steps_per_epoch)
        sizes = np.array([lane.size for lane in self.lanes_of(epoch)])
        first = inside * self.batch_size
        place = np.arange(first, min(first + self.batch_size, int(sizes.sum())))
        # Round j takes the j-th sample of every lane that has one: after each lane's end a lane fewer.
        lane, number = np.empty_like(place), np.empty_like(place)
        begin, taken = 0, 0
        for end in np.unique(sizes).tolist():
            alive = np.flatnonzero(sizes > begin)
            here = (place >= taken) & (place < taken + (end - begin) * len(alive))
            rounds, which = np.divmod(place[here] - taken, len(alive))
            lane[here], number[here] = alive[which], begin + rounds
            taken += (end - begin) * len(alive)
            begin = end
        return epoch, lane, number

    def samples(
        self, epoch: int, lane: int, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Groups of a lane (n,), and numbers in these groups (n,), of the lane's samples `numbers`."""
        mine = self.lanes_of(epoch)[lane]
        groups = np.searchsorted(mine.ends, numbers, side="right")
        places = np.empty_like(numbers)
        for group in np.unique(groups).tolist():
            here = groups == group
            first = int(mine.ends[group - 1]) if group else 0
            size = int(mine.ends[group]) - first
            places[here] = permute(numbers[here] - first, size, "stream", self.seed, epoch, lane, group)
        return groups, places


@lru_cache(4)
def _deal(blocks: tuple[int, ...], lanes: int, mixed: int, seed: int, epoch: int) -> list[Lane]:
    """Blocks in random order, each to the lane that has least."""
    order = permute(np.arange(len(blocks)), len(blocks), "blocks", seed, epoch)
    heap = [(0, lane) for lane in range(lanes)]
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    for block in order.tolist():
        size, lane = heapq.heappop(heap)
        dealt[lane].append(block)
        heapq.heappush(heap, (size + blocks[block], lane))
    made = []
    for mine in dealt:
        cuts = _cut([blocks[block] for block in mine], mixed) if mine else [0]
        groups = tuple(tuple(mine[a:b]) for a, b in pairwise(cuts))
        ends = np.cumsum([sum(blocks[block] for block in group) for group in groups], dtype=np.int64)
        made.append(Lane(groups, ends))
    return made


class StreamMaker:
    """Batches of a remote set (a `batches.Maker`), with at most two groups of each of its lanes in memory."""

    def __init__(
        self,
        remote: RemoteSet,
        order: StreamOrder,
        starts: Sequence[int],
        reading: Reading,
        scaling: Mapping[str, Scaling],
        rank: int,
        world: int,
    ) -> None:
        self._remote, self._order, self._starts = remote, order, tuple(starts)
        self._reading, self._scaling, self._rank, self._world = reading, scaling, rank, world
        whole = SampleReader(remote.store, reading, scaling)
        self.fields: dict[str, Field] = whole.fields
        self._keys = tuple(
            dict.fromkeys([whole.anchor, *whole.images, *whole.vectors, *filter(None, [whole.chunked])])
        )
        bounds = remote.store.bounds(whole.anchor)
        self._samples_before = np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])])
        self.room = order.batch_size  # at the end of an epoch one rank may have the only lane that is left
        self._held: dict[tuple[int, int, int], Future[_Group]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.num_fetched = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}, "_pool": None}

    def places(self, step: int) -> NDArray[np.int64]:
        return np.flatnonzero(self._order.step(step)[1] % self._world == self._rank)

    def make(self, step: int, out: Arrays, worker: int, workers: int) -> list[tuple[int, str]]:
        epoch, lane, number = self._order.step(step)
        rows = np.flatnonzero(lane % self._world == self._rank)
        lane, number = lane[rows], number[rows]
        answer: list[tuple[int, str]] = []
        mine = [one for one in np.unique(lane).tolist() if one // self._world % workers == worker]
        found = {one: self._order.samples(epoch, one, number[lane == one]) for one in mine}
        for one in mine:  # all at once, not each when the one before is there
            self._start(epoch, one, int(found[one][0][0]))
        for one in mine:
            at = np.flatnonzero(lane == one)
            groups, places = found[one]
            for group in np.unique(groups).tolist():
                here = groups == group
                answer += self._group(epoch, one, group).fill(places[here], out, at[here], self.fields)
        return answer

    def held_bytes(self) -> int:
        """Of what was fetched and is still held."""
        return sum(one.result().num_bytes for one in self._held.values() if one.done())

    def _group(self, epoch: int, lane: int, group: int) -> _Group:
        """A group of a lane; the one after it is fetched meanwhile, those before are let go."""
        ahead = (epoch, lane, group + 1)
        if group + 1 >= len(self._order.lanes_of(epoch)[lane].groups):
            ahead = (epoch + 1, lane, 0)
        for key in [key for key in self._held if key[1] == lane and key not in ((epoch, lane, group), ahead)]:
            del self._held[key]
        done = self._start(epoch, lane, group).result()
        self._start(*ahead)
        return done

    def _start(self, epoch: int, lane: int, group: int) -> Future[_Group]:
        key = (epoch, lane, group)
        if key not in self._held:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(4, thread_name_prefix="regrip-fetch")
            groups = self._order.lanes_of(epoch)[lane].groups
            self._held[key] = self._pool.submit(self._fetch, groups[group] if groups else ())
        return self._held[key]

    def _fetch(self, blocks: tuple[int, ...]) -> _Group:
        parts = []
        for block in blocks:
            first, last = self._starts[block], self._starts[block + 1]
            rows = FetchedRows(self._remote, range(first, last), self._keys)
            self.num_fetched += rows.num_bytes
            reader = SampleReader(rows, self._reading, self._scaling)
            parts.append((reader, first, int(self._samples_before[first]), rows.num_bytes))
        return _Group(parts)


class _Group:
    """Blocks that are shuffled together, fetched."""

    def __init__(self, parts: list[tuple[SampleReader, int, int, int]]) -> None:
        self._parts = parts
        self._starts = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])])
        self.num_bytes = sum(part[3] for part in parts)

    def fill(
        self, samples: NDArray[np.int64], out: Arrays, at: NDArray[np.int64], fields: Mapping[str, Field]
    ) -> list[tuple[int, str]]:
        chosen = np.searchsorted(self._starts, samples, side="right") - 1
        answer: list[tuple[int, str]] = []
        for part in np.unique(chosen).tolist():
            reader, episode, sample, _ = self._parts[part]
            which = np.flatnonzero(chosen == part)
            rows = at[which]
            tasks = reader.fill(samples[which] - self._starts[part], out, rows)
            out["episode_index"][rows] += episode
            out["index"][rows] += sample
            for name in fields:
                if name not in reader.fields:  # no episode of this block lacks the stream
                    out[name][rows] = True
            answer += zip(rows.tolist(), tasks, strict=True)
        return answer


class StreamLoader:
    """Batches of a store behind a URL, from this process or from workers; the same ones in either case.

    Attributes:
        fields: the arrays of a batch, by name.
        order: of the samples.
    """

    def __init__(
        self,
        remote: RemoteSet,
        batch_size: int,
        *,
        reading: Reading | None = None,
        scaling: Mapping[str, Scaling] | None = None,
        seed: int = 0,
        lanes: int = 8,
        buffer_bytes: int = 1 << 30,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        """Plan; no row is fetched but the first index of each camera.

        Args:
            remote: the set.
            batch_size: of all ranks together; a multiple of `lanes`. The last batch of an epoch is smaller,
                and ranks may have parts of different sizes in the last few, or none.
            reading: what a sample is.
            scaling: of streams of numbers.
            seed: of the order.
            lanes: sources that batches are mixed from; a multiple of `world`, one for each worker at least.
            buffer_bytes: of encoded rows that all ranks hold together; half of it is being fetched. What is
                in it is shuffled. Two episodes for each lane must fit, or it becomes larger.
            rank: of this process in the training run.
            world: number of its processes.
            workers: processes that make batches for this one; 0 makes them here.

        Raises:
            DataError: the set lacks what is read, or cannot be reached.
            ValueError: numbers that do not fit each other.
        """
        if lanes % world or not 0 <= rank < world:
            raise ValueError(f"{lanes} lanes cannot be shared by {world} ranks, of which this is {rank}")
        if workers > lanes // world:
            raise ValueError(f"{workers} workers for {lanes // world} lanes of this rank: use more lanes")
        reading = reading or Reading()
        whole = SampleReader(remote.store, reading, scaling)
        bounds = remote.store.bounds(whole.anchor)
        sizes = bounds[:, 1] - bounds[:, 0]
        per_sample = 0.0
        for key in dict.fromkeys(
            [whole.anchor, *whole.images, *whole.vectors, *filter(None, [whole.chunked])]
        ):
            rows = int(remote.store.bounds(key)[:, 1].max(initial=0))
            per_sample += (remote.bytes_per_row(key) + 8) * rows / len(whole)
        mixed = max(1, int(buffer_bytes / per_sample / lanes / 2))
        starts = _cut(sizes.tolist(), max(1, mixed // _MIXED))
        before = np.concatenate([[0], np.cumsum(sizes)])
        self.order = StreamOrder(
            tuple(int(before[b] - before[a]) for a, b in pairwise(starts)),
            batch_size,
            lanes,
            mixed,
            seed,
        )
        self.maker = StreamMaker(remote, self.order, starts, reading, dict(scaling or {}), rank, world)
        self.fields = self.maker.fields
        self._buffers = Buffers(self.fields)
        self._workers = workers

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """All batches from a step on, without end, in numpy.

        Raises:
            DataError: something cannot be read, or there is too little shared memory.
            RuntimeError: a worker died.
        """
        if self._workers:
            with Workers(self.maker, self._workers, start=start) as workers:
                for batch in workers:
                    yield self._buffers.copy(batch)
        for step in count(start):
            places = self.maker.places(step)
            arrays = self._buffers.take(len(places))
            tasks = dict(self.maker.make(step, arrays, 0, 1))
            yield Batch(step, arrays, [tasks[row] for row in range(len(places))], places)


def _cut(sizes: Sequence[int], most: int) -> list[int]:
    """Starts of runs of at most `most` samples, or of one episode (block); and the end of the last."""
    starts, held = [0], 0
    for episode, size in enumerate(sizes):
        if held and held + size > most:
            starts.append(episode)
            held = 0
        held += size
    if held:
        starts.append(len(sizes))
    else:  # episodes without samples at the end
        starts[-1] = len(sizes)
    return starts

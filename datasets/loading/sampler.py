"""Which sample comes when: a pure function of (seed, epoch, step), whatever the number of workers or ranks.

Nothing is held and nothing advances: a batch is computed from its number, so to resume is to begin at a step.
Permutations are a keyed bijection evaluated at the places asked for (a Feistel network that walks its cycles
until it is inside), so a set of a billion samples is shuffled as exactly as one of ten, in no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError

_ROUNDS = 8
_SMALL = 1024
_SLOTS = 1 << 16  # in which a mixture's shares are exact


@dataclass(frozen=True)
class Draw:
    """Samples of one batch, in order.

    Attributes:
        set: (n,) index of the set each comes from.
        sample: (n,) index within that set.
        place: (n,) its place in the global batch, which augmentation is keyed by.
    """

    set: NDArray[np.int64]
    sample: NDArray[np.int64]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample)


class Saved(Protocol):
    """An order that a checkpoint can hold."""

    def to_json(self) -> dict[str, Any]:
        """What the order depends on; see `check_same_order`."""
        ...


class Order(Saved, Protocol):
    """The order of a training run."""

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Draw:
        """What `rank` of `world` gets at a step; all ranks together get the same whatever `world` is."""
        ...


def permute(places: NDArray[np.int64], size: int, *key: int | str) -> NDArray[np.int64]:
    """Where a random permutation of ``range(size)`` sends these places.

    Every key is another permutation; it does not depend on numpy's version, the machine or the other places.

    Raises:
        ValueError: a place is not in the range.
    """
    x = np.asarray(places, dtype=np.int64)
    if len(x) and (x.min() < 0 or x.max() >= size):
        raise ValueError(f"places from {x.min()} to {x.max()} are not all in range({size})")
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
    rounds = np.frombuffer(digest, "<u8")
    if size <= _SMALL:  # sorted by random numbers; a small network would not be random enough
        keys = _mix(_mix(np.arange(size, dtype=np.uint64) + rounds[0]) ^ rounds[1])
        return np.argsort(keys, kind="stable")[x]
    half = ((size - 1).bit_length() + 1) // 2
    mask = np.uint64((1 << half) - 1)
    out = x.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        value = out[todo]
        left, right = value >> np.uint64(half), value & mask
        for number in rounds:
            left, right = right, left ^ (_mix(right + number) & mask)
        value = (left << np.uint64(half)) | right
        out[todo] = value
        todo = todo[value >= np.uint64(size)]
    return out.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea and Flood's SplitMix64 finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def cut(total: int, rank: int, world: int) -> slice:
    """A rank's part of a global batch; parts differ by one at most.

    Raises:
        ValueError: there is no such rank.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; ranks count from 0")
    return slice(rank * total // world, (rank + 1) * total // world)


@dataclass(frozen=True)
class EpochOrder:
    """Every sample of one set once in each epoch.

    A step counts through all epochs. Ranks whose number does not divide the batch get parts that differ by
    one sample; a mean over ranks should then be weighted by their sizes.

    Attributes:
        size: samples of the set.
        batch_size: of all ranks together.
        seed: of the run.
        shuffle: else samples come in order.
        keep_last: whether the last, smaller batch of an epoch is given; without it each epoch leaves out
            other samples.
    """

    size: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    keep_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.size < 1:
            raise ValueError(f"{self.size} samples in batches of {self.batch_size}: both must be positive")
        if self.batch_size > self.size and not self.keep_last:
            raise ValueError(
                f"a batch of {self.batch_size} is larger than the set ({self.size} samples): "
                "make it smaller, or set keep_last"
            )

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (rest > 0 and self.keep_last)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Draw:
        """The batch of a step, counted from the start of training.

        Raises:
            ValueError: the step is negative, or there is no such rank.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, inside = divmod(step, self.steps_per_epoch)
        first = inside * self.batch_size
        total = min(self.batch_size, self.size - first)
        part = cut(total, rank, world)
        place = np.arange(part.start, part.stop)
        sample = first + place
        if self.shuffle:
            sample = permute(sample, self.size, "epoch", self.seed, epoch)
        return Draw(np.zeros(len(place), np.int64), sample, place)

    def to_json(self) -> dict[str, Any]:
        return {"order": "epochs", **asdict(self)}


@dataclass(frozen=True)
class MixtureOrder:
    """Samples of several sets in given shares, each set without repetition until it is used up.

    Time is cut into blocks of 65,536 draws in which each set has its exact share (one draw, and the others by
    weight), at random places; a set's draws go through permutation after permutation of its samples.

    Attributes:
        sizes: samples of each set.
        weights: share of each set's samples; need not sum to one.
        batch_size: of all ranks together.
        seed: of the run.
    """

    sizes: Sequence[int]
    weights: Sequence[float]
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.weights) or not self.sizes:
            raise ValueError(f"{len(self.sizes)} sets and {len(self.weights)} weights: give one for each")
        if self.batch_size < 1 or min(self.sizes) < 1:
            raise ValueError(f"sets of {list(self.sizes)} samples, batch {self.batch_size}: must be positive")
        if not all(0 < weight < np.inf for weight in self.weights):
            raise ValueError(f"weights {list(self.weights)}: leave out a set that shall not be drawn from")
        if len(self.sizes) > _SLOTS // 16:
            raise ValueError(f"{len(self.sizes)} sets are too many for one mixture; merge some")

    @property
    def shares(self) -> NDArray[np.int64]:
        """Draws of each set in a block, by the largest remainders."""
        weights = np.asarray(self.weights, dtype=np.float64)
        exact = weights / weights.sum() * (_SLOTS - len(weights))  # one is given to each before
        shares = np.floor(exact).astype(np.int64)
        missing = _SLOTS - len(weights) - int(shares.sum())
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
        found: NDArray[np.int64] = shares + 1
        return found

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Draw:
        """The batch of a step.

        Raises:
            ValueError: the step is negative, or there is no such rank.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        part = cut(self.batch_size, rank, world)
        place = np.arange(part.start, part.stop)
        block, slot = np.divmod(step * self.batch_size + place, _SLOTS)
        shares = self.shares
        chosen, ordinal = np.empty_like(slot), np.empty_like(slot)
        for number in np.unique(block).tolist():
            here = block == number
            table = _slots(tuple(shares.tolist()), self.seed, number)
            chosen[here], ordinal[here] = table[:, slot[here]]
        ordinal += block * shares[chosen]
        sample = np.empty_like(ordinal)
        for index in np.unique(chosen).tolist():
            size = int(self.sizes[index])
            lap, position = np.divmod(ordinal, size)
            for number in np.unique(lap[chosen == index]).tolist():
                here = (chosen == index) & (lap == number)
                sample[here] = permute(position[here], size, "mixture", self.seed, index, number)
        return Draw(chosen, sample, place)

    def to_json(self) -> dict[str, Any]:
        return {
            "order": "mixture",
            "sizes": [int(size) for size in self.sizes],
            "weights": [float(weight) for weight in self.weights],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


@lru_cache(4)
def _slots(shares: tuple[int, ...], seed: int, block: int) -> NDArray[np.int64]:
    """(2,_SLOTS) set of each draw of a block, and how many draws of that set came before in the block."""
    ends = np.cumsum(shares)
    chosen = np.searchsorted(ends, permute(np.arange(_SLOTS), _SLOTS, "slot", seed, block), side="right")
    earlier = np.empty(_SLOTS, np.int64)
    earlier[np.argsort(chosen, kind="stable")] = np.concatenate([np.arange(share) for share in shares])
    return np.stack([chosen, earlier])


def check_same_order(saved: Mapping[str, Any], order: Saved) -> None:
    """Refuse to resume with another order than the checkpoint's.

    Raises:
        DataError: naming what differs.
    """
    now = order.to_json()
    differing = [name for name in sorted({*saved, *now}) if saved.get(name) != now.get(name)]
    if differing:
        said = "; ".join(f"{name} was {saved.get(name)!r} and is {now.get(name)!r}" for name in differing)
        raise DataError(
            f"the order of samples is not the one that the run began with: {said}",
            "resume with the same sets and settings, or begin a new run",
        )

"""Start states: which episode begins where, and the wall between training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Split = Literal["train", "select", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# A start's position is drawn on a lattice of 0.1 mm; the residue of its lattice index belongs to one
# split alone, so no two splits can ever share a start state, whatever the random numbers are.
LATTICE_M = 1e-4
LATTICE_MODULUS = 8
RESIDUES: dict[Split, tuple[int, ...]] = {
    "train": (0, 1, 2, 3, 4, 5),
    "select": (6,),
    "test": (7,),
}


class SplitError(ValueError):
    """Training code asked for a start state it must never see."""


@dataclass(frozen=True, order=True)
class StartState:
    """The beginning of one episode, named and not stored: the simulator draws it from these fields.

    Attributes:
        task: ``suite/task``, for instance ``demo/lift_red``.
        split: ``train``, ``select`` (choosing a checkpoint) or ``test`` (the quoted number).
        index: counts the start states of a task and split; any non-negative integer is valid.
        seed: the family of starts; a published evaluation uses 0.
    """

    task: str
    split: Split
    index: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")
        if self.index < 0:
            raise ValueError(f"start index {self.index} of {self.task} is negative")
        if "/" not in self.task:
            raise ValueError(f"task {self.task!r} is not of the form suite/task")

    @property
    def suite(self) -> str:
        return self.task.split("/", 1)[0]

    @property
    def task_name(self) -> str:
        return self.task.split("/", 1)[1]

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """A counter-based generator that depends on this start and a purpose, and on nothing else."""
        return counter_generator("start", self.task, self.split, self.index, self.seed, *purpose)

    def lattice(self, generator: np.random.Generator, low: float, high: float) -> float:
        """Draw a coordinate, in metres, uniformly from the lattice points of this start's split.

        Raises:
            ValueError: if the interval is too narrow to hold a point of the split.
        """
        first, last = round(low / LATTICE_M), round(high / LATTICE_M)
        points = np.arange(first, last + 1)
        points = points[np.isin(points % LATTICE_MODULUS, RESIDUES[self.split])]
        if not len(points):
            raise ValueError(
                f"[{low}, {high}] m holds no {self.split} lattice point; widen it to at least "
                f"{LATTICE_M * LATTICE_MODULUS} m"
            )
        return float(generator.choice(points) * LATTICE_M)

    def simulator_seed(self) -> int:
        """A seed below 2**31 for simulators that draw the start themselves; its residue is the split's."""
        generator = self.generator("simulator seed")
        residue = generator.choice(RESIDUES[self.split])
        return int(generator.integers(2**31 // LATTICE_MODULUS)) * LATTICE_MODULUS + int(residue)


def split_of_seed(seed: int) -> Split:
    """The split to which a seed belongs: a `simulator_seed`, or any whose residue is one of its split's."""
    return next(split for split in SPLITS if seed % LATTICE_MODULUS in RESIDUES[split])


def split_of_lattice(value_m: float) -> Split:
    """The split to which a lattice coordinate (metres) belongs."""
    residue = round(value_m / LATTICE_M) % LATTICE_MODULUS
    return next(split for split in SPLITS if residue in RESIDUES[split])


def counter_generator(*key: str | int) -> np.random.Generator:
    """A Philox generator keyed by a hash of `key`: same key, same numbers, in any order, anywhere."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def refuse_test(starts: Iterable[StartState], caller: str) -> None:
    """Raise if training code was handed a start state of the test split.

    Raises:
        SplitError: naming the first offender.
    """
    for start in starts:
        if start.split == "test":
            raise SplitError(
                f"{caller} was given the test start {start}: training and checkpoint choice may use "
                "only 'train' and 'select' starts; evaluate test starts with `regrip eval`"
            )

"""`regrip eval --select world:MODEL`: execute, of several chunks, the one that a learned world likes best."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from ..vla.pi0 import Pi0Policy
from ..vla.selecting import Selecting
from .compare import print_comparison
from .measurement import Measurement
from .world_scores import WorldScores


def folder_of(select: str) -> Path:
    """The model's folder in ``world:MODEL``.

    Raises:
        ValueError: it is not of that form.
    """
    kind, colon, folder = select.partition(":")
    if kind != "world" or not colon or not folder:
        raise ValueError(
            f"--select {select!r} names no learned world: expected world:MODEL, a folder that "
            "`regrip world fit` wrote"
        )
    return Path(folder)


def selecting(
    policy: Pi0Policy, select: str, candidates: int, by: Literal["goal", "reflector"], device: str = "cpu"
) -> Selecting:
    """The policy, choosing among `candidates` chunks, of which its greedy one is the first.

    Raises:
        WorldFileError: there is no such model, or none of its goals.
        ValueError: it cannot imagine this policy's chunks, or all candidates would be alike.
    """
    settings = policy.settings
    if settings.head == "flow" and settings.noise_level == 0 and settings.initial_noise == 0:
        raise ValueError(
            "the policy samples without noise (noise_level 0, initial_noise 0), so all chunks would be "
            "alike: give one that explores"
        )
    scores = WorldScores.open(folder_of(select), by, device)
    scores.require(policy.spec, policy.chunk_size, "the policy")
    return Selecting(policy, scores, candidates)


def print_gain(measurement: Measurement) -> None:
    """Selected against greedy, paired on the start states."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    modes = measurement.modes
    print_comparison(console, "A greedy, B selected", modes["greedy"], modes["selected"])

"""`regrip eval --perturb`: how much of a policy's success is left when something is not as it was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..datasets.starts import StartState
from ..vla.pi0 import Pi0Policy
from . import environments
from .checkpoint import Published
from .compare import difference
from .environments import EnvConfig
from .evaluate import Options, measure_modes
from .measurement import Measurement

CONTROLS = ("silent", "wrong")


def measure_robustness(
    config: EnvConfig,
    policy: Pi0Policy,
    published: Published,
    starts: Sequence[StartState],
    options: Options,
    kinds: Sequence[str],
    out: Path,
) -> dict[str, Measurement]:
    """Play the same start states undisturbed and with each kind; print the table, write one file for each."""
    mode = "sampled" if options.mode == "sampled" else "greedy"
    found: dict[str, Measurement] = {}
    for kind in ("none", *kinds):
        changed = dataclasses.replace(config, perturb=kind)
        found[kind], _ = measure_modes(
            changed, policy, published, starts, (mode,), options.policy, label=f"{kind}, "
        )
        found[kind].save(out.with_name(f"{out.stem}-{kind}.json"))
    print_robustness(found, mode, whole=options.perturb == "all")
    print(f"results: {out.with_name(out.stem)}-*.json")
    return found


def print_robustness(
    found: Mapping[str, Measurement], mode: str, whole: bool, console: Console | None = None
) -> None:
    """Success by kind, and the difference from the undisturbed episodes, paired on start states.

    Args:
        found: by kind, ``none`` first.
        mode: how the policy acted.
        whole: every kind was asked for, so those that the simulator has not are named.
        console: where to.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = 150
    plain = found["none"]
    env = plain.environment
    about, missing = environments.perturbations(env["name"], env["suite"])
    table = Table(title=f"{plain.policy} on {env['name']}/{env['suite']}, {plain.split} split, {mode}")
    for name in ("changed", "success [95 %]", "against none, points [95 %]"):
        table.add_column(name, justify="left" if name == "changed" else "right", no_wrap=True)
    table.add_column("what")
    table.add_row("none", str(plain.modes[mode].rate), "", "")
    for kind, measurement in found.items():
        if kind == "none":
            continue
        outcomes = measurement.modes[mode]
        change = difference(plain.modes[mode], outcomes)
        low, high = 100 * change.interval.low, 100 * change.interval.high
        points = f"{100 * change.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        table.add_row(kind, str(outcomes.rate), points, about[kind])
    for kind, why in missing.items() if whole else ():
        table.add_row(kind, "not available", "", why)
    console.print(table)
    for kind in CONTROLS:
        if kind in found:
            console.print(listens(kind, plain, found[kind], mode), highlight=False)


def listens(kind: str, plain: Measurement, control: Measurement, mode: str) -> str:
    """What a control says: does success depend on the instruction?"""
    change = difference(plain.modes[mode], control.modes[mode])
    what = {"silent": "without an instruction", "wrong": "with the instruction of another task"}[kind]
    if change.interval.high < 0:
        return f"{kind}: success falls {what}, so the policy heeds its words."
    return f"{kind}: success does not measurably fall {what}: nothing shows that the policy heeds its words."

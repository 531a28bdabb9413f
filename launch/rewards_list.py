"""`regrip rewards list`: every reward by name, what it is, and what it needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..rewards.embedding import PixelDownsample
from ..rewards.presets import NEEDS, OF_TEXTS, PRESETS, Materials
from ..rewards.readings import learns, subject


def main(args: Sequence[str]) -> int:
    argparse.ArgumentParser(
        prog="regrip rewards list", description="Every reward by name, what it is, and what it needs."
    ).parse_args(list(args))
    console = Console()
    if not console.is_terminal:
        console.width = 120
    table = Table()
    for column in ("reward", "pays", "what it is", "needs"):
        table.add_column(column)
    for name, preset in PRESETS.items():
        needs = [f"{need}: {NEEDS[need]}" for need in preset.needs if need != "camera"]
        table.add_row(name, kind(name), preset.summary, ", ".join(needs) or "nothing")
    console.print(table)
    return 0


def kind(name: str) -> str:
    """What it pays, moments or whole episodes, and whether it learns; empty where it needs a fitted model."""
    if name in OF_TEXTS:
        return "answers in text"
    preset, materials = PRESETS[name], Materials(encoder=PixelDownsample())
    if not all(getattr(materials, need) for need in preset.needs):
        return ""
    scorer = preset.scorer(materials)
    reward = preset.reward(scorer, materials)
    pays = "moments" if subject(name, scorer, reward).by_level else "episodes"
    return f"{pays}, learns" if learns(reward) else pays

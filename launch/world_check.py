"""`regrip world check`: what is a world model good for, on episodes it has never seen?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.starts import counter_generator
from ..datasets.statistics import Rate
from ..sim.world.checks import Seen, imagine, open_loop
from ..sim.world.clips import Clips
from ..sim.world.estimates import Estimate
from ..sim.world.files import load_world
from ..sim.world.fit import encode
from ..sim.world.held import take, unseen, whole
from ..sim.world.judging import recorded_ranking, reflector
from ..sim.world.model import WorldModel
from ..sim.world.obeying import counterfactual, following, physics
from ..sim.world.referees import Referees, fit_referees, load_referees
from ..sim.world.verdict import Findings, sentence
from .config import parse_options
from .durable import explain, write_json
from .provenance import code_version, command_line
from .world_data import Bars, read
from .world_fit import require_device
from .world_policies import compare, open_players

FORMAT = "regrip world check 1"


@dataclass(frozen=True)
class Options:
    """`regrip world check`.

    Attributes:
        model: folder of `regrip world fit`.
        data: recorded episodes; those that the model was trained on are left out.
        out: folder for page, numbers and videos; ``check`` in the model's folder if none is given.
        episodes: at most so many, drawn at random (always the same ones).
        env: a simulator of the same world, to play `policies` in.
        suite: its family of tasks.
        policies: folders or shipped names, with commas, perhaps with ``@noise=0.6``; they play in the model
            and in the simulator from the same starts. Take some of different quality.
        starts: start states for that, at most.
        videos: episodes to show, real beside imagined: the first of each task.
        learn_from: episodes that the model was trained on, where its folder lacks the small networks that it
            is judged by.
        referee_steps: optimiser steps of each of those.
        workers: simulator processes; 0 takes one for each core.
        slots: environments that are played at once.
        device: ``cpu`` or ``cuda``.
        threads: of torch on a CPU.
    """

    model: tyro.conf.Positional[Path]
    data: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    episodes: int = 200
    env: str = ""
    suite: str = "demo"
    policies: str = ""
    starts: int = 60
    videos: int = 6
    learn_from: tuple[Path, ...] = ()
    referee_steps: int = 1000
    workers: int = 0
    slots: int = 32
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.starts < 1:
            raise ValueError(f"--episodes {self.episodes} and --starts {self.starts} must be at least 1")
        if bool(self.env) != bool(self.policies):
            raise ValueError(
                f"--env is {self.env!r} and --policies {self.policies!r}: policies play in the model and "
                "in a simulator, so give both or neither"
            )


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip world check",
        description="What is a world model good for? A table, a page with videos, one sentence.",
    )
    torch.set_num_threads(options.threads)
    require_device(options.device)
    model, starts, card = load_world(options.model, options.device)
    out = options.out or options.model / "check"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", out) from error
    players = open_players(options.policies, model, options.device)
    with Bars() as bars:
        clips = read(options.data, model.config.chunk, bars, model.spec)
        rows = unseen(clips, card)
        if not len(rows):
            raise ValueError(
                f"the model was trained on all {len(clips)} episodes of {', '.join(map(str, options.data))}: "
                "an error on those says nothing; record others, or give the whole set it was fitted on, a "
                "part of which was held out"
            )
        known: dict[str, Any] = {
            "given": len(clips),
            "trained_on": len(clips) - len(rows),
            "unseen": len(rows),
        }
        if len(rows) > options.episodes:
            draw = counter_generator("world check episodes", len(rows))
            rows = np.sort(draw.choice(rows, options.episodes, replace=False))
        clips = whole(take(clips, rows), model.config.chunk)
        referees = _referees(options, model, card, bars)
        tokens = encode(model, clips, bars)
    findings, seen = examine(model, referees, clips, tokens)
    if players:
        ranking = compare(
            players, model, starts, clips, options.env, options.suite,
            most=options.starts, workers=options.workers, slots=options.slots,
        )  # fmt: skip
        findings = dataclasses.replace(findings, closed=ranking)
    known |= {
        "checked": len(clips),
        "successes": int(clips.success.sum()),
        "decisions": int(seen.known.sum()),
        "chunk": model.config.chunk,
        "rate_hz": model.spec.control_rate_hz,
        "data": [str(path) for path in options.data],
        "model": str(options.model),
        "carded": "trained_on" in card,
    }
    print_table(findings, known)
    numbers = {
        "format": FORMAT, "command": command_line(), "code": code_version(), "episodes": known,
        "sentence": sentence(findings), **{name: plain(held) for name, held in vars(findings).items()},
    }  # fmt: skip
    write_json(out / "check.json", numbers)
    from .world_page import render

    render(out / "check.html", model, seen, findings, known, options.videos)
    print(f"page: {out / 'check.html'}\nnumbers: {out / 'check.json'}")
    return 0


def examine(
    model: WorldModel, referees: Referees, clips: Clips, tokens: torch.Tensor
) -> tuple[Findings, Seen]:
    """All measures that need no simulator."""
    seen = imagine(model, referees, clips, tokens)
    return Findings(
        open_loop(model, seen),
        following(model, referees, seen),
        counterfactual(model, referees, seen),
        physics(model, referees, seen),
        reflector(model, seen),
        recorded_ranking(model, seen),
    ), seen


def _referees(options: Options, model: WorldModel, card: dict[str, Any], bars: Bars) -> Referees:
    """Those in the model's folder, or learnt now from episodes that it was trained on."""
    found = load_referees(options.model, model)
    if found is not None:
        return found
    if not options.learn_from:
        raise ValueError(
            f"{options.model} lacks what the model is judged by (a linear world, readers of commands and "
            "states): give episodes it was trained on with --learn-from"
        )
    clips = read(options.learn_from, model.config.chunk, bars, model.spec)
    rows = np.arange(len(clips))
    if "trained_on" in card:
        rows = np.setdiff1d(rows, unseen(clips, card))
        if not len(rows):
            raise ValueError(
                f"the model was trained on none of the {len(clips)} episodes of "
                f"{', '.join(map(str, options.learn_from))}; give the sets it was fitted on"
            )
    return fit_referees(
        model, clips, encode(model, clips, bars), rows, steps=options.referee_steps, on_step=bars
    )


def plain(held: Any) -> Any:
    """As JSON has it: arrays as lists, what is not finite as null."""
    if isinstance(held, Rate):
        return {"successes": held.successes, "trials": held.trials}
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return {field.name: plain(getattr(held, field.name)) for field in dataclasses.fields(held)}
    if isinstance(held, dict):
        return {key: plain(value) for key, value in held.items()}
    if isinstance(held, list | tuple):
        return [plain(value) for value in held]
    if isinstance(held, np.ndarray):
        return [plain(value) for value in held.tolist()]
    if isinstance(held, float) and not math.isfinite(held):
        return None
    return held


Row = tuple[str, str, str]


def rows(findings: Findings) -> list[tuple[str, list[Row]]]:
    """Heading and rows (what, how much, what to compare it with) of the table, on the page and in print."""
    errors, obeys, other = findings.open_loop, findings.following, findings.counterfactual
    words = {"psnr": "all pixels", "moving": "pixels that move", "tokens": "tokens"}
    imagination: list[Row] = [
        (
            f"squared error of {words.get(measure, measure)}",
            f"{ratio['hold']} of a still frame's",
            f"{ratio['linear']} of a linear world's; "
            f"surely better than both for {errors.ahead[measure]} decisions",
        )
        for measure, ratio in errors.ratio.items()
    ]
    obeying: list[Row] = [
        (
            "commands read back from pictures",
            f"{obeys.imagined} imagined, {obeys.real} real",
            f"{obeys.others} for other commands, {obeys.frozen} for a still picture; "
            f"the reader explains {percent(obeys.explained)} of real commands",
        ),
        ("of what real pictures obey", percent(obeys.obeyed), "1 if as the recorded world does"),
        (
            "mirrored command: the state turns around", percent(other.against),
            f"{other.cases} cases; unmirrored it follows in {percent(other.along)}, "
            f"recorded {percent(other.recorded)}",
        ),
        ("mirrored command: the picture turns around", percent(other.pictures), "as its state is read"),
    ]  # fmt: skip
    body = findings.physics
    possible: list[Row] = [
        ("outside of the recorded range", percent(body.outside), f"real: {percent(body.outside_real)}"),
        ("faster than ever recorded", percent(body.fast), f"real: {percent(body.fast_real)}"),
        *(
            (
                f"picture against state{f', {unit}' if unit else ''}", f"{gap[0]:.3g} apart",
                f"real: {gap[1]:.3g}",
            )
            for unit, gap in body.apart.items()
        ),
    ]  # fmt: skip
    judged: list[Row] = [
        (
            f"{where}, by {by}",
            f"AUROC {of.auroc}, precision {of.precision}, recall {of.recall}",
            f"calibration error {of.ece}; {of.positive} of {of.count} succeeded",
        )
        for where, held in (
            ("imagined", findings.reflector.imagined),
            ("real frames", findings.reflector.real),
        )
        for by, of in held.items()
    ]
    tables = [
        ("Open loop", imagination), ("Obedience", obeying), ("Possible?", possible), ("Success", judged)
    ]  # fmt: skip
    for ranking in filter(None, (findings.recorded, findings.closed)):
        held = [
            (name, f"{a} imagined", f"{b} real")
            for name, a, b in zip(ranking.names, ranking.imagined, ranking.real, strict=True)
        ]
        held.append(
            (
                "rank correlation",
                f"Spearman {ranking.spearman}",
                f"Kendall {ranking.kendall}; ended alike {percent(ranking.same)}",
            )
        )
        tables.append((f"Success of {ranking.how}", held))
    return tables


def percent(held: Estimate) -> str:
    """``89 % [81, 99]``."""
    if held.value is None:
        return f"not known ({held.why})"
    ends = ""
    if held.low is not None and held.high is not None:
        ends = f" [{100 * held.low:.0f}, {100 * held.high:.0f}]"
    return f"{100 * held.value:.0f} %{ends}"


def print_table(findings: Findings, known: dict[str, Any], console: Console | None = None) -> None:
    """The numbers, then the sentence."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 160
    left = f"; {known['trained_on']} it was trained on left out" if known["trained_on"] else ""
    table = Table(
        title=f"{known['model']} on {known['checked']} unseen episodes, {known['successes']} successes{left}",
        show_header=False,
    )
    for heading, held in rows(findings):
        table.add_row(f"[bold]{heading}[/bold]")
        for row in held:
            table.add_row(*row)
        table.add_section()
    console.print(table)
    if not known["carded"]:
        console.print(
            "note: the model does not say on which episodes it was trained; all that were given are taken "
            "for unseen",
            highlight=False,
        )
    console.print(sentence(findings), highlight=False)

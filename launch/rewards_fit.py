"""`regrip rewards fit`: train a progress or success model on recorded episodes, and keep it in a folder."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ..datasets.episode import concatenate
from ..datasets.rollout_files import load_rollouts
from ..rewards.critics.config import SIZES, CriticConfig
from ..rewards.critics.files import save_critic
from ..rewards.critics.fit import FitProgress, fit
from ..rewards.critics.kinds import KINDS, default_config, kind_of
from . import rewards_fit_encoder
from .durable import explain


@dataclass(frozen=True)
class Options:
    """`regrip rewards fit`.

    Attributes:
        data: files of `regrip rewards record`, of train or select starts.
        out: the folder; ``runs/critics/KIND`` if none is given.
        seed: of the split, the first weights and the batches.
        threads: of torch on a CPU; the weights are the same again for the same number.
    """

    data: tuple[Path, ...]
    out: Path | None = None
    seed: int = 0
    threads: int = 1


def main(args: Sequence[str]) -> int:
    line = list(args)
    if not line or line[0].startswith("-"):
        asked = bool(line) and line[0] in ("-h", "--help")
        print(_help(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    kind = line.pop(0)
    if kind in rewards_fit_encoder.ENCODERS:
        return rewards_fit_encoder.main(kind, line)
    size = line.pop(0) if line and not line[0].startswith("-") else "small"
    options, config = parse(kind, size, line)
    torch.set_num_threads(options.threads)
    played = [load_rollouts(path)[0] for path in options.data]
    out = options.out or Path("runs/critics") / kind
    command = shlex.join(["regrip", "rewards", "fit", *args])
    critic = fit(kind, concatenate(played), config, seed=options.seed, progress=_show, command=command)
    try:
        save_critic(critic, out)
    except OSError as error:
        raise explain(error, "write", out) from error
    card = critic.card
    print(
        f"{kind}: {card['episodes']} episodes, {card['held_out_episodes']} held out, {card['left_out']} left "
        f"out, {card['sentences']} different instructions; best after {card['steps']} steps"
    )
    print("held out: " + ", ".join(f"{name} {value:.3f}" for name, value in card["held_out"].items()))
    if card["sentences"] < 2:
        print("one instruction only: the model has not learned what other words would mean")
    print(f"written to {out}")
    return 0


def parse(kind: str, size: str, line: Sequence[str]) -> tuple[Options, CriticConfig[Any]]:
    """The command's own options, and the settings of the critic.

    Raises:
        ValueError: no such kind or size.
        SystemExit: with status 2 after a message, if the rest of the line does not fit.
    """
    default = default_config(kind, size)
    own = type(default.options)
    whole = dataclasses.make_dataclass(
        "Line",
        [
            ("fit", tyro.conf.OmitArgPrefixes[Options]),
            ("options", own, dataclasses.field(default=default.options)),
            ("network", type(default.network), dataclasses.field(default=default.network)),
            ("training", type(default.training), dataclasses.field(default=default.training)),
        ],
        frozen=True,
    )
    parsed: Any = tyro.cli(
        whole,
        args=list(line),
        prog=f"regrip rewards fit {kind} [{'|'.join(SIZES)}]",
        description=f"Train on recorded episodes: {kind_of(kind).summary}.",
    )
    return parsed.fit, CriticConfig(parsed.options, parsed.network, parsed.training)


def _show(at: FitProgress) -> None:
    print(f"step {at.step} of {at.steps}: loss {at.loss:.4f}, held out {at.held_out:.4f}", flush=True)


def _help() -> str:
    width = max(map(len, KINDS))
    listed = {name: kind.summary for name, kind in KINDS.items()} | rewards_fit_encoder.ENCODERS
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in listed.items())
    return (
        f"usage: regrip rewards fit KIND [{'|'.join(SIZES)}] --data FILE ...\n\n{rows}\n\n"
        "`regrip rewards fit KIND --help` lists the settings of a kind."
    )

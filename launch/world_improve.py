"""`regrip world improve`: post-train a world model by what an inverse model reads off its imagination."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from ..datasets.ledger import DataError
from ..sim.world.calibrate import calibrate
from ..sim.world.clips import Clips
from ..sim.world.dynamics import Batch
from ..sim.world.files import load_world
from ..sim.world.fit import batch_of, encode, split
from ..sim.world.goals import goals_of
from ..sim.world.held import card_of
from ..sim.world.inverse import InverseDynamics, fit_inverse
from ..sim.world.model import WorldModel
from ..sim.world.referees import load_referees
from ..sim.world.rlir import Agreement, RlirConfig, mean_agreement, rlir
from .config import parse_options
from .provenance import code_version, command_line
from .world_data import Bars, read
from .world_fit import keep, prepare

_MOST = 512  # held-out decisions that are judged before and after


@dataclass(frozen=True)
class Options:
    """`regrip world improve`.

    Attributes:
        model: folder of `regrip world fit`; it is left as it is.
        data: the sets that it was fitted on, in the same order.
        out: the folder of the new model; it must not hold one yet.
        device: ``cpu`` or ``cuda``.
        threads: of torch on a CPU.
        inverse_steps: optimiser steps of the inverse model that rewards.
        rlir: settings of the post-training.
    """

    model: tyro.conf.Positional[Path]
    data: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    inverse_steps: int = 1000
    rlir: tyro.conf.OmitArgPrefixes[RlirConfig] = field(default_factory=RlirConfig)


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip world improve",
        description="Post-train a world model so that an inverse model, learnt from the same episodes, reads "
        "the commanded actions off what it imagines (RLIR). `regrip world check` says whether that helped.",
    )
    began = time.monotonic()
    prepare(options.out, options.device, options.threads)
    model, starts, card = load_world(options.model, options.device)
    referees = load_referees(options.model, model)
    with Bars() as bars:
        clips = read(options.data, model.config.chunk, bars, model.spec)
        require_same(clips, model, card, options)
        tokens = encode(model, clips, bars)
        train, held = split(clips, model.config)
        # Not the referees' own: what rewards a model is no judge of it.
        inverse = fit_inverse(
            model, clips, tokens, train,
            steps=options.inverse_steps, seed=model.config.seed + options.rlir.seed + 1, on_step=bars,
        )  # fmt: skip
        judges = {"the inverse model that rewards": inverse}
        if referees is not None:
            judges["the one of `regrip world check`"] = referees.inverse
        unseen = decisions_of(model, clips, tokens, held)
        before = {name: mean_agreement(model, unseen, agreement_of(one)) for name, one in judges.items()}
        rlir(
            model, clips, tokens, agreement_of(inverse), options.rlir,
            lambda step, steps, found: bars("rewarded", step, steps),
        )  # fmt: skip
        after = {name: mean_agreement(model, unseen, agreement_of(one)) for name, one in judges.items()}
        model.calibration = calibrate(model, clips, tokens)
    improved = {
        "model": str(options.model),
        "command": command_line(),
        "code": code_version(),
        "seconds": round(time.monotonic() - began, 1),
        "config": dataclasses.asdict(options.rlir),
        "agreement": {name: [before[name], after[name]] for name in judges},
    }
    card = {**card, "improved": [*card.get("improved", []), improved]}
    keep(options.out, model, starts, card, referees, goals_of(model, clips, tokens))
    print(f"how well commands are read off imagined frames, {len(unseen.tokens)} held-out decisions, 0 to 1:")
    for name in judges:
        print(f"  by {name}: {before[name]:.3f} before, {after[name]:.3f} after")
    print(
        f"written to {options.out}; next: regrip world check {options.out} {' '.join(map(str, options.data))}"
    )
    return 0


def agreement_of(inverse: InverseDynamics) -> Agreement:
    """How well chunks are read back, times how far what should move did move: a still video earns nothing."""

    def agreement(before: Tensor, after: Tensor, state: Tensor, action: Tensor) -> Tensor:
        read, moved = inverse.score(before.float(), after.float(), state, action)
        return torch.from_numpy(read * moved).to(before.device)

    return agreement


def require_same(clips: Clips, model: WorldModel, card: Mapping[str, Any], options: Options) -> None:
    """Refuse episodes that the model was not fitted on: which are held out would not be the same.

    Raises:
        DataError: naming how many differ.
    """
    here = card_of(clips, model.config)
    if any(here[name] != card.get(name) for name in ("trained_on", "held_out_names")):
        known = {*card.get("trained_on", ()), *card.get("held_out_names", ())}
        mine = {*here["trained_on"], *here["held_out_names"]}
        raise DataError(
            f"these are not the episodes that {options.model} was fitted on, in that order: "
            f"{len(mine - known)} of {len(mine)} are new, {len(known - mine)} of {len(known)} are missing",
            f"give {' '.join(map(str, card.get('data', ()))) or 'those'}, as then; or fit a model on these",
            file=", ".join(map(str, options.data)),
        )


def decisions_of(model: WorldModel, clips: Clips, tokens: Tensor, episodes: np.ndarray) -> Batch:
    """Single decisions of `episodes`, evenly spread over all of them."""
    frames = np.flatnonzero(np.isin(clips.episode, episodes))
    some = frames[np.linspace(0, len(frames) - 1, min(len(frames), _MOST)).astype(np.int64)]
    return batch_of(model, clips, tokens, clips.windows(some, model.config.chunk, 1))

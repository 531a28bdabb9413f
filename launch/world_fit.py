"""`regrip world fit`: learn a world model from recorded episodes, and keep it in a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from ..datasets.starts import refuse_test
from ..sim.world.calibrate import calibrate
from ..sim.world.cameras import Cameras
from ..sim.world.checks import imagine
from ..sim.world.config import WorldConfig
from ..sim.world.files import ABOUT, load_world, save_world
from ..sim.world.fit import encode, fit, split
from ..sim.world.goals import Goals, goals_of
from ..sim.world.held import card_of, take
from ..sim.world.judging import reflector
from ..sim.world.model import WorldModel
from ..sim.world.referees import Referees, fit_referees, save_referees
from ..sim.world.starts import Starts, starts_of
from .config import parse_options
from .durable import StorageError, explain
from .evaluate import require_place
from .provenance import code_version, command_line
from .world_data import Bars, read, starts_named
from .world_scores import GOALS


@dataclass(frozen=True)
class Options:
    """`regrip world fit`.

    Attributes:
        data: sets of recorded episodes, of any format that `regrip inspect` knows: successes and failures.
        out: the folder; it must not hold a model yet.
        begin: folder of a model to go on from, now that there are more episodes; of the same sizes.
            `tokenizer_steps` 0 keeps its eyes as they are.
        cameras: JSON with the cameras' poses, which kind ``views`` draws by: see `regrip world cameras`.
        device: ``cpu`` or ``cuda``.
        threads: of torch on a CPU.
        referee_steps: optimiser steps of each of the two small networks that `regrip world check` judges by.
        config: of the model and its training.
    """

    data: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    begin: Path | None = None
    cameras: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    referee_steps: int = 1000
    config: tyro.conf.OmitArgPrefixes[WorldConfig] = field(default_factory=WorldConfig)


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip world fit",
        description="Learn a world model from recorded episodes: what cameras and joints show after a chunk "
        "of actions, and whether the task is done.",
    )
    began = time.monotonic()
    prepare(options.out, options.device, options.threads)
    config = options.config
    cameras = Cameras.read(options.cameras) if options.cameras else None
    with Bars() as bars:
        clips = read(options.data, config.chunk, bars)
        refuse_test([start for start in starts_named(clips.start) if start], "regrip world fit")
        about = card_of(clips, config)
        begin = None if options.begin is None else load_world(options.begin)[0]
        model = fit(clips, config, options.device, bars, begin, cameras)
        tokens = encode(model, clips, bars)
        model.calibration = calibrate(model, clips, tokens)
        train, held = split(clips, config)
        referees = fit_referees(
            model, clips, tokens, train, steps=options.referee_steps, seed=config.seed, on_step=bars
        )
    goals = goals_of(model, clips, tokens)
    unseen = take(clips, held)
    verdicts = reflector(model, imagine(model, referees, unseen, encode(model, unseen))).imagined["episode"]
    seconds = round(time.monotonic() - began, 1)
    card = {
        **about,
        "data": [str(path) for path in options.data],
        "command": command_line(),
        "code": code_version(),
        "seconds": seconds,
        "reflector": {
            name: getattr(verdicts, name).value for name in ("precision", "recall", "auroc", "ece")
        },
    }
    keep(options.out, model, starts_of(clips, config), card, referees, goals)
    print(
        f"{len(clips)} episodes with {len(clips.state)} frames, {len(held)} episodes held out "
        f"({int(clips.success[held].sum())} successes); {seconds:.0f} s\n"
        f"success in imagination, held out: precision {verdicts.precision}, recall {verdicts.recall}\n"
        f"written to {options.out}; next: regrip world check {options.out} "
        f"{' '.join(map(str, options.data))}"
    )
    return 0


def prepare(out: Path, device: str, threads: int) -> None:
    """Set torch's threads, and refuse at once what would be refused when the model is to be written.

    Raises:
        StorageError: if `out` holds a model or cannot be written.
        ValueError: as `require_device`.
    """
    torch.set_num_threads(threads)
    require_device(device)
    if (out / ABOUT).exists():
        raise StorageError(f"{out} holds a world model already; give another --out, or remove it")
    require_place(out / ABOUT)


def keep(
    out: Path,
    model: WorldModel,
    starts: Starts,
    card: Mapping[str, Any],
    referees: Referees | None,
    goals: Goals,
) -> None:
    """Write a model's folder: what it is, where it begins, what judges it, and its goals.

    Raises:
        StorageError: if something cannot be written.
    """
    try:
        save_world(out, model, starts, card)
        if referees is not None:
            save_referees(out, referees, model)
        goals.save(out / GOALS)
    except OSError as error:
        raise explain(error, "write", out) from error


def require_device(device: str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        ValueError: if it is not.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} is not available here; `regrip doctor` says why. Use --device cpu"
        )

"""`regrip rewards fit clip` and `fit video`: encoders trained on recorded episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from ..datasets.rollout_files import load_rollouts
from .durable import explain
from .progress import Progress

ENCODERS = {
    "clip": "a small CLIP: late frames of successes with their instruction, early frames with a neutral one",
    "video": "a small V-JEPA 2: foresees hidden parts of films, and needs no words",
}


@dataclass(frozen=True)
class Options:
    """`regrip rewards fit clip|video`.

    Attributes:
        data: files of `regrip rewards record`, of train or select starts.
        out: the folder; ``runs/critics/KIND`` if none is given.
        camera: whose frames; the first of the data if none is given.
        threads: of torch on a CPU; the weights are the same again for the same number.
    """

    data: tuple[Path, ...]
    out: Path | None = None
    camera: str = ""
    threads: int = 1


def main(kind: str, args: Sequence[str]) -> int:
    from ..rewards.fit_image_text import ClipFit, fit_clip, save_clip
    from ..rewards.fit_video import VideoFit, fit_video, save_video

    settings: Any = {"clip": ClipFit, "video": VideoFit}[kind]
    whole = dataclasses.make_dataclass(
        "Line",
        [
            ("fit", tyro.conf.OmitArgPrefixes[Options]),
            ("training", settings, dataclasses.field(default=settings(camera=""))),
        ],
        frozen=True,
    )
    parsed: Any = tyro.cli(
        whole, args=list(args), prog=f"regrip rewards fit {kind}", description=f"Train {ENCODERS[kind]}."
    )
    options: Options = parsed.fit
    torch.set_num_threads(options.threads)
    played = [load_rollouts(path)[0] for path in options.data]
    camera = options.camera or parsed.training.camera or next(iter(played[0].images))
    config = dataclasses.replace(parsed.training, camera=camera)
    out = options.out or Path("runs/critics") / kind
    with Progress(f"fitting {kind}") as bar:

        def report(step: int, loss: float) -> None:
            bar.update(step, config.steps, f"loss {loss:.3f}")

        write: Callable[[Path], None]
        if kind == "clip":
            clip = fit_clip(played, config, report)
            write = partial(save_clip, clip, config)
        else:
            write = partial(save_video, fit_video(played, config, report))
    try:
        write(out)
    except OSError as error:
        raise explain(error, "write", out) from error
    print(f"{kind}: {sum(map(len, played))} episodes, camera {camera}; written to {out}")
    return 0

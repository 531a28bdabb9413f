"""Train a small V-JEPA 2 on one's own episodes: foresee the masked part of a clip, as vectors, not as pixels.

The encoder sees the patches of a clip that are left; a predictor foresees what an averaged copy of it makes
of the others; the loss is the mean absolute difference to the vectors of the copy, each brought to zero mean
and unit variance. The copy, which follows the encoder slowly, is what is kept. Masks are blocks of the
picture through the whole clip, as in V-JEPA, one for all clips of a step (ours, for speed).

Source: V-JEPA (Bardes et al. 2024) and V-JEPA 2 (Assran et al. 2025) as their texts say; the model is
`VJEPA2Model` of transformers. Sizes, masks and schedule are ours.

What it is worth is not shown: on the toy world of the tests 300 steps bring the loss down without collapse,
but the vectors tell how far an episode came no better than those of random weights do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import VJEPA2Config, VJEPA2Model

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator, refuse_test
from .encoders import Pictures, normalised_by, pick_cameras, resample
from .transformers_encoders import VJepa

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class VideoFit:
    """How to train it. The defaults give 1.0 million parameters.

    Attributes:
        camera: whose frames.
        size: pixels of a side, a multiple of `patch`.
        patch: pixels of a side of a patch.
        frames: of a clip, an even number: two make a token.
        width: of the encoder, a multiple of 32.
        layers: of the encoder.
        predictor_width: a multiple of 32.
        predictor_layers: of the predictor.
        hidden: share of the patches that is to be foreseen, about.
        steps: of the optimiser.
        batch: clips in a step.
        learning_rate: highest; risen to over a tenth of the steps, and fallen from as a cosine.
        momentum: of the averaged copy at the start; rises to 1.
        seed: of the weights, clips and masks.
    """

    camera: str
    size: int = 64
    patch: int = 8
    frames: int = 8
    width: int = 128
    layers: int = 4
    predictor_width: int = 64
    predictor_layers: int = 2
    hidden: float = 0.75
    steps: int = 400
    batch: int = 16
    learning_rate: float = 5e-4
    momentum: float = 0.996
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % self.patch or self.frames % 2 or self.width % 32 or self.predictor_width % 32:
            raise ValueError(
                f"size {self.size} must be a multiple of patch {self.patch}, frames {self.frames} even, and "
                f"width {self.width} and predictor_width {self.predictor_width} multiples of 32"
            )
        if not 0 < self.hidden < 1 or not 0 <= self.momentum < 1 or self.steps < 1 or self.batch < 1:
            raise ValueError("hidden must be in (0, 1), momentum in [0, 1), steps and batch 1 or more")

    @property
    def model(self) -> VJEPA2Config:
        return VJEPA2Config(
            patch_size=self.patch,
            crop_size=self.size,
            frames_per_clip=self.frames,
            tubelet_size=2,
            hidden_size=self.width,
            num_attention_heads=self.width // 32,
            num_hidden_layers=self.layers,
            pred_hidden_size=self.predictor_width,
            pred_num_attention_heads=self.predictor_width // 32,
            pred_num_hidden_layers=self.predictor_layers,
            pred_num_mask_tokens=1,
        )


def fit_video(rollouts: Sequence[Rollouts], config: VideoFit, report: Report | None = None) -> VJepa:
    """Train it; the same seed gives the same weights (CPU). Successes and failures alike are looked at.

    Args:
        rollouts: episodes of 'train' or 'select' starts.
        config: settings.
        report: called with the step and the loss, every twentieth of the way.

    Raises:
        SplitError: a start is of the test split.
        ValueError: a camera is missing, or no episode has two frames.
    """
    clips = _clips(rollouts, config.camera)
    preprocess = normalised_by([clip[:1] for clip in clips[:256]], config.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: Any = VJEPA2Model(config.model).train()
    copy: Any = deepcopy(model.encoder).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.04)
    rise = max(1, config.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / config.steps))),
    )
    for step in range(config.steps):
        draw = counter_generator("video fit", config.seed, step)
        pieces = [_piece(clips, config.frames, draw) for _ in range(config.batch)]
        pixels = torch.stack([preprocess(piece) for piece in pieces])
        masked = hidden_tokens(config, draw)
        seen, unseen = (
            torch.from_numpy(np.flatnonzero(which)).expand(config.batch, -1) for which in (~masked, masked)
        )
        foreseen = _foresee(model, pixels, seen, unseen)
        with torch.no_grad():
            goal = copy(pixels).last_hidden_state
            goal = functional.layer_norm(goal, goal.shape[-1:])[:, unseen[0]]
        loss = (foreseen - goal).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        kept = config.momentum + (1 - config.momentum) * step / config.steps
        with torch.no_grad():
            for slow, fast in zip(copy.parameters(), model.encoder.parameters(), strict=True):
                slow.lerp_(fast, 1 - kept)
        if report is not None and (step + 1) % max(1, config.steps // 20) == 0:
            report(step + 1, loss.item())
    model.encoder.load_state_dict(copy.state_dict())
    return VJepa(model.requires_grad_(False), preprocess, "V-JEPA 2 fitted to the scene", batch=config.batch)


def hidden_tokens(config: VideoFit, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens of a clip are to be foreseen: blocks of patches through all frames, flat (tokens,)."""
    side = config.size // config.patch
    covered = np.zeros((side, side), bool)
    while covered.mean() < config.hidden:
        height, width = draw.integers(max(1, side // 4), max(2, side // 2 + 1), size=2)
        top, left = draw.integers(side - height + 1), draw.integers(side - width + 1)
        covered[top : top + height, left : left + width] = True
    if covered.all():  # something must be left to foresee from
        covered[draw.integers(side), draw.integers(side)] = False
    return np.tile(covered.ravel(), config.frames // 2)


def save_video(encoder: VJepa, folder: Path) -> None:
    """Write what `VJepa.load` reads, in transformers' own format: safetensors and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.model.save_pretrained(folder)
    cut = encoder.preprocess
    settings = {
        "do_resize": True,
        "size": {"height": cut.size[0], "width": cut.size[1]},
        "do_center_crop": False,
        "resample": 2 if cut.interpolation == "bilinear" else 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(cut.mean),
        "image_std": list(cut.std),
    }
    if cut.shortest is not None:
        settings |= {"do_center_crop": True, "size": {"shortest_edge": cut.shortest}}
        settings["crop_size"] = {"height": cut.size[0], "width": cut.size[1]}
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def _foresee(model: Any, pixels: torch.Tensor, seen: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
    """The encoder on the patches that are left, and what the predictor makes of it: (B,unseen,E).

    transformers' own forward pass encodes all patches before it masks, so the encoder is walked here.
    """
    patches = model.encoder.embeddings(pixels)
    hidden = patches[:, seen[0]]
    for layer in model.encoder.layer:
        hidden = layer(hidden, seen)[0]
    hidden = model.encoder.layernorm(hidden)
    whole = torch.zeros_like(patches).index_copy(1, seen[0], hidden)  # the predictor picks `seen` out again
    out: torch.Tensor = model.predictor(whole, [seen], [unseen]).last_hidden_state
    return out


def _clips(rollouts: Sequence[Rollouts], camera: str) -> list[Pictures]:
    clips: list[Pictures] = []
    for part in rollouts:
        refuse_test(part.start, "fitting a video model")
        pick_cameras(part, (camera,))
        length = part.decision_valid.sum(1)
        clips += [
            part.images[camera][row, : length[row]] for row in np.flatnonzero((length > 1) & ~part.invalid)
        ]
    if not clips:
        raise ValueError(
            f"none of {sum(len(part) for part in rollouts)} episodes has two frames to learn from"
        )
    return clips


def _piece(clips: Sequence[Pictures], frames: int, draw: np.random.Generator) -> Pictures:
    """At least half of some episode, resampled to a clip."""
    clip = clips[int(draw.integers(len(clips)))]
    length = int(draw.integers((len(clip) + 1) // 2, len(clip) + 1))
    begin = int(draw.integers(len(clip) - length + 1))
    return clip[begin + resample(length, frames)]

"""Train a small CLIP on one's own episodes, for scenes that published models have never seen.

What is told about a frame: the last quarter of a success is described by its instruction, the first quarter
of any episode by a neutral sentence ("... nothing has been done yet"), so that what separates the two is what
the instruction is about. Frames in between, and the late frames of failures, are not used: nobody can say how
far they are without knowing.

A batch holds each sentence as often as any other, and the loss compares only different sentences: two frames
of one instruction are never each other's negatives. A batch of B pictures of S sentences is B / S losses over
S pairs each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator, refuse_test
from .encoders import Pictures, normalised_by, pick_cameras
from .open_clip_encoder import ClipLoss, OpenClip, build, save
from .zero_shot import NEUTRAL

Report = Callable[[int, float], None]


@dataclass(frozen=True)
class ClipFit:
    """How to train it. The defaults give 4.6 million parameters, 3.2 million of them for words.

    Attributes:
        camera: whose frames.
        size: pixels of a side, a multiple of 32; frames are squeezed into it.
        width: channels of the first block of the vision tower, which is CLIP's residual network; even. On the
            toy world of the tests a vision transformer had not told colours apart after 150 steps; this has
            after 20.
        blocks: of each of its four stages.
        text_width: of the text transformer, a multiple of 32; the tokenizer has 49 408 words.
        text_layers: of the text transformer.
        embed: E.
        steps: of the optimiser.
        sentences: at most so many in a batch.
        pictures: of each of them.
        learning_rate: highest; risen to over a twentieth of the steps, and fallen from as a cosine.
        late: share of a success, from its end, that is told as its instruction.
        early: share of any episode, from its start, that is told as `neutral`.
        neutral: the sentence for it; also the baseline or negative of the reward that uses the model.
        seed: of the weights and of the frames drawn.
    """

    camera: str
    size: int = 64
    width: int = 16
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    text_width: int = 64
    text_layers: int = 2
    embed: int = 128
    steps: int = 300
    sentences: int = 32
    pictures: int = 16
    learning_rate: float = 1e-3
    late: float = 0.25
    early: float = 0.25
    neutral: str = NEUTRAL
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size % 32 or self.width % 2 or self.text_width % 32:
            raise ValueError(
                f"size {self.size} and text_width {self.text_width} must be multiples of 32, and width "
                f"{self.width} of 2"
            )
        if not (0 < self.late <= 0.5 and 0 < self.early <= 0.5):
            raise ValueError(f"late {self.late} and early {self.early} must be above 0 and at most 0.5")
        if self.steps < 1 or self.sentences < 2 or self.pictures < 1:
            raise ValueError("a batch needs two sentences or more, a picture of each, and a step or more")

    @property
    def model(self) -> dict[str, Any]:
        """In the form of open_clip's configurations."""
        return {
            "embed_dim": self.embed,
            "vision_cfg": {
                "image_size": self.size,
                "width": self.width,
                "layers": list(self.blocks),
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_width // 32,
                "layers": self.text_layers,
            },
        }


def told_frames(rollouts: Sequence[Rollouts], config: ClipFit) -> dict[str, Pictures]:
    """The frames that go with each sentence, uint8 (N,H,W,3).

    Raises:
        SplitError: a start is of the test split.
        ValueError: a camera is missing, or there is no success, or an instruction is empty.
    """
    found: dict[str, list[Pictures]] = {}
    for part in rollouts:
        refuse_test(part.start, "fitting an image-text model")
        pick_cameras(part, (config.camera,))
        frames, length = part.images[config.camera], part.decision_valid.sum(1)
        for row in np.flatnonzero((length > 0) & ~part.invalid):
            count, said = int(length[row]), part.instruction[int(row)]
            if not said.strip():
                raise ValueError(f"episode {row} has an empty instruction: an image-text model needs words")
            begun = max(1, int(count * config.early))
            found.setdefault(config.neutral, []).append(frames[row, :begun])
            if part.success[row]:
                done = max(1, int(count * config.late))
                found.setdefault(said, []).append(frames[row, count - done : count])
    if len(found) < 2:
        raise ValueError(
            f"none of {sum(len(part) for part in rollouts)} episodes succeeded: only a success can show "
            "what a sentence means; add demonstrations, or collect more"
        )
    return {said: np.concatenate(parts) for said, parts in sorted(found.items())}


def fit_clip(rollouts: Sequence[Rollouts], config: ClipFit, report: Report | None = None) -> OpenClip:
    """Train a small CLIP of open_clip with its own loss; the same seed gives the same weights (CPU).

    Args:
        rollouts: episodes of 'train' or 'select' starts; all with the same size of frames.
        config: settings.
        report: called with the step and the loss, every twentieth of the way.

    Raises:
        SplitError: a start is of the test split.
        ValueError: see `told_frames`.
    """
    told = told_frames(rollouts, config)
    preprocess = normalised_by(list(told.values()), config.size)
    encoder = build(config.model, preprocess, config.seed, "clip fitted to the scene")
    model: Any = encoder.model.train()
    loss_of = ClipLoss()
    sentences = list(told)
    tokens = encoder.tokenize(sentences)
    optimizer = torch.optim.AdamW(_decayed(model), lr=config.learning_rate, betas=(0.9, 0.98))
    rise = max(1, config.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / rise, 0.5 + 0.5 * float(np.cos(np.pi * step / config.steps))),
    )
    for step in range(config.steps):
        draw = counter_generator("clip fit", config.seed, step)
        chosen = draw.permutation(len(sentences))[: config.sentences]
        some = [told[sentences[row]] for row in chosen]
        shown = np.stack([frames[draw.integers(len(frames), size=config.pictures)] for frames in some])
        flat = preprocess(shown.reshape(-1, *shown.shape[2:]))
        image = model.encode_image(flat, normalize=True).view(len(chosen), config.pictures, -1)
        text = model.encode_text(tokens[chosen], normalize=True)
        scale = model.logit_scale.exp()
        losses = [loss_of(image[:, each], text, scale) for each in range(config.pictures)]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        if report is not None and (step + 1) % max(1, config.steps // 20) == 0:
            report(step + 1, loss.item())
    model.eval()
    return encoder


def save_clip(encoder: OpenClip, config: ClipFit, folder: Path) -> None:
    """Write what `OpenClip.load` reads: safetensors and JSON."""
    save(encoder, config.model, folder)


def _decayed(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Matrices decay; gains, biases and the words' table do not."""
    named = list(model.named_parameters())
    plain = [value for name, value in named if value.ndim < 2 or "embedding" in name]
    matrices = [value for name, value in named if not (value.ndim < 2 or "embedding" in name)]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]

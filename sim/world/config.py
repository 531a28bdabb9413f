"""Sizes of a world model and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# A picture that is drawn costs many times what tokens do, and needs fewer steps.
_USUAL = {
    "video": {"body_steps": 3000, "steps": 2200, "batch": 48, "window": 3},
    "rssm": {"body_steps": 3000, "steps": 2200, "batch": 48, "window": 3},
    "views": {"body_steps": 1200, "steps": 1200, "batch": 8, "window": 6},
}


@dataclass(frozen=True)
class WorldConfig:
    """A world model and its training. The default trains on a laptop's CPU in minutes.

    One step of the world is one decision of a policy: a chunk of `chunk` actions. So an episode of sixty
    control steps is twelve steps of imagination, and errors add up over twelve steps, not sixty.

    Attributes:
        chunk: H, actions in one step.
        kind: of dynamics: ``video``, a transformer over all tokens (video.py); ``views``, which needs the
            cameras' poses and draws by them (views.py); or ``rssm``, a recurrent and a stochastic state
            for the whole scene (rssm.py): many times cheaper, and coarser.
        encoder: folder of a V-JEPA 2 that sees in the place of the tokenizer; such a model can score chunks
            but not be played in, see encoder.py. ``""`` for the tokenizer, which is trained.
        encoder_side: tokens in a row and in a column of what that makes of a picture, at most.
        latent: channels of the tokenizer's latent, which is an eighth of an image's width and height.
        tokenizer_width: channels of the tokenizer's convolutions at a quarter of the resolution; twice that
            below.
        width: of the transformer, and of the layers around an RSSM.
        layers: of the transformer.
        heads: of its attention.
        context: decisions it looks back on, the present one included.
        recurrent: of an RSSM: numbers in its deterministic state (DiWA: 1024).
        groups: of an RSSM: categorical variables in its stochastic state (DiWA: 32).
        classes: of an RSSM: values that each of them can take (DiWA: 32).
        ensemble: heads that predict the next step; how far they differ is the model's doubt.
        tokenizer_steps: optimiser steps of the tokenizer.
        tokenizer_batch: pictures in one of them (of one camera each).
        body_steps: optimiser steps of proprioception, and of the robot's own picture, alone; 0 takes the
            kind's usual number, and so does 0 of `steps`, `batch` and `window`.
        body_batch: decisions in one of them.
        steps: optimiser steps of the dynamics.
        batch: windows in one of them.
        window: decisions in a window; at least `context`.
        imagine_from: share of the steps after which half of the batches are imagined: the model reads what it
            predicted itself, so that it learns to go on from its own mistakes.
        learning_rate: peak of the dynamics' and the tokenizer's, warm-up and cosine.
        weight_decay: of both.
        success_weight: of the reflector's loss beside the prediction's; ``views`` trains it apart.
        held_out: share of the episodes that nothing is trained on, by which it is calibrated and checked.
        max_words: of an instruction.
        seed: of everything.
    """

    chunk: int = 5
    kind: Literal["video", "views", "rssm"] = "video"
    encoder: str = ""
    encoder_side: int = 4
    latent: int = 16
    tokenizer_width: int = 32
    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 2
    recurrent: int = 256
    groups: int = 16
    classes: int = 16
    ensemble: int = 3
    tokenizer_steps: int = 1500
    tokenizer_batch: int = 32
    body_steps: int = 0
    body_batch: int = 256
    steps: int = 0
    batch: int = 0
    window: int = 0
    imagine_from: float = 0.6
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    success_weight: float = 1.0
    held_out: float = 0.1
    max_words: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        for name, usual in _USUAL.get(self.kind, {}).items():
            object.__setattr__(self, name, getattr(self, name) or usual)
        for name in (
            "chunk", "latent", "tokenizer_width", "width", "layers", "heads", "context", "ensemble",
            "recurrent", "groups", "classes", "encoder_side",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} of a world model must be at least 1")
        if self.kind not in ("video", "views", "rssm"):
            raise ValueError(
                f"kind {self.kind!r} of a world model's dynamics, expected 'video', 'views' or 'rssm'"
            )
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")
        if self.kind == "views" and self.width % 32:
            raise ValueError(f"width {self.width} of kind 'views' must be a multiple of 32")
        if self.window < self.context:
            raise ValueError(
                f"window {self.window} is shorter than the context of {self.context}: nothing would teach "
                "the model to use its context; give a longer window or a shorter context"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out {self.held_out} must lie between 0 and 1: a share of the episodes")

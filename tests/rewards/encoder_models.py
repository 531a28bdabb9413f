"""Small real models with random weights, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from regrip.rewards.encoders import Pictures, Preprocess, Vectors
from regrip.rewards.open_clip_encoder import OpenClip, build
from regrip.rewards.transformers_encoders import Siglip

PREPROCESS = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def small_clip() -> OpenClip:
    return build(CLIP, PREPROCESS, seed=1)


def small_siglip() -> Siglip:
    words = [
        "<pad>",
        "<unk>",
        "move",
        "the",
        "red",
        "green",
        "blue",
        "block",
        "nothing",
        "has",
        "been",
        "done",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    return Siglip(SiglipModel(config), fast, PREPROCESS)


class Counting:
    """An image encoder that counts what reaches the model."""

    def __init__(self, encoder: OpenClip) -> None:
        self.inner, self.seen, self.largest = encoder, 0, 0
        self.name, self.width = encoder.name, encoder.width
        self._encode = encoder._encode_images
        encoder._encode_images = self._counted  # type: ignore[method-assign]

    def _counted(self, images: Pictures) -> Any:
        self.seen += len(images)
        return self._encode(images)

    def images(self, images: Pictures) -> Vectors:
        self.largest = max(self.largest, len(images))
        return self.inner.images(images)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return self.inner.texts(texts)

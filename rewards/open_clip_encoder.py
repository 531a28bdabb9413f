"""CLIP models of open_clip as image-text encoders.

Install with ``pip install "regrip[clip]"``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from .encoders import Pictures, Preprocess, TextCache, Vectors, check_pictures, each_once

try:
    import open_clip
    from open_clip import ClipLoss
except ImportError as error:
    raise ImportError(
        "this encoder needs open_clip, which is not installed: pip install 'regrip[clip]'"
    ) from error

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "ClipLoss", "OpenClip", "build", "save"]

Tokenize = Callable[[list[str]], torch.Tensor]

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


class OpenClip:
    """An image-text encoder made of a model of open_clip.

    Sentences longer than the model's context are cut, as its own tokenizer does, with a warning.

    Args:
        model: in evaluation mode.
        tokenize: sentences to token ids.
        preprocess: what is done to pictures.
        width: length of its vectors.
        name: for logs.
        batch: pictures or sentences in one pass; bounds the memory.
        device: where the model is.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenize: Tokenize,
        preprocess: Preprocess,
        width: int,
        name: str,
        *,
        batch: int = 64,
        device: str = "cpu",
    ) -> None:
        self.model, self.tokenize, self.preprocess = model.eval().to(device), tokenize, preprocess
        self.width, self.name, self.batch, self.device = width, name, batch, device
        self._texts = TextCache(self._encode_texts, batch)

    @classmethod
    def load(
        cls, source: str | Path, checkpoint: str | None = None, *, batch: int = 64, device: str = "cpu"
    ) -> OpenClip:
        """Load a model.

        Args:
            source: a folder with ``open_clip_config.json`` and weights; or ``hf-hub:organisation/name``,
                which is downloaded; or the name of one of open_clip's configurations, such as ``ViT-B-32``.
            checkpoint: for a name: a file with weights, or one of open_clip's tags, which is downloaded.
            batch: pictures or sentences in one pass.
            device: where to compute.

        Raises:
            FileNotFoundError: the folder lacks its configuration or weights, or the checkpoint is missing.
            ValueError: no such configuration, or a name without a checkpoint.
        """
        name = str(source)
        if Path(name).is_dir():
            folder = Path(name)
            if not (folder / CONFIG_FILE).is_file():
                raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: give a folder of open_clip")
            if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
                raise FileNotFoundError(f"{folder} holds no weights (*.safetensors, *.bin or *.pth)")
            name = f"local-dir:{folder}"
        elif not name.startswith("hf-hub:"):
            if name not in open_clip.list_models():
                raise ValueError(
                    f"{name!r} is neither a folder, nor hf-hub:organisation/name, nor a configuration of "
                    "open_clip (open_clip.list_models() names them)"
                )
            if checkpoint is None:
                raise ValueError(f"{name} has no weights: give `checkpoint`, a file or a tag of open_clip")
            if "/" in checkpoint and not Path(checkpoint).is_file():
                raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
        model: Any = open_clip.create_model(
            name, pretrained=checkpoint, require_pretrained=True, device=device
        )
        tokenize = open_clip.get_tokenizer(name)
        preprocess = _preprocess(open_clip.get_model_preprocess_cfg(model))
        with torch.inference_mode():
            width = model.encode_text(tokenize(["a"]).to(device)).shape[-1]
        return cls(model, tokenize, preprocess, width, name, batch=batch, device=device)

    def images(self, images: Pictures) -> Vectors:
        check_pictures(images)
        return each_once(images, self.width, self.batch, self._encode_images)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return self._texts(texts)

    @torch.inference_mode()
    def _encode_images(self, images: Pictures) -> NDArray[np.float32]:
        found = self.model.encode_image(self.preprocess(images, self.device))  # type: ignore[operator]
        return np.asarray(found.float().cpu().numpy())

    @torch.inference_mode()
    def _encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self.tokenize(texts)
        encode = getattr(self.tokenize, "encode", None)
        for text in texts:
            if encode is not None and len(encode(text)) + 2 > tokens.shape[1]:
                warnings.warn(
                    f"{self.name} reads {tokens.shape[1]} tokens and cuts the rest of {text[:60]!r}...",
                    stacklevel=2,
                )
        found = self.model.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return np.asarray(found.float().cpu().numpy())


def build(config: Mapping[str, Any], preprocess: Preprocess, seed: int = 0, name: str = "clip") -> OpenClip:
    """A model with random weights from a configuration (``embed_dim``, ``vision_cfg``, ``text_cfg``)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    return OpenClip(model, tokenizer, preprocess, int(config["embed_dim"]), name)


def save(encoder: OpenClip, config: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that `OpenClip.load`, and open_clip itself as ``local-dir:``, can read."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = encoder.preprocess
    settings = {
        "model_cfg": dict(config),
        "preprocess_cfg": {
            "size": list(cut.size),
            "mean": list(cut.mean),
            "std": list(cut.std),
            "interpolation": cut.interpolation,
            "resize_mode": "squash" if cut.shortest is None else "shortest",
        },
    }
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    weights = {key: held.detach().cpu().contiguous() for key, held in encoder.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)


def _preprocess(settings: Mapping[str, Any]) -> Preprocess:
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mode, interpolation = settings.get("resize_mode", "shortest"), settings.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise ValueError(
            f"the model resizes by {mode!r} with {interpolation!r}; shortest or squash with bilinear or "
            "bicubic are supported: pass a `Preprocess` to OpenClip yourself"
        )
    return Preprocess(
        size=(height, width),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        shortest=min(height, width) if mode == "shortest" and height == width else None,
        interpolation=interpolation,
    )

"""SigLIP, DINOv2, DINOv3 and V-JEPA 2 of transformers as encoders.

Each is loaded from a folder, or from a hub id, which is downloaded; weights are read as safetensors only, and
no code that comes with a model is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, Dinov2Model, DINOv3ViTModel, SiglipModel, VJEPA2Model
from transformers.image_processing_base import ImageProcessingMixin
from transformers.video_processing_utils import BaseVideoProcessor

from .encoders import (
    Pictures,
    Preprocess,
    TextCache,
    Vectors,
    check_pictures,
    distinct,
    each_once,
    resample,
    unit,
)

RESAMPLE = {2: "bilinear", 3: "bicubic"}
DINO = {"dinov2": Dinov2Model, "dinov3_vit": DINOv3ViTModel}


class Siglip:
    """SigLIP (and SigLIP 2 of fixed resolution) as an image-text encoder.

    Args:
        model: SiglipModel.
        tokenizer: of transformers; sentences are padded to the model's full length, as it was trained.
        preprocess: what is done to pictures.
        name: for logs.
        batch: pictures or sentences in one pass; bounds the memory.
        device: where to compute.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Preprocess,
        name: str = "siglip",
        *,
        batch: int = 64,
        device: str = "cpu",
    ) -> None:
        self.model, self.tokenizer, self.preprocess = model.eval().to(device), tokenizer, preprocess
        self.name, self.batch, self.device = name, batch, device
        self.width = int(model.config.vision_config.hidden_size)
        self._texts = TextCache(self._encode_texts, batch)

    @classmethod
    def load(cls, source: str | Path, *, batch: int = 64, device: str = "cpu") -> Siglip:
        """Load from a folder or hub id.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: some of the model's weights are missing.
        """
        tokenizer = AutoTokenizer.from_pretrained(**_where(source))
        model = _weights(SiglipModel, source)
        return cls(model, tokenizer, _picture_settings(source), str(source), batch=batch, device=device)

    def images(self, images: Pictures) -> Vectors:
        check_pictures(images)
        return each_once(images, self.width, self.batch, self._encode_images)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return self._texts(texts)

    @torch.inference_mode()
    def _encode_images(self, images: Pictures) -> NDArray[np.float32]:
        found = self.model.vision_model(pixel_values=self.preprocess(images, self.device))
        return np.asarray(found.pooler_output.float().cpu().numpy())

    @torch.inference_mode()
    def _encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        length = int(self.model.config.text_config.max_position_embeddings)
        for text, tokens in zip(texts, self.tokenizer(texts)["input_ids"], strict=True):
            if len(tokens) > length:
                warnings.warn(
                    f"{self.name} reads {length} tokens and cuts the rest of {text[:60]!r}...", stacklevel=2
                )
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        found = self.model.text_model(input_ids=tokens["input_ids"].to(self.device))
        return np.asarray(found.pooler_output.float().cpu().numpy())


class Dino:
    """DINOv2 or DINOv3 (ViT) as an image encoder: the class token after the last norm.

    Args:
        model: Dinov2Model or DINOv3ViTModel.
        preprocess: what is done to pictures.
        name: for logs.
        batch: pictures in one pass; bounds the memory.
        device: where to compute.
    """

    def __init__(
        self, model: Any, preprocess: Preprocess, name: str = "dino", *, batch: int = 64, device: str = "cpu"
    ) -> None:
        self.model, self.preprocess = model.eval().to(device), preprocess
        self.name, self.batch, self.device = name, batch, device
        self.width = int(model.config.hidden_size)

    @classmethod
    def load(cls, source: str | Path, *, batch: int = 64, device: str = "cpu") -> Dino:
        """Load from a folder or hub id.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it is neither DINOv2 nor DINOv3, or some of its weights are missing.
        """
        kind = AutoConfig.from_pretrained(**_where(source)).model_type
        if kind not in DINO:
            raise ValueError(f"{source} holds a {kind!r} model, expected one of {', '.join(DINO)}")
        model = _weights(DINO[kind], source)
        return cls(model, _picture_settings(source), str(source), batch=batch, device=device)

    def images(self, images: Pictures) -> Vectors:
        check_pictures(images)
        return each_once(images, self.width, self.batch, self._encode)

    @torch.inference_mode()
    def _encode(self, images: Pictures) -> NDArray[np.float32]:
        found = self.model(pixel_values=self.preprocess(images, self.device))
        return np.asarray(found.pooler_output.float().cpu().numpy())


class VJepa:
    """V-JEPA 2 as a video encoder: the mean of the encoder's tokens.

    A clip is resampled to the model's own number of frames, evenly from its first to its last.

    Args:
        model: VJEPA2Model; its predictor is not used.
        preprocess: what is done to frames.
        name: for logs.
        batch: clips in one pass; bounds the memory.
        device: where to compute.

    Raises:
        ValueError: the frames would not have the size that the model's positions are counted for.
    """

    def __init__(
        self, model: Any, preprocess: Preprocess, name: str = "v-jepa", *, batch: int = 4, device: str = "cpu"
    ) -> None:
        self.model, self.preprocess = model.eval().to(device), preprocess
        self.name, self.batch, self.device = name, batch, device
        self.width, self.frames = int(model.config.hidden_size), int(model.config.frames_per_clip)
        side = int(model.config.crop_size)
        if preprocess.size != (side, side):
            raise ValueError(
                f"{name} counts positions in frames of {side}x{side}, but they are cut to {preprocess.size}"
            )

    @classmethod
    def load(cls, source: str | Path, *, batch: int = 4, device: str = "cpu") -> VJepa:
        """Load from a folder or hub id.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: some of the model's weights are missing.
        """
        place = _where(source)
        settings, _ = BaseVideoProcessor.get_video_processor_dict(
            place.pop("pretrained_model_name_or_path"), **place
        )
        model = _weights(VJEPA2Model, source)
        return cls(model, preprocess_of(settings), str(source), batch=batch, device=device)

    def videos(self, clips: Sequence[Pictures]) -> Vectors:
        for row, clip in enumerate(clips):
            check_pictures(clip)
            if not len(clip):
                raise ValueError(f"clip {row} of {len(clips)} has no frames")
        first, which = distinct(clips)
        kept = np.zeros((len(first), self.width), np.float32)
        for begin in range(0, len(first), self.batch):
            rows = first[begin : begin + self.batch]
            frames = [clips[row][resample(len(clips[row]), self.frames)] for row in rows]
            ready = torch.stack([self.preprocess(shown, self.device) for shown in frames])
            kept[begin : begin + self.batch] = self._encode(ready)
        return kept[which]

    @torch.inference_mode()
    def _encode(self, frames: torch.Tensor) -> Vectors:
        found = self.model(pixel_values_videos=frames, skip_predictor=True).last_hidden_state.mean(1)
        return unit(found.float().cpu().numpy())


def preprocess_of(settings: Mapping[str, Any]) -> Preprocess:
    """From a processor's own settings (``preprocessor_config.json`` or ``video_preprocessor_config.json``).

    Raises:
        ValueError: they ask for something else than resize, centre crop and normalisation of bytes.
    """
    size, crop = settings.get("size"), settings.get("crop_size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    cropped = settings.get("do_center_crop", crop is not None)
    target = crop if cropped else size
    if isinstance(target, int):
        target = {"height": target, "width": target}
    if not isinstance(target, Mapping) or not {"height", "width"} <= set(target):
        raise ValueError(f"the processor resizes to {size}, crops to {crop}; expected a height and a width")
    if cropped and shortest is None:
        raise ValueError(f"the processor crops {crop} from pictures of {size}; expected a shortest_edge")
    resampling = settings.get("resample", 3)
    if resampling not in RESAMPLE:
        raise ValueError(f"the processor resamples by {resampling}; expected 2 (bilinear) or 3 (bicubic)")
    if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"the processor scales by {settings['rescale_factor']}; expected 1/255")
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if mean is None or std is None:
        raise ValueError("the processor's settings have no image_mean and image_std")
    return Preprocess(
        size=(int(target["height"]), int(target["width"])),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        shortest=int(shortest) if cropped and shortest is not None else None,
        interpolation=RESAMPLE[resampling],  # type: ignore[arg-type]
    )


def _picture_settings(source: str | Path) -> Preprocess:
    place = _where(source)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(
        place.pop("pretrained_model_name_or_path"), **place
    )
    return preprocess_of(settings)


def _where(source: str | Path) -> dict[str, Any]:
    """A folder is read and nothing else; a hub id is downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    name = str(source)
    if isinstance(source, Path) or name.count("/") != 1 or name[0] in "./~":
        raise FileNotFoundError(f"there is no folder {name}; a hub id reads organisation/name")
    return {"pretrained_model_name_or_path": name}


def _weights(kind: Any, source: str | Path) -> Any:
    model, report = kind.from_pretrained(
        **_where(source), use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{source} lacks {len(missing)} weights of a {kind.__name__}, {missing[0]} for one: "
            "they would be random; is it another kind of model?"
        )
    return model

"""The zarr v3 codec ``regrip.image``: a chunk is one image file. An entry point lets zarr-python find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

from .images import CODECS, decode_stored, encode_stored
from .layout import CODEC


@dataclass(frozen=True)
class ImageCodec(ArrayBytesCodec):
    """Chunks (1,H,W,3) of uint8 or (1,H,W) of uint16 or float32.

    Reading takes any of JPEG, PNG, WebP, JPEG-XL, TIFF and zstd of raw pixels, told apart by their first
    bytes, so chunks of one array may differ.

    Attributes:
        codec: what is written by `zarr` itself: ``jpeg``, ``png``, ``tiff`` or ``zstd``.
        quality: of JPEG.
    """

    codec: str = "jpeg"
    quality: int = 95

    is_fixed_size = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS or type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise ValueError(f"{CODEC}: codec {self.codec!r}, quality {self.quality!r}")

    @classmethod
    def from_dict(cls, data: Any) -> ImageCodec:
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        return {"name": CODEC, "configuration": {"codec": self.codec, "quality": self.quality}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        if len(shape) not in (3, 4):
            raise ValueError(f"{CODEC} holds (N,H,W,3) or (N,H,W), not {shape}")

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        _one_image(chunk_spec.shape)
        dtype = chunk_spec.dtype.to_native_dtype().name
        image = decode_stored(chunk_data.to_bytes(), tuple(chunk_spec.shape[1:]), dtype)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(image[None])

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        _one_image(chunk_spec.shape)
        image = np.ascontiguousarray(chunk_data.as_numpy_array()[0])
        return chunk_spec.prototype.buffer.from_bytes(encode_stored(image, self.codec, self.quality))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError("an image file has no fixed size")


def _one_image(shape: tuple[int, ...]) -> None:
    if shape[0] != 1:
        raise ValueError(f"{CODEC} holds one image in a chunk, not {shape}")


register_codec(CODEC, ImageCodec)

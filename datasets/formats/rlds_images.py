"""Images as RLDS holds them: JPEG and PNG files, and float depth in the bytes of RGBA PNGs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..frames import EncodedFrames, codec_of, decode_image, encode_jpeg, encode_png, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import Frames, StreamSpec
from . import WriteOptions


@dataclass(frozen=True)
class FloatImages:
    """Depth in metres or whatever the set says, float32 (H,W), held in the four bytes of RGBA PNGs."""

    files: Sequence[bytes]
    shape: tuple[int, ...]
    where: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return decode_float(self.files[index], self.shape, self.where, index)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes | None:
        return None


def decode_float(data: bytes, shape: tuple[int, ...], where: str, frame: int) -> NDArray[Any]:
    """One float image (H,W) from an RGBA PNG of the same bits."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "RGBA" or (image.height, image.width) != shape:
                raise ValueError(f"a {image.mode} image of {image.height} x {image.width}")
            return np.ascontiguousarray(np.asarray(image)).view("<f4")[..., 0]
    except (ValueError, OSError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(
            f"a float image of {len(data)} bytes cannot be decoded ({error}), expected {shape}",
            "the file is damaged: take it from its source again, or drop the episode",
            file=where,
            frame=frame,
        ) from error


class Prepared(EncodedFrames):
    """Image files that are as they will be written: they are copied whatever the options say."""


def encode_frames(frames: Frames, spec: StreamSpec, options: WriteOptions, ledger: Ledger) -> Prepared:
    """Image files of a stream, copied where they can be."""
    if isinstance(frames, Prepared):
        return frames
    files = []
    anew: dict[str, int] = {}
    worst = float("inf")
    tried = {0, len(frames) // 2, len(frames) - 1}
    for index in range(len(frames)):
        data = None if options.images in ("jpeg", "png") and spec.kind == "image" else frames.encoded(index)
        codec = codec_of(data) if data else ""
        if codec == "png" or (codec == "jpeg" and spec.kind == "image"):
            files.append(data or b"")
            continue
        pixels = frames[index]
        if pixels.shape != spec.shape or pixels.dtype != np.dtype(spec.dtype):
            raise DataError(
                f"an image of {pixels.dtype} {pixels.shape}, expected {spec.dtype} {spec.shape}",
                "resize in the mapping, or drop the episode",
                frame=index,
                key=spec.key,
            )
        if spec.kind == "depth":
            files.append(_depth_file(pixels))
            continue
        before = codec_of(frames.encoded(index) or b"") or "pixels"
        if options.images == "png":
            files.append(encode_png(pixels))
            continue
        files.append(encode_jpeg(pixels, options.quality))
        anew[before] = anew.get(before, 0) + 1
        if index in tried:
            worst = min(worst, psnr(decode_image(files[-1]), pixels))
    for before, count in anew.items():
        measure = {"psnr_db": worst} if worst != float("inf") else {}
        detail = f"{before} to jpeg, quality {options.quality}"
        ledger.add(Loss(spec.key, "re-encoded", detail, rows=count, measure=measure))
    return Prepared(files, spec.shape, spec.key)


def _depth_file(pixels: NDArray[Any]) -> bytes:
    """uint16 as a PNG, float32 as TFDS does: the four bytes of each number as an RGBA PNG."""
    if pixels.dtype == np.uint16:
        return encode_png(pixels)
    buffer = io.BytesIO()
    four = np.ascontiguousarray(pixels, "<f4").view(np.uint8).reshape((*pixels.shape, 4))
    Image.fromarray(four, "RGBA").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

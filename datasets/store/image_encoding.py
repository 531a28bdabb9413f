"""What a store makes of an image, and what is lost by it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..formats import WriteOptions
from ..frames import SMALL_PX, codec_of, decode_image, encode_jpeg, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import StreamSpec
from .images import check_file, encode_stored

Losses = dict[str, tuple[int, float]]  # in words: rows, and the PSNR of the first


def image_to_store(
    spec: StreamSpec, options: WriteOptions, data: bytes | None, pixels: Any
) -> tuple[bytes, str]:
    """What a store keeps of an image that is given as a file or as pixels.

    A file stays as it is, unless the options want another codec. Depth is never re-encoded.

    Returns:
        The bytes, and what is lost by that in words, or ``""``.

    Raises:
        DataError: it is not what the stream declares.
    """
    codec = ""
    if data is not None:
        check_file(data, spec.shape, spec.dtype)
        codec = codec_of(data)
        if options.images in ("copy", codec) or spec.kind == "depth":
            return data, ""
        pixels = decode_image(data)
    image = np.asarray(pixels)
    if image.dtype != spec.dtype or image.shape != spec.shape:
        raise DataError(
            f"an image is {image.dtype} {image.shape}, the set declares {spec.dtype} {spec.shape}",
            "resize it in the mapping, or give this camera a stream of its own",
        )
    if spec.kind == "depth":
        return encode_stored(image, "zstd", 0), ""
    if options.images == "png":
        return encode_stored(image, "png", 0), f"{codec} to PNG, which keeps every pixel" if codec else ""
    sampling = "4:4:4" if min(spec.shape[:2]) < SMALL_PX else "4:2:0"
    origin = codec or "raw pixels or video"
    return encode_jpeg(image, options.quality), f"{origin} to JPEG {sampling} of quality {options.quality}"


def note_loss(losses: Losses, detail: str, data: bytes | None, pixels: Any, stored: bytes) -> None:
    """Count an image that was re-encoded; the first of an episode is compared with what became of it."""
    rows, worst = losses.get(detail, (0, math.inf))
    if not rows:
        before = decode_image(data) if data is not None else np.asarray(pixels)
        worst = psnr(before, decode_image(stored))
    losses[detail] = (rows + 1, worst)


def enter_losses(ledger: Ledger, key: str, losses: Losses) -> None:
    """The losses of one episode's stream."""
    for detail, (rows, worst) in losses.items():
        measure = {} if math.isinf(worst) else {"psnr_db": round(worst, 2)}
        ledger.add(Loss(key, "re-encoded", detail, 1, rows, measure))

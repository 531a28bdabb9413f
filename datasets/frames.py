"""Images in order, and the codecs they are held in. Nothing here needs FFmpeg; video is in `video.py`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from .ledger import DataError

SMALL_PX = 200  # below this, halving the colour resolution shows: 4:4:4 instead of 4:2:0
_MAX_PIXELS = 1 << 27  # a declared size above this is an attack or a mistake, never a robot's camera


@dataclass(frozen=True)
class ArrayFrames:
    """Frames that lie in memory (or in a memory map) as pixels, (N,H,W,3) or (N,H,W)."""

    pixels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return np.asarray(self.pixels[index])

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self.pixels)

    def encoded(self, index: int) -> bytes | None:
        return None


@dataclass(frozen=True)
class EncodedFrames:
    """Frames that are image files, one for each: what a set held, or what is to be written.

    Attributes:
        files: N whole image files.
        shape: (H,W,3) or (H,W) that each must have.
        where: what to say in errors: file, or set and stream.
        depth: true for single-channel images of 16 bits or floats.
    """

    files: Sequence[bytes]
    shape: tuple[int, ...]
    where: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[Any]:
        image = decode_image(self.files[index], where=self.where, frame=index)
        if image.shape != self.shape:
            raise DataError(
                f"image of shape {image.shape}, expected {self.shape}",
                "the set declares one size for this camera: resize in the mapping, or drop the episode",
                file=self.where,
                frame=index,
            )
        return image

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes | None:
        return self.files[index]


def codec_of(data: bytes) -> str:
    """``jpeg``, ``png``, ``webp``, ``jxl``, ``tiff`` or ``""``, by the first bytes of the file."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"\xff\x0a" or data[:12] == b"\x00\x00\x00\x0cJXL \r\n\x87\n":
        return "jxl"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    return ""


def decode_image(data: bytes, *, where: str = "", frame: int | None = None) -> NDArray[Any]:
    """Decode an image file.

    Returns:
        uint8 (H,W,3) RGB; uint16 or float32 (H,W) for a single channel of more than 8 bits; uint8 (H,W,3) for
        a grey image, its channel three times.

    Raises:
        DataError: it is no image, is cut short, or declares a senseless size.
    """
    codec = codec_of(data)
    try:
        if codec == "jpeg":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > _MAX_PIXELS:
                raise ValueError(f"declares {height} x {width} pixels")
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
        if codec == "jxl":
            return _decode_jxl(data)
        if codec:
            with Image.open(io.BytesIO(data), formats=[codec.upper()]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"declares {image.height} x {image.width} pixels")
                return _pixels(image)
    except (
        ValueError,
        OSError,
        SyntaxError,
        MemoryError,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(
            f"a {codec} image of {len(data)} bytes cannot be decoded ({error})",
            "the file is damaged: take it from its source again, or drop the episode",
            file=where,
            frame=frame,
        ) from error
    raise DataError(
        f"{len(data)} bytes starting with {data[:4].hex() or 'nothing'} are no known image file",
        "the file is damaged or the key holds something else: leave it out in the mapping",
        file=where,
        frame=frame,
    )


def _pixels(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("I;16", "I;16B", "I;16L"):
        return np.asarray(image, dtype=np.uint16)
    if image.mode == "I":  # how Pillow opens some 16-bit PNGs
        wide = np.asarray(image)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise ValueError("32-bit integer images are not supported")
        return wide.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image, dtype=np.float32)
    return np.asarray(image.convert("RGB"))


def _decode_jxl(data: bytes) -> NDArray[Any]:
    try:
        from imagecodecs import JpegxlError, jpegxl_decode
    except ImportError as error:
        raise DataError(
            "JPEG-XL images need the package imagecodecs", "install it: pip install 'regrip[jxl]'"
        ) from error
    try:
        return np.asarray(jpegxl_decode(data))
    except JpegxlError as error:
        raise ValueError(str(error)) from error


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """An RGB image (H,W,3) as JPEG: full colour resolution below `SMALL_PX`, half above."""
    sampling = "444" if min(image.shape[:2]) < SMALL_PX else "420"
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", sampling))


def encode_png(image: NDArray[Any]) -> bytes:
    """uint8 (H,W,3) or uint16 (H,W) as PNG, without loss; quick rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode_tiff(image: NDArray[Any]) -> bytes:
    """float32 or uint16 (H,W) as TIFF, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "TIFF")
    return buffer.getvalue()


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two uint8 images, in dB; infinite if they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))

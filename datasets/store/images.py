"""One image as a store holds it: an image file as it came, or raw pixels in a zstd frame."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ..frames import codec_of, decode_image, encode_jpeg, encode_png, encode_tiff
from ..ledger import DataError

_ZSTD = b"\x28\xb5\x2f\xfd"
CODECS = ("jpeg", "png", "tiff", "zstd")


def decode_stored(
    data: bytes, shape: tuple[int, ...], dtype: str, where: str = "", frame: int | None = None
) -> NDArray[np.generic]:
    """Pixels of one stored image, of this shape and dtype.

    Raises:
        DataError: it is damaged, or another size or type than the set declares.
    """
    if data[:4] == _ZSTD:
        return _unzstd(data, shape, dtype, where, frame)
    image = decode_image(data, where=where, frame=frame)
    if image.shape != shape or image.dtype != dtype:
        raise DataError(
            f"an image of {image.dtype} {image.shape}, the set declares {dtype} {shape}",
            "run `regrip data repair --deep`, which takes out damaged episodes",
            file=where,
            frame=frame,
        )
    return image


def _unzstd(
    data: bytes, shape: tuple[int, ...], dtype: str, where: str, frame: int | None
) -> NDArray[np.generic]:
    from numcodecs.zstd import Zstd

    pixels = np.empty(shape, np.dtype(dtype).newbyteorder("<"))
    try:
        size = _zstd_size(data)
        if size != pixels.nbytes:
            raise ValueError(f"declares {size} bytes of pixels, expected {pixels.nbytes}")
        Zstd().decode(data, out=pixels)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"an image of {len(data)} bytes cannot be unpacked ({error})",
            "run `regrip data repair --deep`, which takes out damaged episodes",
            file=where,
            frame=frame,
        ) from error
    return pixels.astype(dtype, copy=False)


def _zstd_size(data: bytes) -> int | None:
    """What a zstd frame says it holds (RFC 8878, 3.1.1.1), None if it does not say."""
    flags = data[4] if len(data) > 4 else 0
    single = bool(flags & 0x20)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not width or len(data) < at + width:
        return None
    (size,) = struct.unpack({1: "<B", 2: "<H", 4: "<I", 8: "<Q"}[width], data[at : at + width])
    return int(size) + (256 if width == 2 else 0)


def encode_stored(image: NDArray[np.generic], codec: str, quality: int) -> bytes:
    """Pixels as they are stored: JPEG or PNG of uint8 (H,W,3), PNG or TIFF of depth, zstd of either.

    Raises:
        DataError: that codec does not hold such pixels.
    """
    if codec == "jpeg" and image.dtype == np.uint8:
        return encode_jpeg(image, quality)  # type: ignore[arg-type]
    if codec == "png" and image.dtype in (np.uint8, np.uint16):
        return encode_png(image)
    if codec == "tiff" and image.dtype in (np.float32, np.uint16):
        return encode_tiff(image)
    if codec == "zstd":
        from numcodecs.zstd import Zstd

        little = image.astype(image.dtype.newbyteorder("<"), copy=False)
        return bytes(Zstd(level=1).encode(np.ascontiguousarray(little)))
    raise DataError(f"{codec} holds no images of {image.dtype}", f"choose one of {', '.join(CODECS)}")


def check_file(data: bytes, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse an image file that is not what its stream declares; its head is enough for JPEG and PNG.

    Raises:
        DataError: it is no image, or of another size or depth.
    """
    codec = codec_of(data)
    found: tuple[int, ...] | None = None
    if codec == "jpeg" and dtype == "uint8":
        import simplejpeg

        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise DataError(
                f"a JPEG that cannot be read ({error})", "take it from its source again"
            ) from error
        found = (int(height), int(width), 3)
    elif codec == "png" and len(data) > 33 and data[12:16] == b"IHDR":
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        if (bits == 16 and colour == 0) if dtype == "uint16" else (bits == 8 and dtype == "uint8"):
            found = (height, width, *shape[2:])
    if found is None:
        decoded = decode_image(data)
        found = decoded.shape
        if decoded.dtype != dtype:
            raise DataError(
                f"an image of {decoded.dtype}, the stream declares {dtype}", "cast it in the mapping"
            )
    if found != shape:
        raise DataError(
            f"an image of shape {found}, the stream declares {shape}",
            "resize it in the mapping, or give this camera a stream of its own",
        )

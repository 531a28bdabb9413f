"""openpi's dialect of msgpack, byte for byte, read with suspicion.

An array is the map ``{b"__ndarray__": true, b"data": C-order bytes, b"dtype": "<f4", b"shape": [...]}``, a
numpy scalar ``{b"__npgeneric__": true, b"data": value, b"dtype": "<f4"}``; the keys are bytes. This is not
the dialect of the package msgpack-numpy. What is read is looked over before anything is allocated for it.

This file and `client.py` run alone on a robot's computer: Python 3.8, numpy 1 or 2, msgpack.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np

MAX_DEPTH = 16
MAX_VALUES = 20_000  # numbers, texts, maps and lists in one message; an array counts as one
_MAX_DIMENSIONS = 16
_DTYPE = re.compile(r"[<>|=][biufSU][0-9]{1,9}|[<>|=][mM]8(\[[0-9]{0,6}[a-zA-Z]{1,2}\])?")
_REFUSED = ("V", "O", "c")


class WireError(ValueError):
    """A message that cannot be written, or is not in the dialect, or is too large in some way."""


def pack(message: Any) -> bytes:
    """One message, as openpi's packer writes it.

    Raises:
        WireError: it holds an object, void or complex array, or something that msgpack has no form for.
    """
    try:
        packed: Any = msgpack.packb(message, default=_pack_array)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"cannot be sent: {error}") from error
    return bytes(packed)


def unpack(data: bytes, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES) -> Any:
    """The message of `pack`. Arrays are views of `data`'s copy and cannot be written to.

    Raises:
        WireError: naming what is wrong: not msgpack, cut short, too deep, too many values, a dtype that is
            not taken, a shape that does not fit its bytes.
    """
    look_over(data, max_depth, max_values)
    try:
        return msgpack.unpackb(data, object_hook=_unpack_array)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"not a message of openpi's dialect: {error}") from error


def _pack_array(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in _REFUSED:
            raise WireError(f"an array of dtype {value.dtype} cannot be sent: use plain numbers")
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": value.shape,
            }
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"a {type(value).__name__} cannot be sent")


def _unpack_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return array_of(value.get(b"data"), value.get(b"dtype"), value.get(b"shape"))
    if b"__npgeneric__" in value:
        kind = _dtype(value.get(b"dtype"))
        plain = value.get(b"data")
        if not isinstance(plain, (bool, int, float, str, bytes)):
            raise WireError(f"a numpy scalar holds a {type(plain).__name__}")
        try:
            return kind.type(plain)
        except (ValueError, TypeError, OverflowError) as error:
            raise WireError(f"{plain!r} is not a {kind}") from error
    return value


def array_of(data: Any, dtype: Any, shape: Any) -> Any:
    """The array that these say they are.

    Raises:
        WireError: they do not fit each other.
    """
    kind = _dtype(dtype)
    if not isinstance(data, bytes):
        raise WireError(f"an array's data is a {type(data).__name__}, expected bytes")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise WireError(f"an array's shape is {_short(shape)}, expected a short list of sizes")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise WireError(f"an array's shape is {_short(shape)}, expected whole numbers")
        count *= size
    if count * kind.itemsize != len(data):
        needed = count * kind.itemsize
        raise WireError(
            f"an array of {kind} {_short(shape)} needs {needed} bytes, the message has {len(data)}"
        )
    if kind.kind == "b" and data.strip(b"\0\1"):
        raise WireError("an array of truths holds bytes other than 0 and 1")
    try:
        return np.ndarray(buffer=data, dtype=kind, shape=tuple(shape))
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"an array of {kind} {_short(shape)}: {error}") from error


def _dtype(name: Any) -> Any:
    if not isinstance(name, str):
        raise WireError(f"dtype {_short(name)} is not taken: numbers, truths and texts are")
    return _named_dtype(name)


@lru_cache(maxsize=256)
def _named_dtype(name: str) -> Any:
    if not _DTYPE.fullmatch(name):
        raise WireError(f"dtype {_short(name)} is not taken: numbers, truths and texts are")
    try:
        return np.dtype(name)
    except (TypeError, ValueError) as error:
        raise WireError(f"there is no dtype {name!r}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# first byte of a value: (bytes that tell its length, kind). Kind 0: that many more bytes; 1: list; 2: map.
_SIZED: dict[int, tuple[int, int]] = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
    0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2),
}  # fmt: skip
_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip


def look_over(data: bytes, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES) -> None:
    """Walk the headers of a msgpack message, before anything is allocated for it.

    Raises:
        WireError: it is too deep, has too many values, or is not all there.
    """
    at, values, end = 0, 0, len(data)
    left = [1]  # values that each open list or map still wants
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        if at >= end:
            raise WireError(f"the message is cut short at {end} bytes")
        first = data[at]
        at += 1
        values += 1
        more, inside = 0, -1
        if first <= 0x7F or first >= 0xE0:
            pass
        elif first in _FIXED:
            more = _FIXED[first]
        elif first in _SIZED:
            width, kind = _SIZED[first]
            size = int.from_bytes(data[at : at + width], "big")
            at += width
            more, inside = (size, -1) if kind == 0 else (0, size * kind)
        elif first >= 0xA0 and first <= 0xBF:
            more = first & 0x1F
        elif first >= 0x90 and first <= 0x9F:
            inside = first & 0x0F
        elif first <= 0x8F:
            inside = 2 * (first & 0x0F)
        else:
            raise WireError(f"msgpack's type 0x{first:02x} is not taken")
        at += more
        if at > end:
            raise WireError(f"the message is cut short at {end} bytes")
        if inside >= 0:
            if len(left) > max_depth:
                raise WireError(f"the message is nested deeper than {max_depth}")
            if inside > max_values - values:
                raise WireError(f"the message has more than {max_values} values")
            left.append(inside)
    if at != end:
        raise WireError(f"{end - at} bytes follow the message")

"""Streams as ROS 2 messages: which topic and type each has, and the message of each row."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frames import codec_of
from ..ledger import DataError
from ..recording import Contents, StreamSpec
from .bag_columns import topic_key
from .bag_messages import typestore

_ARRAYS = {
    "float16": "Float32",
    "float32": "Float32",
    "float64": "Float64",
    "bool": "UInt8",
    **{f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Line:
    """How one stream is written: its topic, type, and the column that the reader will find it in."""

    spec: StreamSpec
    topic: str
    type: str
    column: str


def lines_of(contents: Contents) -> dict[str, Line]:
    """A topic for each stream. Each must be read back under a column of its own."""
    lines: dict[str, Line] = {}
    used: set[str] = set()
    for key, spec in contents.streams.items():
        kind, suffix = _type(spec), ""
        if kind == "sensor_msgs/msg/JointState":
            suffix = ".position"
        parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) or "_" for part in key.split(".")]
        base = "/" + "/".join(f"_{part}" if part[0].isdigit() else part for part in parts)
        topic, count = base, 2
        while topic_key(topic) + suffix in used:
            topic, count = f"{base}_{count}", count + 1
        used.add(topic_key(topic) + suffix)
        lines[key] = Line(spec, topic, kind, topic_key(topic) + suffix)
    return lines


def _type(spec: StreamSpec) -> str:
    if spec.kind in ("image", "depth"):
        return "sensor_msgs/msg/Image"
    if spec.kind == "text":
        return "std_msgs/msg/String"
    if spec.dtype not in _ARRAYS:
        raise DataError(
            f"no message holds numbers of type {spec.dtype}",
            f"cast them in the mapping to one of {', '.join(_ARRAYS)}",
            key=spec.key,
        )
    named = spec.shape == (len(spec.names),) and len(set(spec.names)) == len(spec.names) > 0
    if named and spec.dtype in ("float32", "float64"):
        return "sensor_msgs/msg/JointState"  # the one message with names, numbers and a stamp
    return f"std_msgs/msg/{_ARRAYS[spec.dtype]}MultiArray"


def _dims(types: Any, shape: tuple[int, ...]) -> list[Any]:
    make = types["std_msgs/msg/MultiArrayDimension"]
    return [make(label="", size=size, stride=math.prod(shape[index:])) for index, size in enumerate(shape)]


def _format(spec: StreamSpec, data: bytes) -> str:
    codec = codec_of(data)
    if spec.kind == "depth":
        return f"{'16UC1' if spec.dtype == 'uint16' else '32FC1'}; {codec} compressed "
    return codec


def _header(line: Line, ns: int) -> Any:
    """A header with the stamp `ns`."""
    types = typestore("cdr").types
    stamp = types["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=str(line.spec.about.get("frame_id", "")))


def serialized(line: Line, row: Any, ns: int) -> bytes:
    """One row as a message.

    Args:
        line: of its stream; of type CompressedImage where `row` is an image file.
        row: pixels, the bytes of an image file, a text, or numbers of the stream's shape.
        ns: when it was taken.
    """
    store = typestore("cdr")
    return bytes(store.serialize_cdr(_message(store.types, line, row, ns), line.type))


def _message(types: Any, line: Line, row: Any, ns: int) -> Any:
    make, spec = types[line.type], line.spec
    if line.type == "std_msgs/msg/String":
        return make(data=str(row))
    if line.type == "sensor_msgs/msg/CompressedImage":
        return make(header=_header(line, ns), format=_format(spec, row), data=np.frombuffer(row, np.uint8))
    if line.type == "sensor_msgs/msg/Image":
        pixels = np.ascontiguousarray(row)
        return make(
            header=_header(line, ns),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding={"uint8": "rgb8", "uint16": "16UC1", "float32": "32FC1"}[spec.dtype],
            is_bigendian=0,
            step=pixels.strides[0],
            data=pixels.view(np.uint8).reshape(-1),
        )
    if line.type == "sensor_msgs/msg/JointState":
        none = np.zeros(0)
        position = np.asarray(row, np.float64)
        return make(
            header=_header(line, ns), name=list(spec.names), position=position, velocity=none, effort=none
        )
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=_dims(types, spec.shape), data_offset=0)
    dtype = line.type.removeprefix("std_msgs/msg/").removesuffix("MultiArray").lower()
    return make(layout=layout, data=np.asarray(row).reshape(-1).astype(dtype))

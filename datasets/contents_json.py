"""What a set holds as JSON and back, every field of it checked: the JSON may come from anywhere."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np

from .ledger import DataError
from .recording import (
    ActionKind,
    Contents,
    Conventions,
    Gripper,
    Kind,
    Orientation,
    Rotation,
    StreamSpec,
)
from .spec import RobotSpec

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64")  # fmt: skip
MAX_ROW_BYTES = 1 << 30  # a row that declares more is a mistake or an attack


def plain(value: Any) -> Any:
    """`json.dumps`'s ``default``: numpy's numbers and arrays, mappings and tuples as JSON's own."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def dumps(value: Any, what: str, *, indent: int | None = None) -> bytes:
    """JSON of our own records.

    Raises:
        DataError: it holds something that JSON has no form for.
    """
    try:
        return json.dumps(value, default=plain, indent=indent).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{what} cannot be written as JSON ({error})", "give texts, numbers, lists and mappings"
        ) from error


def contents_to_json(contents: Contents) -> dict[str, Any]:
    """All of it; `contents_from_json` gives an equal one back (tuples inside ``about`` become lists)."""
    return {
        "streams": [dataclasses.asdict(stream) for stream in contents.streams.values()],
        "rate_hz": contents.rate_hz,
        "robot": contents.robot,
        "conventions": dataclasses.asdict(contents.conventions),
        "spec": None if contents.spec is None else contents.spec.to_json(),
        "about": dict(contents.about),
    }


def contents_from_json(data: Any, file: object = "") -> Contents:
    """Rebuild it, checking every field.

    Raises:
        DataError: a field is missing, of the wrong type, or says something senseless.
    """
    try:
        streams = [_stream(one) for one in _list(data["streams"])]
        conventions = data["conventions"]
        contents = Contents(
            {stream.key: stream for stream in streams},
            _rate(data["rate_hz"]),
            _text(data["robot"]),
            Conventions(
                action=_one_of(conventions["action"], ActionKind),
                rotation=_one_of(conventions["rotation"], Rotation),
                state_rotation=_one_of(conventions["state_rotation"], Rotation),
                frame=_text(conventions["frame"]),
                observed=_one_of(conventions["observed"], ("before", "after", "unknown")),
                orientation={
                    _text(key): _one_of(value, Orientation)
                    for key, value in _dict(conventions["orientation"]).items()
                },
                grippers=tuple(_gripper(one) for one in _list(conventions["grippers"])),
            ),
            None if data["spec"] is None else _spec(data["spec"]),
            _dict(data["about"]),
        )
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(
            f"what the set says of its contents is damaged ({type(error).__name__}: {error})",
            "run `regrip data repair`, or take the set from its source again",
            file=file,
        ) from error
    if len(contents.streams) != len(streams):
        raise DataError("two streams have one key", "the file was edited: take it again", file=file)
    return contents


def check_stream(spec: StreamSpec) -> None:
    """Refuse what no set of ours can hold.

    Raises:
        DataError: naming key and value.
    """
    if not spec.key or len(spec.key) > 120:
        raise DataError(f"a stream's key is {spec.key!r}", "give it one of 1 to 120 characters")
    if spec.kind != "text" and spec.dtype not in DTYPES:
        raise DataError(
            f"dtype {spec.dtype!r} cannot be stored", f"cast it to one of {', '.join(DTYPES)}", key=spec.key
        )
    shape, dtype = spec.shape, spec.dtype
    good = {
        "image": dtype == "uint8" and len(shape) == 3 and shape[2:] == (3,) and 0 not in shape,
        "depth": dtype in ("uint16", "float32") and len(shape) == 2 and 0 not in shape,
        "text": dtype == "str" and shape == (),
        "vector": True,
    }[spec.kind]
    if not good:
        raise DataError(
            f"a stream of kind {spec.kind} declares {dtype} {shape}",
            "images are uint8 (H,W,3), depth is uint16 or float32 (H,W), texts are str ()",
            key=spec.key,
        )
    itemsize = 4 if spec.kind == "text" else np.dtype(dtype).itemsize
    if len(shape) > 16 or math.prod(shape) * itemsize > MAX_ROW_BYTES or max(shape, default=0) > 1 << 31:
        raise DataError(f"one row declares the shape {shape}", "a row may have 1 GiB at most", key=spec.key)


def _stream(data: Mapping[str, Any]) -> StreamSpec:
    shape = tuple(_count(size) for size in _list(data["shape"]))
    spec = StreamSpec(
        key=_text(data["key"]),
        kind=_one_of(data["kind"], Kind),
        dtype=_text(data["dtype"]),
        shape=shape,
        names=tuple(_text(name) for name in _list(data["names"])),
        units=tuple(_text(unit) for unit in _list(data["units"])),
        rate_hz=_rate(data["rate_hz"]),
        about=_dict(data["about"]),
    )
    check_stream(spec)
    return spec


def _gripper(data: Mapping[str, Any]) -> Gripper:
    return Gripper(
        _text(data["stream"]),
        _count(data["index"]),
        _one_of(data["kind"], ("binary", "continuous", "width")),
        _number(data["open"]),
        _number(data["closed"]),
        _text(data["unit"]),
    )


def _spec(data: Mapping[str, Any]) -> RobotSpec:
    """`RobotSpec.from_json`, which checks the names of the fields, with their types checked first."""
    for name in ("name", "control_mode", "rotation", "gripper"):
        _text(data[name])
    _number(data["control_rate_hz"])
    for axis in (*_list(data["action"]), *_list(data["state"])):
        _fields(axis, name=_text, unit=_text, low=_number, high=_number)
    for camera in _list(data["cameras"]):
        _fields(camera, name=_text, height=_count, width=_count, orientation=_text)
    return RobotSpec.from_json(dict(data))


def _fields(data: Mapping[str, Any], **checks: Callable[[Any], object]) -> None:
    for name, check in checks.items():
        check(data[name])


def _one_of(value: Any, choices: Any) -> Any:
    allowed = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is no list")
    return list(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    if not math.isfinite(_number(value)) or value <= 0:
        raise ValueError(f"a rate of {value} Hz")
    return float(value)

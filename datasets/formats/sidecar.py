"""What a format has no field for, as JSON that its other readers do not look at, so that ours gives it back."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import (
    ActionKind,
    Contents,
    Conventions,
    Gripper,
    Kind,
    Orientation,
    Recording,
    Rotation,
    StreamSpec,
)
from ..spec import RobotSpec

VERSION = 1
_DTYPES = {"bool", "str"} | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_DTYPES |= {"float16", "float32", "float64"}
_MAX_ROW = 1 << 27  # entries of one row; a declared row above this is an attack or a mistake


def contents_to_json(contents: Contents) -> dict[str, Any]:
    """Everything that `Contents` says."""
    return {
        "version": VERSION,
        "streams": [dataclasses.asdict(stream) for stream in contents.streams.values()],
        "rate_hz": contents.rate_hz,
        "robot": contents.robot,
        "conventions": dataclasses.asdict(contents.conventions),
        "spec": contents.spec.to_json() if contents.spec else None,
        "about": dict(contents.about),
    }


def contents_from_json(said: Any, file: object) -> Contents:
    """Read `contents_to_json`'s form back, believing nothing.

    Raises:
        DataError: it is not of that form.
    """
    try:
        if not isinstance(said, dict) or said["version"] != VERSION:
            raise ValueError(f"expected an object with version {VERSION}")
        streams = [_stream(one) for one in said["streams"]]
        conventions = dict(said["conventions"])
        conventions["grippers"] = tuple(Gripper(**one) for one in conventions["grippers"])
        for name, allowed in (
            ("action", ActionKind),
            ("rotation", Rotation),
            ("state_rotation", Rotation),
        ):
            _one_of(conventions[name], allowed, name)
        for key, how in conventions["orientation"].items():
            _one_of(how, Orientation, f"orientation of {key}")
        _one_of(conventions["observed"], typing.Literal["before", "after", "unknown"], "observed")
        return Contents(
            streams={stream.key: stream for stream in streams},
            rate_hz=_rate(said["rate_hz"]),
            robot=str(said["robot"]),
            conventions=Conventions(**conventions),
            spec=RobotSpec.from_json(said["spec"]) if said["spec"] else None,
            about=dict(said["about"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _bad(file, error) from error


def _bad(file: object, error: Exception) -> DataError:
    return DataError(
        f"what regrip stored beside the data is damaged ({type(error).__name__}: {error})",
        "remove it to read the set as any other program would, or write the set again",
        file=file,
    )


def _one_of(value: Any, allowed: Any, name: str) -> None:
    if value not in typing.get_args(allowed):
        raise ValueError(f"{name} is {value!r}")


def _rate(value: Any) -> float | None:
    if value is not None and not (_number(value) and 0 < value < 1e6):
        raise ValueError(f"a rate of {value!r} Hz")
    return None if value is None else float(value)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _stream(said: Any) -> StreamSpec:
    _one_of(said["kind"], Kind, "kind")
    shape = tuple(said["shape"])
    size = 1
    for extent in shape:
        if not isinstance(extent, int) or isinstance(extent, bool) or extent < 0:
            raise ValueError(f"shape {shape}")
        size *= extent
    if said["dtype"] not in _DTYPES or size > _MAX_ROW or len(shape) > 8:
        raise ValueError(f"{said['key']!r} is {said['dtype']!r} of shape {shape}")
    return StreamSpec(
        key=str(said["key"]),
        kind=said["kind"],
        dtype=said["dtype"],
        shape=shape,
        names=tuple(str(name) for name in said["names"]),
        units=tuple(str(unit) for unit in said["units"]),
        rate_hz=_rate(said["rate_hz"]),
        about=dict(said["about"]),
    )


def episode_to_json(recording: Recording, **more: Any) -> str:
    """What a recording says of itself beside its streams, and `more`.

    Raises:
        DataError: `about` holds something that JSON cannot.
    """
    said = {
        "task": recording.task,
        "success": recording.success,
        "terminated": recording.terminated,
        "truncated": recording.truncated,
        "began_ns": recording.began_ns,
        "about": dict(recording.about),
        **more,
    }
    try:
        return json.dumps(said)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"what is said about the episode cannot be written as JSON ({error})",
            "leave only numbers, text, lists and objects in `about`",
        ) from error


@dataclasses.dataclass(frozen=True)
class EpisodeSaid:
    """`episode_to_json` read back.

    Attributes:
        fields: arguments of `Recording` beside its streams.
        more: the rest.
    """

    fields: Mapping[str, Any]
    more: Mapping[str, Any]


def episode_from_json(text: str | bytes, file: object, episode: int) -> EpisodeSaid:
    """Read `episode_to_json`'s form back, believing nothing.

    Raises:
        DataError: it is not of that form.
    """
    try:
        said = json.loads(text)
        fields: dict[str, Any] = {"task": said.pop("task"), "about": said.pop("about")}
        if not isinstance(fields["task"], str) or not isinstance(fields["about"], dict):
            raise ValueError("task is no text or about is no object")
        for name in ("success", "terminated", "truncated"):
            fields[name] = said.pop(name)
            if fields[name] is not None and not isinstance(fields[name], bool):
                raise ValueError(f"{name} is {fields[name]!r}")
        fields["began_ns"] = said.pop("began_ns")
        if type(fields["began_ns"]) not in (int, type(None)):
            raise ValueError(f"began_ns is {fields['began_ns']!r}")
        return EpisodeSaid(fields, said)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        bad = _bad(file, error)
        raise DataError(bad.what, bad.remedy, file=file, episode=episode) from error


def nominal_times(steps: int, rate_hz: float | None) -> NDArray[np.float64]:
    """Row over rate; where no rate is known, the row itself."""
    return np.arange(steps) / (rate_hz or 1.0)


def checked_times(values: Any, steps: int, *, file: object, episode: int) -> NDArray[np.float64]:
    """Stored times, which must be as many as there are steps, finite and never falling.

    Raises:
        DataError: they are not.
    """
    try:
        time = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            "times that are no numbers", "write the set again", file=file, episode=episode
        ) from error
    if time.shape != (steps,) or not np.isfinite(time).all() or (np.diff(time) < 0).any():
        raise DataError(
            f"times of shape {time.shape} for {steps} steps, or not finite, or falling",
            "the file was damaged or edited: write the set again",
            file=file,
            episode=episode,
        )
    return time

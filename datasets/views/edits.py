"""The operations of a view, and their form in JSON: ``{"op": "trim", "range": "1.5s:"}``."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin

from ..ledger import DataError
from .changing import Drop, Pad, Rename, Resize, Retask, Select
from .cutting import Every, Trim
from .idle import TrimIdle
from .resampled_layer import Resample
from .splitting import Delete, Keep, Split

_Rows: TypeAlias = Keep | Delete | Split | Trim | TrimIdle | Every | Resample
_Streams: TypeAlias = Rename | Drop | Select | Pad | Retask | Resize
Operation: TypeAlias = _Rows | _Streams
OPERATIONS: dict[str, type[Operation]] = {kind.name: kind for kind in get_args(Operation)}


def to_json(operation: Operation) -> dict[str, Any]:
    """``op`` and every field that is not at its default."""
    said: dict[str, Any] = {"op": operation.name}
    for field in dataclasses.fields(operation):
        value = getattr(operation, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or value != default:
            said[field.name] = _plain(value)
    return said


def from_json(data: Any, file: object = "") -> Operation:
    """Rebuild an operation.

    Raises:
        DataError: there is no such operation, or a field is unknown, missing or of another type.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("op"), str):
        raise DataError(f"{str(data)[:80]} is no operation", 'write op: and its name, "op: keep"', file=file)
    name = data["op"]
    if name not in OPERATIONS:
        raise DataError(f"no operation is called {name!r}", _nearest(name, list(OPERATIONS)), file=file)
    kind = OPERATIONS[name]
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key != "op" and key not in fields:
            raise DataError(f"{name} has no field {str(key)!r}", _nearest(str(key), list(fields)), file=file)
    values = {}
    for key, field in fields.items():
        if key in data:
            try:
                values[key] = _typed(hints[key], data[key])
            except TypeError as error:
                raise DataError(f"{key} of {name}: {error}", "correct it", file=file) from error
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DataError(f"{name} needs {key}", f"its fields are {', '.join(fields)}", file=file)
    try:
        return kind(**values)
    except DataError as error:
        raise DataError(f"{name}: {error.what}", error.remedy, file=file) from error


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{f'did you mean {near[0]!r}? ' if near else ''}There are {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _typed(hint: Any, value: Any) -> Any:
    """A value of the type that a field declares.

    Raises:
        TypeError: it is of another.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # whole numbers stay whole: a count of 1 and a share of 1.0 are not the same
        for option in sorted(inner, key=lambda option: option is float):
            try:
                return _typed(option, value)
            except TypeError:
                continue
    elif origin is Literal:
        if value in inner and isinstance(value, str):
            return value
        raise TypeError(f"{value!r} is none of {', '.join(map(repr, inner))}")
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(inner[0], each) for each in value)
    elif origin is Mapping and isinstance(value, Mapping):
        return {_typed(inner[0], key): _typed(inner[1], each) for key, each in value.items()}
    elif hint is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    elif hint is type(None) and value is None:
        return None
    elif (hint is float and isinstance(value, float) and math.isfinite(value)) or (
        hint in (bool, int, str) and type(value) is hint
    ):
        return value
    raise TypeError(f"{str(value)[:60]!r} is a {type(value).__name__}, expected {_words(hint)}")


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")

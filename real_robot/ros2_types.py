"""ROS 2's message types without ROS: made, written as CDR and read, by rosbags."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .messages import TransportError


def _full(kind: str) -> str:
    package, name = kind.split("/")
    return f"{package}/msg/{name}"


class Types:
    """ROS 2's message types: made, written and read.

    Args:
        distro: as in `DdsConfig`; types are the newest known ones without it.

    Raises:
        TransportError: rosbags is not installed.
    """

    def __init__(self, distro: str = "") -> None:
        try:
            typesys = importlib.import_module("rosbags.typesys")
            self._error = importlib.import_module("rosbags.serde").SerdeError
        except ImportError as error:
            raise TransportError(
                f"ROS 2 over DDS needs rosbags ({error}): pip install 'regrip[ros]'"
            ) from error
        stores = typesys.Stores
        self.store: Any = typesys.get_typestore(stores[f"ROS2_{distro.upper()}"] if distro else stores.LATEST)

    def fields(self, kind: str) -> list[tuple[str, Any]]:
        """Name and rosbags' description of each field of ``package/Name``.

        Raises:
            TransportError: there is no such type.
        """
        try:
            return list(self.store.fielddefs[_full(kind)][1])
        except (KeyError, ValueError) as error:
            raise TransportError(f"there is no message {kind!r} among those of ROS 2") from error

    def make(self, kind: str, **fields: Any) -> Any:
        """A message (`ros_messages.Make`); what is not given is zero or empty."""
        values = {name: _value(self, about, fields.pop(name, None)) for name, about in self.fields(kind)}
        if fields:
            raise TypeError(f"{kind} has no field {', '.join(fields)}")
        return self.store.types[_full(kind)](**values)

    def write(self, kind: str, message: Any) -> bytes:
        """A message as CDR, its four bytes of header included."""
        return bytes(self.store.serialize_cdr(message, _full(kind)))

    def read(self, kind: str, data: bytes) -> Any:
        """The message in CDR bytes.

        Raises:
            ValueError: there is none.
        """
        try:
            return self.store.deserialize_cdr(data, _full(kind))
        except self._error as error:
            raise ValueError(f"{len(data)} bytes that are no {kind}: {error}") from error

    def hash(self, kind: str) -> str:
        """Of the type, as ROS 2 makes it since Iron: ``RIHS01_`` and 64 hexadecimal digits."""
        return str(self.store.hash_rihs01(_full(kind)))


_NUMBERS = {"bool": "?", "byte": "u1", "char": "u1", "octet": "u1", "float32": "f4", "float64": "f8"} | {
    f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)
}


def _value(types: Types, about: Any, given: Any) -> Any:
    """A field as rosbags wants it: numbers of arrays in numpy's."""
    form, inner = about[0].name, about[1]
    if form == "BASE":
        empty: Any = "" if inner[0] == "string" else False if inner[0] == "bool" else 0
        return empty if given is None else given
    if form == "NAME":
        package, _, name = inner.split("/")
        return types.make(f"{package}/{name}") if given is None else given
    element, size = inner
    if element[0].name == "BASE" and element[1][0] in _NUMBERS:
        kind = np.dtype(_NUMBERS[element[1][0]])
        if given is None:
            return np.zeros(size if form == "ARRAY" else 0, kind)
        if isinstance(given, bytes | bytearray | memoryview):
            return np.frombuffer(given, kind)
        return np.asarray(given, kind)
    if given is None:
        return [_value(types, element, None) for _ in range(size if form == "ARRAY" else 0)]
    return list(given)

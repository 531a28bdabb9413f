"""Where things lie in a store, and what its zarr metadata says.

::

    set/zarr.json                       group; attributes["regrip"]: contents, columns, provenance
        zarr.backup.json                the same once more
        episodes.jsonl                  one line for each finished episode, which is there when its line is
        damaged.jsonl                   lines that `repair` took out
        ledger.json                     what was lost on the way here
        writer.lock                     held by the one process that writes
        streams/<key>/rows              zarr array of the stream's rows
                     /time              zarr array, float64 seconds since the recording began
                     /strings, /ends    of a text stream: its distinct texts in UTF-8, and where each ends
                     /episodes.jsonl    of a column added later: which rows belong to which episode
"""

from __future__ import annotations

import math
import re
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..contents_json import check_stream, contents_from_json, contents_to_json, dumps
from ..ledger import DataError, Problem
from ..recording import Contents, StreamSpec
from .files import read_json, replace

VERSION = 1
SHARD = 2048  # frames in one file
CODEC = "regrip.image"
_CHUNK_ROWS, _CHUNK_BYTES = 65_536, 4 << 20
_IMAGE_FILES = ("png", "tiff", "webp", "jxl", "jpeg")


@dataclass(frozen=True)
class Column:
    """A stream whose rows for earlier episodes were given afterwards, in a log of its own.

    Attributes:
        version: counts how often it was replaced; part of its folder's name.
        until: the first episode number that has the stream in its own line.
    """

    version: int
    until: int

    @classmethod
    def from_json(cls, data: Any) -> Column:
        version, until = data
        if type(version) is not int or type(until) is not int or not 0 <= version < 1 << 31:
            raise ValueError(f"a column {data!r}")
        return cls(version, until)


@dataclass
class Head:
    """What the group's attributes say.

    Attributes:
        contents: as given, and the columns added since.
        columns: streams that were added later, or replaced since.
        provenance: who made the set, when, and of what; and each column likewise.
        summary: number of episodes and content hash when it was last closed.
        others: attributes that are not ours; they stay.
    """

    contents: Contents
    columns: dict[str, Column]
    provenance: dict[str, Any]
    summary: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)

    def folder(self, root: Path, key: str) -> Path:
        """Where a stream lies."""
        column = self.columns.get(key)
        return root / "streams" / folder_name(key, column.version if column else 0)

    def until(self, key: str) -> int:
        """The first episode number whose own line says where its rows of a stream are."""
        column = self.columns.get(key)
        return column.until if column else 0

    def to_json(self) -> dict[str, Any]:
        ours = {
            "format": VERSION,
            "contents": contents_to_json(self.contents),
            "columns": {key: [one.version, one.until] for key, one in self.columns.items()},
            "provenance": self.provenance,
            "summary": self.summary,
        }
        return {"zarr_format": 3, "node_type": "group", "attributes": {**self.others, "regrip": ours}}

    @classmethod
    def from_json(cls, data: Any, file: object) -> Head:
        try:
            ours = data["attributes"]["regrip"]
            version = ours["format"]
            if version != VERSION:
                raise DataError(
                    f"format {version!r} of the store, this regrip reads {VERSION}",
                    "install the version of regrip that wrote it, or a later one",
                    file=file,
                )
            contents = contents_from_json(ours["contents"], file)
            columns = {key: Column.from_json(ours["columns"][key]) for key in ours["columns"]}
            if unknown := set(columns) - set(contents.streams):
                raise ValueError(f"unknown columns {sorted(unknown)}")
            others = {key: value for key, value in data["attributes"].items() if key != "regrip"}
            head = cls(contents, columns, dict(ours["provenance"]), dict(ours["summary"]), others)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"it does not describe a store of regrip ({type(error).__name__}: {error})",
                "run `regrip data repair`, or take the set from its source again",
                file=file,
            ) from error
        check_keys(head.contents)
        return head


def read_head(root: Path) -> tuple[Head, list[Problem]]:
    """The description of a set, or its copy where it is damaged.

    Raises:
        DataError: neither can be used.
    """
    try:
        return Head.from_json(read_json(root, root / "zarr.json"), root / "zarr.json"), []
    except FileNotFoundError:
        first = DataError("there is no zarr.json: this is no store of regrip", "check the path", file=root)
    except DataError as error:
        first = error
    try:
        head = Head.from_json(read_json(root, root / "zarr.backup.json"), root / "zarr.backup.json")
    except (FileNotFoundError, DataError):
        raise first from None
    return head, [
        Problem(f"zarr.json is damaged ({first.what})", "its copy was used", repaired=True, file="zarr.json")
    ]


def write_head(root: Path, head: Head) -> None:
    """Both copies; the second only when the first is whole."""
    content = dumps(head.to_json(), "the contents", indent=1)
    replace(root / "zarr.json", content)
    replace(root / "zarr.backup.json", content)


def provenance(source: str) -> dict[str, Any]:
    """Who makes something now, and of what."""
    try:
        regrip = version("regrip")
    except PackageNotFoundError:
        regrip = ""
    return {"regrip": regrip, "created": datetime.now(UTC).isoformat(timespec="seconds"), "source": source}


def check_keys(contents: Contents) -> None:
    """Refuse streams that cannot be held, or whose folders would be one on some file system.

    Raises:
        DataError: naming the keys.
    """
    seen: dict[str, str] = {}
    for key, spec in contents.streams.items():
        if key != spec.key:
            raise DataError(f"the stream {spec.key!r} is listed as {key!r}", "use one name", key=key)
        check_stream(spec)
        other = seen.setdefault(folder_name(key).casefold(), key)
        if other != key:
            raise DataError(f"the keys {other!r} and {key!r} differ in case alone", "rename one", key=key)


def folder_name(key: str, version: int = 0) -> str:
    """A stream's folder: letters, digits, dots, dashes and underscores stay, all else becomes %XX."""
    try:
        name = urllib.parse.quote(key, safe="").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise DataError(f"the key {key!r} is no valid text", "rename the stream", key=repr(key)) from error
    if re.match(r"\.|__", name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > 200:
        raise DataError("the stream's key is too long for a folder's name", "rename it", key=key)
    return f"{name}@{version}" if version else name


def row_bytes(spec: StreamSpec) -> int:
    """Bytes of one row of numbers."""
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def chunk_rows(spec: StreamSpec) -> int:
    """Rows in one file of a vector stream: about 4 MiB at most, as zarr-python reads all of it at once."""
    fit = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(row_bytes(spec), 1)))
    return 1 << (fit.bit_length() - 1)


def chunk_path(array: Path, number: int, dimensions: int) -> Path:
    """File of one chunk or shard; all but the first dimension are whole in it."""
    return array.joinpath("c", str(number), *["0"] * (dimensions - 1))


def is_frames(spec: StreamSpec) -> bool:
    return spec.kind in ("image", "depth")


def arrays_of(spec: StreamSpec) -> dict[str, StreamSpec]:
    """The vector arrays of a stream's folder, by name."""
    found = {"time": StreamSpec("time", "vector", "float64", ())}
    if spec.kind == "text":
        found["rows"] = StreamSpec("rows", "vector", "int32", ())
        found["strings"] = StreamSpec("strings", "vector", "uint8", ())
        found["ends"] = StreamSpec("ends", "vector", "int64", ())
    elif not is_frames(spec):
        found["rows"] = spec
    return found


def keeps_files(spec: StreamSpec) -> bool:
    """Whether an image stream needs our codec from the start: all but depth that is no image files."""
    return spec.kind == "image" or spec.about.get("codec") in _IMAGE_FILES


def vector_json(spec: StreamSpec, rows: int) -> dict[str, Any]:
    """``zarr.json`` of an array of numbers."""
    inner: dict[str, Any] = {"name": "bytes"}
    if np.dtype(spec.dtype).itemsize > 1:
        inner["configuration"] = {"endian": "little"}
    chunk = [chunk_rows(spec), *(max(size, 1) for size in spec.shape)]
    return _array_json(spec, rows, chunk, inner)


def frames_json(spec: StreamSpec, rows: int, *, files: bool, codec: str, quality: int) -> dict[str, Any]:
    """``zarr.json`` of an array of images: `files` with our codec, else zarr's own ``bytes`` and ``zstd``."""
    inner: list[dict[str, Any]]
    if files:
        inner = [{"name": CODEC, "configuration": {"codec": codec, "quality": quality}}]
    else:
        inner = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *spec.shape],
            "codecs": inner,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "start",
        },
    }
    return _array_json(spec, rows, [SHARD, *spec.shape], sharding)


def _array_json(spec: StreamSpec, rows: int, chunk: list[int], codec: dict[str, Any]) -> dict[str, Any]:
    fill: Any = False if spec.dtype == "bool" else 0.0 if spec.dtype.startswith("float") else 0
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *spec.shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [codec],
        "attributes": {},
        "storage_transformers": [],
    }


def same_array(found: Any, ours: dict[str, Any], *, frames: bool) -> bool:
    """Whether metadata says what `ours` says, whatever the number of rows (and what new images become)."""

    def shape_of(data: Any) -> Any:
        kept = {
            key: data.get(key)
            for key in ("zarr_format", "node_type", "data_type", "chunk_grid", "chunk_key_encoding")
        }
        codecs = data["codecs"]
        if frames:
            sharding = codecs[0]["configuration"]
            inner = [one["name"] for one in sharding["codecs"]]
            if inner not in ([CODEC], ["bytes", "zstd"]) or len(codecs) != 1:
                raise KeyError(f"codecs {inner}")
            index = [one["name"] for one in sharding["index_codecs"]]
            codecs = [codecs[0]["name"], sharding["chunk_shape"], index, sharding["index_location"]]
            endian = data["codecs"][0]["configuration"]["codecs"][0].get("configuration", {}).get("endian")
            codecs.append(endian == "big")
        return kept, codecs, data["shape"][1:], type(data["shape"][0]), data.get("storage_transformers") or []

    try:
        return bool(shape_of(found) == shape_of(ours))
    except (KeyError, TypeError, AttributeError, IndexError):
        return False

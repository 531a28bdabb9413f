"""The ``zarr.json`` files of one stream of a store, kept in step with its log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contents_json import contents_to_json, dumps
from ..formats import WriteOptions
from ..ledger import DataError
from ..recording import Contents, StreamSpec
from .files import read_json, replace
from .layout import (
    CODEC,
    arrays_of,
    frames_json,
    is_frames,
    keeps_files,
    same_array,
    vector_json,
)
from .log import Span

_OTHERS = ("attributes", "dimension_names", "fill_value")  # what a user of zarr-python may have set


@dataclass(frozen=True)
class End:
    """How far a stream is committed: rows, and of a text stream distinct texts and their bytes."""

    rows: int = 0
    strings: tuple[int, int] = (0, 0)

    def after(self, span: Span) -> End:
        """The further of both."""
        count, size = self.strings
        return End(max(self.rows, span.last), (max(count, span.strings[0]), max(size, span.strings[1])))


def count_of(name: str, end: End) -> int:
    """Entries of one array of a stream that is committed so far."""
    return {"ends": end.strings[0], "strings": end.strings[1]}.get(name, end.rows)


class ArrayMetadata:
    """The ``zarr.json`` files of one stream's folder."""

    def __init__(self, folder: Path, spec: StreamSpec, options: WriteOptions) -> None:
        self._folder, self._spec, self._options = folder, spec, options
        self._files = keeps_files(spec)
        self._written: dict[str, int] = {}
        self._others: dict[str, dict[str, Any]] = {}

    def ensure(self, end: End) -> None:
        """Make what is missing or unreadable, and set the shapes.

        Args:
            end: how far the stream is committed.

        Raises:
            OSError: the disk refuses.
        """
        root = self._folder.parent.parent.resolve()
        for name in self.all(end):
            path = self._folder / name / "zarr.json"
            try:
                found = read_json(root, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                continue
            except DataError:
                self._files = True  # reads what either codec wrote
                continue
            if not same_array(found, self.all(end)[name], frames=self._is_frames(name)):
                continue  # `require_ours` has let it pass, so it is to be written anew
            if self._is_frames(name):
                self._files = found["codecs"][0]["configuration"]["codecs"][0]["name"] == CODEC
            self._written[name] = found["shape"][0]
            self._others[name] = {one: found[one] for one in _OTHERS if one in found}
        ours = {"regrip": contents_to_json(Contents({"": self._spec}))["streams"][0]}
        for folder, attributes in ((self._folder.parent, {}), (self._folder, ours)):
            _ensure_group(root, folder / "zarr.json", attributes)
        self.write(end)

    def keep_files(self, end: End) -> None:
        """From now on the array holds image files; depth so far in zstd alone is read by the same codec."""
        if not self._files:
            self._files = True
            self._written.pop("rows", None)
            self.write(end)

    def write(self, end: End) -> list[Path]:
        """Set the shapes that are not right, without waiting for the disk: the log is what counts.

        Returns:
            The metadata's files.

        Raises:
            OSError: the disk refuses.
        """
        paths = []
        for name, metadata in self.all(end).items():
            path, rows = self._folder / name / "zarr.json", metadata["shape"][0]
            if self._written.get(name) != rows:
                replace(path, dumps(metadata, "an array", indent=1), durable=False)
                self._written[name] = rows
            paths.append(path)
        return paths

    def _is_frames(self, name: str) -> bool:
        return name == "rows" and is_frames(self._spec)

    def all(self, end: End) -> dict[str, dict[str, Any]]:
        """What each array's metadata should say."""
        found = {name: vector_json(one, count_of(name, end)) for name, one in arrays_of(self._spec).items()}
        if is_frames(self._spec):
            codec = (
                "zstd" if self._spec.kind == "depth" else "png" if self._options.images == "png" else "jpeg"
            )
            found["rows"] = frames_json(
                self._spec, end.rows, files=self._files, codec=codec, quality=self._options.quality
            )
        return {name: {**one, **self._others.get(name, {})} for name, one in found.items()}


def _ensure_group(root: Path, path: Path, attributes: dict[str, Any]) -> None:
    """A group's ``zarr.json`` that says this, and whatever else it says."""
    attributes = json.loads(dumps(attributes, "a stream"))  # tuples have become lists
    try:
        found = read_json(root, path)
        others = found["attributes"]
        if found["node_type"] == "group" and {**others, **attributes} == others:
            return
    except (FileNotFoundError, DataError, KeyError, TypeError):
        others = {}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {**others, **attributes}}
    replace(path, dumps(group, "a stream", indent=1), durable=False)

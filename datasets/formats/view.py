"""Views in files: ``something.view.yaml``, the sets it shows by paths relative to it, and operations.

regrip_view: 1
sets:
- path: ../demos
operations:
- {op: rename, keys: {action.joints: action}}
operations:
- {op: keep, episodes: success=true}
- {op: trim, range: "0.5s:"}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from ..ledger import DataError
from ..recording import Source
from ..views.edits import Operation, from_json, to_json
from ..views.view import Base, View, make_view
from . import Format, detect_format, get_format

SUFFIXES = (".view.yaml", ".view.yml", ".view.json")
_MOST_BYTES, _MOST_SETS, _DEEPEST = 1 << 20, 256, 8
_FIELDS = ("regrip_view", "sets", "operations", "differ")
_REMEDY = "make the view again with `regrip data edit`, or correct the file"

_opening: ContextVar[tuple[Path, ...]] = ContextVar("_opening", default=())
_opened: ContextVar[list[int] | None] = ContextVar("_opened", default=None)


def save_view(view: View, path: Path) -> None:
    """Write a view to a file. The sets it shows must lie on a disk, and are named relative to the file.

    Raises:
        DataError: the file exists, or has another ending, or a set has no path.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError("a view's file has another ending", f"name it {path.stem}{SUFFIXES[0]}", file=path)
    said: dict[str, Any] = {"regrip_view": 1, "sets": []}
    for base in view.bases:
        one: dict[str, Any] = {"path": _relative(base.source, path)}
        if base.source.format not in ("", "view"):
            one["format"] = base.source.format
        if base.operations:
            one["operations"] = [to_json(operation) for operation in base.operations]
        said["sets"].append(one)
    if view.differ:
        said["differ"] = list(view.differ)
    if view.operations:
        said["operations"] = [to_json(operation) for operation in view.operations]
    text = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=110)
    if len(text.encode()) > _MOST_BYTES:
        raise DataError(
            "the view would be larger than a megabyte", "use conditions instead of lists", file=path
        )
    try:
        # Written whole beside its place; a link does not replace a file that is there.
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        try:
            if path.exists():
                raise DataError("there is such a file already", "give another name, or remove it", file=path)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})", "write to a folder that exists", file=path
        ) from error


def open_view(path: Path) -> Source:
    """Open a view, and the sets it shows.

    Raises:
        DataError: the file is damaged, names itself, or a set of it cannot be opened.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"is no path ({error})", "check it", file=path) from error
    chain = _opening.get()
    if real in chain:
        raise DataError("the view shows itself", f"it is opened by {chain[-1].name}: {_REMEDY}", file=path)
    if len(chain) >= _DEEPEST:
        raise DataError(f"more than {_DEEPEST} views of views", "convert one of them", file=path)
    count = _opened.get()
    with _set(_opening, (*chain, real)), _set(_opened, [0] if count is None else count):
        said = _read(path)
        operations = _operations(said.get("operations", []), path)
        differ = said.get("differ", [])
        if not isinstance(differ, list) or not all(isinstance(each, str) for each in differ):
            raise DataError("differ is no list of names", _REMEDY, file=path)
        bases: list[Base] = []
        try:
            for one in said["sets"]:
                bases.append(_base(one, path))
            return make_view(bases, operations, differ=differ, path=str(path))
        except BaseException:
            for base in bases:
                base.source.close()
            raise


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class _Loader(yaml.SafeLoader):
    """YAML without anchors: a few lines of them spell a tree of any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not taken")
        return super().compose_node(parent, index)


def load_plain_yaml(text: str, file: object) -> Any:
    """YAML or JSON of plain values.

    Raises:
        DataError: it is neither.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError, TypeError) as error:
        words = str(error).splitlines()
        raise DataError(
            f"is no YAML ({words[0] if words else type(error).__name__})", _REMEDY, file=file
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if not path.is_file():
            raise DataError("there is no such file", "check the path", file=path)
        if path.stat().st_size > _MOST_BYTES:
            raise DataError("a view's file of more than a megabyte", _REMEDY, file=path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", _REMEDY, file=path) from error
    said = load_plain_yaml(text, path)
    if not isinstance(said, dict) or said.get("regrip_view") != 1:
        raise DataError("is no view that this version reads", "it begins with regrip_view: 1", file=path)
    for key in said:
        if key not in _FIELDS:
            raise DataError(
                f"has a field {str(key)[:60]!r}", f"the fields are {', '.join(_FIELDS)}", file=path
            )
    sets = said.get("sets")
    if not isinstance(sets, list) or not 1 <= len(sets) <= _MOST_SETS:
        raise DataError(f"sets: is no list of 1 to {_MOST_SETS}", _REMEDY, file=path)
    return said


def _operations(said: Any, path: Path) -> tuple[Operation, ...]:
    if not isinstance(said, list) or len(said) > _MOST_SETS:
        raise DataError(f"operations: is no list of up to {_MOST_SETS}", _REMEDY, file=path)
    return tuple(from_json(each, path) for each in said)


def _base(said: Any, path: Path) -> Base:
    if not isinstance(said, dict) or not set(said) <= {"path", "format", "operations"}:
        raise DataError(
            f"{str(said)[:80]} is no set", "give path, and if needed format and operations", file=path
        )
    where, name = said.get("path"), said.get("format", "")
    if not isinstance(where, str) or not where or "\x00" in where or not isinstance(name, str):
        raise DataError(
            f"a set with the path {str(where)[:80]!r}", "give a path relative to this file", file=path
        )
    if PurePosixPath(where).is_absolute() or PureWindowsPath(where).anchor:
        raise DataError(
            f"the path {where[:200]!r} is absolute",
            "write it relative to this file, so that both can be moved together",
            file=path,
        )
    opened = _opened.get()
    assert opened is not None, "set while a view is opened"
    opened[0] += 1
    if opened[0] > _MOST_SETS:
        raise DataError(f"more than {_MOST_SETS} sets in all", "convert some of them into one", file=path)
    base = path.parent / where
    operations = _operations(said.get("operations", []), path)
    try:
        there = base.exists()
    except OSError as error:
        raise DataError(f"{where[:200]!r} is no path ({error.strerror})", _REMEDY, file=path) from error
    if not there:
        raise DataError(
            f"the set {where!r} is not there", "it has moved: correct its path in this file", file=path
        )
    return Base(get_format(name or detect_format(base)).open(base), where, operations)


def _relative(source: Source, file: Path) -> str:
    if not source.path:
        raise DataError("shows a set that lies only in memory", "convert that first", file=file)
    try:
        relative = os.path.relpath(Path(source.path).resolve(), file.resolve().parent)
    except (OSError, ValueError, RuntimeError) as error:  # another drive
        raise DataError(
            f"{source.path} has no path from here ({error})", "write the view near it", file=file
        ) from error
    return relative.replace(os.sep, "/")


def _detect(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and path.is_file()


FORMAT = Format("view", "edits of other sets, in a small file", _detect, open_view)

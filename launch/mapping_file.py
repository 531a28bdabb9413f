"""Mapping files: `datasets.mapping.SetMapping` as YAML, with what is known of each stream as comments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..datasets.converting.mapping import Rotate, SetMapping, StreamMapping, propose
from ..datasets.ledger import DataError
from ..datasets.recording import Contents, Conventions, StreamSpec
from .config import ConfigError, from_dict

HEADER = """\
# What `regrip convert` makes of each stream. Edit it, then:
#   regrip convert {path} DST --to FORMAT --mapping THIS
#
# Every stream of the source must appear, under `streams` or under `dropped`. A stream may have:
#   source: [key, ...]        vectors are joined end to end
#   rotate: [{{first: 3, source: quaternion_xyzw, to: rotation_vector}}]
#   entries: [0, 1, 2]        which entries to keep, in this order
#   scale: [...], offset: [...], dtype: float32, names: [...], units: [...]
#   turn: rot180 | vflip | mirror        for images
# `edits` are done first, as in a view: for instance [{{op: resample, rate_hz: 20}}].
"""


@dataclasses.dataclass(frozen=True)
class _Read:
    """A mapping file, but its edits, which `views` reads."""

    streams: dict[str, StreamMapping]
    dropped: tuple[str, ...] = ()
    conventions: Conventions | None = None
    robot: str = ""
    rate_hz: float | None = None
    tasks: dict[str, str] = dataclasses.field(default_factory=dict)


def read_mapping(path: Path) -> SetMapping:
    """Read a mapping file.

    Raises:
        DataError: it cannot be read, is no YAML, or says something that a mapping cannot (with the nearest).
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise DataError(
            f"the mapping cannot be read ({error.strerror})",
            "`regrip inspect SRC --mapping FILE` writes one",
            file=path,
        ) from error
    except yaml.YAMLError as error:
        raise DataError(f"this is not YAML: {error}", "correct it", file=path) from error
    if not isinstance(data, dict):
        raise DataError(
            f"the mapping is a {type(data).__name__}, expected a table",
            "`regrip inspect SRC --mapping FILE` writes one",
            file=path,
        )
    edits = data.pop("edits", None) or []
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise DataError("edits is no list of tables", "write one table for each edit", file=path, key="edits")
    streams = data.get("streams")
    if isinstance(streams, dict):
        for value in streams.values():
            if isinstance(value, dict) and isinstance(value.get("source"), str):
                value["source"] = [value["source"]]
    try:
        read = from_dict(_Read, {k: v for k, v in data.items() if v is not None}, str(path))
    except ConfigError as error:
        raise DataError(str(error), "correct the mapping", file="") from error
    said = {field.name: getattr(read, field.name) for field in dataclasses.fields(_Read)}
    return SetMapping(**said, edits=tuple(edits))


def mapping_text(
    mapping: SetMapping, contents: Contents, path: str, notes: Mapping[str, str] | None = None
) -> str:
    """A mapping as YAML; `read_mapping` reads it back equal.

    Args:
        mapping: what to write.
        contents: of the source, for the comments.
        path: of the source.
        notes: field of the conventions to what was found about it, in words, written beside it.
    """
    lines = [HEADER.format(path=path), "streams:"]
    for key, how in mapping.streams.items():
        lines.append(f"  {_plain(key)}:  # {_about(contents.streams[how.source[0]])}")
        for field in dataclasses.fields(StreamMapping):
            value = getattr(how, field.name)
            if field.name == "source" or value not in ((), "", "none"):
                lines.append(f"    {field.name}: {_plain(_bare(value))}")
    lines.append(f"dropped: {_plain(list(mapping.dropped))}")
    if mapping.edits:
        lines += ["edits:", *(f"  - {_plain(edit)}" for edit in mapping.edits)]
    lines.append(f"robot: {_plain(mapping.robot or contents.robot)}")
    rate = mapping.rate_hz or contents.rate_hz
    lines.append(f"rate_hz: {_plain(rate)}" + ("" if rate else "  # not known: give it if you know it"))
    if mapping.tasks:
        lines += ["tasks:", *(f"  {_plain(old)}: {_plain(new)}" for old, new in mapping.tasks.items())]
    conventions = mapping.conventions or contents.conventions
    lines.append("conventions:  # what the source's numbers mean; `unknown` is a good answer, a guess is not")
    for field in dataclasses.fields(Conventions):
        note = (notes or {}).get(field.name, "")
        value = _plain(_bare(getattr(conventions, field.name)))
        lines.append(f"  {field.name}: {value}" + (f"  # {' '.join(note.split())}" if note else ""))
    return "\n".join(lines) + "\n"


def write_mapping(path: Path, source: Path, contents: Contents, notes: dict[str, str]) -> None:
    """Write the mapping that changes nothing, for the user to edit.

    Raises:
        DataError: the file exists.
    """
    if path.exists():
        raise DataError("the mapping file exists already", "name another, or remove it", file=path)
    path.write_text(mapping_text(propose(contents), contents, str(source), notes))


def _about(spec: StreamSpec) -> str:
    shape = "x".join(map(str, spec.shape)) or "one number"
    rate = f", {spec.rate_hz:g} Hz" if spec.rate_hz else ""
    names = f", {' '.join(spec.names)}" if spec.names else ""
    return " ".join(f"{spec.kind} {spec.dtype} {shape}{rate}{names}".split())[:150]


def _bare(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_bare(item) for item in value]
    if isinstance(value, Rotate) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return dataclasses.asdict(value)
    return value


def _plain(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**20, sort_keys=False)
    return text.removesuffix("...\n").strip()

"""What several sets hold together: every stream that any of them has, if they mean the same by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..ledger import DataError
from ..recording import Contents, Conventions, StreamSpec

_REMEDY = {
    "entries": "pad both with a mask (--pad KEY), or select the entries they share",
    "names": "rename or select entries so that they agree, or allow it",
    "shape": "resize the images (--resize), or pad or select entries",
    "rate_hz": "resample one of them, or allow it",
    "dtype": "convert one of them first",
    "kind": "rename one of them",
}


def united(sets: Sequence[Contents], names: Sequence[str], differ: Sequence[str] = ()) -> Contents:
    """The contents of all of them together.

    Args:
        sets: what each holds, after its own renaming and padding.
        names: of the sets, for messages.
        differ: what may differ, as a refusal names it (``rate_hz``, ``robot``, ``spec``,
            ``conventions.action``, ``names of action``, ``units of action``); it becomes unknown.

    Raises:
        DataError: naming everything that differs and may not.
    """
    found: dict[str, tuple[str, str]] = {}  # what differs: (in words, the remedy)
    merged = sets[0]
    for of, name in zip(sets[1:], names[1:], strict=True):
        for what, (a, b) in _differences(merged, of).items():
            if what not in differ and what not in found:
                hint = _REMEDY.get(what.split(" of ")[0], "")
                found[what] = (f"{what}: {a} in {names[0]}, {b} in {name}", hint)
        merged = _joined(merged, of)
    if found:
        words = "\n  ".join(words for words, _ in found.values())
        hints = "; ".join(dict.fromkeys(hint for _, hint in found.values() if hint))
        raise DataError(
            f"{' and '.join(dict.fromkeys(names))} do not mean the same:\n  {words}\n",
            f"{hints or 'Convert one of them with a mapping'}. To allow a difference, name it "
            f"(--differ '{next(iter(found))}'): it is then said to be unknown",
        )
    about = _shared([of.about for of in sets])
    about["sets"] = [
        {"name": name, "robot": of.robot, "about": dict(of.about)}
        for name, of in zip(names, sets, strict=True)
    ]
    return dataclasses.replace(merged, about=about)


def _differences(a: Contents, b: Contents) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in a.streams.keys() & b.streams.keys():
        mine, theirs = a.streams[key], b.streams[key]
        for name in ("kind", "dtype", "rate_hz"):
            if getattr(mine, name) != getattr(theirs, name) and not (
                name == "rate_hz" and (mine.rate_hz, theirs.rate_hz) == (a.rate_hz, b.rate_hz)
            ):
                found[f"{name} of {key}"] = getattr(mine, name), getattr(theirs, name)
        if mine.shape != theirs.shape:
            word = "entries" if mine.kind == "vector" else "shape"
            found[f"{word} of {key}"] = _entries(mine), _entries(theirs)
            continue
        for name in ("names", "units"):
            if getattr(mine, name) != getattr(theirs, name):
                found[f"{name} of {key}"] = getattr(mine, name), getattr(theirs, name)
    for name in ("rate_hz", "robot"):
        if getattr(a, name) != getattr(b, name):
            found[name] = repr(getattr(a, name)), repr(getattr(b, name))
    for field in dataclasses.fields(Conventions):
        mine_says, theirs_say = getattr(a.conventions, field.name), getattr(b.conventions, field.name)
        if field.name in ("orientation", "grippers"):  # only of streams that both have
            mine_says, theirs_say = _of_shared(mine_says, b), _of_shared(theirs_say, a)
        if mine_says != theirs_say:
            found[f"conventions.{field.name}"] = repr(mine_says), repr(theirs_say)
    if (a.spec is None) != (b.spec is None):
        found["spec"] = ("known", "unknown") if a.spec else ("unknown", "known")
    elif a.spec and b.spec and (differing := a.spec.differences(b.spec)):
        found["spec"] = "", "; ".join(differing)
    return dict(sorted(found.items()))


def _joined(a: Contents, b: Contents) -> Contents:
    streams: dict[str, StreamSpec] = dict(a.streams)
    for key, spec in b.streams.items():
        mine = streams.get(key)
        if mine is None or mine == spec:
            streams[key] = spec
            continue
        streams[key] = dataclasses.replace(
            mine,
            names=mine.names if mine.names == spec.names else (),
            units=mine.units if mine.units == spec.units else (),
            rate_hz=mine.rate_hz if mine.rate_hz == spec.rate_hz else None,
            about=_shared([mine.about, spec.about]),
        )
    said: dict[str, Any] = {}
    for name, unknown in (("action", "unknown"), ("rotation", "unknown"), ("state_rotation", "unknown"),
                          ("frame", ""), ("observed", "unknown")):  # fmt: skip
        mine_says, theirs_say = getattr(a.conventions, name), getattr(b.conventions, name)
        said[name] = mine_says if mine_says == theirs_say else unknown
    grippers = [g for g in a.conventions.grippers if g.stream not in b.streams or g in b.conventions.grippers]
    grippers += [g for g in b.conventions.grippers if g.stream not in a.streams]
    orientation = dict(a.conventions.orientation)
    for key, how in b.conventions.orientation.items():
        orientation[key] = how if key not in a.streams or orientation.get(key) == how else "unknown"
    for key in orientation.keys() & b.streams.keys():
        if key not in b.conventions.orientation:
            orientation[key] = "unknown"
    return Contents(
        streams,
        a.rate_hz if a.rate_hz == b.rate_hz else None,
        a.robot if a.robot == b.robot else "",
        Conventions(**said, orientation=orientation, grippers=tuple(grippers)),
        a.spec if a.spec and b.spec and not a.spec.differences(b.spec) else None,
        _shared([a.about, b.about]),
    )


def _of_shared(said: Any, other: Contents) -> Any:
    if isinstance(said, Mapping):
        return {key: how for key, how in said.items() if key in other.streams and how != "unknown"}
    return tuple(gripper for gripper in said if gripper.stream in other.streams)


def _shared(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all say alike."""
    first, *others = abouts
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def _entries(spec: StreamSpec) -> str:
    return f"{spec.shape} {list(spec.names)}" if spec.names else f"{spec.shape}"

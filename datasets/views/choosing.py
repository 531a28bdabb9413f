"""Which episodes: ``0:10,15,-1`` or one condition: ``success=true``, ``task=pick*``, ``seconds>=2``."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..ledger import DataError
from ..recording import Recording

FIELDS = ("success", "terminated", "truncated", "task", "split", "rows", "seconds", "about.<field>")
_OPERATOR = re.compile(r">=|<=|!=|==|=|<|>")
_RANGE = re.compile(r"\s*(-?\d{1,18})?\s*(?:(:)\s*(-?\d{1,18})?\s*(?::\s*(-?\d{1,18})?\s*)?)?")
_TRUTHS: dict[str, bool | None] = {"true": True, "false": False, "unknown": None}
_HELP = (
    "give ranges such as 0:10,15,-1, or one condition: success=true, task=pick*, split=train, rows>=20, "
    "seconds<30, about.operator=ann"
)


class Episodes(Protocol):
    """What conditions are asked of."""

    def __len__(self) -> int: ...
    def __getitem__(self, episode: int) -> Recording: ...
    def num_steps(self, episode: int) -> int: ...
    def seconds(self, episode: int) -> float: ...
    def task(self, episode: int) -> str: ...


@dataclass(frozen=True)
class Condition:
    """``field op value``, as it was written."""

    field: str
    op: str
    value: str


def parse(text: str) -> Condition | list[slice | int]:
    """Read a choice of episodes.

    Raises:
        DataError: it is neither ranges nor a condition on a field there is.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > 1_000_000:
        raise DataError(f"{str(text)[:60]!r} chooses no episodes", _HELP)
    found = _OPERATOR.search(text)
    if found is None:
        return [_range(part) for part in text.split(",")]
    field, value = text[: found.start()].strip(), text[found.end() :].strip()
    op = "=" if found[0] == "==" else found[0]
    if field not in FIELDS and not field.startswith("about."):
        near = difflib.get_close_matches(field, FIELDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"episodes have no {field!r} to choose by", f"{hint}{_HELP}")
    if field in ("rows", "seconds"):
        _number(field, value)
    elif op not in ("=", "!="):
        raise DataError(f"{field!r} has no order for {op!r}", "use = or !=, or choose by rows or seconds")
    if field in ("success", "terminated", "truncated") and value not in _TRUTHS:
        raise DataError(f"{field} is {value!r}", "it can be true, false or unknown")
    return Condition(field, op, value)


def choose(text: str, episodes: Episodes) -> list[int]:
    """The episodes that a text chooses, in their order.

    Raises:
        DataError: the text makes no sense, or names an episode that there is not.
    """
    parsed = parse(text)
    if isinstance(parsed, Condition):
        return [episode for episode in range(len(episodes)) if _holds(parsed, episodes, episode)]
    return numbered(text, len(episodes))


def numbered(text: str, count: int) -> list[int]:
    """The episodes that ranges name, in their order.

    Raises:
        DataError: they are no ranges, or there is no such episode among `count`.
    """
    parsed = parse(text)
    if isinstance(parsed, Condition):
        raise DataError(f"{text!r} is no range of episodes", _HELP)
    chosen: set[int] = set()
    for part in parsed:
        if isinstance(part, slice):
            chosen.update(range(*part.indices(count)))
        elif -count <= part < count:
            chosen.add(part % count)
        else:
            raise DataError(
                f"there is no episode {part}: the set has {count}, 0 to {count - 1}",
                "correct the choice of episodes",
            )
    return sorted(chosen)


def _range(text: str) -> slice | int:
    found = _RANGE.fullmatch(text)
    if found is None or not text.strip():
        raise DataError(f"{text[:60]!r} is no range of episodes", _HELP)
    first, colon, last, step = (part and (part if part == ":" else int(part)) for part in found.groups())
    if colon is None:
        return int(first)
    if step == 0:
        raise DataError(f"{text!r} steps by 0", _HELP)
    return slice(first, last, step)


def _number(field: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number != number:
        raise DataError(f"{field} is compared with {value!r}", "give a number")
    return number


def _holds(condition: Condition, episodes: Episodes, episode: int) -> bool:
    field, op, value = condition.field, condition.op, condition.value
    if field in ("rows", "seconds"):
        mine: float = episodes.num_steps(episode) if field == "rows" else episodes.seconds(episode)
        other = _number(field, value)
        return {
            "=": mine == other, "!=": mine != other, ">": mine > other, "<": mine < other,
            ">=": mine >= other, "<=": mine <= other,
        }[op]  # fmt: skip
    if field == "task":
        equal = fnmatch.fnmatchcase(episodes.task(episode), value)
    elif field in ("success", "terminated", "truncated"):
        equal = getattr(episodes[episode], field) is _TRUTHS[value]
    else:
        path = ["split"] if field == "split" else field.split(".")[1:]
        equal = _says(episodes[episode].about, path, value)
    return equal == (op == "=")


def _says(about: Mapping[str, Any], path: list[str], value: str) -> bool:
    """Whether a field of `about` is this text, or the JSON value that the text spells."""
    found: Any = about
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    if isinstance(found, str):
        return found == value
    try:
        return json.dumps(found, sort_keys=True) == json.dumps(json.loads(value), sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return False

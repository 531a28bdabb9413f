"""Which episodes a view keeps, and which part of a split each belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..ledger import DataError
from .choosing import Episodes, choose, parse


@dataclass(frozen=True)
class Keep:
    """Keep these episodes, in their order.

    Attributes:
        episodes: ``0:10,15,-1`` or a condition, ``success=true``.
    """

    name: ClassVar[str] = "keep"
    episodes: str

    def __post_init__(self) -> None:
        parse(self.episodes)


@dataclass(frozen=True)
class Delete:
    """Leave these episodes out.

    Attributes:
        episodes: ``0:10,15,-1`` or a condition, ``success=false``.
    """

    name: ClassVar[str] = "delete"
    episodes: str

    def __post_init__(self) -> None:
        parse(self.episodes)


@dataclass(frozen=True)
class Split:
    """Say of every episode which part it belongs to (``about["split"]``); `Keep` takes one.

    Attributes:
        parts: name to a choice of episodes (``0:10``, ``task=pick*``); a count (50), drawn of what choices
            leave; a share (0.9) of what choices and counts leave; or ``rest``.
        seed: of the drawing.
        by: what is drawn: episodes, or tasks, so that no two parts share one.
        of: how many episodes there were when the split was made. A set that has changed since would be drawn
            anew, and what was trained on could be tested on: it is refused.
    """

    name: ClassVar[str] = "split"
    parts: Mapping[str, int | float | str]
    seed: int = 0
    by: Literal["episode", "task"] = "episode"
    of: int | None = None

    def __post_init__(self) -> None:
        if not self.parts or not all(self.parts) or list(self.parts.values()).count("rest") > 1:
            raise DataError(
                f"parts {dict(self.parts)}", "give names and shares: train=0.9 val=0.1, one may be rest"
            )
        for name, size in self.parts.items():
            if isinstance(size, str):
                if size != "rest":
                    parse(size)
            elif not (0 < size <= 1 if isinstance(size, float) else size >= 1):
                raise DataError(f"part {name} is {size}", "give a share above 0 and up to 1, or a count")
        if not 0 <= self.seed < 1 << 63:
            raise DataError(f"seed {self.seed}", "give a number from 0 on")

    def labels(self, episodes: Episodes) -> list[str]:
        """The part of each episode.

        Raises:
            DataError: an episode is in two parts or none, a part is empty, or the set has changed.
        """
        count = len(episodes)
        if self.of is not None and self.of != count:
            raise DataError(
                f"the split was made of {self.of} episodes, and there are {count} now",
                f"make the split again, or keep the first ones before it (keep '0:{self.of}')",
            )
        found = [""] * count
        for name, size in self.parts.items():
            if not isinstance(size, str) or size == "rest":
                continue
            for episode in choose(size, episodes):
                if found[episode]:
                    raise DataError(
                        f"is in the parts {found[episode]} and {name}",
                        "choose so that no episode is in two",
                        episode=episode,
                    )
                found[episode] = name
        free = [episode for episode in range(count) if not found[episode]]
        groups: dict[object, list[int]] = {}
        for episode in free:
            groups.setdefault(episodes.task(episode) if self.by == "task" else episode, []).append(episode)
        drawn = [groups[key] for key in (sorted(groups, key=str) if self.by == "task" else groups)]
        order = np.random.default_rng(self.seed).permutation(len(drawn)).tolist()
        at = 0
        for name, size in self._sizes(len(drawn)).items():
            for index in order[at : at + size]:
                for episode in drawn[index]:
                    found[episode] = name
            at += size
        missing = [episode for episode in range(count) if not found[episode]]
        if missing:
            raise DataError(
                f"{len(missing)} episodes are in no part, the first is {missing[0]}",
                "let one part be rest, or the shares sum to 1",
            )
        for name in self.parts:
            if name not in found:
                raise DataError(
                    f"part {name!r} gets none of {count} episodes", "give it more, or leave it out"
                )
        return found

    def _sizes(self, count: int) -> dict[str, int]:
        """How many of those drawn each part gets: counts as asked, shares by the largest remainder."""
        sizes = {name: size for name, size in self.parts.items() if isinstance(size, int)}
        shares = {name: size for name, size in self.parts.items() if isinstance(size, float)}
        if sum(sizes.values()) > count or sum(shares.values()) > 1 + 1e-9:
            raise DataError(
                f"parts {dict(self.parts)} of {count} {self.by}s", "the counts or shares are more than all"
            )
        left = count - sum(sizes.values())
        exact = {name: share * left for name, share in shares.items()}
        sizes |= {name: int(size + 1e-9) for name, size in exact.items()}
        spare = round(sum(exact.values())) - sum(sizes[name] for name in shares)
        for name in sorted(shares, key=lambda name: sizes[name] - exact[name])[:spare]:
            sizes[name] += 1
        rest = [name for name, size in self.parts.items() if size == "rest"]
        return sizes | {name: count - sum(sizes.values()) for name in rest}

"""Layers of one set: fewer episodes, fewer rows, other streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Loss, Problem
from ..recording import Recording
from .changing import Drop, Made, Pad, Rename, Resize, Retask, Select
from .choosing import choose
from .cutting import Cut, Every, Numbers, Trim, leading
from .idle import TrimIdle
from .layers import Facts, Layer, RecordingNumbers, numbers
from .picking import pick, shifted
from .row_maps import RowMap, row_map
from .splitting import Delete, Keep, Split


class _Mapped:
    """Random access where every row is a row below: what `Chosen` and `CutRows` share."""

    base: Layer
    _maps: dict[str, RowMap]

    def _map(self, key: str) -> RowMap:
        if key not in self._maps:
            self._maps[key] = self._made_map(key)
        return self._maps[key]

    def _made_map(self, key: str) -> RowMap:
        raise NotImplementedError

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._map(key).bounds

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.base.vectors(key, self._map(key).base[rows])

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        mapped = self._map(key)
        time = self.base.times(key, mapped.base[rows])
        return time if mapped.shift_s is None else shifted(time, mapped.shift_s[rows])

    def image(self, key: str, row: int) -> NDArray[Any]:
        return self.base.image(key, int(self._map(key).base[row]))


class Chosen(_Mapped):
    """Some of the episodes, in their order."""

    def __init__(self, base: Layer, op: Keep | Delete | Split) -> None:
        self.base, self.op, self.contents, self.has_rows = base, op, base.contents, base.has_rows
        self._maps = {}
        self.labels: list[str] = []
        if isinstance(op, Split):
            self.labels = op.labels(Facts(base))
            self.episodes = list(range(len(base)))
        else:
            chosen = choose(op.episodes, Facts(base))
            left_out = set(chosen)
            self.episodes = (
                chosen if isinstance(op, Keep) else [e for e in range(len(base)) if e not in left_out]
            )
        if not self.episodes:
            raise DataError(
                f"{op.name} {getattr(op, 'episodes', '')!r} leaves no episode of {len(base)}",
                "choose others (--dry-run shows what is chosen)",
            )
        place = {below: episode for episode, below in enumerate(self.episodes)}
        self.problems: Sequence[Problem] = [
            problem if at is None else dataclasses.replace(problem, episode=place[at])
            for problem in base.problems
            if (at := problem.episode) is None or at in place
        ]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, episode: int) -> Recording:
        recording = self.base[self.episodes[episode]]
        if not self.labels:
            return recording
        return dataclasses.replace(recording, about={**recording.about, "split": self.labels[episode]})

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return self.base.num_rows(self.episodes[episode])

    def losses(self) -> list[Loss]:
        gone = len(self.base) - len(self.episodes)
        said = f"episodes left out: {self.op.name} {getattr(self.op, 'episodes', '')}"
        return [*self.base.losses(), *([Loss("", "dropped", said, gone)] if gone else [])]

    def tasks(self) -> Sequence[str]:
        tasks = self.base.tasks()
        return [tasks[episode] for episode in self.episodes]

    def _made_map(self, key: str) -> RowMap:
        bounds = self.base.bounds(key)[self.episodes]
        whole = [range(int(n)) for n in bounds[:, 1] - bounds[:, 0]]
        return row_map(bounds[:, 0], whole, np.zeros(len(bounds)))


class CutRows(_Mapped):
    """Every episode with some of its rows."""

    def __init__(self, base: Layer, op: Trim | TrimIdle | Every) -> None:
        self.base, self.op, self.has_rows = base, op, base.has_rows
        self.contents, self.problems = op.contents(base.contents), base.problems
        self._maps = {}
        self._cuts: dict[int, Cut] = {}
        chosen = op.episodes if isinstance(op, Trim) else ""
        self._only = set(choose(chosen, Facts(base))) if chosen else None

    def cut(self, episode: int, one: Numbers | None = None) -> Cut:
        """What stays of an episode.

        Raises:
            DataError: nothing would.
        """
        if episode not in self._cuts:
            one = one or numbers(self.base, episode)
            rows = one.rows()
            if (self._only is not None and episode not in self._only) or not leading(rows):
                cut = Cut({key: range(count) for key, count in rows.items()})
            else:
                cut = self.op.cut(one, self.base.contents)
                if not len(cut.rows[leading(rows)]):
                    raise DataError(
                        f"nothing is left of its {rows[leading(rows)]} rows ({self.op.name})",
                        f"leave the episode out first (--delete {episode}), or cut less",
                        episode=episode,
                    )
            self._cuts[episode] = cut
        return self._cuts[episode]

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, episode: int) -> Recording:
        recording = self.base[episode]
        cut = self.cut(episode, RecordingNumbers(recording))
        streams = {
            key: pick(track, cut.rows[key], cut.shift_s)
            for key, track in recording.streams.items()
            if len(cut.rows[key])
        }
        began, task = recording.began_ns, recording.task
        if began is not None:
            began += round(cut.shift_s * 1e9)
        if "task" in streams and not isinstance(streams["task"].rows, np.ndarray):
            task = str(streams["task"].rows[0])
        return dataclasses.replace(recording, streams=streams, began_ns=began, task=task)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(rows) for key, rows in self.cut(episode).rows.items() if len(rows)}

    def losses(self) -> list[Loss]:
        found = self.base.losses()
        for episode in range(len(self)):
            before, after = self.base.num_rows(episode), self.num_rows(episode)
            gone = sum(before.values()) - sum(after.values())
            if gone:
                found.append(Loss("", "dropped", f"rows left out: {self.op.name}", 1, gone))
        return found

    def tasks(self) -> Sequence[str]:
        spec = self.contents.streams.get("task")
        if spec is not None and spec.kind == "text":
            return [self[episode].task for episode in range(len(self))]
        return self.base.tasks()

    def _made_map(self, key: str) -> RowMap:
        cuts = [self.cut(episode) for episode in range(len(self))]
        first = self.base.bounds(key)[:, 0]
        rows = [cut.rows.get(key, range(0)) for cut in cuts]
        return row_map(first, rows, np.array([cut.shift_s for cut in cuts]))


class Changed:
    """The same rows, shown otherwise."""

    def __init__(self, base: Layer, op: Rename | Drop | Select | Pad | Resize | Retask) -> None:
        self.base, self.op, self.has_rows = base, op, base.has_rows
        self.change = op.change(base.contents)
        self.contents = self.change.contents
        self.problems = base.problems
        self.retask = op if isinstance(op, Retask) else Retask()
        facts = Facts(base)
        self._given = {
            episode: task for text, task in self.retask.episodes.items() for episode in choose(text, facts)
        }

    def __len__(self) -> int:
        return len(self.base)

    def _task(self, episode: int, task: str) -> str:
        return self._given.get(episode, self.retask.tasks.get(task, task))

    def __getitem__(self, episode: int) -> Recording:
        recording = self.base[episode]
        streams = {
            key: made.track(recording.streams[made.key])
            for key, made in self.change.streams.items()
            if made.key in recording.streams
        }
        words = streams.get("task")
        if words is not None and isinstance(self.op, Retask) and not isinstance(words.rows, np.ndarray):
            rows = [self._task(episode, str(words.rows[row])) for row in range(len(words))]
            streams["task"] = dataclasses.replace(words, rows=rows)
        return dataclasses.replace(recording, streams=streams, task=self._task(episode, recording.task))

    def num_rows(self, episode: int) -> Mapping[str, int]:
        rows = self.base.num_rows(episode)
        return {key: rows[made.key] for key, made in self.change.streams.items() if made.key in rows}

    def losses(self) -> list[Loss]:
        found = self.base.losses()
        for loss in self.change.losses:
            rows = [self.base.num_rows(episode).get(loss.stream, 0) for episode in range(len(self))]
            found.append(dataclasses.replace(loss, episodes=sum(map(bool, rows)), rows=sum(rows)))
        return found

    def tasks(self) -> Sequence[str]:
        return [self._task(episode, task) for episode, task in enumerate(self.base.tasks())]

    def _made(self, key: str) -> Made:
        if key not in self.change.streams:
            raise DataError(f"no stream is called {key!r}", f"there are {', '.join(self.change.streams)}")
        return self.change.streams[key]

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self.base.bounds(self._made(key).key)

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        made = self._made(key)
        return made.vectors(self.base.vectors(made.key, rows))

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.base.times(self._made(key).key, rows)

    def image(self, key: str, row: int) -> NDArray[Any]:
        made = self._made(key)
        return made.image(self.base.image(made.key, row))

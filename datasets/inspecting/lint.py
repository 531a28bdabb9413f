"""What is wrong with a set, in words, with what to do about it."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..ledger import Problem
from ..recording import Contents
from .lint_episodes import EpisodeFacts
from .row_summaries import JITTER, Clock, EntryRange

_FAR = 5.0  # widths of the bulk (q01 to q99) that an outlier lies beyond it
_IDLE_S = 1.0  # at the start or the end of an episode
_IDLE_SHARE = 0.2


def width_differs(episode: int, key: str, seen: int, expected: int) -> Problem:
    """A stream with rows of another width in this episode than before."""
    return Problem(
        f"rows of {seen} numbers, expected {expected}",
        "leave the episode out, or map the two widths to streams of their own",
        episode=episode,
        key=key,
    )


def find_problems(
    contents: Contents,
    facts: Sequence[EpisodeFacts],
    tasks: Mapping[str, int],
    clocks: Sequence[Clock],
    ranges: Sequence[EntryRange],
) -> list[Problem]:
    """What is wrong with episodes, tasks, times and ranges: one line for one fault, with its first place."""
    return [
        *_of_episodes(facts),
        *of_tasks(tasks),
        *_of_clocks(clocks),
        *_of_ranges(ranges, contents),
        *_of_idleness(facts),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _list(episodes: Sequence[int]) -> str:
    shown = ", ".join(map(str, episodes[:5]))
    return shown + (f" and {len(episodes) - 5} more" if len(episodes) > 5 else "")


def _of_episodes(facts: Sequence[EpisodeFacts]) -> list[Problem]:
    found = []
    uneven: dict[str, list[EpisodeFacts]] = defaultdict(list)
    broken: dict[str, list[EpisodeFacts]] = defaultdict(list)
    alike: dict[bytes, list[int]] = defaultdict(list)
    for one in facts:
        for key in one.uneven:
            uneven[key].append(one)
        for key in one.broken:
            broken[key].append(one)
        if one.digest:
            alike[one.digest].append(one.episode)
    for key, those in uneven.items():
        more = those[0].uneven[key]
        found.append(
            Problem(
                f"{_count(abs(more), 'row')} {'more' if more > 0 else 'fewer'} than other streams of the "
                f"same rate in {_count(len(those), 'episode')} ({_list([f.episode for f in those])})",
                "align by time when converting (a policy per stream in the mapping), or leave them out",
                episode=those[0].episode, key=key,
            )
        )  # fmt: skip
    for key, those in broken.items():
        said, held = those[0].broken[key]
        found.append(
            Problem(
                f"the set's index says {said} rows, {held} are there, in {_count(len(those), 'episode')}",
                "what is there is used: take the set from its source again if rows are missing",
                episode=those[0].episode, key=key,
            )
        )  # fmt: skip
    for same in alike.values():
        if len(same) > 1:
            found.append(
                Problem(
                    f"episodes {_list(same)} hold exactly the same numbers",
                    "keep one of them: copies count double in training and may leak into a test split",
                    episode=same[1],
                )
            )
    short = [f.episode for f in facts if f.steps <= 1]
    if short:
        found.append(
            Problem(
                f"at most one step in {_count(len(short), 'episode')} ({_list(short)})",
                "leave them out: there is no action chunk to learn in them",
                episode=short[0],
            )
        )
    return found


def of_tasks(tasks: Mapping[str, int]) -> list[Problem]:
    """Instructions that are one and the same but for case, white space, a full stop or a typing error."""
    found = []
    groups: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        groups[_folded(task)].append(task)
    for same in groups.values():
        if len(same) > 1:
            said = ", ".join(f"{t!r} ({tasks[t]})" for t in same)
            found.append(
                Problem(
                    f"one task is written in {len(same)} ways: {said}",
                    f"retask to one of them, say {max(same, key=lambda t: tasks[t])!r}",
                    key="task",
                )
            )
    counts = Counter({folded: sum(tasks[t] for t in same) for folded, same in groups.items()})
    common = [folded for folded, _ in counts.most_common(200)]
    for rare in common:
        for other in common:
            if counts[rare] * 4 <= counts[other] and _typing_error(rare, other):
                found.append(
                    Problem(
                        f"task {groups[rare][0]!r} ({counts[rare]}) may be a typing error for "
                        f"{groups[other][0]!r} ({counts[other]})",
                        "retask it if it is",
                        key="task",
                    )
                )
    if tasks.get("", 0) and len(tasks) > 1:
        found.append(
            Problem(
                f"no task in {_count(tasks[''], 'episode')}, but in others",
                "retask them: a policy that reads instructions would learn to act on none",
                key="task",
            )
        )
    return found


def _folded(task: str) -> str:
    return re.sub(r"[\s_]+", " ", task).strip().rstrip(".!").strip().casefold()


def _typing_error(a: str, b: str) -> bool:
    """One word differs, by one letter or two neighbours swapped, and is too long to be another word."""
    left, right = a.split(), b.split()
    if len(left) != len(right):
        return False
    differ = [(x, y) for x, y in zip(left, right, strict=True) if x != y]
    if len(differ) != 1 or min(map(len, differ[0])) < 5 or re.search(r"\d", "".join(differ[0])):
        return False
    return difflib.SequenceMatcher(None, *differ[0]).ratio() >= 1 - 2.2 / sum(map(len, differ[0]))


def _of_clocks(clocks: Sequence[Clock]) -> list[Problem]:
    found = []
    for clock in clocks:
        key = clock.streams[0] + (f" and {len(clock.streams) - 1} more" if len(clock.streams) > 1 else "")
        if clock.falls:
            found.append(
                Problem(
                    f"times run backwards {_count(clock.falls, 'time')}",
                    "sort by time, or take another clock of the source (header stamps, log times)",
                    episode=clock.falls_at[0], frame=clock.falls_at[1], key=key,
                )
            )  # fmt: skip
        if clock.repeats:
            found.append(
                Problem(
                    f"the time of the row before in {_count(clock.repeats, 'row')}",
                    "resample, or take another clock of the source",
                    key=key,
                )
            )
        if clock.gaps:
            found.append(
                Problem(
                    f"{_count(clock.gaps, 'gap')} in time in {_count(clock.steps, 'step')}, the longest "
                    f"{clock.longest_s:.3g} s where {1 / clock.measured_hz:.3g} s is usual",
                    "split or leave out the episodes, or resample with a limit on staleness",
                    episode=clock.longest_at[0], frame=clock.longest_at[1], key=key,
                )
            )  # fmt: skip
        if clock.nominal or not math.isfinite(clock.measured_hz):
            continue
        if clock.jitter_ms / 1000 * clock.measured_hz > JITTER:
            found.append(
                Problem(
                    f"times are uneven: 5 % of the steps are more than {clock.jitter_ms:.3g} ms off the "
                    f"usual {1000 / clock.measured_hz:.3g} ms",
                    "resample on conversion to a format with one rate",
                    key=key,
                )
            )
        if clock.rate_hz and not 0.95 < clock.measured_hz / clock.rate_hz < 1.05:
            found.append(
                Problem(
                    f"the set says {clock.rate_hz:g} Hz, its times say {clock.measured_hz:.4g} Hz",
                    "give the true rate in the mapping: at the wrong one a policy moves at the wrong speed",
                    key=key,
                )
            )
    return found


def _of_ranges(ranges: Sequence[EntryRange], contents: Contents) -> list[Problem]:
    found = []
    by_stream: dict[str, list[EntryRange]] = defaultdict(list)
    for one in ranges:
        by_stream[one.stream].append(one)
    for key, entries in by_stream.items():
        bad = [e for e in entries if e.nan or e.inf]
        if bad:
            counts = ", ".join(
                f"{e.label}: {e.nan} NaN" + (f", {e.inf} infinite" if e.inf else "") for e in bad[:4]
            )
            found.append(
                Problem(
                    f"values that are no finite numbers ({counts}{', ...' if len(bad) > 4 else ''})",
                    "trim or leave out those rows: one of them makes a training loss NaN",
                    key=key,
                )
            )
        still = [e for e in entries if e.constant and e.rows > 1]
        label = contents.streams[key].kind == "vector" and (
            key.startswith(("action", "observation")) or key == "state"
        )
        if still and label:
            words = "all its entries are" if len(still) == len(entries) else _those(still)
            found.append(
                Problem(
                    f"{words} constant ({', '.join(f'{e.min:g}' for e in still[:4])})",
                    "drop them in the mapping if they mean nothing; do not normalise by their range",
                    key=key,
                )
            )
        for entry in entries:
            found += _outlier(entry)
    return found


def _those(entries: Sequence[EntryRange]) -> str:
    shown = ", ".join(e.label for e in entries[:4]) + (" and others" if len(entries) > 4 else "")
    return f"{shown} {'is' if len(entries) == 1 else 'are'}"


def _outlier(entry: EntryRange) -> list[Problem]:
    width = entry.q99 - entry.q01
    if not width > 0:
        return []
    found = []
    for value, at, edge in (
        (entry.min, entry.min_at, entry.q01 - _FAR * width),
        (entry.max, entry.max_at, entry.q99 + _FAR * width),
    ):
        if (value < edge) if edge < entry.q01 else (value > edge):
            found.append(
                Problem(
                    f"{entry.label} reaches {value:.4g}, far beyond the usual {entry.q01:.4g} to "
                    f"{entry.q99:.4g}",
                    "look at the row: trim it if a sensor failed, and do not normalise by min and max",
                    episode=at[0], frame=at[1], key=entry.stream,
                )
            )  # fmt: skip
    return found


def _of_idleness(facts: Sequence[EpisodeFacts]) -> list[Problem]:
    found = []
    for end, words in (("idle_start_s", "at the start"), ("idle_end_s", "at the end")):
        idle = [f for f in facts if getattr(f, end) >= _IDLE_S]
        if idle:
            seconds = sorted(getattr(f, end) for f in idle)
            found.append(
                Problem(
                    f"nothing moves for {_IDLE_S:g} s or more {words} of {_count(len(idle), 'episode')} "
                    f"(median of them {float(np.median(seconds)):.3g} s; {_list([f.episode for f in idle])})",
                    "trim them with the idle detector: a policy learns to wait",
                    episode=idle[0].episode,
                )
            )
    steps = sum(max(f.steps - 1, 0) for f in facts)
    share = sum(f.idle for f in facts) / steps if steps else 0.0
    if share > _IDLE_SHARE:
        found.append(
            Problem(
                f"nothing moves in {share:.1%} of all steps",
                "trim idle stretches, or drop steps without motion when training",
            )
        )
    return found

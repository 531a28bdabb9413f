"""`regrip rewards compare`: which rewards can be trusted on these episodes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ..datasets.episode import Rollouts, concatenate
from ..datasets.protocols import Reward
from ..datasets.rollout_files import load_rollouts
from ..datasets.starts import StartState, refuse_test
from ..datasets.statistics import Rate
from ..rewards.diagnostics import auc, ranking_curves
from ..rewards.presets import OF_TEXTS, PRESETS, Materials, build
from ..rewards.readings import Held, Subject, learns, subject
from ..rewards.trust import STEPS, Findings, examine, lost_after_success
from ..rewards.verdict import sentence
from .config import parse_options
from .durable import explain, write_json
from .materials import JudgeConfig, open_judge
from .policies import open_policy
from .progress import Progress

FORMAT = "regrip rewards comparison 1"


@dataclass(frozen=True)
class Options:
    """`regrip rewards compare`.

    Attributes:
        data: files of episodes, as `regrip rewards record` writes them; one for each policy.
        rewards: names with commas; by default every reward whose needs are met. One that needs a fitted model
            is named with its folder: ``rewind=runs/critics/rewind``.
        camera: for rewards that look through one; the first of the data if none is given.
        judge: a vision-language model, for rewards that ask one.
        out: folder for the page and the numbers.
        learn_from: files of other episodes, for rewards that learn from what they see. Without it, such
            rewards learn from half of the start states in `data`, and all are judged on the other half.
        encoder: a policy, whose vision tower is the encoder of rewards that need one.
        shown: failures and successes to draw for each reward.
        threads: of the models on a CPU.
        device: of the encoder: ``cpu`` or ``cuda``.
    """

    data: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    rewards: str = ""
    camera: str = ""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    learn_from: tuple[Path, ...] = ()
    encoder: str | None = None
    shown: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 3
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Data:
    """Episodes to judge rewards on.

    Attributes:
        rollouts: the episodes.
        policies: who played each.
        num_invalid: left out, because the simulation broke down.
        learned: episodes that rewards which learn saw first; None if no reward learns.
        halved: those are the other half of the same files.
    """

    rollouts: Rollouts
    policies: Sequence[str]
    num_invalid: int
    learned: Rollouts | None = None
    halved: bool = False


@dataclass(frozen=True)
class Judged:
    """One reward's findings, or why there are none.

    Attributes:
        name: of the reward.
        findings: None if it refused the episodes.
        sentence: what to use it for; or its error.
        learned: it saw `Data.learned` first.
    """

    name: str
    findings: Findings | None
    sentence: str
    learned: bool = False


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip rewards compare",
        description="Which rewards can be trusted on these episodes? A table, a page, one sentence for each.",
    )
    torch.set_num_threads(options.threads)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", options.out) from error
    data = read_files(options.data)
    materials = Materials(
        camera=options.camera or next(iter(data.rollouts.images)),
        encoder=_encoder(options),
        judge=open_judge(options.judge),
    )
    made = {
        name: build(name, replace(materials, model=model))
        for name, model in _named(options.rewards, materials).items()
    }
    learners = [name for name, (_, reward) in made.items() if learns(reward)]
    if learners:
        data = set_apart(data, options.learn_from, f"the reward {learners[0]!r}, which learns,")
    with Progress("asking") as bar:
        judged = judge(made, data, bar)
    print_table(judged, data)
    from .rewards_page import render

    write_json(options.out / "rewards.json", to_json(judged, data, options))
    page = options.out / "rewards.html"
    render(page, judged, data, facts(data), options.shown)
    print(f"page: {page}\nnumbers: {options.out / 'rewards.json'}")
    return 1 if all(one.findings is None for one in judged) else 0


def read_files(paths: Sequence[Path]) -> Data:
    """The valid episodes of all files.

    Raises:
        RolloutFileError: a file is missing or damaged.
        ValueError: there are no episodes, or two files do not go together.
    """
    if not paths:
        raise ValueError("no files of episodes are given; `regrip rewards record` writes one")
    parts: list[Rollouts] = []
    policies: list[str] = []
    num_invalid, next_group = 0, 0
    for path in paths:
        rollouts, policy = load_rollouts(path)
        num_invalid += int(rollouts.invalid.sum())
        rollouts = rollouts.take(np.flatnonzero(~rollouts.invalid))
        if parts and (other := _differs(parts[0], rollouts)):
            raise ValueError(f"{paths[0]} and {path} do not go together: {other}. Compare them apart")
        group = np.unique(rollouts.group, return_inverse=True)[1].astype(np.int64) + next_group
        next_group += len(np.unique(group))
        parts.append(replace(rollouts, group=group))
        policies += [policy] * len(rollouts)
    if not policies:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no valid episode; record some with `regrip rewards record`"
        )
    return Data(concatenate(parts), policies, num_invalid)


def _differs(first: Rollouts, second: Rollouts) -> str:
    """What keeps two batches from being one; empty if nothing does."""
    for what, a, b in (
        ("cameras", sorted(first.images), sorted(second.images)),
        *(
            (f"pictures of {name}", first.images[name].shape[2:], second.images[name].shape[2:])
            for name in first.images.keys() & second.images.keys()
        ),
        ("length of the state", first.state.shape[-1], second.state.shape[-1]),
        ("length of the simulator's state", first.privileged.shape[-1], second.privileged.shape[-1]),
        ("actions", first.action.shape[2:], second.action.shape[2:]),
    ):
        if a != b:
            return f"{what}: {a} and {b}"
    return ""


def _encoder(options: Options) -> Any:
    if options.encoder is None:
        return None
    from ..vla.vision import VisionTower

    return VisionTower(open_policy(options.encoder, options.device)[0])


def _named(wanted: str, materials: Materials) -> dict[str, Path | None]:
    """The rewards to compare, each with the folder of its fitted model."""
    if not wanted:
        return {
            name: None for name, preset in PRESETS.items()
            if all(getattr(materials, need) for need in preset.needs) and name not in OF_TEXTS
        }  # fmt: skip
    found: dict[str, Path | None] = {}
    for part in wanted.split(","):
        name, _, model = part.strip().partition("=")
        if name:
            found[name] = Path(model) if model else None
    return found


def set_apart(data: Data, learn_from: Sequence[Path], who: str) -> Data:
    """Divide what is learned from and what is judged: no start state is in both.

    Raises:
        SplitError: a start is of the test split; such are only for rewards that do not learn.
        ValueError: the files share start states, or there is too little to divide.
    """
    refuse_test(data.rollouts.start, who)
    starts = data.rollouts.start
    if learn_from:
        learned = read_files(learn_from).rollouts
        refuse_test(learned.start, who)
        both = sorted(set(starts) & set(learned.start))
        if both:
            raise ValueError(
                f"{len(both)} start states are both in the data and in --learn-from, for instance {both[0]}: "
                f"{who} must be judged on starts that it did not see"
            )
        return replace(data, learned=learned)
    first = every_second(starts)
    rows, rest = (
        np.flatnonzero([(start in first) is inside for start in starts]) for inside in (True, False)
    )
    if not len(rest):
        raise ValueError(
            f"{who} needs other episodes than those it is judged on, and each task has only one start "
            "state; give more, or --learn-from FILE"
        )
    return Data(
        data.rollouts.take(rest),
        [data.policies[int(row)] for row in rest],
        data.num_invalid,
        data.rollouts.take(rows),
        halved=True,
    )


def every_second(starts: Sequence[StartState]) -> set[StartState]:
    """Every second start state of each task, beginning with the first."""
    return {
        start
        for task in {start.task for start in starts}
        for start in sorted({start for start in starts if start.task == task})[::2]
    }


def judge(made: Mapping[str, tuple[Any, Reward]], data: Data, bar: Progress) -> list[Judged]:
    """Examine each reward; one that refuses the episodes is reported, and the others go on."""
    done, total = 0, STEPS * len(made)
    found: list[Judged] = []
    for number, (name, (scorer, reward)) in enumerate(made.items()):

        def on_step(what: str, name: str = name) -> None:
            nonlocal done
            bar.update(done, total, f"{name}, {what}")
            done += 1

        try:
            learned = learns(reward)
            on_trial = (
                taught(name, scorer, reward, data.learned) if learned else subject(name, scorer, reward)
            )
            findings = examine(on_trial, data.rollouts, policies=data.policies, on_step=on_step)
            said = sentence(findings)
            if learned and data.learned is not None and findings.num_judged < findings.num_episodes:
                said += f" It had {int(data.learned.success.sum())} successes to learn from."
            found.append(Judged(name, findings, said, learned))
        except (ValueError, OSError) as error:
            found.append(Judged(name, None, f"It could not be asked: {error}"))
        done = STEPS * (number + 1)
        bar.update(done, total, name)
    return found


def taught(name: str, scorer: Any, reward: Reward, learned: Rollouts | None) -> Subject:
    """A reward that has seen the episodes set apart, and takes in no more."""
    assert learned is not None, "set apart where a reward learns"
    reward(replace(learned, start=[replace(start, split="train") for start in learned.start]))
    return subject(name, scorer, Held(reward))


def facts(data: Data) -> dict[str, Any]:
    """What the numbers were measured on."""
    rollouts = data.rollouts
    tasks = [start.task for start in rollouts.start]
    lost = lost_after_success(rollouts)
    nothing = np.zeros(len(rollouts))
    chance = float(ranking_curves(nothing, rollouts.success, tasks, np.ones((1, len(rollouts))))[1][0])
    return {
        "episodes": len(rollouts),
        "start_states": len(set(rollouts.start)),
        "successes": int(rollouts.success.sum()),
        "splits": sorted({start.split for start in rollouts.start}),
        "policies": {
            name: _rate(rollouts, np.array(data.policies) == name) for name in sorted(set(data.policies))
        },
        "tasks": {name: _rate(rollouts, np.array(tasks) == name) for name in sorted(set(tasks))},
        "cameras": sorted(rollouts.images),
        "invalid": data.num_invalid,
        "auroc_of_shortness": auc(-rollouts.num_steps.astype(float), rollouts.success, tasks),
        "auprc_of_chance": None if np.isnan(chance) else chance,
        "lost_after_success": asdict(lost),
        "learned_from": None
        if data.learned is None
        else {
            "episodes": len(data.learned),
            "successes": int(data.learned.success.sum()),
            "splits": sorted({start.split for start in data.learned.start}),
            "other_half": data.halved,
        },
    }


def _rate(rollouts: Rollouts, which: NDArray[np.bool_]) -> dict[str, int]:
    return {"successes": int(rollouts.success[which].sum()), "episodes": int(which.sum())}


def to_json(judged: Sequence[Judged], data: Data, options: Options) -> dict[str, Any]:
    """All numbers, and every episode's score."""
    rollouts = data.rollouts
    return {
        "format": FORMAT,
        "files": [str(path) for path in options.data],
        "learn_from": [str(path) for path in options.learn_from],
        "data": facts(data),
        "episodes": [
            {**asdict(start), "policy": policy, "success": bool(success), "steps": int(steps)}
            for start, policy, success, steps in zip(
                rollouts.start, data.policies, rollouts.success, rollouts.num_steps, strict=True
            )
        ],
        "rewards": {one.name: _json_of(one) for one in judged},
    }


def _json_of(one: Judged) -> dict[str, Any]:
    if one.findings is None:
        return {"sentence": one.sentence, "error": True}
    findings = one.findings
    return {
        "sentence": one.sentence,
        "error": False,
        "learned": one.learned,
        "relative": findings.relative,
        "reads_verdict": findings.reads_verdict,
        "judged": findings.num_judged,
        "successes": findings.num_successes,
        "start_states": findings.num_starts,
        "numbers": {name: asdict(number) for name, number in findings.numbers.items()},
        "reliability": [
            {"score": b.score, "successes": b.rate.successes, "episodes": b.rate.trials}
            for b in findings.bins
        ],
        "scores": [
            float(score) if fine else None
            for score, fine in zip(findings.reading.score, findings.reading.judged, strict=True)
        ],
    }


def print_table(judged: Sequence[Judged], data: Data, console: Console | None = None) -> None:
    """One row for each reward, then one sentence for each."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 140
    known = facts(data)
    title = (
        f"{known['episodes']} episodes from {known['start_states']} starts ({', '.join(known['splits'])}), "
        f"{Rate(known['successes'], known['episodes']).percent} succeeded; by {', '.join(known['policies'])}"
    )
    columns = ("auroc", "voc", "wins_reversed", "wins_frozen", "wins_words", "dithering", "ece")
    heads = ("AUROC", "VOC", "> reversed", "> frozen", "> wrong words", "to and fro", "ECE")
    table = Table(title=title)
    table.add_column("reward", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in judged:
        numbers = (
            []
            if one.findings is None
            else [str(one.findings.numbers[name]).replace(" [", "\n[") for name in columns]
        )
        table.add_row(one.name, *numbers)
    console.print(table)
    for one in judged:
        console.print(f"[bold]{one.name}[/bold]: {one.sentence}", highlight=False)
    if known["learned_from"]:
        console.print(f"note: {learned_note(known)}", highlight=False)


def learned_note(known: Mapping[str, Any]) -> str:
    learned = known["learned_from"]
    whence = "the other half of the start states" if learned["other_half"] else "other files"
    return (
        f"rewards that learn saw {learned['episodes']} episodes ({learned['successes']} successes, "
        f"{', '.join(learned['splits'])}) from {whence}; no start state is in both"
    )

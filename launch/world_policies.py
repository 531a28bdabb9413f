"""Policies that play from the same starts in a world model and in the simulator it was learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.protocols import VectorEnv
from ..datasets.starts import StartState
from ..sim.collect import collect
from ..sim.world.clips import Clips
from ..sim.world.env import WorldEnv
from ..sim.world.judging import Ranking, rank
from ..sim.world.model import WorldModel
from ..sim.world.starts import Starts
from ..vla.pi0 import Pi0Policy
from . import environments
from .config import from_dict
from .environments import EnvConfig
from .policies import open_policy
from .progress import Progress
from .world_data import starts_named

# What may follow a policy's name after an @, and the field of its settings.
CHANGES: dict[str, tuple[str, type]] = {
    "noise": ("noise_level", float),
    "initial_noise": ("initial_noise", float),
    "denoise_steps": ("denoise_steps", int),
}


@dataclass(frozen=True)
class Player:
    """A policy under the name it was given by."""

    name: str
    policy: Pi0Policy


def open_players(named: str, model: WorldModel, device: str) -> list[Player]:
    """Policies named with commas: a folder or a shipped name, and perhaps ``@noise=0.6``.

    Raises:
        CheckpointError: there is none of a name.
        SpecMismatchError: one is of another robot than the model.
        ValueError: a change that does not exist.
    """
    players = []
    for part in filter(None, (one.strip() for one in named.split(","))):
        name, *changed = part.split("@")
        changes: dict[str, Any] = {}
        for change in changed:
            key, _, value = change.partition("=")
            if key not in CHANGES:
                raise ValueError(
                    f"policy {part!r}: nothing is called {key!r} there; write NAME@KEY=VALUE with one of "
                    f"{', '.join(CHANGES)}"
                )
            field, kind = CHANGES[key]
            try:
                changes[field] = kind(value)
            except ValueError as error:
                raise ValueError(f"policy {part!r}: {key} is {value!r}, expected a number") from error
        policy, published = open_policy(name, device, **changes)
        model.spec.require_match(policy.spec, "the world model", f"policy {published.path}")
        players.append(Player(part, policy))
    return players


def compare(
    players: Sequence[Player], model: WorldModel, starts: Starts, clips: Clips, env: str, suite: str, *,
    most: int, workers: int, slots: int,
) -> Ranking:  # fmt: skip
    """Every policy plays, sampling with the same noise, from where the recordings began: here and there.

    Args:
        players: the policies.
        model: the world.
        starts: that came with it, for the lengths of its tasks.
        clips: unseen recordings that name the start states of the simulator.
        env: the simulator.
        suite: of its tasks.
        most: start states.
        workers: of the simulator.
        slots: of both.

    Raises:
        ValueError: the recordings name no start states, or not those of this suite.
    """
    spec = model.spec
    said = {
        "name": env, "suite": suite, "image_size": spec.cameras[0].height,
        "control_mode": spec.control_mode, "workers": workers, "slots": slots,
    }  # fmt: skip
    config = from_dict(EnvConfig, said, "regrip world check")
    environments.contract(config).require_match(spec, f"environment {env}/{suite}", "the world model")
    named = starts_named(clips.start)
    rows = np.array([row for row, start in enumerate(named) if start is not None][:most], np.int64)
    if not len(rows):
        raise ValueError(
            "the recordings do not say from which start states of a simulator they were played, so nothing "
            "can be played from there again; record with `regrip data record`, or leave out --policies"
        )
    real = [start for start in (named[int(row)] for row in rows) if start is not None]
    for task in {start.task for start in real}:
        environments.require_known(task, environments.task_names(config), f"task of suite {suite}")
    inside, dreamt = from_recordings(model, starts, clips, rows, [start.task for start in real])
    outcomes: tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]] = ([], [])
    pool = environments.open_pool(config, model.config.chunk)
    with WorldEnv(model, inside, num_slots=slots) as world, pool:
        places: tuple[tuple[str, VectorEnv, list[StartState]], ...] = (
            ("imagining", world, dreamt),
            ("simulating", pool, real),
        )
        for player in players:
            for index, (title, place, begins) in enumerate(places):
                with Progress(f"{title} {player.name}") as bar:
                    rollouts, _ = collect(
                        place, player.policy, begins, range(len(begins)), run_key=("world check",),
                        greedy=False, policy_version=0, on_episode=bar.update,
                    )  # fmt: skip
                outcomes[index].append(rollouts.success)
    how = f"policies that sample, in the model and in {env}/{suite}, from the same {len(rows)} starts"
    return rank(how, [player.name for player in players], *outcomes, paired=True)


def from_recordings(
    model: WorldModel, starts: Starts, clips: Clips, rows: NDArray[np.int64], tasks: Sequence[str]
) -> tuple[Starts, list[StartState]]:
    """Starts for `WorldEnv` at the beginnings of episodes `rows`, and what it calls each of them."""
    names = tuple(sorted(set(tasks)))
    limits = dict(zip(starts.tasks, starts.limits, strict=True))
    frames = clips.beginnings(rows)
    instruction = {task: clips.task[int(row)] for task, row in zip(tasks, rows, strict=True)}
    inside = Starts(
        pictures=np.asarray(clips.pictures[frames]),
        state=clips.state[frames],
        task=np.array([names.index(task) for task in tasks]),
        decision=np.zeros(len(rows), np.int64),
        origin=np.arange(len(rows)),
        split=np.ones(len(rows), np.int64),  # select
        tasks=names,
        instructions=tuple(instruction[task] for task in names),
        limits=tuple(limits.get(task, model.calibration.horizon) for task in names),
    )
    called: dict[int, StartState] = {}
    for task in names:
        for index in range(tasks.count(task)):
            start = StartState(task, "select", index)
            called[inside.row(start, False)] = start
    return inside, [called[row] for row in range(len(rows))]

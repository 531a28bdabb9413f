"""Does imagination obey its commands, and does it stay within what a robot can do?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.spec import RobotSpec
from .checks import Seen, reseen
from .estimates import Curve, Estimate, curve, estimate, mean_of, ratio_of
from .model import WorldModel
from .referees import Referees

_ROWS = 256
_CASES = 1500
_ASKED = 0.25  # of the usual command: a smaller one asks for no direction
_NOTHING = "no decision has a frame behind it"


@dataclass(frozen=True)
class Following:
    """Do imagined pictures show what was commanded? Agreement times motion term, see `inverse`.

    Attributes:
        explained: share of the commands' variance that the inverse model explains on real unseen frames.
        real: agreement on real frames; `imagined`: on imagined ones; `others`: of imagined ones with commands
            from elsewhere, what obedience must exceed; `frozen`: of a still picture with the commands.
        obeyed: (imagined - others) / (real - others): 1 if imagination obeys as the recorded world does.
        curves: ``real``, ``imagined`` and ``others`` by decisions ahead.
    """

    explained: Estimate
    real: Estimate
    imagined: Estimate
    others: Estimate
    frozen: Estimate
    obeyed: Estimate
    curves: dict[str, Curve]


def following(model: WorldModel, referees: Referees, seen: Seen, temperature: float = 1.0) -> Following:
    """Chunks read back from pairs of pictures, real and imagined, against those commanded."""
    windows, dreamt = seen.played.windows, seen.shown
    episode, decision = np.nonzero(seen.known)
    elsewhere = np.roll(np.arange(len(episode)), len(episode) // 2)
    chunk = model.normal_action(windows.action)  # (B,L,H,A)
    score = {name: np.full(seen.known.shape, np.nan) for name in ("real", "imagined", "others", "frozen")}
    off, spread = (np.full(seen.known.shape, np.nan) for _ in range(2))
    for first in range(0, len(episode), _ROWS):
        rows = slice(first, first + _ROWS)
        at = episode[rows], decision[rows]
        now = real_tokens(model, seen, windows.frame[at])
        then = real_tokens(model, seen, seen.after[at])
        before = dreamt[at[0], np.maximum(at[1] - 1, 0)].to(model.device).float()
        begins = torch.from_numpy(at[1] == 0).to(model.device)
        before[begins] = now[begins]  # imagination begins at a real frame
        after = dreamt[at].to(model.device).float()
        state = model.normal_state(seen.clips.state[windows.frame[at]])
        asked, other = chunk[at], chunk[episode[elsewhere[rows]], decision[elsewhere[rows]]]
        for name, a, b, wanted in (
            ("real", now, then, asked), ("imagined", before, after, asked),
            ("others", before, after, other), ("frozen", before, before, asked),
        ):  # fmt: skip
            agrees, moved = referees.inverse.score(a, b, state, wanted, temperature)
            score[name][at] = agrees * moved
        with torch.no_grad():
            off[at] = (referees.inverse(now, then) - asked).square().mean((1, 2)).cpu().numpy()
        spread[at] = asked.square().mean((1, 2)).cpu().numpy()
    left = ratio_of(off, spread, _NOTHING)
    return Following(
        explained=left.complement(),
        real=mean_of(score["real"], _NOTHING),
        imagined=mean_of(score["imagined"], _NOTHING),
        others=mean_of(score["others"], _NOTHING),
        frozen=mean_of(score["frozen"], _NOTHING),
        obeyed=ratio_of(score["imagined"] - score["others"], score["real"] - score["others"], _NOTHING),
        curves={name: curve(score[name]) for name in ("real", "imagined", "others")},
    )


def real_tokens(model: WorldModel, seen: Seen, rows: NDArray[np.int64]) -> Tensor:
    """Of frames `rows` (N,) of the episodes, where the model computes."""
    return seen.tokens[torch.from_numpy(rows)].to(model.device).float()


# ---- the same start, the other way ---------------------------------------------------------------------


@dataclass(frozen=True)
class Counterfactual:
    """From one recorded frame, the recorded chunk and its mirror image: motion of hand or joints negated.

    Attributes:
        cases: frames from which the recorded chunk asked for motion.
        recorded: share of cases in which the recorded state moved along the command: what can be expected.
        along: share in which the imagined one did.
        against: share in which the state imagined with the mirrored chunk moved the other way.
        pictures: share in which the state read from the pictures of the mirrored chunk lies against the
            command from that of the recorded chunk.
    """

    cases: int
    recorded: Estimate
    along: Estimate
    against: Estimate
    pictures: Estimate


def mirrored_axes(spec: RobotSpec) -> list[tuple[int, int]]:
    """Pairs of an action's dimension and the state's that it moves; empty if the names do not say.

    In end-effector control the dimensions in metres whose names end in x, y and z; else equal names.
    """
    if not spec.control_mode.startswith("ee"):
        state = {axis.name: i for i, axis in enumerate(spec.state)}
        return [(i, state[a.name]) for i, a in enumerate(spec.action) if a.unit == "rad" and a.name in state]

    def places(axes: object) -> dict[str, int]:
        found: dict[str, list[int]] = {}
        for index, axis in enumerate(axes):  # type: ignore[var-annotated,arg-type]
            if axis.unit == "m" and axis.name[-1:].lower() in ("x", "y", "z"):
                found.setdefault(axis.name[-1:].lower(), []).append(index)
        return {letter: one[0] for letter, one in found.items() if len(one) == 1}

    action, state = places(spec.action), places(spec.state)
    return [(action[letter], state[letter]) for letter in "xyz" if letter in action and letter in state]


def mirrored(
    spec: RobotSpec, axes: list[tuple[int, int]], action: NDArray[np.float32], state: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Chunks (N,H,A) with the motion along `axes` negated, from states (N,S); within the action's limits."""
    out = action.copy()
    for of_action, of_state in axes:
        if spec.control_mode in (
            "ee_position",
            "joint_position",
        ):  # a target: on the other side of where it is
            out[..., of_action] = 2 * state[:, None, of_state] - out[..., of_action]
        else:
            out[..., of_action] *= -1
    limited: NDArray[np.float32] = np.clip(out, spec.action_low, spec.action_high)
    return limited


@torch.no_grad()
def counterfactual(model: WorldModel, referees: Referees, seen: Seen) -> Counterfactual:
    """The same starts, any decision of the unseen episodes, with the chunk and with its mirror image."""
    spec, windows = model.spec, seen.played.windows
    axes = mirrored_axes(spec)
    episode, decision = np.nonzero(seen.known)
    if not axes or not len(episode):
        nothing = Estimate(None, why="no dimension of the action has one of the state that it moves by name")
        return Counterfactual(0, nothing, nothing, nothing, nothing)
    action, state = windows.action[episode, decision], seen.clips.state[windows.frame[episode, decision]]
    of_action, of_state = (np.array(part) for part in zip(*axes, strict=True))
    command = action[..., of_action].sum(1)
    if spec.control_mode in ("ee_position", "joint_position"):
        command = action[:, -1][:, of_action] - state[:, of_state]
    size = np.linalg.norm(command, axis=1)
    usual = float(np.quantile(size, 0.75))
    rows = np.flatnonzero(size > max(_ASKED * usual, 1e-9))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CASES)).astype(np.int64)]
    parts: list[list[NDArray[np.floating]]] = []
    for first in range(0, len(rows), _ROWS):
        some = rows[first : first + _ROWS]
        at = episode[some], decision[some]
        tokens = real_tokens(model, seen, windows.frame[at])
        words = model.words([seen.clips.task[int(one)] for one in at[0]])
        moved, read = [], []
        for chunk in (action[some], mirrored(spec, axes, action[some], state[some])):
            normal = model.normal_state(state[some])
            memory = model.dynamics.begin(tokens, normal, tokens, normal)
            given = model.normal_action(chunk)
            _, step = model.step(memory, given, words)
            felt = model.physical_state(step.state)[:, of_state] - state[some][:, of_state]
            moved.append((felt * command[some]).sum(1))
            shown = model.physical_state(referees.reader(reseen(model, step.tokens)))[:, of_state]
            read.append((shown * command[some]).sum(1))
        real = seen.clips.state[seen.after[at]][:, of_state] - state[some][:, of_state]
        parts.append([(real * command[some]).sum(1), *moved, read[1] - read[0]])
    along, imagined, other, pictures = (np.concatenate(one) for one in zip(*parts, strict=True))
    names, place = np.unique(episode[rows], return_inverse=True)

    def share(true: NDArray[np.bool_]) -> Estimate:
        won = np.bincount(place, true, len(names))
        count = np.bincount(place, minlength=len(names))
        return estimate(lambda drawn: float(won[drawn].sum() / count[drawn].sum()), len(names), _NOTHING)

    return Counterfactual(
        len(rows), share(along > 0), share(imagined > 0), share(other < 0), share(pictures < 0)
    )


# ---- physical consistency ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Physics:
    """Is what is imagined possible, and do picture and proprioception tell one story?

    Attributes:
        outside: share of imagined decisions with a dimension outside of the recorded range, a twentieth
            wider; `outside_real`: of the real unseen ones.
        fast: share with a dimension that changes faster than any recorded one did; `fast_real` likewise.
        apart: unit to root mean square gap of the state read from pictures and the state: imagined pictures
            with imagined state, and real with real.
        ratio: unit to the ratio of these two squared.
        curves: ``outside`` and ``fast`` by decisions ahead.
    """

    outside: Estimate
    outside_real: Estimate
    fast: Estimate
    fast_real: Estimate
    apart: dict[str, tuple[float, float]]
    ratio: dict[str, Estimate]
    curves: dict[str, Curve]


@torch.no_grad()
def physics(model: WorldModel, referees: Referees, seen: Seen) -> Physics:
    """Imagined proprioception against recorded ranges and speeds, and against what the pictures show."""
    low, high, most = (getattr(referees, name).cpu().numpy() for name in ("low", "high", "speed"))
    real = seen.clips.state[seen.after]
    began = seen.clips.state[seen.played.windows.frame[:, :1]]
    share: dict[str, NDArray[np.float64]] = {}
    for name, state in (("", seen.played.state), ("_real", real)):
        before = np.concatenate([began, state[:, :-1]], 1)
        for what, true in (
            ("outside", ((state < low) | (state > high)).any(-1)),
            ("fast", (np.abs(state - before) > most).any(-1)),
        ):
            share[what + name] = np.where(seen.known, true, np.nan)
    episode, decision = np.nonzero(seen.known)
    gaps = {name: np.full(real.shape, np.nan) for name in ("imagined", "real")}
    for first in range(0, len(episode), _ROWS):
        at = episode[first : first + _ROWS], decision[first : first + _ROWS]
        for name, tokens, state in (
            ("imagined", seen.shown[at].to(model.device).float(), seen.played.state[at]),
            ("real", real_tokens(model, seen, seen.after[at]), real[at]),
        ):
            gaps[name][at] = (model.physical_state(referees.reader(tokens)) - state) ** 2
    apart, ratio = {}, {}
    units = [axis.unit for axis in model.spec.state]
    for unit in dict.fromkeys(units):
        which = np.flatnonzero([one == unit for one in units])
        mean = {name: gaps[name][..., which].mean(-1) for name in gaps}
        apart[unit] = (float(np.sqrt(np.nanmean(mean["imagined"]))), float(np.sqrt(np.nanmean(mean["real"]))))
        ratio[unit] = ratio_of(mean["imagined"], mean["real"], _NOTHING)
    return Physics(
        outside=mean_of(share["outside"], _NOTHING),
        outside_real=mean_of(share["outside_real"], _NOTHING),
        fast=mean_of(share["fast"], _NOTHING),
        fast_real=mean_of(share["fast_real"], _NOTHING),
        apart=apart,
        ratio=ratio,
        curves={name: curve(share[name]) for name in ("outside", "fast")},
    )

"""The trainer of all critics: split by start state, AdamW, early stopping, one result for one seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.episode import Rollouts, concatenate
from ...datasets.starts import counter_generator, refuse_test
from ..diagnostics import auc, spearman
from ..embedding import Encoder
from ..scorers import frames_of, ranking
from .config import CriticConfig
from .critic import Critic, CriticNetwork, vectors
from .inputs import Inputs, Material, TextEncoder, Words, digest, embedded, pixels
from .kinds import default_config, kind_of
from .layers import Senses

_LOOKS = 8  # batches of held-out data that a loss is averaged over


class DataError(ValueError):
    """The episodes do not suffice to train on."""


@dataclass(frozen=True)
class FitProgress:
    """How far training is.

    Attributes:
        step: of the optimiser, from 1.
        steps: at most.
        loss: of the training batches since the last report, averaged.
        held_out: loss of the held-out episodes.
    """

    step: int
    steps: int
    loss: float
    held_out: float


def fit(
    kind: str,
    episodes: Rollouts | Sequence[Rollouts],
    config: CriticConfig[Any] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[FitProgress], None] | None = None,
    encoder: Encoder | None = None,
    text_encoder: TextEncoder | None = None,
    annotations: Mapping[str, NDArray[np.floating]] | None = None,
    command: str = "",
) -> Critic:
    """Train a critic on episodes; on the CPU the same seed gives the same weights.

    Episodes that cannot be learned from are left out and counted in the card: simulations that broke down, no
    decision, no words, embeddings that are not finite. Some start states are held out; training stops when
    the loss on them no longer falls, and the weights that had the lowest are kept.

    Args:
        kind: a name in `kinds.KINDS`.
        episodes: of train and select starts; successes of at least two start states.
        config: settings; those of the size ``small`` if none.
        seed: of the split, the first weights and the batches.
        progress: told at every look at the held-out loss.
        encoder: gives embeddings, each of one frame alone; None learns from pixels.
        text_encoder: gives text vectors; None learns words.
        annotations: name to (B,D) of the concatenated episodes, NaN where nothing is known: ``stage`` for
            ``sarm``, sub-scores in [0, 1] for ``multi_head``.
        command: how it was called, for the card.

    Raises:
        DataError: too little to learn from, or a loss that is not finite.
        InputError: a camera is missing, or pictures differ in size.
        SplitError: a start is of the test split.
        ValueError: no such kind, or annotations that do not fit.
    """
    chosen = kind_of(kind)
    config = config or default_config(kind)
    rollouts = episodes if isinstance(episodes, Rollouts) else concatenate(episodes)
    refuse_test(rollouts.start, f"`fit` of {kind!r}")
    device = _device(config.training.device)
    material, inputs, words, left_out = prepare(rollouts, config, encoder, text_encoder, annotations or {})
    training, held_out = split(rollouts, material, config.training.held_out, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(counter_generator("critic", kind, seed).integers(2**31)))
        network = chosen.network(inputs, config)
    if inputs.features:
        senses = network.senses
        assert isinstance(senses, Senses)
        senses.standardise(material.frames[_frames_of_rows(training)])
    network.to(device)
    prepare_network: Callable[[Material], None] | None = getattr(network, "prepare", None)
    if prepare_network is not None:
        prepare_network(training)
    steps, best = _train(network, training, held_out, config, (kind, seed), progress)
    card: dict[str, Any] = {
        "command": command,
        "seed": seed,
        "data": digest(rollouts),
        "episodes": len(training.rows),
        "held_out_episodes": len(held_out.rows),
        "left_out": left_out,
        "sentences": len(material.sentences),
        "steps": steps,
        "held_out": {"loss": best},
    }
    critic = Critic(kind, config, inputs, network.eval(), words, encoder, text_encoder, card)
    card["held_out"] |= measure(critic, rollouts.take(held_out.rows))
    return critic


def prepare(
    rollouts: Rollouts,
    config: CriticConfig[Any],
    encoder: Encoder | None,
    text_encoder: TextEncoder | None,
    annotations: Mapping[str, NDArray[np.floating]],
) -> tuple[Material, Inputs, Words | None, int]:
    """Episodes as `Material`, the shapes, the vocabulary, and how many episodes were left out.

    Episodes keep their row; those that are left out have no frames and are not in `Material.rows`.

    Raises:
        DataError: nothing is left.
        InputError: see `fit`.
    """
    usable = ~rollouts.invalid & np.array([bool(said.strip()) for said in rollouts.instruction], bool)
    mask = rollouts.decision_valid & usable[:, None]
    rows, decisions = np.nonzero(mask)
    if not len(rows):
        raise DataError(
            f"none of {len(rollouts)} episodes can be learned from: each broke down, or has no decision or "
            "no instruction; record others with `regrip rewards record`"
        )
    frames = frames_of(rollouts, rows, decisions)
    cameras = config.training.cameras or tuple(sorted(rollouts.images))
    if encoder is None:
        raw: NDArray[Any] = pixels(frames, cameras, None)
        shape = (cameras, raw.shape[2], raw.shape[3], 0)
    else:
        raw = embedded(encoder, frames, 0)
        shape = ((), 0, 0, raw.shape[1])
        bad = np.unique(rows[~np.isfinite(raw).all(1)])
        usable[bad] = False
        raw = np.nan_to_num(raw)
    usable &= mask.any(1)
    kept = np.flatnonzero(usable)
    if not len(kept):
        raise DataError(f"the encoder gave no finite embedding for any of {len(rollouts)} episodes")
    said = sorted({rollouts.instruction[int(row)] for row in kept})
    sentence = np.array([said.index(told) if told in said else 0 for told in rollouts.instruction], np.int64)
    words = None if text_encoder else Words.of(said)
    if text_encoder is not None:
        sentences = torch.from_numpy(vectors(text_encoder, said, 0))
    else:
        assert words is not None, "there is a vocabulary where there is no text encoder"
        sentences = words.encode(said)[0]
    for name, held in annotations.items():
        if held.shape != mask.shape:
            raise ValueError(
                f"annotation {name!r} is {held.shape}, expected {mask.shape}: one for each decision"
            )
    length = mask.sum(1).astype(np.int64)
    material = Material(
        torch.from_numpy(raw),
        np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64),
        length,
        sentence,
        sentences,
        rollouts.success.astype(bool),
        kept,
        {name: held[rows, decisions].astype(np.float32) for name, held in annotations.items()},
    )
    text_features = sentences.shape[1] if words is None else 0
    inputs = Inputs(*shape, len(words) if words else 0, text_features)
    return material, inputs, words, len(rollouts) - len(kept)


def split(rollouts: Rollouts, material: Material, share: float, seed: int) -> tuple[Material, Material]:
    """Training and held-out episodes, apart by start state; every task's share of both outcomes is kept.

    Raises:
        DataError: successes of fewer than two start states.
    """
    starts: dict[Any, list[int]] = {}
    for row in material.rows:
        starts.setdefault(rollouts.start[int(row)], []).append(int(row))
    won = {start: bool(rollouts.success[rows].any()) for start, rows in starts.items()}
    if sum(won.values()) < 2:
        raise DataError(
            f"{sum(won.values())} of {len(starts)} start states have a success, expected at least 2: one to "
            "learn from and one to hold out; record more episodes, or use a better policy"
        )
    held: list[int] = []
    for wanted in (True, False):
        for task in sorted({start.task for start in starts}):
            group = sorted(start for start in starts if start.task == task and won[start] == wanted)
            order = counter_generator("held out", seed, task, wanted).permutation(len(group))
            count = round(share * len(group))
            held += [row for place in order[:count] for row in starts[group[int(place)]]]
    if not rollouts.success[held].any():  # too few starts of each task for a share of them
        first = sorted(start for start in starts if won[start])
        held += starts[first[int(counter_generator("held out", seed).integers(len(first)))]]
    taken = np.array(sorted(set(held)), np.int64)
    rest = np.setdiff1d(material.rows, taken)
    if not rollouts.success[rest].any():
        raise DataError(f"a held-out share of {share} leaves no success to learn from; lower it")
    return replace(material, rows=rest), replace(material, rows=taken)


def measure(critic: Critic, rollouts: Rollouts) -> dict[str, float]:
    """What a critic's levels are worth on episodes.

    ``order`` is the rank correlation of levels and time in successes (VOC), ``auroc`` the probability that
    the highest level of a success is above that of a failure of its task. Absent where the episodes cannot
    tell.
    """
    levels, _ = ranking(kind_of(critic.kind).progress(critic).progress(rollouts))
    rows, decisions = np.nonzero(rollouts.decision_valid & (rollouts.success & levels.valid)[:, None])
    order = spearman(levels.value[rows, decisions], decisions.astype(np.float64), [str(row) for row in rows])
    highest = np.where(rollouts.decision_valid, levels.value, -np.inf).max(1, initial=-np.inf)
    tasks = [start.task for start in rollouts.start]
    area = auc(highest, rollouts.success, tasks)
    return {name: value for name, value in (("order", order), ("auroc", area)) if value is not None}


def _train(
    network: Any,
    training: Material,
    held_out: Material,
    config: CriticConfig[Any],
    key: tuple[str, int],
    progress: Callable[[FitProgress], None] | None,
) -> tuple[int, float]:
    """Train in place; the step that was kept and its held-out loss."""
    told = config.training
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=told.learning_rate, weight_decay=told.weight_decay, foreach=False
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / told.steps)))
    )
    best, best_step, kept, since = math.inf, 0, copy.deepcopy(network.state_dict()), 0
    losses: list[float] = []
    for step in range(1, told.steps + 1):
        loss = network.loss(training, counter_generator("critic batch", *key, step), told.batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"the loss is {losses[-1]} at step {step}: lower the learning rate or look at the inputs"
            )
        if step % told.evaluate_every and step < told.steps:
            continue
        found = held_out_loss(network, held_out, told.batch, key)
        if progress is not None:
            progress(FitProgress(step, told.steps, float(np.mean(losses)), found))
        losses = []
        since += 1
        if found < best:
            best, best_step, since = found, step, 0
            kept = copy.deepcopy(network.state_dict())
        if since >= told.patience:
            break
    if not math.isfinite(best):
        raise DataError("the held-out loss was never finite: lower the learning rate or look at the inputs")
    network.load_state_dict(kept)
    return best_step, best


@torch.no_grad()
def held_out_loss(network: CriticNetwork, material: Material, batch: int, key: tuple[str, int]) -> float:
    """The mean loss of a few batches, always the same."""
    draws = (counter_generator("critic held out", *key, look) for look in range(_LOOKS))
    return float(np.mean([network.loss(material, draw, batch).item() for draw in draws]))


def _frames_of_rows(material: Material) -> NDArray[np.int64]:
    parts = [material.first[row] + np.arange(int(material.length[row])) for row in material.rows]
    return np.concatenate(parts)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is none that torch knows; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU; use cpu, or see `regrip doctor`")
    return device

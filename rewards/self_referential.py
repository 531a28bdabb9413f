"""Self-referential reward: a failure is worth the more, the more it looks like the policy's own successes.

Follows SRPO (arXiv 2511.15605): embed whole episodes, cluster the successes, give a success 1 and a failure
something in [0, alpha] that falls with its distance to the nearest cluster. What is done otherwise than in
its release, whose arithmetic `as_released` keeps for comparison:

* Clusters are found in a reduced space, with eps from neighbour distances (`clustering`).
* Embeddings belong to an episode, never to a task or trial name (`reference_bank.episode_identity`).
* Successes stay in a bank across batches, so a group, or a batch, without any success is shaped too. Rewards
  come before any group filter.
* An episode may be judged by its best moment, not as a whole (`SelfReferentialConfig.moment`).
* Distances are measured on a fixed scale: 0 is a typical success (its distance to the centres made without
  it), 1 is an episode that never moved. What a failure earns does not depend on other failures.
* A success earns 1 and a failure at most alpha, whatever the embedding says; a success with a blank embedding
  is a success.

Left out: the KL term (SRPO's release has none either) and the offline, advantage-weighted variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Progress, RewardSignal
from ..datasets.starts import refuse_test
from .binary import at_last_step
from .clustering import Centres, Clustering, Vectors, find_centres, nearest
from .diagnostics import auc, spearman
from .embedding import Encoder, collapse, pool, pool_prefixes, prepare
from .reference_bank import Entries, ReferenceBank, episode_identity
from .scorers import per_decision, potential_difference
from .srpo_released import min_max, released_reward


@dataclass(frozen=True)
class SelfReferentialConfig:
    """Settings of the self-referential reward.

    Attributes:
        alpha: what a failure can earn at most; SRPO found 0.8 best of 0, 0.3, 0.5, 0.8, 1.
        slope: steepness of the sigmoid between "a typical success" and "never moved".
        form: ``trajectory`` pays once, at the last executed step (SRPO). ``potential`` pays the change of
            progress after every decision, gamma * phi' - phi with phi = alpha * progress, and 1 for success:
            for a critic (see `potential_difference` for what the sums are).
        gamma: discount of one decision in the ``potential`` form.
        moment: how far an episode is from success: ``whole`` compares the whole episode (SRPO), ``best`` the
            start of it that looks most like a success. A success is over when it succeeds, a failure goes
            on to the step limit, and what it does there should not hide how near it had come. With each
            encoder and setting tried, ``best`` ranks failures better (``benchmarks/failure_ranking.py``).
        calibration: ``absolute`` as described above; ``batch`` is the release's min-max over the failures in
            the batch: relative, and of no meaning outside it.
        segments: an episode's vector is the means of this many equal parts of it (`embedding.pool`).
        cosine: compare directions of frame vectors, not their lengths.
        relative_to_start: compare how the scene changed, not how it looks.
        clustering: how centres are found.
        capacity: successes kept of each task.
        max_age: learner iterations after which a success is dropped ...
        keep: ... unless it is among this many freshest of its task.
        half_life: learner iterations after which a success counts half.
        as_released: SRPO's released arithmetic (`srpo_released`); all but `form` trajectory is then ignored,
            and no bank is kept.
    """

    alpha: float = 0.8
    slope: float = 5.0
    form: Literal["trajectory", "potential"] = "trajectory"
    gamma: float = 0.99
    moment: Literal["best", "whole"] = "best"
    calibration: Literal["absolute", "batch"] = "absolute"
    segments: int = 3
    cosine: bool = False
    relative_to_start: bool = False
    clustering: Clustering = field(default_factory=Clustering)
    capacity: int = 64
    max_age: int = 50
    keep: int = 8
    half_life: float = 10.0
    as_released: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha {self.alpha} must be in [0, 1): a failure may not earn what a success earns"
            )
        if self.slope <= 0 or self.segments < 1 or not 0 <= self.gamma <= 1:
            raise ValueError(
                f"slope {self.slope}, segments {self.segments}, gamma {self.gamma}: "
                "expected slope > 0, segments >= 1, gamma in [0, 1]"
            )
        if self.as_released and self.form != "trajectory":
            raise ValueError("as_released has only the trajectory form: SRPO released no other")


@dataclass(frozen=True)
class Embedded:
    """B episodes as vectors.

    Attributes:
        frames: B arrays (T_b,E), one row for each decision that was taken.
        whole: float64 (B,F), the pooled episode; zeros where it could not be judged.
        rest: float64 (B,F), its first frame held still.
        judged: (B,) bool, at least one decision and all numbers finite.
        identity: uint8 (B,16).
    """

    frames: list[NDArray[np.float32]]
    whole: Vectors
    rest: Vectors
    judged: NDArray[np.bool_]
    identity: NDArray[np.uint8]


@dataclass(frozen=True)
class Reference:
    """What is known about success in one task.

    Attributes:
        centres: of its successes.
        near: how far from the nearest centre a typical success is (median, each left out of its own centre;
            0 if there is only one).
        far: how far an episode is that never moved (median over the successes' first frames held still).
    """

    centres: Centres
    near: float
    far: float

    @classmethod
    def of(cls, entries: Entries, weight: Vectors, settings: Clustering) -> Reference:
        centres = find_centres(entries.embedding.astype(np.float64), weight, settings)
        left_out = centres.leave_one_out()
        near = float(np.median(left_out)) if np.isfinite(left_out).all() else 0.0
        return cls(centres, near, float(np.median(centres.distance(entries.rest.astype(np.float64)))))

    @property
    def separates(self) -> bool:
        """Whether a typical success is nearer than doing nothing; if not, distance says nothing here."""
        return self.far - self.near > 1e-6 * max(self.far, 1e-6)

    def place(self, distance: Vectors) -> Vectors:
        """A distance on the fixed scale: 0 a typical success, 1 never moved; may lie outside."""
        return (distance - self.near) / (self.far - self.near)


class SelfReferential:
    """The reward; `__call__` also learns from the batch's successes, `score` and `progress` only look.

    Deterministic: nothing is drawn at random, and an episode's result does not depend on its row, on the
    padding, or on the failures beside it (``calibration="absolute"``).

    Args:
        encoder: turns frames into vectors; must be a fixed function (see `embedding.Encoder`).
        config: settings.
        run: names the run, so that episodes of two runs are never taken for one.
    """

    def __init__(
        self, encoder: Encoder, config: SelfReferentialConfig | None = None, run: str = "run"
    ) -> None:
        self.encoder = encoder
        self.config = config or SelfReferentialConfig()
        self.run = run
        self.bank = ReferenceBank(
            self.config.capacity, self.config.max_age, self.config.keep, self.config.half_life
        )

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """Take the successes of 'train' starts into the bank, then score all episodes.

        Raises:
            SplitError: a start is of the test split.
            ValueError: the encoder's answer does not fit the rollouts or the bank.
        """
        refuse_test(rollouts.start, "the self-referential reward's bank")
        episodes = self._embed(rollouts)
        if not self.config.as_released:
            self._remember(rollouts, episodes)
        return self._score(rollouts, episodes)

    def score(self, rollouts: Rollouts) -> RewardSignal:
        """Score B episodes against the bank as it is; for evaluation, of any split."""
        return self._score(rollouts, self._embed(rollouts))

    def progress(self, rollouts: Rollouts) -> Progress:
        """How far each episode had got at each decision, from what was seen up to then.

        The vector of the episode so far is held against the centres: 0 as far as an episode that never moved
        (so at its first decision), 1 as near as a typical success; cut to [0, 1]. A success that is in the
        bank is left out of its own centre. `valid` is false for episodes whose task has no usable reference,
        and their level 0.
        """
        episodes = self._embed(rollouts)
        references = self._references(rollouts, episodes)
        return _levels(rollouts, references, self._curves(rollouts, episodes, references))

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return self.bank.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.bank.load_state_dict(state)

    def _embed(self, rollouts: Rollouts) -> Embedded:
        settings = self.config
        frames = prepare(
            self.encoder(rollouts),
            rollouts.decision_valid,
            cosine=settings.cosine and not settings.as_released,
            relative_to_start=settings.relative_to_start and not settings.as_released,
        )
        segments = 1 if settings.as_released else settings.segments
        judged = np.array([len(sequence) > 0 and bool(np.isfinite(sequence).all()) for sequence in frames])
        blank = np.zeros((1, frames[0].shape[-1] if frames else 0), dtype=np.float32)
        usable = [sequence if fine else blank for sequence, fine in zip(frames, judged, strict=True)]
        return Embedded(
            frames=usable,
            whole=np.array([pool(sequence, segments) for sequence in usable], dtype=np.float64),
            rest=np.array([pool(sequence[:1], segments) for sequence in usable], dtype=np.float64),
            judged=judged,
            identity=episode_identity(self.run, rollouts),
        )

    def _remember(self, rollouts: Rollouts, episodes: Embedded) -> None:
        train = np.array([start.split == "train" for start in rollouts.start])
        worthy = rollouts.success & episodes.judged & train
        for task, rows in _by_task(rollouts).items():
            rows = rows[worthy[rows]]
            if len(rows):
                entries = Entries(
                    identity=episodes.identity[rows],
                    iteration=np.full(len(rows), rollouts.policy_version, dtype=np.int64),
                    embedding=episodes.whole[rows].astype(np.float32),
                    rest=episodes.rest[rows].astype(np.float32),
                )
                self.bank.add(task, entries)
        self.bank.advance(rollouts.policy_version)

    def _references(self, rollouts: Rollouts, episodes: Embedded) -> dict[str, Reference]:
        """For the tasks of a batch that have successes in the bank."""
        width = episodes.whole.shape[1]
        for task in self.bank.tasks[:1]:
            held = self.bank.entries(task).embedding.shape[1]
            if held != width:
                raise ValueError(
                    f"episodes are embedded in {width} numbers, but the bank holds {held}: the encoder or "
                    "its pooling changed; start with an empty bank, or use the encoder the bank was made with"
                )
        return {
            task: Reference.of(self.bank.entries(task), self.bank.weight(task), self.config.clustering)
            for task in _by_task(rollouts)
            if task in self.bank
        }

    def _curves(
        self, rollouts: Rollouts, episodes: Embedded, references: dict[str, Reference]
    ) -> list[Vectors]:
        """B arrays (T_b,): distance of the episode so far to the nearest centre, after each decision.

        A success that is in the bank is left out of its own centre. Empty where there is nothing to measure:
        no reference, no usable embedding, or the bank's only success.
        """
        curves: list[Vectors] = []
        for row, start in enumerate(rollouts.start):
            reference, curve = references.get(start.task), np.zeros(0)
            if reference is not None and episodes.judged[row]:
                centres = reference.centres.position
                if rollouts.success[row]:
                    own = self.bank.entries(start.task).row_of(episodes.identity[row])
                    centres = centres if own is None else reference.centres.without(own)
                if len(centres):
                    prefixes = pool_prefixes(episodes.frames[row], self.config.segments)
                    curve = nearest(prefixes.astype(np.float64), centres)
            curves.append(curve)
        return curves

    def _score(self, rollouts: Rollouts, episodes: Embedded) -> RewardSignal:
        extra: dict[str, NDArray[np.float32]] = {}
        references: dict[str, Reference] = {}
        curves: list[Vectors] = []
        if self.config.as_released:
            shaped = self._released(rollouts, episodes)
        else:
            references = self._references(rollouts, episodes)
            curves = self._curves(rollouts, episodes, references)
            shaped, extra = self._shape(rollouts, references, curves)
        valid = (episodes.judged | rollouts.success) & (rollouts.num_steps > 0)
        shaped = np.where(valid, shaped, 0.0)
        if self.config.form == "trajectory":
            value = at_last_step(rollouts.valid, shaped)
        else:
            value = self._differences(rollouts, _levels(rollouts, references, curves), valid)
        return RewardSignal(
            value=value,
            components=_components(rollouts, episodes, shaped) | extra,
            valid=valid,
            relative=self.config.as_released or self.config.calibration == "batch",
        )

    def _shape(
        self, rollouts: Rollouts, references: dict[str, Reference], curves: list[Vectors]
    ) -> tuple[Vectors, dict[str, NDArray[np.float32]]]:
        """(B,) rewards in [0, 1] and what was seen on the way."""
        count = len(rollouts)
        shaped = rollouts.success.astype(np.float64)
        names = ("distance", "progress", "no_reference", "bank_size", "bank_age", "num_centres", "clustered")
        extra = {name: np.zeros(count, dtype=np.float32) for name in names}
        rated = np.array([len(curve) > 0 for curve in curves], dtype=bool)
        at = np.min if self.config.moment == "best" else _last
        distance = np.array([at(curve) if len(curve) else 0.0 for curve in curves])
        extra["distance"] = distance.astype(np.float32)
        for task, rows in _by_task(rollouts).items():
            reference = references.get(task)
            if reference is None or not reference.separates:
                extra["no_reference"][rows] = 1
            if reference is None:
                continue
            extra["bank_size"][rows] = len(self.bank.entries(task))
            extra["bank_age"][rows] = self.bank.age(task).mean()
            extra["num_centres"][rows] = len(reference.centres.position)
            extra["clustered"][rows] = reference.centres.clustered
            rows = rows[rated[rows]]
            if not reference.separates or not len(rows):
                continue
            place = reference.place(distance[rows])
            extra["progress"][rows] = np.clip(1 - place, 0, 1)
            failed = ~rollouts.success[rows]
            if self.config.calibration == "batch" and failed.any():
                place[failed] = min_max(distance[rows[failed]])
            shaped[rows[failed]] = self.config.alpha * _sigmoid(self.config.slope * (0.5 - place[failed]))
        if rated.any():
            told = [start.task for start, fine in zip(rollouts.start, rated, strict=True) if fine]
            score, success = -distance[rated], rollouts.success[rated]
            extra |= _filled("auc_success_failure", auc(score, success, told), count)
            extra |= _filled(
                "spearman_progress_success", spearman(score, success.astype(np.float64), told), count
            )
        return shaped, extra

    def _released(self, rollouts: Rollouts, episodes: Embedded) -> Vectors:
        shaped = np.zeros(len(rollouts))
        for rows in _by_task(rollouts).values():
            shaped[rows] = released_reward(episodes.whole[rows], rollouts.success[rows])
        return shaped

    def _differences(
        self, rollouts: Rollouts, progress: Progress, valid: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        potential = Progress(self.config.alpha * progress.value, progress.valid)
        gain = potential_difference(
            potential, rollouts.decision_valid, ~rollouts.truncated | rollouts.success, self.config.gamma
        )
        value = per_decision(rollouts.valid, gain)
        value += at_last_step(rollouts.valid, rollouts.success.astype(np.float32))
        return np.where(valid[:, None, None], value, np.float32(0))


def _components(rollouts: Rollouts, episodes: Embedded, shaped: Vectors) -> dict[str, NDArray[np.float32]]:
    """What lets a person see a reward go wrong: duplicates, collapse, a gap to the truth, groups rescued."""
    duplicate, alike, rescued = (np.zeros(len(rollouts), dtype=np.float32) for _ in range(3))
    for rows in _by_task(rollouts).values():
        rows = rows[episodes.judged[rows]]
        if not len(rows):
            continue
        episode = np.unique(episodes.identity[rows], axis=0, return_index=True)[1]
        vectors = episodes.whole[rows[np.sort(episode)]]  # one for each distinct episode
        same, times = np.unique(vectors, axis=0, return_counts=True)
        for vector in same[times > 1]:
            duplicate[rows[(episodes.whole[rows] == vector).all(1)]] = 1
        alike[rows] = collapse(vectors)
    for group in np.unique(rollouts.group):
        members = rollouts.group == group
        if not rollouts.success[members].any():
            rescued[members] = np.ptp(shaped[members]) > 1e-6
    return {
        "success": rollouts.success.astype(np.float32),
        "shaped": shaped.astype(np.float32),
        "gap_shaped_true": (shaped - rollouts.success).astype(np.float32),
        "rescued": rescued,
        "duplicate_embedding": duplicate,
        "embedding_collapse": alike,
    }


def _filled(name: str, value: float | None, count: int) -> dict[str, NDArray[np.float32]]:
    """A number for the whole batch as a component; absent when it is not defined."""
    return {} if value is None else {name: np.full(count, value, dtype=np.float32)}


def _by_task(rollouts: Rollouts) -> dict[str, NDArray[np.int64]]:
    names = np.array([start.task for start in rollouts.start])
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _levels(rollouts: Rollouts, references: dict[str, Reference], curves: list[Vectors]) -> Progress:
    level = np.zeros(rollouts.decision_valid.shape, dtype=np.float32)
    valid = np.zeros(len(rollouts), dtype=bool)
    for row, (start, curve) in enumerate(zip(rollouts.start, curves, strict=True)):
        reference = references.get(start.task)
        if reference is not None and reference.separates and len(curve):
            level[row, : len(curve)] = np.clip(1 - reference.place(curve), 0, 1)
            valid[row] = True
    return Progress(level, valid)


def _last(curve: Vectors) -> float:
    return float(curve[-1])


def _sigmoid(x: Vectors) -> Vectors:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float64)

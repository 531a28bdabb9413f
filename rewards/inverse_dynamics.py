"""Does a video obey its commands? An inverse model reads the actions back from it, and they are compared.

RLIR post-trains a world model with this; here it also says which imagined rollouts to throw away. A policy's
task success it says nothing about.

Source: RLIR, abstract (an inverse-dynamics model's agreement as reward); the discrete form is inferred from
it. The continuous form, clip(exp(-mse / T), 0, 1) on normalised actions, is as in RLinf's released code
(``embodied/action_similarity.py``), read second-hand. The guard against still videos is
ours: with an inverse model that has collapsed to the mean action, or with small commands, a frozen picture
agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..datasets.episode import Rollouts
from ..datasets.protocols import Progress, Score
from ..datasets.starts import counter_generator, refuse_test
from .embedding import Encoder
from .reference_bank import episode_identity

STILL = 0.05  # a command below this share of a usual one asks for no motion
ENOUGH = 0.25  # of the usual motion for a command: as much is taken for obeying it


def discrete_agreement(recovered: NDArray[np.integer], commanded: NDArray[np.integer]) -> NDArray[np.float32]:
    """1 where they are equal, (...,) to (...,)."""
    return np.asarray(recovered == commanded, np.float32)


def continuous_agreement(
    recovered: NDArray[np.floating], commanded: NDArray[np.floating], temperature: float = 1.0
) -> NDArray[np.float32]:
    """clip(exp(-mean((a_hat - a)^2) / T), 0, 1) over the last axis, (...,A) to (...,)."""
    error = ((recovered.astype(np.float64) - commanded.astype(np.float64)) ** 2).mean(-1)
    return np.asarray(np.clip(np.exp(-error / temperature), 0, 1), np.float32)


def motion_term(motion: NDArray[np.floating], command: NDArray[np.floating]) -> NDArray[np.float32]:
    """How much moved for what was asked, in [0, 1]; (...,) each. 1 where nothing was asked.

    Args:
        motion: size of the change in the picture, in units of what a command of size 1 usually brings.
        command: size of the command, in units of a usual one.
    """
    asked = command > STILL
    share = motion / np.where(asked, ENOUGH * command, 1.0)
    return np.asarray(np.where(asked, np.clip(share, 0, 1), 1.0), np.float32)


class InverseModel(nn.Module):
    """Two embeddings to the command between them, and the scales it was fitted with (saved as buffers).

    It looks at the embeddings' leading principal directions only: there are seldom enough transitions for
    more.

    Args:
        width: E, of an embedding.
        num_actions: A.
        hidden: width of the two hidden layers.
        directions: how many principal directions are kept, at most E.
    """

    basis: Tensor
    mean: Tensor
    level_scale: Tensor
    change_scale: Tensor
    action_mean: Tensor
    action_scale: Tensor
    motion_per_command: Tensor
    explained: Tensor

    def __init__(self, width: int, num_actions: int, hidden: int = 64, directions: int = 16) -> None:
        super().__init__()
        kept = min(width, directions)
        self.net = nn.Sequential(
            nn.Linear(2 * kept, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, num_actions),
        )
        self.register_buffer("basis", torch.zeros(width, kept))
        self.register_buffer("mean", torch.zeros(width))
        for name, size in (("level_scale", kept), ("change_scale", kept), ("action_mean", num_actions)):
            self.register_buffer(name, torch.ones(size))
        self.register_buffer("action_scale", torch.ones(num_actions))
        self.register_buffer("motion_per_command", torch.ones(()))
        self.register_buffer("explained", torch.zeros(()))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """(N,E) each to normalised commands (N,A)."""
        level = ((before + after) / 2 - self.mean) @ self.basis / self.level_scale
        change = (after - before) @ self.basis / self.change_scale
        return self.net(torch.cat([level, change], -1))  # type: ignore[no-any-return]

    def normalise(self, action: Tensor) -> Tensor:
        """Physical units to those of `forward`."""
        return (action - self.action_mean) / self.action_scale

    def moved(self, before: Tensor, after: Tensor, action: Tensor) -> NDArray[np.float32]:
        """`motion_term` of (N,E), (N,E) and commands (N,A) in physical units."""
        motion = _size(after - before) / self.motion_per_command  # not scaled: that would blow noise up
        return motion_term(motion.numpy(), _size(action / self.action_scale).numpy())


@dataclass(frozen=True)
class Transitions:
    """The N chunks after which another frame was seen.

    Attributes:
        row: (N,) int, episode.
        decision: (N,) int.
        before: float32 (N,E), the embedding at the decision.
        after: float32 (N,E), at the next.
        action: float32 (N,A), mean of the executed commands of the chunk, physical units.
        fine: bool (N,), all numbers are finite.
    """

    row: NDArray[np.int64]
    decision: NDArray[np.int64]
    before: Tensor
    after: Tensor
    action: Tensor
    fine: NDArray[np.bool_]


def transitions(rollouts: Rollouts, encoder: Encoder) -> Transitions:
    """All that `rollouts` hold, episode by episode."""
    mask = rollouts.decision_valid
    embedded = np.asarray(encoder(rollouts), np.float32)
    if embedded.ndim != 3 or embedded.shape[:2] != mask.shape:
        raise ValueError(f"the encoder returned {embedded.shape}, expected {(*mask.shape, 'E')}")
    row, decision = np.nonzero(mask[:, 1:] & mask[:, :-1])
    executed = rollouts.valid[row, decision]
    kept = np.where(executed[..., None], rollouts.action[row, decision], 0.0)
    action = (kept.sum(1) / np.maximum(executed.sum(1), 1)[:, None]).astype(np.float32)
    before, after = embedded[row, decision], embedded[row, decision + 1]
    fine = np.asarray(np.isfinite(np.concatenate([before, after, action], -1)).all(-1), bool)
    parts = [torch.from_numpy(np.where(fine[:, None], part, 0)) for part in (before, after, action)]
    return Transitions(row, decision, parts[0], parts[1], parts[2], fine)


def fit_inverse_dynamics(
    rollouts: Rollouts,
    encoder: Encoder,
    *,
    hidden: int = 64,
    directions: int = 16,
    steps: int = 400,
    seed: int = 0,
) -> InverseModel:
    """Learn which command leads from one frame to the next.

    Commands are taken to ask for *motion* (displacements or velocities); for absolute positions the guard
    against still videos would take a held position for a command to move. Use rollouts of wandering and of
    failing too: a model that saw only experts knows their habits, not the dynamics.

    Args:
        rollouts: real ones, whose pictures do obey; none of a test start.
        encoder: a fixed function; the model is of use with the same one only.
        hidden: width of the hidden layers.
        directions: see `InverseModel`.
        steps: of Adam, on batches of 512 transitions.
        seed: of the first weights and the batches.

    Returns:
        The model, in eval mode. `explained` is the share of the variance of the commands of held-out
        episodes (every fifth) that it explains: near 0, it knows nothing and its agreement means nothing.

    Raises:
        SplitError: a start is of the test split.
        ValueError: fewer than five episodes have a usable transition.
    """
    refuse_test(rollouts.start, "the inverse-dynamics model")
    data = transitions(rollouts, encoder)
    _, place = np.unique(episode_identity("", rollouts), axis=0, return_inverse=True)
    episode = place.reshape(-1)[data.row]
    usable = np.unique(episode[data.fine])
    if len(usable) < 5:
        raise ValueError(
            f"{len(usable)} different episodes have two decisions with finite embeddings, expected at least 5"
        )
    order = np.argsort(episode, kind="stable")  # so that the rows' order does not matter
    order = order[data.fine[order]]
    held = np.isin(episode[order], usable[::5])
    train, test = torch.from_numpy(order[~held]), torch.from_numpy(order[held])
    generator = counter_generator("inverse dynamics", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**31)))
        model = InverseModel(data.before.shape[1], data.action.shape[1], hidden, directions)
    _set_scales(model, data.before[train], data.after[train], data.action[train])
    wanted = model.normalise(data.action)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = train[torch.from_numpy(generator.permutation(len(train))[:512])]
        loss = nn.functional.mse_loss(model(data.before[rows], data.after[rows]), wanted[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval().requires_grad_(False)
    error = (model(data.before[test], data.after[test]) - wanted[test]).square().mean()
    model.explained.fill_(
        1 - float(error) / max(float((wanted[test] - wanted[test].mean(0)).square().mean()), 1e-9)
    )
    return model


@dataclass(frozen=True)
class InverseAgreement:
    """Agreement of the commands with those read back, times the motion term; scores moments and episodes.

    As an `EpisodeScorer` the mean over an episode's transitions, as a `TrajectoryScorer` one number for each
    decision, 0 at the last, after which no frame was seen. Lift the second with `Level`: it is no progress,
    so differences of it mean nothing, and with `Level` a longer episode earns more.

    An episode with no transition, or with embeddings that are not finite, is not valid.

    Attributes:
        model: fitted with the same encoder.
        encoder: a fixed function.
        temperature: T, for actions in units of their standard deviation.
        form: ``continuous``, or ``discrete``: the share of dimensions whose bin is the same, of the bins
            below, within and above half a standard deviation of the mean.
    """

    model: InverseModel
    encoder: Encoder
    temperature: float = 1.0
    form: Literal["continuous", "discrete"] = "continuous"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress:
        """Agreement of each chunk with what the next frame shows, (B,D)."""
        data = transitions(rollouts, self.encoder)
        mask = rollouts.decision_valid
        with torch.no_grad():
            recovered = self.model(data.before, data.after).numpy()
            commanded = self.model.normalise(data.action).numpy()
            moved = self.model.moved(data.before, data.after, data.action)
        if self.form == "continuous":
            agreement = continuous_agreement(recovered, commanded, self.temperature)
        else:
            edges = np.array([-0.5, 0.5])
            bins = np.digitize(recovered, edges), np.digitize(commanded, edges)
            agreement = discrete_agreement(*bins).mean(-1)
        value, motion = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
        value[data.row, data.decision] = np.where(data.fine, agreement * moved, 0)
        motion[data.row, data.decision] = np.where(data.fine, moved, 0)
        unjudged = np.bincount(data.row, ~data.fine, len(mask)).astype(np.float32)
        count = np.bincount(data.row, minlength=len(mask))
        valid = (count > 0) & (unjudged == 0)
        seen = {
            "motion": (motion.sum(1) / np.maximum(count, 1)).astype(np.float32),
            "unjudged": unjudged,
            "no_transition": (count == 0).astype(np.float32),
        }
        return Progress(np.where(valid[:, None], value, np.float32(0)), valid, seen)

    def score(self, rollouts: Rollouts) -> Score:
        """Mean over transitions, (B,)."""
        found = self.progress(rollouts)
        count = np.maximum(rollouts.decision_valid.sum(1) - 1, 1)
        return Score((found.value.sum(1) / count).astype(np.float32), found.valid, found.components)


def _size(vectors: Tensor) -> Tensor:
    """Root mean square over the last axis."""
    return vectors.square().mean(-1).sqrt()


def _set_scales(model: InverseModel, before: Tensor, after: Tensor, action: Tensor) -> None:
    """What the model reads and says, in units of its spread; what hardly varies is not blown up."""

    def floored(values: Tensor) -> Tensor:
        size = values.square().mean(0).sqrt()
        return size.clamp_min(max(0.05 * float(_size(size)), 1e-8))

    model.mean.copy_((before + after).mean(0) / 2)
    level, change = (before + after) / 2 - model.mean, after - before
    both = torch.cat(
        [level / _size(level.flatten()).clamp_min(1e-8), change / _size(change.flatten()).clamp_min(1e-8)]
    )
    directions = torch.linalg.svd(both.double(), full_matrices=False)[2].float()
    kept = min(len(directions), model.basis.shape[1])
    model.basis[:, :kept] = directions[:kept].T
    model.level_scale.copy_(floored(level @ model.basis))
    model.change_scale.copy_(floored(change @ model.basis))
    model.action_mean.copy_(action.mean(0))
    model.action_scale.copy_(floored(action))
    command, motion = _size(action / model.action_scale), _size(change)
    asked = command > STILL
    if asked.any():
        model.motion_per_command.copy_((motion[asked] / command[asked]).median().clamp_min(1e-8))

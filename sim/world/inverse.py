"""Which chunk led from one frame to the next? An inverse-dynamics model on a world model's tokens.

It sees pictures only, never proprioception: so it can label videos without actions, and a world whose state
obeys while its pictures do not is found out.

Agreement is clip(exp(-mse / T), 0, 1) on normalised actions, as RLinf's released code has it, known
second-hand; RLIR (abstract) rewards a world model with such a model. The guard against still videos is ours:
an inverse model that knows little answers with the mean chunk, with which a frozen picture may well agree, so
agreement counts only as far as there was motion where motion was to be expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...datasets.starts import counter_generator
from .clips import Clips
from .model import WorldModel

STILL = 0.1  # of the usual motion: what is expected to bring less asks for none
ENOUGH = 0.25  # of the expected motion: as much is taken for obeying
_NOISE = 0.1  # added to tokens in training: imagined ones are not sharp


def agreement(
    found: NDArray[np.floating], wanted: NDArray[np.floating], temperature: float = 1.0
) -> NDArray[np.float64]:
    """clip(exp(-mean((a_hat - a)^2) / T), 0, 1) over the last axis: (...,A) to (...,)."""
    error = ((found.astype(np.float64) - wanted.astype(np.float64)) ** 2).mean(-1)
    return np.asarray(np.clip(np.exp(-error / temperature), 0.0, 1.0))


def motion_term(motion: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much moved of what was to be expected, in [0, 1]; 1 where nothing was.

    Args:
        motion: size of the change, in units of a usual one.
        expected: what such a chunk brings, in the same units.
    """
    asked = expected > STILL
    share = motion / np.where(asked, ENOUGH * expected, 1.0)
    return np.asarray(np.where(asked, np.clip(share, 0.0, 1.0), 1.0), np.float64)


class Trunk(nn.Module):
    """Tokens (N,C,n,d) to numbers (N,out): each token is squeezed to eight numbers, then all are read."""

    def __init__(self, tokens: int, dims: int, out: int, width: int = 64) -> None:
        super().__init__()
        self.look = nn.Linear(dims, width)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.squeeze = nn.Linear(width, 8)
        self.read = nn.Sequential(
            nn.LayerNorm(8 * tokens), nn.Linear(8 * tokens, 4 * width), nn.GELU(), nn.Dropout(0.1),
            nn.Linear(4 * width, out),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        seen = functional.gelu(self.look(tokens.flatten(1, 2)) + self.place)
        out: Tensor = self.read(self.squeeze(seen).flatten(1))
        return out


class InverseDynamics(nn.Module):
    """Tokens of two successive decisions to the chunk between them, normalised like the world model's.

    Args:
        shape: C, n, d of the tokens.
        state: S.
        chunk: H and A.
    """

    usual: Tensor  # root mean square change of a token over a chunk
    explained: Tensor  # share of the variance of the chunks of training episodes set apart

    def __init__(self, shape: tuple[int, int, int], state: int, chunk: tuple[int, int]) -> None:
        super().__init__()
        cameras, places, dims = shape
        self.chunk = chunk
        numbers = chunk[0] * chunk[1]
        self.trunk = Trunk(cameras * places, 2 * dims, numbers)
        self.motion = nn.Sequential(nn.Linear(state + numbers, 64), nn.SiLU(), nn.Linear(64, 1))
        self.register_buffer("usual", torch.ones(()))
        self.register_buffer("explained", torch.zeros(()))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """(N,C,n,d) each to (N,H,A)."""
        out: Tensor = self.trunk(torch.cat([(before + after) / 2, after - before], -1))
        chunks: Tensor = out.unflatten(-1, self.chunk)
        return chunks

    def expected(self, state: Tensor, action: Tensor) -> Tensor:
        """(N,) motion, in units of a usual one, that chunks (N,H,A) bring from `state` (N,S); normalised."""
        out: Tensor = functional.softplus(self.motion(torch.cat([state, action.flatten(1)], -1)))
        return out[:, 0]

    def moved(self, before: Tensor, after: Tensor) -> Tensor:
        """(N,) motion that there was, in the same units."""
        change: Tensor = (after - before).flatten(1).square().mean(1).sqrt() / self.usual
        return change

    @torch.no_grad()
    def score(
        self, before: Tensor, after: Tensor, state: Tensor, action: Tensor, temperature: float = 1.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Agreement and motion term, each (N,) in [0, 1]; a reward is their product.

        Args:
            before: tokens (N,C,n,d).
            after: likewise, a decision later.
            state: (N,S), normalised.
            action: (N,H,A) commanded, normalised, all of it executed.
            temperature: T.
        """
        found = self(before, after).flatten(1).float().cpu().numpy()
        asked = action.flatten(1).float().cpu().numpy()
        moved, expected = self.moved(before, after), self.expected(state, action)
        return agreement(found, asked, temperature), motion_term(moved.cpu().numpy(), expected.cpu().numpy())

    @torch.no_grad()
    def label(self, model: WorldModel, before: Tensor, after: Tensor) -> NDArray[np.float32]:
        """The chunks (N,H,A) in physical units that lead from tokens to tokens (N,C,n,d)."""
        physical = self(before, after) * model.action_std + model.action_mean
        found: NDArray[np.float32] = physical.float().cpu().numpy()
        return found


Step = Callable[[str, int, int], None]


def fit_inverse(
    model: WorldModel, clips: Clips, tokens: Tensor, episodes: NDArray[np.int64], *,
    steps: int = 1000, batch: int = 128, seed: int = 0, on_step: Step = lambda *_: None,
) -> InverseDynamics:  # fmt: skip
    """Train on all whole chunks of `episodes`; one episode of ten only chooses the best step.

    Raises:
        ValueError: if there are too few chunks.
    """
    rows, following, action, apart = chunks_of(model, clips, episodes)
    if len(rows) < 2 or apart.all() or not apart.any():
        raise ValueError(
            f"{len(episodes)} episodes have {len(rows)} chunks with a frame behind them: too few to learn "
            "which chunk led from one frame to the next; record more"
        )
    device = model.device
    state = model.normal_state(clips.state[rows])
    learn, test = np.flatnonzero(~apart), np.flatnonzero(apart)[:2000]

    def piece(which: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        before, after = (
            tokens[torch.from_numpy(held[which])].to(device).float() for held in (rows, following)
        )
        return before, after, action[torch.from_numpy(which).to(device)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = InverseDynamics(
            (tokens.shape[1], tokens.shape[2], tokens.shape[3]), model.spec.state_dim,
            (model.config.chunk, model.spec.action_dim),
        ).to(device)  # fmt: skip
        before, after, _ = piece(learn[:2000])
        net.usual.copy_((after - before).flatten(1).square().mean(1).sqrt().median().clamp_min(1e-6))

        def loss(which: NDArray[np.int64]) -> Tensor:
            before, after, wanted = piece(which)
            at = state[torch.from_numpy(which).to(device)]
            motion = functional.l1_loss(net.expected(at, wanted), net.moved(before, after))
            noise = [x + _NOISE * torch.randn_like(x) for x in (before, after)]
            return functional.mse_loss(net(*noise), wanted) + motion

        def error() -> float:
            before, after, wanted = piece(test)
            return float(functional.mse_loss(net(before, after), wanted))

        learn_best(net, loss, error, learn, steps, batch, seed, lambda i: on_step("inverse", i, steps))
        with torch.no_grad():
            spread = piece(test)[2].var(0, correction=0).mean()
            net.explained.copy_(1 - error() / spread.clamp_min(1e-9))
    return net.eval()


def chunks_of(
    model: WorldModel, clips: Clips, episodes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor, NDArray[np.bool_]]:
    """Every whole chunk that has a frame on both sides.

    Returns:
        rows of the frames before and after (N,) each, the chunks (N,H,A) normalised, and which belong to the
        tenth of the episodes that is set apart.
    """
    frames = np.flatnonzero(np.isin(clips.episode, episodes))
    windows = clips.windows(frames, model.config.chunk, 1)
    kept = windows.following[:, 0] >= 0
    rows, following = windows.frame[kept, 0], windows.following[kept, 0]
    action = model.normal_action(windows.action[kept, 0])
    return rows, following, action, np.isin(clips.episode[rows], episodes[:: max(2, min(10, len(episodes)))])


def learn_best(
    net: nn.Module, loss: Callable[[NDArray[np.int64]], Tensor], error: Callable[[], float],
    rows: NDArray[np.int64], steps: int, batch: int, seed: int, on_step: Callable[[int], None],
) -> None:  # fmt: skip
    """AdamW with a cosine; keeps the weights of the step with the smallest `error`, looked at ten times."""
    draw = counter_generator("referee", seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    best, kept = math.inf, {}
    for step in range(1, steps + 1):
        net.train()
        optimizer.zero_grad(set_to_none=True)
        loss(draw.choice(rows, min(batch, len(rows)))).backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0 or step == steps:
            net.eval()
            with torch.no_grad():
                off = error()
            if off < best:
                best, kept = off, {name: held.clone() for name, held in net.state_dict().items()}
        on_step(step)
    net.load_state_dict(kept)
    net.eval()

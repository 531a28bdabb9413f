"""What a world model is judged by and against, learnt from the same training episodes.

A linear world (what is the transformer good for?), an inverse-dynamics model (do pictures obey?), a reader of
proprioception from pictures (do picture and state agree?), and the ranges that were recorded. They lie beside
the model in a file of their own, so that it can be checked where its training data is not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .clips import Clips
from .files import WorldFileError
from .fit import batch_of
from .inverse import InverseDynamics, Step, Trunk, chunks_of, fit_inverse, learn_best
from .model import WorldModel

FILE = "referees.safetensors"
_FORMAT = "regrip world referees 1"
_DIRECTIONS = 64
_MOST = 4000  # frames for principal directions
_RIDGE = 1e-3
_SLACK = 0.05  # of a range or speed, before something is out of it


class LinearWorld(nn.Module):
    """The next tokens and state as a linear function of the present ones and the chunk.

    Tokens are reduced to their principal directions; what lies outside of them stays as in the first frame.
    What it predicts is kept within the range of the training data: else a linear map may run away.

    Args:
        size: C*n*d; `state`: S; `chunk`: H*(A+1).
        directions: how many are kept.
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    weight: Tensor

    def __init__(self, size: int, state: int, chunk: int, directions: int) -> None:
        super().__init__()
        whole = directions + state
        for name, shape in (
            ("basis", (size, directions)), ("mean", (size,)), ("scale", (directions,)),
            ("low", (whole,)), ("high", (whole,)), ("weight", (whole + chunk + 1, whole)),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))

    def reduced(self, tokens: Tensor) -> Tensor:
        """(N,C,n,d) to (N,k)."""
        return (tokens.flatten(1) - self.mean) @ self.basis / self.scale

    @staticmethod
    def features(now: Tensor, action: Tensor) -> Tensor:
        return torch.cat([now, action.flatten(1), torch.ones_like(now[:, :1])], 1)

    def play(self, tokens: Tensor, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """From tokens (B,C,n,d) and state (B,S) on by chunks (B,L,H,A+1): (B,L,C,n,d) and (B,L,S)."""
        first = self.reduced(tokens)
        count = first.shape[1]
        now = torch.cat([first, state], 1)
        seen, felt = [], []
        for decision in range(action.shape[1]):
            now = now + self.features(now, action[:, decision]) @ self.weight
            now = torch.minimum(torch.maximum(now, self.low), self.high)
            change = ((now[:, :count] - first) * self.scale) @ self.basis.T
            seen.append(tokens + change.view_as(tokens))
            felt.append(now[:, count:])
        return torch.stack(seen, 1), torch.stack(felt, 1)


class Referees(nn.Module):
    """All of them, for one world model.

    Attributes:
        low: (S,) of the recorded proprioception, `high` likewise; physical units, a little wider.
        speed: (S,) largest change over one decision, likewise.
    """

    low: Tensor
    high: Tensor
    speed: Tensor

    def __init__(self, model: WorldModel, directions: int = _DIRECTIONS) -> None:
        super().__init__()
        spec, chunk, eyes = model.spec, model.config.chunk, model.tokenizer
        shape = (len(spec.cameras), eyes.places, eyes.dims)
        size = shape[0] * shape[1] * shape[2]
        self.linear = LinearWorld(size, spec.state_dim, chunk * (spec.action_dim + 1), directions)
        self.inverse = InverseDynamics(shape, spec.state_dim, (chunk, spec.action_dim))
        self.reader = Trunk(shape[0] * shape[1], shape[2], spec.state_dim)
        for name in ("low", "high", "speed"):
            self.register_buffer(name, torch.zeros(spec.state_dim))


def fit_referees(
    model: WorldModel, clips: Clips, tokens: Tensor, episodes: NDArray[np.int64], *,
    steps: int = 1000, seed: int = 0, on_step: Step = lambda *_: None,
) -> Referees:  # fmt: skip
    """Learn all of them from `episodes`, which must be those that the model was trained on.

    Args:
        model: the world.
        clips: recordings.
        tokens: of all their frames, see `fit.encode`.
        episodes: rows of `clips`.
        steps: of the two small networks.
        seed: of those.
        on_step: called with (what, steps done, steps in all).

    Raises:
        ValueError: if there are too few episodes.
    """
    inverse = fit_inverse(model, clips, tokens, episodes, steps=steps, seed=seed, on_step=on_step)
    rows, following, _, apart = chunks_of(model, clips, episodes)
    frames = np.flatnonzero(np.isin(clips.episode, episodes))
    size = tokens[0].numel()
    some = frames[np.linspace(0, len(frames) - 1, min(len(frames), _MOST)).astype(np.int64)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = Referees(model, min(_DIRECTIONS, size, len(some))).to(model.device)
    found.inverse.load_state_dict(inverse.state_dict())
    state = clips.state[frames]
    spread = _SLACK * np.maximum(np.ptp(state, 0), 1e-4)
    speed = np.abs(clips.state[following] - clips.state[rows]).max(0)
    for name, values in (
        ("low", state.min(0) - spread),
        ("high", state.max(0) + spread),
        ("speed", speed + _SLACK * np.maximum(speed, 1e-4)),
    ):
        getattr(found, name).copy_(torch.from_numpy(values))
    _fit_linear(found.linear, model, clips, tokens, rows, some, seed)
    _fit_reader(found.reader, model, clips, tokens, rows, apart, steps, seed, on_step)
    return found.eval()


@torch.no_grad()
def _fit_linear(
    linear: LinearWorld, model: WorldModel, clips: Clips, tokens: Tensor,
    rows: NDArray[np.int64], some: NDArray[np.int64], seed: int,
) -> None:  # fmt: skip
    """Principal directions by a randomised decomposition; then ridge regression of the change."""
    held = tokens[torch.from_numpy(some)].to(model.device).float().flatten(1)
    linear.mean.copy_(held.mean(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        basis = torch.pca_lowrank(held - linear.mean, q=linear.basis.shape[1], center=False, niter=3)[2]
    linear.basis.copy_(basis)
    linear.scale.copy_(((held - linear.mean) @ basis).std(0).clamp_min(1e-6))
    inputs, changes = [], []
    for first in range(0, len(rows), 1024):
        windows = clips.windows(rows[first : first + 1024], model.config.chunk, 1)
        batch = batch_of(model, clips, tokens, windows)
        now, after = (torch.cat([linear.reduced(batch.tokens[:, i]), batch.state[:, i]], 1) for i in (0, 1))
        inputs.append(linear.features(now, batch.action[:, 0]))
        changes.append(after - now)
    x, y = torch.cat(inputs).double(), torch.cat(changes).double()
    gram = x.T @ x / len(x) + _RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    linear.weight.copy_(torch.linalg.solve(gram, x.T @ y / len(x)).float())
    whole = x[:, : y.shape[1]]
    linear.low.copy_(whole.amin(0).float())
    linear.high.copy_(whole.amax(0).float())


def _fit_reader(
    reader: Trunk, model: WorldModel, clips: Clips, tokens: Tensor,
    rows: NDArray[np.int64], apart: NDArray[np.bool_], steps: int, seed: int, on_step: Step,
) -> None:  # fmt: skip
    state = model.normal_state(clips.state[rows])

    def off(which: NDArray[np.int64], noise: float) -> Tensor:
        seen = tokens[torch.from_numpy(rows[which])].to(model.device).float()
        found = reader(seen + noise * torch.randn_like(seen))
        return functional.mse_loss(found, state[torch.from_numpy(which).to(model.device)])

    learn, test = np.flatnonzero(~apart), np.flatnonzero(apart)[:2000]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        learn_best(
            reader, lambda which: off(which, 0.1), lambda: float(off(test, 0.0)), learn,
            steps, 128, seed, lambda i: on_step("reader", i, steps),
        )  # fmt: skip


def save_referees(folder: Path, referees: Referees, model: WorldModel) -> None:
    """Write them beside the model; they fit any model with these eyes, whatever becomes of its dynamics."""
    part = folder / (FILE + ".part")
    save_file(
        {name: held.detach().cpu().contiguous() for name, held in referees.state_dict().items()},
        part,
        {"format": _FORMAT, "eyes": eyes_of(model)},
    )
    part.replace(folder / FILE)


def load_referees(folder: Path, model: WorldModel) -> Referees | None:
    """What `save_referees` wrote; None if there are none.

    Raises:
        WorldFileError: damaged, or of another model.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
        if said.get("format") != _FORMAT or said.get("eyes") != eyes_of(model):
            raise WorldFileError(
                f"{path} was learnt for another model than the one beside it; remove it, and give the "
                "training episodes with --learn-from"
            )
        held = load_file(path)
        found = Referees(model, held["linear.scale"].shape[0])
        found.load_state_dict(held)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise WorldFileError(
            f"{path} is damaged ({error}); remove it, and give the training episodes with --learn-from"
        ) from error
    return found.to(model.device).eval()


def eyes_of(model: WorldModel) -> str:
    """A hash of what turns pictures, states and actions into numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, held in sorted(model.state_dict().items()):
        if not name.startswith("dynamics."):
            digest.update(name.encode())
            digest.update(held.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

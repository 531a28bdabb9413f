"""Latent dynamics for cheap long rollouts: a recurrent state-space model with categorical latents.

Follows DreamerV2 (Hafner et al. 2021, arXiv 2010.02193) as DiWA uses it: a deterministic state h carried by a
GRU, a stochastic one z of `groups` categorical variables with straight-through gradients, balanced KL (0.8 on
the prior's side) with free nats. What is done otherwise than there:

* A rollout begins with one frame, so h begins as a function of that frame instead of zero, and what is
  decoded is the change since it. Else a scene would have to pass whole through z, a few hundred bits.
* The prior is an ensemble; how far its members differ is the doubt (Sekar et al. 2020, Plan2Explore, which
  takes an ensemble of its own for that). Imagination takes the mode of their mean, so it is repeatable.
* The reflector reads h and the instruction, but not z: nobody has seen the frame after the last chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dynamics import Batch, Step

_BALANCE = 0.8
_FREE_NATS = 1.0
_KL_WEIGHT = 0.1


def balanced_kl(posterior: Tensor, prior: Tensor, balance: float, free: float) -> Tensor:
    """KL(posterior || prior) in nats, summed over groups, with different rates of learning for its two sides.

    Args:
        posterior: logits (...,G,C).
        prior: likewise.
        balance: share of the gradient that moves the prior; the rest moves the posterior.
        free: below so many nats neither is moved.

    Returns:
        (...), at least `free`.
    """

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum((-2, -1)).clamp_min(free)

    return balance * divergence(posterior.detach(), prior) + (1 - balance) * divergence(
        posterior, prior.detach()
    )


class _Gru(nn.Module):
    """A gated recurrent unit with layer normalisation, whose update gate leans to keeping the state."""

    def __init__(self, read: int, held: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(read + held, 3 * held, bias=False), nn.LayerNorm(3 * held)

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        reset, candidate, update = self.norm(self.layer(torch.cat([x, held], -1)).float()).chunk(3, -1)
        update = torch.sigmoid(update - 1)
        after: Tensor = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * held
        return after


def _mlp(read: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(read, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, out))


@dataclass(frozen=True)
class Memory:
    """B imaginations.

    Attributes:
        held: h, (B,D).
        drawn: z, one-hot, (B,G*C).
        tokens: (B,C,n,d) of the frame they began with; `state`: (B,S).
    """

    held: Tensor
    drawn: Tensor
    tokens: Tensor
    state: Tensor


class Rssm(nn.Module):
    """Implements `Dynamics`.

    Args:
        cameras: C.
        places: n, tokens of a camera; each has `dims` numbers.
        dims: d.
        state: S.
        chunk: H*A, numbers of a chunk.
        vocabulary: words, without the empty one.
        width: of the layers around the recurrent state; see `WorldConfig` for it and the rest.
        recurrent: D.
        groups: G, categorical variables of `classes` values each.
        classes: see there.
        ensemble: K, priors.
        success_weight: of the reflector's loss.
    """

    def __init__(
        self, cameras: int, places: int, dims: int, state: int, chunk: int, vocabulary: int, *,
        width: int, recurrent: int, groups: int, classes: int, ensemble: int, success_weight: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.state = (cameras, places, dims), state
        self.groups, self.classes, self.ensemble = groups, classes, ensemble
        self.success_weight = success_weight
        seen, drawn = cameras * places * dims, groups * classes
        self.look = nn.Sequential(_mlp(seen + state, 2 * width, width), nn.SiLU())
        self.start = _mlp(width, width, recurrent)
        self.act = nn.Sequential(_mlp(drawn + chunk, width, width), nn.SiLU())
        self.gru = _Gru(width, recurrent)
        self.prior: Sequence[nn.Sequential] = nn.ModuleList(  # type: ignore[assignment]
            _mlp(recurrent, width, drawn) for _ in range(ensemble)
        )
        self.posterior = _mlp(recurrent + width, width, drawn)
        self.decoder = _mlp(recurrent + drawn, 2 * width, seen + state)
        self.word = nn.Embedding(vocabulary + 1, width, padding_idx=0)
        self.order = nn.Parameter(torch.randn(64, width) * 0.02)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.judge = _mlp(recurrent + width, width, 1)
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear), "an MLP ends with a linear layer"
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    # ---- the network ---------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor, state: Tensor) -> Tensor:
        """(...,C,n,d) and (...,S) to (...,w)."""
        seen: Tensor = self.look(torch.cat([tokens.flatten(-3), state], -1))
        return seen

    def _first(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Recurrent state h (B,D) of the first frame (B,w), and the posterior's logits (B,G,C) there."""
        held = torch.tanh(self.start(embedded).float())
        return held, self._logits(self.posterior(torch.cat([held, embedded], -1)))

    def _logits(self, x: Tensor) -> Tensor:
        """With one part in a hundred of the uniform distribution, so that no divergence is infinite."""
        chance = x.float().unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return torch.log(0.99 * chance + 0.01 / self.classes)

    def _priors(self, held: Tensor) -> Tensor:
        """Of all members: logits (K,...,G,C) from h (...,D)."""
        return torch.stack([self._logits(member(held)) for member in self.prior])

    def _forward(self, held: Tensor, drawn: Tensor, action: Tensor) -> Tensor:
        after: Tensor = self.gru(self.act(torch.cat([drawn, action.flatten(-2)], -1)), held)
        return after

    def _decode(self, held: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Changes since the first frame: tokens (...,C,n,d) and state (...,S)."""
        out = self.decoder(torch.cat([held, drawn], -1)).float()
        return out[..., : -self.state].unflatten(-1, self.shape), out[..., -self.state :]

    def _success(self, held: Tensor, words: Tensor) -> Tensor:
        """Logits (B,T) from h (B,T,D)."""
        said = self.mix(self.word(words) + self.order[: words.shape[1]])
        there = (words > 0).unsqueeze(-1)
        query = (said * there).sum(1) / there.sum(1).clamp_min(1)
        logit: Tensor = self.judge(
            torch.cat([held, query[:, None].expand(-1, held.shape[1], -1).to(held.dtype)], -1)
        )
        return logit.float().squeeze(-1)

    # ---- imagination ---------------------------------------------------------------------------------

    def begin(self, tokens: Tensor, state: Tensor, origin: Tensor, began: Tensor) -> Memory:
        """See `Dynamics`."""
        held, logits = self._first(self._embed(tokens, state))
        return Memory(held, _mode(logits.exp()), tokens, state)

    def step(self, memory: Memory, action: Tensor, words: Tensor) -> tuple[Memory, Step]:
        """See `Dynamics`."""
        held = self._forward(memory.held, memory.drawn, action)
        chances = self._priors(held).exp()
        drawn = _mode(chances.mean(0))
        tokens, state = self._decode(held, drawn)
        step = Step(
            memory.tokens + tokens,
            memory.state + state,
            self._success(held[:, None], words)[:, 0],
            chances.var(0, correction=0).mean((1, 2)).sqrt(),
        )
        return Memory(held, drawn, memory.tokens, memory.state), step

    # ---- learning ------------------------------------------------------------------------------------

    def _unroll(
        self, batch: Batch, imagined: bool, choose: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Along a window; with `imagined` only the first frame is seen, else every one, and z is chosen.

        Returns:
            h after each decision (B,L,D), z then (B,L,G*C), logits of the posterior (B,L,G,C) and of the
            priors (K,B,L,G,C).
        """
        embedded = self._embed(batch.tokens, batch.state)
        held, logits = self._first(embedded[:, 0])
        drawn = choose(logits.exp())
        every: tuple[list[Tensor], ...] = ([], [], [], [])
        for decision in range(batch.action.shape[1]):
            held = self._forward(held, drawn, batch.action[:, decision])
            priors = self._priors(held)
            posterior = self._logits(self.posterior(torch.cat([held, embedded[:, decision + 1]], -1)))
            drawn = _likeliest(priors.exp().mean(0)) if imagined else choose(posterior.exp())
            for kept, new in zip(every, (held, drawn, posterior, priors), strict=True):
                kept.append(new)
        helds, drawns, posteriors, all_priors = every
        return (
            torch.stack(helds, 1),
            torch.stack(drawns, 1),
            torch.stack(posteriors, 1),
            torch.stack(all_priors, 2),
        )

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Dynamics`: what each member holds for most likely, decoded."""
        held, _, _, priors = self._unroll(batch, False, _likeliest)
        drawn = _likeliest(priors.exp())
        tokens, state = self._decode(held.expand(self.ensemble, *held.shape), drawn)
        return batch.tokens[:, :1] + tokens, batch.state[:, :1] + state

    def losses(self, batch: Batch, imagined: bool) -> dict[str, Tensor]:
        """See `Dynamics`. Members of the ensemble see each window with weights of their own (bootstrap)."""
        held, drawn, posterior, priors = self._unroll(batch, imagined, _draw)
        tokens, state = self._decode(held, drawn)
        known = batch.follows.float()
        count = known.sum().clamp_min(1)
        off_tokens = (batch.tokens[:, :1] + tokens - batch.tokens[:, 1:]).abs().mean((2, 3, 4))
        off_state = functional.smooth_l1_loss(
            batch.state[:, :1] + state, batch.state[:, 1:], reduction="none", beta=0.1
        ).mean(-1)
        # Weights of 0, 1 or 2 for each member and window.
        share = torch.randint(0, 3, (self.ensemble, len(held), 1), device=held.device) * known
        apart = balanced_kl(posterior.expand_as(priors), priors, _BALANCE, _FREE_NATS)
        success = functional.binary_cross_entropy_with_logits(
            self._success(held, batch.words), batch.success, reduction="none"
        )
        losses = {
            "tokens": (off_tokens * known).sum() / count,
            "state": (off_state * known).sum() / count,
            "kl": (apart * share).sum() / share.sum().clamp_min(1),
            "success": (success * batch.there).sum() / batch.there.sum().clamp_min(1),
        }
        total = losses["tokens"] + losses["state"] + _KL_WEIGHT * losses["kl"]
        return {**losses, "total": total + self.success_weight * losses["success"]}


def _mode(chances: Tensor) -> Tensor:
    """The likeliest class of each group, one-hot: (...,G,C) to (...,G*C)."""
    return functional.one_hot(chances.argmax(-1), chances.shape[-1]).to(chances.dtype).flatten(-2)


def _likeliest(chances: Tensor) -> Tensor:
    """The same, with the gradient of the probabilities (straight-through)."""
    return _mode(chances) + (chances - chances.detach()).flatten(-2)


def _draw(chances: Tensor) -> Tensor:
    """One class of each group by chance, likewise."""
    rows = torch.multinomial(chances.detach().flatten(0, -2), 1).squeeze(-1).unflatten(0, chances.shape[:-1])
    one = functional.one_hot(rows, chances.shape[-1]).to(chances.dtype)
    return (one + chances - chances.detach()).flatten(-2)

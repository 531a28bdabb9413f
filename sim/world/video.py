"""The video world model's dynamics: a causal transformer over the tokens of frames.

Every decision is C*n picture tokens and one of proprioception, all of which carry the chunk that is about to
be executed. A token attends to all tokens of its own decision and of the few before it, so time and memory
grow linearly with the number of decisions. An ensemble of heads predicts how tokens and proprioception
change; one more, the reflector, reads off whether the episode succeeds within the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dynamics import Batch, Step


def turn(x: Tensor, time: Tensor) -> Tensor:
    """Rotary embedding in time of `x` (...,T,N,heads,d), `time` (T,): what attends sees time's difference."""
    half = x.shape[-1] // 2
    rate = 10.0 ** (-torch.arange(half, device=x.device) * 2.0 / half)
    angle = (time[:, None].float() * rate)[:, None, None, :].to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Layer(nn.Module):
    """Pre-norm attention over the last `context` decisions, and a feed-forward part."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads, self.context = heads, context
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forth = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B,T,N,heads,d) of tokens (B,T,N,w), not yet turned."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Whole stretches: (B,T,N,w)."""
        batch, steps, tokens = x.shape[:3]
        time = torch.arange(steps, device=x.device)
        q, k, v = self.project(x)
        # Each decision beside those before it: (B,T,context*N,heads,d); linear in T.
        keys, values = self._lookback(turn(k, time)), self._lookback(v)
        past = time[:, None] - torch.arange(self.context - 1, -1, -1, device=x.device)
        mask = (past >= 0).repeat_interleave(tokens, 1).expand(batch, -1, -1).flatten(0, 1)
        seen = _attend(turn(q, time).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), mask)
        return self._rest(x, seen.unflatten(0, (batch, steps)))

    def one(self, x: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One decision (B,N,w) after the `past` keys and values (B,P,2,N,heads,d), where `mask` (B,P+1).

        Returns:
            the output (B,N,w), and its keys and values (B,2,N,heads,d).
        """
        q, k, v = self.project(x[:, None])
        time = torch.arange(self.context, device=x.device)
        keys = turn(torch.cat([past[:, :, 0], k], 1), time).flatten(1, 2)
        values = torch.cat([past[:, :, 1], v], 1).flatten(1, 2)
        seen = _attend(turn(q, time[-1:])[:, 0], keys, values, mask.repeat_interleave(x.shape[1], 1))
        return self._rest(x, seen), torch.cat([k, v], 1)

    def _lookback(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, 0, 0, 0, self.context - 1, 0))
        return torch.cat([padded[:, i : i + x.shape[1]] for i in range(self.context)], 2)

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.out(seen)
        whole: Tensor = x + self.forth(self.between(x))
        return whole


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of (B,N,heads,d) on (B,M,heads,d) where `mask` (B,M): (B,N,heads*d)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.is_cuda:
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    else:  # a few tokens for each of many rows: plain products take less than half of the fused kernel's time
        score = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        seen = score.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1).to(v.dtype) @ v
    return seen.transpose(1, 2).flatten(2)


def _near(found: Tensor, wanted: Tensor) -> Tensor:
    """Of states (...,S), which are exact where nothing is touched: (...)."""
    return functional.smooth_l1_loss(found, wanted, reduction="none", beta=0.1).mean(-1)


@dataclass(frozen=True)
class Memory:
    """B imaginations, each with as many decisions behind it as it has.

    Attributes:
        tokens: (B,C,n,d) at the present; `state`: (B,S).
        past: keys and values of the P decisions before, oldest first: (B,P,layers,2,N,heads,d/heads).
        gone: int64 (B,), decisions so far.
    """

    tokens: Tensor
    state: Tensor
    past: Tensor
    gone: Tensor


class VideoDynamics(nn.Module):
    """Implements `Dynamics`.

    Args:
        cameras: C.
        places: n, tokens of a camera; each has `dims` numbers.
        dims: d.
        state: S.
        chunk: H*A, numbers of a chunk.
        vocabulary: words, without the empty one.
        width: of the transformer, as `layers`, `heads`, `context`, `ensemble`: see `WorldConfig`.
        success_weight: see there.
    """

    def __init__(
        self, cameras: int, places: int, dims: int, state: int, chunk: int, vocabulary: int, *,
        width: int, layers: int, heads: int, context: int, ensemble: int, success_weight: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.context, self.ensemble = (cameras, places, dims), context, ensemble
        self.success_weight = success_weight
        # Where the robot will be is easy to say, and where it will be seen follows: so that comes first.
        self.reach = nn.Sequential(
            nn.Linear(state + chunk, 2 * width), nn.SiLU(),
            nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, state),
        )  # fmt: skip
        self.body = nn.Sequential(
            nn.Linear(state, 2 * width), nn.SiLU(),
            nn.Linear(2 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, cameras * places * dims),
        )  # fmt: skip
        self.ahead = nn.Linear(2 * state, width)
        self.read, self.feel = nn.Linear(dims, width), nn.Linear(state, width)
        self.place = nn.Parameter(torch.randn(cameras * places + 1, width) * 0.02)
        self.act = nn.Sequential(nn.Linear(chunk, width), nn.SiLU(), nn.Linear(width, width))
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(width, heads, context) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.see = nn.ModuleList(self._head(width, dims) for _ in range(ensemble))
        self.move = nn.ModuleList(self._head(width, state) for _ in range(ensemble))
        self.word = nn.Embedding(vocabulary + 1, width, padding_idx=0)
        self.order = nn.Parameter(torch.randn(64, width) * 0.02)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    @staticmethod
    def _head(width: int, out: int) -> nn.Module:
        last = nn.Linear(width, out)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)

    # ---- the network ---------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T,C,n,d), (B,T,S) and (B,T,H,A) to (B,T,N,w), and a first guess of the next state (B,T,S)."""
        chunk = action.flatten(2)
        guess = self.reached(state, action)
        moves = self.act(chunk) + self.ahead(torch.cat([state, guess.detach()], -1))
        rest = tokens - self.usual(state)  # which leaves what is not the robot
        seen = torch.cat([self.read(rest.flatten(2, 3)), self.feel(state)[:, :, None]], 2)
        return seen + self.place + moves[:, :, None], guess

    def reached(self, state: Tensor, action: Tensor) -> Tensor:
        """Where proprioception (...,S) will be after `action` (...,H,A), if nothing is in the way."""
        whole: Tensor = state + self.reach(torch.cat([state, action.flatten(-2)], -1)).float()
        return whole

    def usual(self, state: Tensor) -> Tensor:
        """What is usually seen with proprioception (...,S): the robot itself, tokens (...,C,n,d)."""
        whole: Tensor = self.body(state).float().unflatten(-1, self.shape)
        return whole

    def _stays(self, tokens: Tensor, state: Tensor, now: Tensor) -> Tensor:
        """What would be seen if the robot went from `state` to `now` and nothing else changed."""
        return tokens - self.usual(state) + self.usual(now)

    def _changes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each member: tokens (K,B,T,C,n,d) and state (K,B,T,S), from the last layer (B,T,N,w)."""
        x = self.norm(x)
        cameras, places, _ = self.shape
        tokens = torch.stack([head(x[:, :, :-1]) for head in self.see]).float()
        state = torch.stack([head(x[:, :, -1]) for head in self.move]).float()
        return tokens.unflatten(3, (cameras, places)), state

    def _success(self, x: Tensor, words: Tensor) -> Tensor:
        """Logits (B,T): what the instruction asks for is looked for among the tokens."""
        steps = x.shape[1]
        said = self.mix(self.word(words) + self.order[: words.shape[1]])
        there = (words > 0).unsqueeze(-1)
        query = (said * there).sum(1) / there.sum(1).clamp_min(1)
        query = query.repeat_interleave(steps, 0)[:, None]
        x = self.norm(x).flatten(0, 1)
        found, _ = self.attend(query, x, x, need_weights=False)
        logit: Tensor = self.judge(torch.cat([found, query], -1)).float()
        logits: Tensor = logit[:, 0, 0].unflatten(0, (-1, steps))
        return logits

    # ---- imagination ---------------------------------------------------------------------------------

    def begin(self, tokens: Tensor, state: Tensor, origin: Tensor, began: Tensor) -> Memory:
        first = self.layers[0]
        width = self.norm.normalized_shape[0]
        shape = (
            self.context - 1,
            len(self.layers),
            2,
            self.place.shape[0],
            first.heads,
            width // first.heads,
        )
        gone = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        return Memory(tokens, state, tokens.new_zeros(len(tokens), *shape), gone)

    def step(self, memory: Memory, action: Tensor, words: Tensor) -> tuple[Memory, Step]:
        """See `Dynamics`."""
        x, guess = self._embed(memory.tokens[:, None], memory.state[:, None], action[:, None])
        x = x[:, 0]
        behind = torch.arange(self.context - 1, -1, -1, device=x.device)
        mask = behind <= memory.gone[:, None]
        kept = []
        for index, layer in enumerate(self.layers):
            x, held = layer.one(x, memory.past[:, :, index].to(x.dtype), mask)
            kept.append(held)
        seen, moved = self._changes(x[:, None])
        seen, moved = seen[:, :, 0], moved[:, :, 0]
        now = guess[:, 0] + moved.mean(0)
        step = Step(
            self._stays(memory.tokens, memory.state, now) + seen.mean(0),
            now,
            self._success(x[:, None], words)[:, 0],
            seen.var(0, correction=0).mean((1, 2, 3)).sqrt(),
        )
        past = torch.cat([memory.past, torch.stack(kept, 1)[:, None].to(memory.past.dtype)], 1)[:, 1:]
        return Memory(step.tokens, step.state, past, memory.gone + 1), step

    # ---- learning ------------------------------------------------------------------------------------

    def _foretell(
        self, tokens: Tensor, state: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of stretches (B,T,...): members' tokens and states, the first guess of these, the last layer."""
        x, guess = self._embed(tokens, state, action)
        for layer in self.layers:
            x = layer(x)
        seen, moved = self._changes(x)
        # With the robot where it was found to be next, so that its picture is of where it says it is.
        now = (guess + moved.mean(0)).detach()
        return self._stays(tokens, state, now) + seen, guess.detach() + moved, guess, x

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Dynamics`."""
        tokens, states, _, _ = self._foretell(batch.tokens[:, :-1], batch.state[:, :-1], batch.action)
        return tokens, states

    def losses(self, batch: Batch, imagined: bool) -> dict[str, Tensor]:
        """See `Dynamics`. Members of the ensemble see each window with weights of their own (bootstrap)."""
        tokens, state = batch.tokens[:, :-1], batch.state[:, :-1]
        if imagined:
            tokens, state = self._imagine(batch)
        found, states, guess, x = self._foretell(tokens, state, batch.action)
        # Weights of 0, 1 or 2 for each member and window.
        share = torch.randint(0, 3, (self.ensemble, len(tokens), 1), device=tokens.device).float()
        known = batch.follows * share
        count = known.sum().clamp_min(1)
        # Squares: the median of what may happen to a token is that nothing does.
        off_tokens = (found - batch.tokens[:, 1:]).square().mean((3, 4, 5))
        wanted = batch.state[:, 1:]
        off_state = _near(states, wanted.expand_as(states)) + _near(guess, wanted)
        success = functional.binary_cross_entropy_with_logits(
            self._success(x, batch.words), batch.success, reduction="none"
        )
        losses = {
            "tokens": (off_tokens * known).sum() / count,
            "state": (off_state * known).sum() / count,
            "success": (success * batch.there).sum() / batch.there.sum().clamp_min(1),
        }
        total = losses["tokens"] + losses["state"] + self.success_weight * losses["success"]
        return {**losses, "total": total}

    @torch.no_grad()
    def _imagine(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What it reads at each decision if it sees only the first frame: (B,L,C,n,d) and (B,L,S)."""
        memory = self.begin(batch.tokens[:, 0], batch.state[:, 0], batch.origin, batch.began)
        tokens, state = [memory.tokens], [memory.state]
        for decision in range(batch.action.shape[1] - 1):
            memory, _ = self.step(memory, batch.action[:, decision], batch.words)
            tokens.append(memory.tokens)
            state.append(memory.state)
        return torch.stack(tokens, 1), torch.stack(state, 1)

"""The parts critics are made of: eyes, ears, words that steer features, a transformer, output heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NetworkConfig
from .inputs import Inputs


class Senses(nn.Module):
    """Frames and sentences to vectors; pixels through convolutions, words through a GRU.

    Given embeddings and text vectors go through linear layers; embeddings are standardised first, with the
    mean and scale of the training data (`standardise`).
    """

    def __init__(self, inputs: Inputs, config: NetworkConfig) -> None:
        super().__init__()
        self.inputs = inputs
        last = nn.LayerNorm(config.embedding)
        if inputs.features:
            self.register_buffer("mean", torch.zeros(inputs.features))
            self.register_buffer("scale", torch.ones(inputs.features))
            wide = nn.Linear(inputs.features, config.embedding)
            self.see = nn.Sequential(wide, nn.GELU(), nn.Linear(config.embedding, config.embedding), last)
        else:
            layers: list[nn.Module] = []
            before = 3 * len(inputs.cameras)
            for after in config.channels:
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
                before = after
            grid = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * before, config.embedding), last]
            self.see = nn.Sequential(*layers, *grid)
        if inputs.text_features:
            self.tell: nn.Module = nn.Linear(inputs.text_features, config.text)
        else:
            self.words = nn.Embedding(inputs.vocabulary, config.text, padding_idx=0)
            with torch.no_grad():
                self.words.weight[1] = 0  # <unk> is never seen in training: it says nothing
            self.tell = nn.GRU(config.text, config.text, batch_first=True)

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale from the training data's embeddings, (M,E)."""
        self.mean = features.mean(0)
        self.scale = features.std(0, unbiased=False).clamp_min(1e-6)

    def frames(self, frames: Tensor) -> Tensor:
        """uint8 (N,C,H,W) or float32 (N,F) to (N,E)."""
        if self.inputs.features:
            seen: Tensor = self.see((frames - self.mean) / self.scale)
        else:
            seen = self.see(frames.float() / 255 - 0.5)
        return seen

    def sentences(self, said: Tensor) -> Tensor:
        """int64 (N,L) or float32 (N,V) to (N,T)."""
        if self.inputs.text_features:
            found: Tensor = self.tell(said)
            return found
        out, _ = self.tell(self.words(said))
        last = (said != 0).sum(1).clamp_min(1) - 1
        return torch.as_tensor(out[torch.arange(len(said), device=said.device), last])


class Steered(nn.Module):
    """A feature vector and a sentence to one vector: the sentence scales and shifts the features (FiLM)."""

    def __init__(self, features: int, text: int, hidden: int) -> None:
        super().__init__()
        self.features = nn.Linear(features, hidden)
        self.text = nn.Linear(text, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """(...,E) and (...,T) to (...,H)."""
        scale, shift = self.text(text).chunk(2, dim=-1)
        out: Tensor = F.gelu(self.out(F.gelu(self.features(features) * (1 + scale) + shift)))
        return out


class Heads(nn.Module):
    """Output heads that begin differently, an ensemble over one trunk."""

    def __init__(self, hidden: int, outputs: int, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs))
            for _ in range(members)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(...,H) to (members,...,outputs)."""
        return torch.stack([head(hidden) for head in self.members])


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query_key_value, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, tokens: Tensor, causal: bool) -> Tensor:
        count, length, hidden = tokens.shape
        split = self.query_key_value(self.before_attention(tokens)).view(count, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(count, length, hidden))
        out: Tensor = tokens + self.mlp(self.before_mlp(tokens))
        return out


class FrameTransformer(nn.Module):
    """A transformer over a few frames and a sentence; only the first frame is marked by its position.

    Args:
        config: sizes.
        causal: whether a frame sees only those before it; padding then goes behind and needs no mask.
    """

    def __init__(self, config: NetworkConfig, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.steer = Steered(config.embedding, config.text, config.hidden)
        self.first = nn.Parameter(torch.zeros(config.hidden))
        self.sentence = nn.Linear(config.text, config.hidden)
        self.blocks = nn.ModuleList(_Block(config.hidden, config.heads) for _ in range(config.layers))
        self.last = nn.LayerNorm(config.hidden)

    def forward(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,L,E) and (N,T) to (N,L,H)."""
        tokens = self.steer(frames, text[:, None])
        tokens = torch.cat([self.sentence(text)[:, None], tokens[:, :1] + self.first, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens, self.causal)
        out: Tensor = self.last(tokens[:, 1:])
        return out

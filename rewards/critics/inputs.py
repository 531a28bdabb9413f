"""What a critic is given: frames as pixels or embeddings, sentences as words or vectors, and its episodes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from ...datasets.episode import Rollouts
from ...datasets.starts import StartState
from ..embedding import Encoder
from ..scorers import Frames

PAD, UNKNOWN = "<pad>", "<unk>"
MAX_WORDS = 64

TextEncoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""N sentences to float32 (N,V); must be a fixed function."""


class InputError(ValueError):
    """What is to be judged is not what the critic was trained on: other cameras, sizes or embeddings."""


@dataclass(frozen=True)
class Inputs:
    """The shapes a network is built for.

    Attributes:
        cameras: seen, in this order; empty where embeddings are given.
        height: of a picture, pixels; 0 where embeddings are given.
        width: likewise.
        features: numbers of a given embedding; 0 for pixels.
        vocabulary: words known, with <pad> and <unk>; 0 where text vectors are given.
        text_features: numbers of a given text vector; 0 for words.
    """

    cameras: tuple[str, ...]
    height: int
    width: int
    features: int
    vocabulary: int
    text_features: int


def pixels(frames: Frames, cameras: Sequence[str], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Pictures of the cameras side by side in the channels, uint8 (N, 3 * cameras, H, W).

    Raises:
        InputError: a camera is missing, or a picture has another size.
    """
    seen = []
    for name in cameras:
        if name not in frames.images:
            raise InputError(
                f"no camera {name!r} in what is to be judged, it has {sorted(frames.images)}: the critic "
                f"sees {', '.join(cameras)}; record that camera, or fit a critic on those there are"
            )
        size = size or (frames.images[name].shape[1], frames.images[name].shape[2])
        found = frames.images[name].shape[1:3]
        if found != size:
            raise InputError(
                f"pictures of {name!r} are {found[0]}x{found[1]} (height x width), the critic expects "
                f"{size[0]}x{size[1]}: render or resize them to that, or fit another critic"
            )
        seen.append(frames.images[name])
    return np.ascontiguousarray(np.concatenate(seen, axis=-1).transpose(0, 3, 1, 2))


def still(frames: Frames) -> Rollouts:
    """N moments as N episodes of one decision, for an `Encoder`."""
    count = len(frames)
    return Rollouts(
        start=[StartState("frames/frame", "train", index) for index in range(count)],
        group=np.arange(count),
        instruction=list(frames.instruction),
        images={name: held[:, None] for name, held in frames.images.items()},
        state=frames.state[:, None],
        privileged=frames.privileged[:, None],
        action=np.zeros((count, 1, 1, 1), np.float32),
        valid=np.ones((count, 1, 1), bool),
        reward=np.zeros((count, 1, 1), np.float32),
        success=np.zeros(count, bool),
        truncated=np.zeros(count, bool),
        invalid=np.zeros(count, bool),
        latent={},
        log_prob=np.zeros((count, 1, 1), np.float32),
        policy_version=0,
    )


def embedded(encoder: Encoder, frames: Frames, features: int) -> NDArray[np.float32]:
    """(N,E) from an encoder that looks at each frame alone.

    Raises:
        InputError: it gives another number of features than the critic was trained on (0: any).
    """
    found = np.asarray(encoder(still(frames)), np.float32)
    if found.ndim != 3 or found.shape[:2] != (len(frames), 1):
        raise InputError(f"the encoder returned {found.shape}, expected ({len(frames)}, 1, E)")
    if features and found.shape[-1] != features:
        raise InputError(
            f"the encoder gives {found.shape[-1]} numbers for a frame, the critic was trained on {features}: "
            "use the encoder it was trained with"
        )
    return found[:, 0]


@dataclass(frozen=True)
class Words:
    """A word-level vocabulary, made by the `tokenizers` library from the training sentences."""

    tokenizer: Tokenizer

    @classmethod
    def of(cls, sentences: Sequence[str]) -> Words:
        splitter, lower = Whitespace(), Lowercase()
        found = {
            word for said in sentences for word, _ in splitter.pre_tokenize_str(lower.normalize_str(said))
        }
        vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, *sorted(found)])}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
        tokenizer.normalizer, tokenizer.pre_tokenizer = lower, splitter
        return cls(tokenizer)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Ids int64 (N,L), 0 after the end, and whether each is understood.

        A sentence is understood if it has 1 to 64 words and at least half of them are known; one in another
        language is not.
        """
        rows = [self.tokenizer.encode(said, add_special_tokens=False).ids for said in sentences]
        understood = np.array(
            [0 < len(ids) <= MAX_WORDS and 2 * ids.count(1) <= len(ids) for ids in rows], dtype=bool
        )
        rows = [ids[:MAX_WORDS] or [1] for ids in rows]
        out = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int64)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return out, understood


@dataclass(frozen=True)
class Material:
    """Episodes to learn from, their frames one after the other.

    Attributes:
        frames: uint8 (M,C,H,W) pixels or float32 (M,E) embeddings.
        first: int (B,), where an episode's frames begin.
        length: int (B,), how many it has.
        sentence: int (B,), row of `sentences`.
        sentences: int64 (S,L) ids or float32 (S,V) vectors, all different.
        success: bool (B,).
        rows: int (K,), the episodes that may be drawn.
        annotations: name to float32 (M,), NaN where nothing is known.
    """

    frames: Tensor
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    sentence: NDArray[np.int64]
    sentences: Tensor
    success: NDArray[np.bool_]
    rows: NDArray[np.int64]
    annotations: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def successes(self) -> NDArray[np.int64]:
        return self.rows[self.success[self.rows]]

    @property
    def failures(self) -> NDArray[np.int64]:
        return self.rows[~self.success[self.rows]]

    def other_sentence(self, row: int, draw: np.random.Generator) -> int | None:
        """A sentence that was not said in episode `row`; None if there is only one."""
        count = len(self.sentences)
        if count < 2:
            return None
        return int((self.sentence[row] + draw.integers(1, count)) % count)


def digest(rollouts: Rollouts) -> str:
    """A hash of what a critic learns from: frames, sentences, outcomes and start states."""
    held = hashlib.blake2b(digest_size=16)
    mask = rollouts.decision_valid
    for name in sorted(rollouts.images):
        held.update(name.encode() + np.ascontiguousarray(rollouts.images[name][mask]).tobytes())
    for array in (mask, rollouts.state[mask], rollouts.privileged[mask], rollouts.success):
        held.update(np.ascontiguousarray(array).tobytes())
    held.update(repr((list(rollouts.instruction), list(rollouts.start))).encode())
    return held.hexdigest()

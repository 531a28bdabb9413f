"""Instructions to token ids, with the `tokenizers` library; the tokenizer travels in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

PAD, UNKNOWN, BOS, END, IMAGE = "<pad>", "<unk>", "<bos>", "\n", "<image>"


def build_tokenizer(sentences: Iterable[str]) -> Tokenizer:
    """A word-level tokenizer that knows exactly the words of `sentences`."""
    splitter = Whitespace()
    words = sorted(
        {word for text in sentences for word, _ in splitter.pre_tokenize_str(Lowercase().normalize_str(text))}
    )
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, BOS, END, IMAGE, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        FileNotFoundError: naming the file and what it should be.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}: a policy folder holds tokenizer.json")
    return Tokenizer.from_file(str(path))


def prompt_ids(
    tokenizer: Tokenizer, instructions: Sequence[str], num_image_tokens: int, image_id: int, max_words: int
) -> tuple[Tensor, Tensor]:
    """PaliGemma's prompt: image tokens, <bos>, the sentence, a newline, then padding on the right.

    Args:
        tokenizer: knows <bos> and newline.
        instructions: B sentences.
        num_image_tokens: placeholders for the patches of all cameras.
        image_id: the id of a placeholder.
        max_words: length the sentence (with <bos> and newline) is padded to.

    Returns:
        ids int64 (B, num_image_tokens + max_words) and the attention mask of the same shape (1 = real).

    Raises:
        ValueError: if a sentence is longer than `max_words` allows, with the sentence.
    """
    bos, end = tokenizer.token_to_id(BOS), tokenizer.token_to_id(END)
    ids = torch.zeros(len(instructions), num_image_tokens + max_words, dtype=torch.long)
    mask = torch.zeros_like(ids)
    ids[:, :num_image_tokens] = image_id
    mask[:, :num_image_tokens] = 1
    for row, text in enumerate(instructions):
        words = [bos, *tokenizer.encode(text, add_special_tokens=False).ids, end]
        if len(words) > max_words:
            raise ValueError(
                f"instruction {text!r} is {len(words) - 2} tokens long; "
                f"this policy reads at most {max_words - 2}"
            )
        ids[row, num_image_tokens : num_image_tokens + len(words)] = torch.tensor(words)
        mask[row, num_image_tokens : num_image_tokens + len(words)] = 1
    return ids, mask

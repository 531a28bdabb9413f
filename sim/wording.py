"""What all catalogues say alike: kinds of wording, and the message for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal, get_args

Paraphrase = Literal["canonical", "train", "heldout"]
PARAPHRASES: tuple[Paraphrase, ...] = get_args(Paraphrase)
"""Canonical sentences; canonical ones or paraphrases; paraphrases that training never sees."""


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """The message for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {kind} is called {name!r}: {hint}known are {', '.join(known) or 'none'}"

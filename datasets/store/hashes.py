"""Content hashes: BLAKE2b of 16 bytes over what is stored."""

from __future__ import annotations

import hashlib
import struct
from typing import Any


def new_hash() -> Any:
    return hashlib.blake2b(digest_size=16)


def hash_piece(digest: Any, piece: bytes | memoryview) -> None:
    """Add a piece of any length, so that no other pieces give the same hash."""
    digest.update(struct.pack("<Q", len(piece)))
    digest.update(piece)

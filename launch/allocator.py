"""Keep freed memory for the next batch instead of giving it back to the kernel."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_memory() -> None:
    """Tell glibc to hold on to blocks of up to 32 MB (its largest allowed threshold), and up to 1 GB at all.

    By default every intermediate result of more than 128 kB may be mapped afresh, and the page faults of
    touching it cost a small network on a CPU a quarter of its time. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 64 << 20)):
        mallopt(option, value)

"""Walk through HDF5 files once, in a process of its own that may die or hang.

The library is C, and a damaged file can crash it or send it round in circles. Run as a script: paths as JSON
on standard input, a line of JSON for each step on standard output.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import h5py
import numpy as np

_DEPTH = 5  # data/demo_0/obs/group/key
_STEP_S = 4.0  # CPU seconds: nothing that is asked of an honest file takes a tenth of it
_READ_S = 60.0  # to unpack one chunk, which may be a gigabyte
_MEMORY = 8 << 30
_SMALL = 1 << 24


def main() -> None:
    _limit()
    for line in sys.stdin:
        path = json.loads(line)
        try:
            _step()
            with h5py.File(path, "r", locking=False) as file:
                _walk(file, 0, set())
            say({"whole": path})
        except (
            OSError,
            KeyError,
            ValueError,
            TypeError,
            RuntimeError,
            AttributeError,
            IndexError,
            MemoryError,
            OverflowError,
        ) as error:
            say({"bad": path, "why": f"{type(error).__name__}: {str(error)[:200]}"})


def say(what: dict[str, str]) -> None:
    print(json.dumps(what), flush=True)


def _limit() -> None:
    """End this process if one step takes too much of its own time, or memory (not on Windows)."""
    if not hasattr(signal, "setitimer"):
        return
    import resource

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > _MEMORY:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, hard))


def _step(seconds: float = _STEP_S) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _walk(group: Any, depth: int, seen: set[Any]) -> None:
    _step()
    _attributes(group)
    if depth >= _DEPTH or len(group) > 1_000_000:
        return
    for name in group:
        _step()
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        try:
            member = group[name]
        except (OSError, KeyError, ValueError, RuntimeError):
            continue  # the reader says so by name, if it is something that it reads
        if isinstance(member, h5py.Group):
            key = h5py.h5o.get_info(member.id).addr
            if key not in seen:
                seen.add(key)
                say({"at": str(member.name)})
                _walk(member, depth + 1, seen)
        elif isinstance(member, h5py.Dataset):
            _dataset(member)


def _attributes(thing: Any) -> None:
    if len(thing.attrs) > 1000:
        return
    for name in thing.attrs:
        held = thing.attrs.get_id(name)
        entries = int(np.prod(held.shape or (1,), dtype=object))
        if entries * max(held.dtype.itemsize, 1) < _SMALL and held.dtype.kind in "biufOSU":
            thing.attrs[name]


def _dataset(dataset: Any) -> None:
    """Ask what the reader will ask, and read the first and last row."""
    _step()
    _attributes(dataset)
    dtype, shape = dataset.dtype, dataset.shape
    if dataset.is_virtual or dataset.external or not shape or 0 in shape:
        return
    if dtype.kind not in "biuf" and h5py.check_string_dtype(dtype) is None:
        return
    stored = dataset.id.get_storage_size()
    row = int(np.prod(dataset.chunks or (1, *shape[1:]), dtype=object)) * dtype.itemsize
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if row > (1 << 30) or size > 1100 * stored + (1 << 16):
        return
    _step(_READ_S)
    _ = dataset[:1], dataset[-1:]


if __name__ == "__main__":
    main()

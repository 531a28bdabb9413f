"""LIBERO's stored evaluation starts, read without torch and without unpickling anything.

The package stores them as `torch.save` wrote them: a zip file whose ``data.pkl`` is one pickled numpy array.
Its instructions are looked through, never executed, and have to be those of such an array.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ALLOWED = {"_codecs encode", "numpy dtype", "numpy ndarray"}
_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}


def read_starts(path: Path) -> NDArray[np.float64]:
    """(N,D) simulator states: time, joint positions, joint velocities.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything but one array of numbers.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{path} holds {archive.namelist()}, expected one data.pkl")
        pickled = archive.read(names[0])
    called: set[str] = set()
    numbers: list[int] = []
    texts: list[str] = []
    shape: tuple[int, ...] = ()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            called.add(str(argument))
        elif isinstance(argument, str):
            texts.append(argument)
        elif opcode.name in ("BININT", "BININT1", "BININT2") and argument is not None:
            numbers.append(argument)
        elif opcode.name == "TUPLE2" and len(numbers) >= 2 and not shape:
            shape = tuple(numbers[-2:])
    data = max(texts, key=len, default="").encode("latin1", errors="replace")
    if (
        called - _ALLOWED - _RECONSTRUCT
        or not called & _RECONSTRUCT
        or not {"f8", "<"} <= set(texts)
        or len(shape) != 2
        or len(data) != 8 * shape[0] * shape[1]
    ):
        raise ValueError(
            f"{path} is not one float64 array of two dimensions: it calls {sorted(called)}, shape {shape}, "
            f"{len(data)} bytes"
        )
    return np.frombuffer(data, "<f8").reshape(shape)

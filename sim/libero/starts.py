"""LIBERO's stored evaluation starts, read without torch and without unpickling anything.

The package stores them as `torch.save` wrote them: a zip file whose ``data.pkl`` holds one pickled numpy array.
Its instructions are looked through, never executed, and have to be exactly those of such an array.
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
            raise ValueError(f"{path} holds {archive.namelist()}, expected one data.pkl: not a file of starts")
        pickled = archive.read(names[0])
    found, shape, dtype, data = set(), None, [], None
    recent: list[int] = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            found.add(str(argument))
        elif opcode.name in ("BININT", "BININT1", "BININT2"):
            recent.append(argument)
        elif opcode.name == "TUPLE2" and len(recent) >= 2 and shape is None and data is None:
            rows, columns = recent[-2:]
            shape = (rows, columns)
        elif opcode.name == "BINUNICODE" and len(argument) < 9:
            dtype.append(argument)
        elif opcode.name == "BINUNICODE":
            data = argument.encode("latin1")
    unexpected = found - _ALLOWED - _RECONSTRUCT
    if unexpected or not found & _RECONSTRUCT or "f8" not in dtype or "<" not in dtype:
        raise ValueError(f"{path} is not one float64 array: it has {sorted(found)} of {dtype}")
    if shape is None or data is None or len(data) != 8 * shape[0] * shape[1]:
        raise ValueError(f"{path} is not one float64 array: shape {shape}, {len(data or b'')} bytes")
    return np.frombuffer(data, "<f8").reshape(shape)

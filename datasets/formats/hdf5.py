"""HDF5 files from anywhere: what may be followed and read in them, and images that wait until they are asked for.

Refused: links to elsewhere (external, soft), data kept in other files (external storage, virtual), entries that
are no plain numbers or text (references, pickled objects, compounds), and sizes that the file cannot hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ERRORS = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    AttributeError,
    IndexError,
    MemoryError,
    OverflowError,
)
_NUMBERS = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_MAX_ATTRIBUTE = 1 << 26  # bytes
_MAX_NAMES = 100_000  # members of one group
_MAX_ROWS = 1 << 31  # bytes of one stream of numbers in one episode
_MAX_CHUNK = 1 << 30  # bytes: what reading one row may unpack
_MOST_PACKED = 1100  # deflate packs zeros about a thousandfold, nothing does better


@contextlib.contextmanager
def reading(file: object, episode: int | None = None, key: str = "") -> Iterator[None]:
    """Turn what h5py and NumPy raise into a `DataError` that names the place."""
    try:
        yield
    except DataError as error:
        if error.file:
            raise
        raise DataError(
            error.what, error.remedy, file=file, episode=episode, frame=error.frame, key=error.key or key
        ) from error
    except _ERRORS as error:
        raise DataError(
            f"it cannot be read ({type(error).__name__}: {str(error)[:200]})",
            "the file is damaged or unfinished: take it from its source again, or drop the episode",
            file=file,
            episode=episode,
            key=key,
        ) from error


def open_file(path: Path) -> h5py.File:
    """Open for reading; another program may have it open too.

    Raises:
        DataError: it is not there, or no HDF5 file.
    """
    with reading(path):
        return h5py.File(path, "r", locking=False, rdcc_nbytes=1 << 24)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins like HDF5."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(8) == SIGNATURE
    except OSError:
        return False


def names(group: Any) -> list[str]:
    """Members of a group.

    Raises:
        DataError: there are more than any data set has.
    """
    if len(group) > _MAX_NAMES:
        raise DataError(f"a group of {len(group)} members", "the file is damaged", key=str(group.name))
    return [name for name in group if isinstance(name, str)]


def child(group: Any, name: str) -> Any:
    """A member that lies in this very file; None if there is none.

    Raises:
        DataError: the name is a link to somewhere else.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{name!r} is a {type(link).__name__} to somewhere else, which is not followed",
            "copy the file with its links resolved (h5repack, h5copy -f ext,soft) and read the copy",
            key=f"{group.name}/{name}",
        )
    return group[name]


def subgroup(group: Any, name: str) -> Any:
    """A member that is a group; None if it is not there or something else."""
    found = child(group, name)
    return found if isinstance(found, h5py.Group) else None


def check(dataset: Any) -> None:
    """Refuse a dataset that cannot be read safely.

    Raises:
        DataError: it keeps its data elsewhere, holds objects, or declares more than the file holds.
    """
    key = str(dataset.name)
    if dataset.is_virtual or dataset.external:
        raise DataError("its data lie in other files", "copy them into this one (h5repack)", key=key)
    if dataset.shape is None:
        raise DataError("an empty dataset without a shape", "leave it out", key=key)
    text = h5py.check_string_dtype(dataset.dtype)
    if text is None and dataset.dtype.name not in _NUMBERS:
        raise DataError(
            f"entries of type {dataset.dtype} (objects are never loaded)",
            "store numbers, truths or text",
            key=key,
        )
    size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    packed = dataset.id.get_storage_size()
    if size > _MOST_PACKED * packed + (1 << 16):
        raise DataError(
            f"declares {dataset.shape} but holds {packed} bytes",
            "the file is damaged or was never finished: take it from its source again",
            key=key,
        )
    if dataset.chunks and int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize > _MAX_CHUNK:
        raise DataError(f"chunks of {dataset.chunks}", "store it in smaller chunks (h5repack)", key=key)


def is_text(dataset: Any) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def numbers(dataset: Any) -> NDArray[Any]:
    """All rows of a dataset of numbers, in this machine's byte order.

    Raises:
        DataError: it may not be read (`check`), or is too large to be anything but images.
    """
    check(dataset)
    size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if size > _MAX_ROWS:
        raise DataError(f"{size} bytes of numbers in one episode", "split the episode", key=str(dataset.name))
    rows = np.asarray(dataset[()])
    return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def texts(dataset: Any) -> list[str]:
    """All rows of a dataset of text, fixed or variable in length."""
    check(dataset)
    if len(dataset.shape) != 1 or dataset.shape[0] > 1 << 24:
        raise DataError(f"text of shape {dataset.shape}", "expected one dimension", key=str(dataset.name))
    return [as_text(item) for item in dataset[()]]


def as_text(item: Any) -> str:
    if isinstance(item, bytes):
        return item.decode("utf-8", "backslashreplace")
    return str(item)


def attributes(thing: Any) -> dict[str, Any]:
    """Attributes as JSON values: text, numbers, truths, lists. Others are left out."""
    found = {}
    if len(thing.attrs) > 1000:
        raise DataError(f"{len(thing.attrs)} attributes", "the file is damaged", key=str(thing.name))
    for name in thing.attrs:
        value = attribute(thing, name)
        if value is not None:
            found[str(name)] = value
    return found


def attribute(thing: Any, name: str) -> Any:
    """One attribute as a JSON value; None if it is not there, or nothing that JSON holds."""
    if name not in thing.attrs:
        return None
    held = thing.attrs.get_id(name)
    text = h5py.check_string_dtype(held.dtype) is not None
    entries = int(np.prod(held.shape, dtype=object)) if held.shape is not None else 0
    if not text and held.dtype.name not in _NUMBERS:
        return None
    if entries * held.dtype.itemsize > _MAX_ATTRIBUTE or (entries == 0 and held.shape is None):
        return None
    value = thing.attrs[name]
    if isinstance(value, np.ndarray):
        return [as_text(item) for item in value.ravel().tolist()] if text else value.tolist()
    if text:
        return as_text(value)
    return value.item() if isinstance(value, np.generic) else value


@dataclass
class Hdf5Frames:
    """Images of a dataset (N,H,W,3), or depth (N,H,W) or (N,H,W,1); read one by one.

    It can be sent to another process, which opens the file anew.
    """

    path: Path
    name: str
    rows: int
    squeeze: bool = False
    episode: int | None = None
    dataset: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not -self.rows <= index < self.rows:
            raise IndexError(index)
        return self._read(slice(index % self.rows, index % self.rows + 1))[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        step = max(1, min(16, (self._opened().chunks or (16,))[0]))
        for start in range(0, self.rows, step):
            yield from self._read(slice(start, min(start + step, self.rows)))

    def encoded(self, index: int) -> bytes | None:
        return None

    def _read(self, rows: slice) -> NDArray[Any]:
        with reading(self.path, self.episode, self.name):
            found = np.asarray(self._opened()[rows])
            found = found.astype(found.dtype.newbyteorder("="), copy=False)
            return found[..., 0] if self.squeeze else found

    def _opened(self) -> Any:
        if self.dataset is None or not self.dataset:
            self.dataset = open_file(self.path)[self.name]
        return self.dataset

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "dataset": None}

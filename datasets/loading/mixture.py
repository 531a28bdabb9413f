"""Several sets read as one: their names made one, their shapes padded to the widest, and what is real said.

A batch then has every stream of every set. ``<key>_mask`` (n,) says which samples have the stream at all, and
``<key>_dims`` (n,D) which entries of a padded vector are the robot's own. Both are there only where some set
needs them. Scaling is each set's own and comes before padding, so a padded entry is 0 in every set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..ledger import DataError
from ..recording import Contents, RowAccess
from .normalization import Scaling
from .sampler import Draw
from .samples import Arrays, Field, Reading, SampleReader, image_into


class RenamedRows:
    """A set whose streams go by other names."""

    def __init__(self, rows: RowAccess, names: Mapping[str, str]) -> None:
        """Rename: `names` is what the set says to what it shall be.

        Raises:
            DataError: the set has no such stream, or two would have one name.
        """
        theirs = rows.contents.streams
        if missing := set(names) - set(theirs):
            raise DataError(
                f"there are no streams {sorted(missing)} to rename", f"the streams are {', '.join(theirs)}"
            )
        ours = {key: names.get(key, key) for key in theirs}
        if len(set(ours.values())) < len(ours):
            twice = sorted({name for name in ours.values() if list(ours.values()).count(name) > 1})
            raise DataError(f"two streams would be called {twice}", "rename the other one too")
        self._rows, self._theirs = rows, {name: key for key, name in ours.items()}
        streams = {ours[key]: replace(spec, key=ours[key]) for key, spec in theirs.items()}
        self.contents: Contents = replace(rows.contents, streams=streams)

    def __len__(self) -> int:
        return len(self._rows)

    def tasks(self) -> Sequence[str]:
        return self._rows.tasks()

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._rows.bounds(self._theirs[key])

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows.vectors(self._theirs[key], rows)

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._rows.times(self._theirs[key], rows)

    def image(self, key: str, row: int) -> NDArray[Any]:
        return self._rows.image(self._theirs[key], row)

    def image_into(self, key: str, row: int, out: NDArray[Any]) -> None:
        image_into(self._rows, self._theirs[key], row, out)


class ResizedRows(RenamedRows):
    """A set whose images have another size: see `fit_inside`."""

    def __init__(self, rows: RowAccess, height: int, width: int) -> None:
        super().__init__(rows, {})
        self._size = (height, width)
        streams = {
            key: replace(spec, shape=(height, width, 3)) if spec.kind == "image" else spec
            for key, spec in rows.contents.streams.items()
        }
        self.contents = replace(rows.contents, streams=streams)

    def image(self, key: str, row: int) -> NDArray[Any]:
        image = super().image(key, row)
        if image.ndim == 3 and image.shape[:2] != self._size:
            return fit_inside(image, *self._size)
        return image

    def image_into(self, key: str, row: int, out: NDArray[Any]) -> None:
        out[...] = self.image(key, row)


def fit_inside(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale an RGB image as large as it fits, bilinear, in the middle of a black one."""
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = (max(1, round(side * scale)) for side in image.shape[:2])
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    small = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    out[top : top + h, left : left + w] = np.asarray(small)
    return out


@dataclass(frozen=True)
class Member:
    """One set of a mixture.

    Attributes:
        rows: the set.
        names: its streams' names to the mixture's, where they differ.
        scaling: by the mixture's names; each set has its own statistics.
    """

    rows: RowAccess
    names: Mapping[str, str] = field(default_factory=dict)
    scaling: Mapping[str, Scaling] = field(default_factory=dict)


class Samples:
    """Samples of one set or of several, as one numbering and one layout.

    Attributes:
        readers: one for each set.
        fields: the arrays of a batch, by name.
        sizes: samples of each set.
    """

    def __init__(
        self,
        members: Sequence[Member],
        reading: Reading | None = None,
        *,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        """Look at what the sets declare; no row is read.

        Args:
            members: the sets.
            reading: what to read, by the mixture's names. A stream named there that a set lacks is masked.
            image_size: (height, width) that every image is made to fit (`fit_inside`); None leaves them be.

        Raises:
            DataError: nothing to read, or images or vectors that cannot be made one.
            ValueError: there is no set.
        """
        if not members:
            raise ValueError("a mixture of no sets")
        reading = reading or Reading()
        self.readers: list[SampleReader] = []
        for one in members:
            rows = RenamedRows(one.rows, one.names) if one.names else one.rows
            if image_size is not None:
                rows = ResizedRows(rows, *image_size)
            mine = _restrict(reading, rows.contents) if len(members) > 1 else reading
            self.readers.append(SampleReader(rows, mine, one.scaling))
        named = {key for one in self.readers for key in one.fields}
        wanted = {*(reading.images or ()), *(reading.vectors or ()), *reading.delta_timestamps}
        if missing := sorted(wanted - named):
            raise DataError(f"no set of the mixture has {missing}", "rename a stream to it, or leave it out")
        self.sizes = [len(one) for one in self.readers]
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.fields = _union(self.readers)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: NDArray[np.int64]) -> Draw:
        """Samples by their number over all sets, one set after the other.

        Raises:
            IndexError: there is no such sample.
        """
        index = np.asarray(index, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"samples from {index.min()} to {index.max()}; there are {len(self)}")
        chosen = np.searchsorted(self._starts, index, side="right") - 1
        return Draw(chosen, index - self._starts[chosen], np.arange(len(index)))

    def new_arrays(self, n: int) -> Arrays:
        """Room for a batch of n samples."""
        return {name: np.empty((n, *one.shape), one.dtype) for name, one in self.fields.items()}

    def fill(self, draw: Draw, out: Arrays) -> list[str]:
        """Read a batch into arrays made by `new_arrays`, or laid out like them.

        Returns:
            The task of each sample.

        Raises:
            DataError: a row is damaged, or too far from the time asked for.
        """
        tasks = [""] * len(draw)
        for number, reader in enumerate(self.readers):
            at = np.flatnonzero(draw.set == number)
            if not len(at):
                continue
            for task, place in zip(reader.fill(draw.sample[at], out, at), at.tolist(), strict=True):
                tasks[place] = task
            self._complete(reader, out, at)
        if "set_index" in out:
            out["set_index"][: len(draw)] = draw.set
        return tasks

    def batch(self, draw: Draw) -> tuple[Arrays, list[str]]:
        """A batch in arrays of its own, and its tasks."""
        out = self.new_arrays(len(draw))
        return out, self.fill(draw, out)

    def _complete(self, reader: SampleReader, out: Arrays, at: NDArray[np.int64]) -> None:
        """Say what this set lacks of the mixture."""
        for name, one in self.fields.items():
            if name in reader.fields or name == "set_index":
                continue
            if one.kind != "mask":
                out[name][at] = 0
            elif name.endswith("_mask"):
                out[name][at] = name.removesuffix("_mask") in reader.fields
            elif name.endswith("_dims"):
                mine = reader.fields.get(name.removesuffix("_dims"))
                out[name][at] = np.arange(one.shape[0]) < (mine.shape[-1] if mine else 0)
            else:
                out[name][at] = name.removesuffix("_is_pad") not in reader.fields


def _restrict(reading: Reading, contents: Contents) -> Reading:
    """The part of a reading that a set has streams for."""
    have = contents.streams

    def there(keys: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if keys is None else tuple(key for key in keys if key in have)

    return replace(
        reading,
        images=there(reading.images),
        vectors=there(reading.vectors),
        delta_timestamps={key: value for key, value in reading.delta_timestamps.items() if key in have},
        anchor=reading.anchor if reading.anchor in have else "",
    )


def _union(readers: Sequence[SampleReader]) -> dict[str, Field]:
    """One layout that has room for every set's samples.

    Raises:
        DataError: shapes that cannot be padded to one.
    """
    if len(readers) == 1:
        return dict(readers[0].fields)
    fields: dict[str, Field] = {}
    for name in dict.fromkeys(name for one in readers for name in one.fields):
        mine = [one.fields.get(name) for one in readers]
        there = [one for one in mine if one is not None]
        shapes = {one.shape for one in there}
        if there[0].kind == "image" and len(shapes) > 1:
            raise DataError(
                f"images of shapes {sorted(shapes)} in one mixture",
                "give image_size, to which all are made to fit",
                key=name,
            )
        if len({one.kind for one in there}) > 1 or len({shape[:-1] for shape in shapes}) > 1:
            raise DataError(
                f"rows of shapes {sorted(shapes)} cannot be padded to one",
                "rename the stream of one set, so that both are kept",
                key=name,
            )
        widest = max(shapes)
        dtype = np.result_type(*(np.dtype(one.dtype) for one in there))
        fields[name] = Field(str(dtype), widest, there[0].kind)
        if there[0].kind in ("image", "vector") and len(there) < len(readers):
            fields[f"{name}_mask"] = Field("bool", (), "mask")
        if len(shapes) > 1:
            fields[f"{name}_dims"] = Field("bool", (widest[-1],), "mask")
    fields["set_index"] = Field("int64", (), "index")
    return fields

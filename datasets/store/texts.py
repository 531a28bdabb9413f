"""The distinct texts of a text stream: UTF-8 one behind another, and where each ends."""

from __future__ import annotations

from collections.abc import Iterable

from ..ledger import DataError
from .slow import SlowArray
from .vector_files import VectorReader


def read_texts(
    strings: VectorReader | SlowArray, ends: VectorReader | SlowArray, numbers: Iterable[int], key: str
) -> dict[int, str]:
    """Some of them, by number.

    Raises:
        DataError: there is no such text, or it is damaged.
    """
    texts = {}
    for at in numbers:
        if not 0 <= at < ends.rows:
            raise DataError(f"text number {at}, there are {ends.rows}", "the set is damaged", key=key)
        begin, end = (0, *ends.slice(0, 1)) if at == 0 else ends.slice(at - 1, at + 1)
        if not 0 <= begin <= end <= strings.rows:
            raise DataError(f"text number {at} lies nowhere", "the set is damaged", key=key)
        try:
            texts[at] = strings.slice(int(begin), int(end)).tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise DataError(f"a text is damaged ({error})", "the set is damaged", key=key) from error
    return texts

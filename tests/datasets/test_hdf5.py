"""robomimic and LIBERO files: round trips, what others write, and what must not be followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import recordings as rec
from hypothesis import HealthCheck, given, settings

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import Ledger
from regrip.datasets.recording import Contents, Recording


def write(name: str, path: Path, of: Contents, made: list[Recording]) -> Ledger:
    ledger = Ledger()
    sink = get_format(name).create(path, of, WriteOptions(), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


@pytest.mark.parametrize(("name", "file"), [("robomimic", "set.hdf5"), ("libero", "suite")])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=rec.recordings())
def test_round_trip(tmp_path_factory, name, file, drawn):
    of, made = drawn
    path = tmp_path_factory.mktemp("hdf5") / file
    write(name, path, of, made)
    assert get_format(name).detect(path)
    source = get_format(name).open(path)
    rec.assert_set(source, of, made, images="pixels")
    for got, want in zip(source, made, strict=True):
        assert (got.success, got.terminated, got.truncated) == (want.success, want.terminated, want.truncated)
    source.close()

"""RLDS sets: what we write read by tensorflow-datasets, what others write read by us, and what is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import recordings as rec
from hypothesis import HealthCheck, given, settings

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording

RLDS = get_format("rlds")


def write(path: Path, of: Contents, made: list[Recording], images: str = "copy") -> Ledger:
    ledger = Ledger()
    sink = RLDS.create(path, of, WriteOptions(images=images), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=rec.recordings(raw=False))
def test_round_trip(tmp_path_factory, drawn):
    of, made = drawn
    path = tmp_path_factory.mktemp("rlds") / "toy_set"
    write(path, of, made)
    assert RLDS.detect(path)
    source = RLDS.open(path)
    rec.assert_set(source, of, made)
    for got, want in zip(source, made, strict=True):
        assert (got.success, got.terminated, got.truncated) == (want.success, want.terminated, want.truncated)

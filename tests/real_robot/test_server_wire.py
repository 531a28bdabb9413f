"""openpi's dialect: the same bytes both ways, and nothing hostile gets in."""

from __future__ import annotations

import ast
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from regrip.real_robot.serving import client, wire
from regrip.real_robot.serving.wire import WireError, pack, unpack

theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="openpi-client is not installed")

DTYPES = ("<f4", ">f4", "<f8", "<f2", "|u1", "|i1", "<i8", ">u2", "|b1", "<U3", "|S4")
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(
        np.dtype(dtype), npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
)
scalars = st.sampled_from(DTYPES[:9]).flatmap(
    lambda dtype: npst.arrays(np.dtype(dtype), (1,)).map(lambda a: a[0])
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
messages = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        plain | arrays | scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


def assert_same(mine: Any, other: Any) -> None:
    """Equal in type, dtype, shape and every bit (a NaN equals itself)."""
    assert type(mine) is type(other)
    if isinstance(mine, dict):
        assert list(mine) == list(other)
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, list):
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            assert_same(a, b)
    elif isinstance(mine, (np.ndarray, np.generic)):
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        assert mine.tobytes() == other.tobytes()
    else:
        assert repr(mine) == repr(other)


@given(messages)
@settings(max_examples=100, deadline=None)
def test_the_bytes_are_openpis_both_ways(message: dict[str, Any]) -> None:
    packed = pack(message)
    assert packed == theirs.Packer().pack(message)
    assert_same(unpack(packed), theirs.unpackb(packed))


@pytest.mark.parametrize(
    "bad", [np.array([object()]), np.array([1j]), np.zeros(2, "V3"), object(), {1: object()}]
)
def test_what_openpi_does_not_send_is_not_sent(bad: Any) -> None:
    with pytest.raises(WireError):
        pack({"x": bad})


def array(dtype: Any, shape: Any, data: Any) -> bytes:
    return bytes(
        msgpack.packb({"x": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}})
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut short"),
        (b"\xc1", "type 0xc1"),
        (b"\xd4\x00\x00", "type 0xd4"),  # an extension
        (b"\x91" * 400 + b"\xc0", "nested deeper than 16"),
        (b"\x81\xa1x" * 10_000 + b"\xc0", "nested deeper than 16"),
        (b"\xdd\xff\xff\xff\xff", "more than 20000 values"),
        (b"\xdf\xff\xff\xff\xff", "more than 20000 values"),
        (b"\x9f" * 3 + b"\xdc\xff\xff", "more than 20000 values"),
        (b"\xc6\xff\xff\xff\xff", "cut short"),
        (b"\xc0\xc0", "follow"),
        (b"\xa2\xff\xfe", "dialect"),
        (b"\x81\x93\x01\x02\x03\xc0", "dialect"),  # a list as a key
        (array("|O8", [1], b"x" * 8), "is not taken"),
        (array("<c8", [1], b"x" * 8), "is not taken"),
        (array("|V8", [1], b"x" * 8), "is not taken"),
        (array("f4,f4", [1], b"x" * 8), "is not taken"),
        (array([["a", "<f4"]], [1], b"x" * 4), "is not taken"),
        (array("<f4", [2], b"x" * 4), "needs 8 bytes"),
        (array("<f4", [1], b"x" * 8), "needs 4 bytes"),
        (array("<f4", [-1], b""), "whole numbers"),
        (array("<f4", [True], b"x" * 4), "whole numbers"),
        (array("<f4", [2**62, 2**62, 0], b""), "an array of"),
        (array("<f4", [1] * 17, b"x" * 4), "short list"),
        (array("<f4", 1, b"x" * 4), "short list"),
        (array("<f4", [1], "xxxx"), "expected bytes"),
        (array("|b1", [2], b"\x01\x02"), "truths"),
        (array("|S999999999", [1], b"x"), "needs 999999999 bytes"),
        (msgpack.packb({b"__ndarray__": True}), "is not taken"),
        (msgpack.packb({b"__npgeneric__": True, b"dtype": "|u1", b"data": 300}), "300"),
        (msgpack.packb({b"__npgeneric__": True, b"dtype": "<f4", b"data": [1]}), "holds a list"),
    ],
)
def test_a_hostile_message_is_refused_in_words(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        unpack(data)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage_gives_a_value_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data)


@given(messages, st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_message_gives_a_value_or_a_wire_error(message: dict[str, Any], data: Any) -> None:
    packed = bytearray(pack(message))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        unpack(bytes(packed))


@pytest.mark.parametrize("module", [client, wire])
def test_the_client_runs_alone_on_an_old_python(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    wanted = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            wanted.add("." * node.level + (node.module or "").split(".")[0])
    assert wanted - sys.stdlib_module_names <= {"numpy", "msgpack", "websockets", ".wire"}


def test_two_copied_files_are_the_client(tmp_path: Path) -> None:
    for module in (client, wire):
        shutil.copy(str(module.__file__), tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from copied.client import Client; print(Client)"
    (tmp_path / "copied").mkdir()
    for name in ("client.py", "wire.py"):
        (tmp_path / name).rename(tmp_path / "copied" / name)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "copied.client.Client" in done.stdout, done.stderr

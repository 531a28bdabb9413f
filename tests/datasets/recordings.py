"""Recordings for tests: made by hand, or drawn by hypothesis, and compared without mercy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrip.datasets.frames import ArrayFrames, EncodedFrames, encode_jpeg, encode_png
from regrip.datasets.recording import Contents, Recording, Source, StreamSpec, Track

STATE = tuple(f"joint_{i}" for i in range(8))
ACTION = ("x", "y", "z", "rx", "ry", "rz", "gripper")
FRONT, WRIST, DEPTH = "observation.images.front", "observation.images.wrist", "observation.depth.front"


def picture(seed: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """A smooth picture with a square in it, so that a codec has something to do and PSNR means something."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([40 + 2 * x, 60 + 3 * y % 160, 90 + x + y], -1) + rng.integers(0, 6, (height, width, 3))
    top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
    base[top : top + 8, left : left + 8] = rng.integers(0, 255, 3)
    return np.clip(base, 0, 255).astype(np.uint8)


def contents(
    *,
    wrist: bool = True,
    depth: bool = False,
    rate_hz: float = 20.0,
    size: tuple[int, int] = (32, 48),
    **more: Any,
) -> Contents:
    """Two cameras, a state of 8, an action of 7, a reward."""
    image = {"about": {"codec": "jpeg"}, "rate_hz": rate_hz}
    streams = [StreamSpec(FRONT, "image", "uint8", (*size, 3), **image)]
    if wrist:
        streams.append(StreamSpec(WRIST, "image", "uint8", (*size, 3), **image))
    if depth:
        streams.append(StreamSpec(DEPTH, "depth", "uint16", size, rate_hz=rate_hz, about={"unit": "mm"}))
    streams += [
        StreamSpec("observation.state", "vector", "float32", (8,), STATE, rate_hz=rate_hz),
        StreamSpec("action", "vector", "float32", (7,), ACTION, rate_hz=rate_hz),
        StreamSpec("reward", "vector", "float32", (), rate_hz=rate_hz),
    ]
    return Contents({s.key: s for s in streams}, rate_hz, robot="panda", **more)


def recording(
    of: Contents,
    steps: int = 7,
    seed: int = 0,
    task: str = "pick up the cup",
    *,
    codec: str = "jpeg",
    lacks: tuple[str, ...] = (),
    **more: Any,
) -> Recording:
    """One episode of these contents on one clock; images are JPEG or PNG files, or raw pixels."""
    rng = np.random.default_rng(seed)
    time = np.arange(steps) / (of.rate_hz or 20.0)
    streams: dict[str, Track] = {}
    for key, spec in of.streams.items():
        if key in lacks:
            continue
        rows: Any
        if spec.kind == "image":
            pixels = [picture(1000 * seed + i, *spec.shape[:2]) for i in range(steps)]
            if codec == "raw":
                rows = ArrayFrames(np.stack(pixels))
            else:
                encode = encode_jpeg if codec == "jpeg" else encode_png
                rows = EncodedFrames([encode(p) for p in pixels], spec.shape)
        elif spec.kind == "depth":
            rows = ArrayFrames(rng.integers(0, 65536, (steps, *spec.shape)).astype(spec.dtype))
        elif spec.kind == "text":
            rows = [f"{key} {i // 3}" for i in range(steps)]
        else:
            rows = rng.standard_normal((steps, *spec.shape)).astype(spec.dtype)
        streams[key] = Track(rows, time)
    return Recording(streams, task=task, success=bool(seed % 2), terminated=True, truncated=False, **more)


@st.composite
def recordings(
    draw: st.DrawFn, *, aligned: bool = True, depth: bool = True, raw: bool = True, most: int = 4
) -> tuple[Contents, list[Recording]]:
    """Sets of short episodes: odd lengths, one frame, missing cameras, depth, any script, uneven rates.

    Args:
        draw: hypothesis's.
        aligned: one clock for all streams, else each vector and camera has its own, uneven.
        depth: whether a depth camera may be there.
        raw: whether images may be raw pixels as well as JPEG and PNG.
        most: episodes.
    """
    of = contents(
        wrist=draw(st.booleans()),
        depth=depth and draw(st.booleans()),
        size=draw(st.sampled_from([(16, 24), (32, 32)])),
    )
    made = []
    for index in range(draw(st.integers(1, most))):
        task = draw(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20
            )
        )
        steps = draw(st.sampled_from([1, 2, 3, 5, 13]))
        lacks = (WRIST,) if WRIST in of.streams and draw(st.integers(0, 3)) == 0 else ()
        codec = draw(st.sampled_from(["jpeg", "png", "raw"] if raw else ["jpeg", "png"]))
        one = recording(of, steps, seed=index, task=task, codec=codec, lacks=lacks)
        made.append(one if aligned else uneven(one, draw(st.integers(0, 2**16))))
    return of, made


def uneven(one: Recording, seed: int) -> Recording:
    """The same recording with a clock and a number of rows of its own for every stream."""
    rng = np.random.default_rng(seed)
    streams = {}
    for key, track in one.streams.items():
        keep = np.sort(rng.choice(len(track), rng.integers(1, len(track) + 1), replace=False))
        time = np.cumsum(rng.uniform(0.001, 0.1, len(keep)))
        rows: Any = track.rows
        if isinstance(rows, EncodedFrames):
            rows = EncodedFrames([rows.files[i] for i in keep], rows.shape)
        elif isinstance(rows, ArrayFrames):
            rows = ArrayFrames(rows.pixels[keep])
        else:
            rows = rows[keep]
        streams[key] = Track(rows, time)
    return Recording(streams, one.task, one.success, one.terminated, one.truncated, one.began_ns, one.about)


def assert_same(got: Recording, want: Recording, *, time: float = 0.0, images: str = "bytes") -> None:
    """Equal bit for bit.

    Args:
        got: what was read back.
        want: what was written.
        time: seconds that times may differ by.
        images: ``bytes`` (the same image files where there were any, else the same pixels), ``pixels``, or
            ``none`` (not compared).
    """
    assert set(got.streams) == set(want.streams)
    assert got.task == want.task
    for key, track in want.streams.items():
        mine = got.streams[key]
        np.testing.assert_allclose(mine.time, track.time, rtol=0, atol=time, err_msg=key)
        if isinstance(track.rows, np.ndarray):
            assert isinstance(mine.rows, np.ndarray), key
            assert mine.rows.dtype == track.rows.dtype, key
            np.testing.assert_array_equal(mine.rows, track.rows, err_msg=key)
        elif isinstance(track.rows, (list, tuple)):
            assert list(mine.rows) == list(track.rows), key
        elif images != "none":
            for i in range(len(track)):
                file = track.rows.encoded(i)  # type: ignore[union-attr]
                if images == "bytes" and file is not None:
                    assert mine.rows.encoded(i) == file, (key, i)  # type: ignore[union-attr]
                else:
                    np.testing.assert_array_equal(mine.rows[i], track.rows[i], err_msg=f"{key} {i}")


def assert_set(source: Source, of: Contents, made: list[Recording], **how: Any) -> None:
    """A set that was read back holds these episodes, and says the same of its streams."""
    assert len(source) == len(made)
    assert set(source.contents.streams) == set(of.streams)
    for key, spec in of.streams.items():
        mine = source.contents.streams[key]
        assert (mine.kind, mine.dtype, mine.shape, mine.names) == (
            spec.kind,
            spec.dtype,
            spec.shape,
            spec.names,
        ), key
    for index, want in enumerate(made):
        assert_same(source[index], want, **how)


def rows_of(one: Recording) -> Mapping[str, int]:
    return {key: len(track) for key, track in one.streams.items()}

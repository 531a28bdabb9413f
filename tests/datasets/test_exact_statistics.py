"""Statistics are those of all rows, to the last bit of a quantile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from memory_rows import MemoryRows, of_vectors
from recordings import DEPTH, FRONT, contents, recording

from regrip.datasets.ledger import DataError
from regrip.datasets.loading import exact_statistics
from regrip.datasets.loading.exact_statistics import (
    QUANTILES,
    SetStatistics,
    image_statistics,
    pooled_statistics,
)
from regrip.datasets.loading.exact_statistics import exact_statistics as measure


def test_worked_by_hand() -> None:
    one = measure(of_vectors("action", np.array([[1.0, 5], [3, 5]]), np.array([[2.0, 5], [4, 5]]))).streams[
        "action"
    ]
    assert one.count == 4
    assert one.of("mean").tolist() == [2.5, 5.0]
    assert one.of("std").tolist() == [np.sqrt(1.25), 0.0]
    assert one.of("min").tolist() == [1, 5]
    assert one.of("max").tolist() == [4, 5]
    assert one.of("q50").tolist() == [2.5, 5]
    assert one.of("q10")[0] == pytest.approx(1.3)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=9),
        elements=None,
    ),
    st.integers(1, 5),
)
def test_quantiles_are_numpys_to_the_bit(rows: np.ndarray, block: int) -> None:
    if rows.dtype.kind == "f":
        rows = np.where(np.isfinite(rows), rows, rows.dtype.type(1)).astype(rows.dtype)
    if rows.dtype == np.int64:
        rows = rows // 4096
    old, exact_statistics.BLOCK_ROWS = exact_statistics.BLOCK_ROWS, block
    try:
        one = measure(of_vectors("x", rows)).streams["x"]
    finally:
        exact_statistics.BLOCK_ROWS = old
    x = rows.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, level in QUANTILES.items():
            np.testing.assert_array_equal(one.of(name), np.quantile(x, level, axis=0), err_msg=name)
    np.testing.assert_array_equal(one.of("min"), x.min(0))
    np.testing.assert_array_equal(one.of("max"), x.max(0))
    if np.abs(x).max() < 1e100:
        np.testing.assert_allclose(one.of("mean"), x.mean(0), rtol=1e-12, atol=1e-12 * np.abs(x).max())
        np.testing.assert_allclose(one.of("std"), x.std(0), rtol=1e-9, atol=1e-12 * np.abs(x).max())


def test_a_small_spread_far_from_zero_and_a_constant_are_not_lost_to_rounding() -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(200_000) * 1e-3
    rows = np.stack([1e6 + spread, np.full(len(spread), 0.1)], 1)
    one = measure(of_vectors("x", rows)).streams["x"]
    assert one.of("std")[0] == pytest.approx(rows[:, 0].std(), rel=1e-9)
    assert one.of("std")[1] == 0
    assert one.of("mean")[1] == 0.1


def test_many_columns_are_done_in_parts() -> None:
    rows = np.random.default_rng(1).standard_normal((500, 70)).astype(np.float32)
    one = measure(of_vectors("x", rows)).streams["x"]
    np.testing.assert_array_equal(one.of("q99"), np.quantile(rows.astype(np.float64), 0.99, axis=0))


def test_what_is_not_finite_is_named_or_counted() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows[4, 1] = np.nan
    data = of_vectors("action", rows[:3], rows[3:])
    with pytest.raises(DataError, match=r"episode 1, frame 1, action: .*nan.*skip"):
        measure(data)
    one = measure(data, non_finite="skip").streams["action"]
    assert one.num_non_finite.tolist() == [0, 1]
    assert one.count == 6
    assert one.of("mean").tolist() == [5.0, pytest.approx(np.delete(rows[:, 1], 4).mean())]
    assert one.of("q50")[1] == np.quantile(np.delete(rows[:, 1], 4), 0.5)
    rows[:, 1] = np.inf
    with pytest.raises(DataError, match="entry 1 has no finite number"):
        measure(of_vectors("action", rows), non_finite="skip")


def test_pooled_is_as_one_set() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((100, 3)), 5 + rng.standard_normal((37, 3))
    both = pooled_statistics([of_vectors("x", a), of_vectors("x", b)]).streams["x"]
    whole = measure(of_vectors("x", np.concatenate([a, b]))).streams["x"]
    for name in QUANTILES:
        np.testing.assert_array_equal(both.of(name), whole.of(name))
    np.testing.assert_allclose(both.of("mean"), whole.of("mean"), rtol=1e-14)


def test_a_mixture_counts_its_weights() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((100, 2)), 5 + rng.standard_normal((37, 2))
    mixed = pooled_statistics([of_vectors("x", a), of_vectors("x", b)], weights=[3, 1]).streams["x"]
    np.testing.assert_allclose(mixed.of("mean"), 0.75 * a.mean(0) + 0.25 * b.mean(0), rtol=1e-12)
    weight = np.r_[np.full(100, 3 / 100), np.full(37, 1 / 37)]
    for name, level in QUANTILES.items():
        want = np.quantile(np.concatenate([a, b]), level, axis=0, method="inverted_cdf", weights=weight)
        np.testing.assert_array_equal(mixed.of(name), want, err_msg=name)
    with pytest.raises(ValueError, match="positive one for each"):
        pooled_statistics([of_vectors("x", a)], weights=[0.0])


def test_json_brings_every_bit_back(tmp_path: Path) -> None:
    rows = np.random.default_rng(5).standard_normal((50, 4)).astype(np.float32)
    data = of_vectors("action", rows)
    made = measure(data)
    made.save(tmp_path / "s.json")
    back = SetStatistics.load(tmp_path / "s.json")
    assert back.to_json() == made.to_json()
    assert back.fingerprint == measure(data).fingerprint
    rows[17, 2] = np.nextafter(rows[17, 2], 9)
    assert measure(of_vectors("action", rows)).fingerprint != made.fingerprint
    for text in ("[]", "{", '{"streams": 3}', json.dumps({**made.to_json(), "streams": {"x": {"count": 1}}})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError):
            SetStatistics.load(tmp_path / "bad.json")


def test_images_are_sampled_evenly_and_numbers_touch_none() -> None:
    of = contents(depth=True)
    data = MemoryRows(of, [recording(of, 4, seed=s, codec="raw") for s in range(3)])
    one = image_statistics(data, FRONT, most=4)
    assert (one.count, one.sampled) == (4, 12)
    pixels = np.stack([data.image(FRONT, row) for row in (1, 4, 7, 10)]).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(one.of("mean"), pixels.mean(0))
    np.testing.assert_array_equal(one.of("q99"), np.quantile(pixels, 0.99, axis=0))
    assert image_statistics(data, DEPTH).of("max").shape == (1,)

    def image(key: str, row: int) -> None:
        raise AssertionError("an image was decoded to read numbers")

    data.image = image  # type: ignore[assignment, method-assign]
    assert set(measure(data).streams) == {"observation.state", "action", "reward"}
    with pytest.raises(DataError, match="no stream of numbers"):
        measure(data, [FRONT])

"""Sets of different robots in one batch: nothing mixed up, and what is not real is said."""

from __future__ import annotations

import numpy as np
import pytest
from memory_rows import MemoryRows
from recordings import FRONT, WRIST, contents, recording

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.exact_statistics import exact_statistics
from regrip.datasets.loading.mixture import Member, Samples, fit_inside
from regrip.datasets.loading.normalization import Scaling
from regrip.datasets.loading.sampler import MixtureOrder
from regrip.datasets.loading.samples import Reading
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track


def small_robot(size: tuple[int, int] = (32, 48)) -> MemoryRows:
    """No wrist camera, a state of 3, actions of 4 under another name."""
    rng = np.random.default_rng(9)
    streams = {
        "image": StreamSpec("image", "image", "uint8", (*size, 3), rate_hz=10.0),
        "state": StreamSpec("state", "vector", "float64", (3,), rate_hz=10.0),
        "actions": StreamSpec("actions", "vector", "float32", (4,), rate_hz=10.0),
    }
    from regrip.datasets.frames import ArrayFrames

    time = np.arange(6) / 10
    tracks = {
        "image": Track(ArrayFrames(rng.integers(0, 256, (6, *size, 3), dtype=np.uint8)), time),
        "state": Track(rng.standard_normal((6, 3)), time),
        "actions": Track(rng.standard_normal((6, 4)).astype(np.float32), time),
    }
    return MemoryRows(Contents(streams, 10.0), [Recording(tracks, task="small")])


NAMES = {"image": FRONT, "state": "observation.state", "actions": "action"}


def big_robot() -> MemoryRows:
    of = contents()
    return MemoryRows(of, [recording(of, 5, seed=0, task="big"), recording(of, 4, seed=1, lacks=(WRIST,))])


def test_two_robots_in_one_batch() -> None:
    big, small = big_robot(), small_robot()
    samples = Samples([Member(big), Member(small, NAMES)], Reading(chunk=3))
    assert samples.sizes == [9, 6]
    out, tasks = samples.batch(samples.locate(np.array([10, 0, 14, 8])))
    assert out["set_index"].tolist() == [1, 0, 1, 0]
    assert tasks == ["small", "big", "small", "pick up the cup"]
    assert out["action"].shape == (4, 3, 7)
    assert out["action_dims"].sum(1).tolist() == [4, 7, 4, 7]
    assert out["observation.state_dims"].sum(1).tolist() == [3, 8, 3, 8]
    assert out[f"{WRIST}_mask"].tolist() == [False, True, False, False]
    assert f"{FRONT}_mask" not in out
    assert not out[WRIST][[0, 2, 3]].any()
    np.testing.assert_array_equal(out[WRIST][1], big.image(WRIST, 0))
    np.testing.assert_array_equal(out[FRONT][2], small.image("image", 5))
    theirs = small.vectors("actions", np.array([1, 2, 3]))
    np.testing.assert_array_equal(out["action"][0], np.pad(theirs, ((0, 0), (0, 3))))
    assert out["action_is_pad"][2].tolist() == [False, True, True]
    assert out["observation.state"].dtype == np.float32


def test_buffers_that_were_used_before_leave_no_trace() -> None:
    samples = Samples([Member(big_robot()), Member(small_robot(), NAMES)])
    fresh, _ = samples.batch(samples.locate(np.array([10, 0, 14, 8])))
    used = samples.new_arrays(4)
    for array in used.values():
        array.view(np.uint8)[...] = 0xFF if array.dtype != bool else 1
    samples.fill(samples.locate(np.array([10, 0, 14, 8])), used)
    for name in fresh:
        np.testing.assert_array_equal(used[name], fresh[name], err_msg=name)


def test_each_set_has_its_own_scaling_and_padding_stays_zero() -> None:
    big, small = big_robot(), small_robot()
    a = Scaling.of("lerobot_min_max", exact_statistics(big).streams["action"])
    b = Scaling.of("lerobot_min_max", exact_statistics(small).streams["actions"])
    samples = Samples(
        [Member(big, scaling={"action": a}), Member(small, NAMES, {"action": b})], Reading(chunk=1)
    )
    out, _ = samples.batch(samples.locate(np.arange(15)))
    for which, width in ((out["set_index"] == 0, 7), (out["set_index"] == 1, 4)):
        mine = out["action"][which, 0]
        np.testing.assert_allclose(mine[:, :width].min(0), -1, atol=1e-6)
        np.testing.assert_allclose(mine[:, :width].max(0), 1, atol=1e-6)
        assert not mine[:, width:].any()


def test_images_of_two_sizes_are_refused_or_made_to_fit() -> None:
    big, small = big_robot(), small_robot((64, 32))
    with pytest.raises(DataError, match=r"images of shapes .* give image_size"):
        Samples([Member(big), Member(small, NAMES)])
    samples = Samples([Member(big), Member(small, NAMES)], image_size=(32, 32))
    out, _ = samples.batch(samples.locate(np.array([0, 10])))
    assert out[FRONT].shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(out[FRONT][0], fit_inside(big.image(FRONT, 0), 32, 32))
    assert out[FRONT][1, :, 8:24].all(2).any()
    assert not out[FRONT][1, :, :8].any()


def test_fit_inside_keeps_the_aspect() -> None:
    white = np.full((20, 40, 3), 255, np.uint8)
    out = fit_inside(white, 30, 30)
    assert out[:, :, 0].all(1).nonzero()[0].tolist() == list(range(7, 22))
    np.testing.assert_array_equal(fit_inside(white, 20, 40), white)


def test_a_mixture_is_drawn_by_its_order() -> None:
    samples = Samples([Member(big_robot()), Member(small_robot(), NAMES)])
    order = MixtureOrder(samples.sizes, [1, 3], 8, seed=5)
    seen = np.concatenate([samples.batch(order.draw(step))[0]["set_index"] for step in range(40)])
    assert 0.6 < seen.mean() < 0.9
    np.testing.assert_array_equal(seen[8:16], order.draw(1).set)


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match=r"no streams \['stat'\] to rename"):
        Samples([Member(small_robot(), {"stat": "observation.state"})])
    with pytest.raises(DataError, match="two streams would be called"):
        Samples([Member(small_robot(), {"state": "actions"})])
    with pytest.raises(DataError, match=r"no set of the mixture has \['observation\.images\.top'\]"):
        Samples(
            [Member(big_robot()), Member(small_robot(), NAMES)], Reading(images=("observation.images.top",))
        )

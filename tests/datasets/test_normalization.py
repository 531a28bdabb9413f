"""Each scheme gives the numbers of the stack it is named after."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from memory_rows import of_vectors
from recordings import contents

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.exact_statistics import exact_statistics
from regrip.datasets.loading.normalization import SCHEMES, Scaling, SchemeName, gripper_mask, needed
from regrip.datasets.recording import Conventions, Gripper

# One entry that moves and one that does not.
VALUES: dict[str, list[float]] = {
    "mean": [2.0, 7.0],
    "std": [0.5, 0.0],
    "min": [-1.0, 7.0],
    "max": [5.0, 7.0],
    "q01": [0.0, 7.0],
    "q99": [4.0, 7.0],
    "q10": [1.0, 7.0],
    "q90": [3.0, 7.0],
}
BY_HAND: dict[str, tuple[list[float], list[float]]] = {  # of [3, 7] and [6, 7]
    "lerobot_mean_std": ([2.0 / (1 + 2e-8), 0], [8.0 / (1 + 2e-8), 0]),
    "lerobot_min_max": ([2 * 4 / 6 - 1, -1], [2 * 7 / 6 - 1, -1]),
    "lerobot_quantiles": ([0.5, -1], [2.0, -1]),
    "lerobot_quantile10": ([1.0, -1], [4.0, -1]),
    "openpi_z_score": ([1 / 0.500001, 0], [4 / 0.500001, 0]),
    "openpi_quantile": ([3 / 4.000001 * 2 - 1, -1], [6 / 4.000001 * 2 - 1, -1]),
    "openvla_bounds_q99": ([0.5, 0], [1.0, 0]),
    "oft_min_max": ([2 * 4 / 6 - 1, 0], [1.0, 0]),
    "diffusion_policy_limits": ([2 * 4 / 6 - 1, 0], [2 * 7 / 6 - 1, 0]),
    "diffusion_policy_fit": ([2 * 4 / 6 - 1, 0], [2 * 7 / 6 - 1, 0]),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_worked_by_hand(scheme: SchemeName) -> None:
    scaling = Scaling(scheme, VALUES)
    x = np.array([[3, 7], [6, 7]], dtype=np.float64)
    np.testing.assert_allclose(scaling.forward(x), BY_HAND[scheme], rtol=1e-7, atol=1e-8)
    x32 = x.astype(np.float32)
    mine, theirs = scaling.forward(x32), scaling.forward(torch.from_numpy(x32))
    assert mine.dtype == np.float32
    np.testing.assert_array_equal(mine, theirs.numpy())
    np.testing.assert_array_equal(scaling.inverse(mine), scaling.inverse(theirs).numpy())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(scheme: SchemeName, dtype: type) -> None:
    rows = np.random.default_rng(0).normal(3, 2, (400, 6)).astype(dtype)
    rows[:, 4] = 0.25
    statistics = exact_statistics(of_vectors("action", rows)).streams["action"]
    scaling = Scaling.of(scheme, statistics)
    inside = np.ones(rows.shape, bool)
    if scheme == "openvla_bounds_q99":  # what it clips is gone
        inside = (rows >= statistics.of("q01")) & (rows <= statistics.of("q99"))
    back = scaling.inverse(scaling.forward(rows))
    np.testing.assert_allclose(back[inside], rows[inside], rtol=0, atol=1e-5 if dtype is np.float32 else 1e-6)
    chunk = torch.from_numpy(rows[:32].reshape(4, 8, 6))
    assert scaling.forward(chunk).shape == chunk.shape
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    np.testing.assert_array_equal(again.forward(rows), scaling.forward(rows))


def test_a_constant_entry_that_is_off_by_a_little() -> None:
    x = np.array([[3.0, 7.001]])
    assert Scaling("lerobot_quantiles", VALUES).forward(x)[0, 1] == pytest.approx(
        2 * 0.001 / 1e-8 - 1
    )  # theirs
    assert Scaling("openvla_bounds_q99", VALUES).forward(x)[0, 1] == 0
    assert Scaling("diffusion_policy_limits", VALUES).forward(x)[0, 1] == pytest.approx(0.001)


def test_a_mask_leaves_the_gripper_alone() -> None:
    of = contents(conventions=Conventions(grippers=(Gripper("action", 6, "binary", 1, 0),)))
    mask = gripper_mask(of, "action")
    assert mask == (True,) * 6 + (False,)
    values = {"q01": [0.0] * 7, "q99": [2.0] * 7, "min": [-1.0] * 7, "max": [3.0] * 7}
    scaling = Scaling("openvla_bounds_q99", values, mask)
    x = np.array([[1.0, 5, -5, 0, 2, 1, 0.75]], dtype=np.float32)
    y = scaling.forward(x)
    np.testing.assert_allclose(y, [[0, 1, -1, -1, 1, 0, 0.75]], atol=1e-7)
    assert scaling.inverse(y)[0, 6] == 0.75
    with pytest.raises(DataError, match="no vector stream"):
        gripper_mask(of, "actions")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'openpi_quantile'"):
        Scaling("openpi_quantiles", VALUES)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="lack q01"):
        Scaling("openpi_quantile", {"q99": [1.0]})
    with pytest.raises(DataError, match="not finite"):
        Scaling("openpi_quantile", {"q01": [0.0], "q99": [np.nan]})
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        Scaling("openpi_quantile", VALUES).forward(np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match="int64"):
        Scaling("openpi_quantile", VALUES).forward(np.zeros((2, 2), np.int64))


# The package lerobot.processor imports motors and language models, which its scaling does not need.
_LEROBOT = """
import json, os, sys, torch, types
import lerobot
package = types.ModuleType("lerobot.processor")
package.__path__ = [os.path.join(lerobot.__path__[0], "processor")]
sys.modules["lerobot.processor"] = package
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep
given = json.load(sys.stdin)
stats = {"action": {k: torch.tensor(v, dtype=torch.float32) for k, v in given["values"].items()}}
features = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
x, out = torch.tensor(given["x"], dtype=torch.float32), {}
for mode in ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"):
    how = {FeatureType.ACTION: NormalizationMode[mode]}
    settings = dict(features=features, norm_map=how, stats=stats)
    there = NormalizerProcessorStep(**settings)._normalize_action(x, inverse=False)
    back = UnnormalizerProcessorStep(**settings)._normalize_action(there, inverse=True)
    out[mode] = [there.tolist(), back.tolist()]
print("RESULT" + json.dumps(out))
"""


def test_lerobots_own_processor_agrees() -> None:
    python = os.environ.get("REGRIP_REFEREES_PYTHON", ".venv-referees/bin/python")
    if not os.path.exists(python):
        pytest.skip("no interpreter with lerobot: set REGRIP_REFEREES_PYTHON")
    x = np.random.default_rng(1).normal(2, 3, (50, 2)).astype(np.float32)
    given = json.dumps({"values": VALUES, "x": x.tolist()})
    done = subprocess.run(
        [python, "-c", _LEROBOT], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs: dict[str, Any] = json.loads(done.stdout.split("RESULT")[1])
    names: dict[str, SchemeName] = {
        "MEAN_STD": "lerobot_mean_std",
        "MIN_MAX": "lerobot_min_max",
        "QUANTILES": "lerobot_quantiles",
        "QUANTILE10": "lerobot_quantile10",
    }
    for mode, scheme in names.items():
        scaling = Scaling(scheme, VALUES)
        there = scaling.forward(torch.from_numpy(x))
        np.testing.assert_array_equal(there.numpy(), np.array(theirs[mode][0], np.float32), err_msg=mode)
        np.testing.assert_array_equal(
            scaling.inverse(there).numpy(), np.array(theirs[mode][1], np.float32), err_msg=mode
        )


def test_only_what_a_scheme_needs_is_kept() -> None:
    assert needed("openvla_bounds_q99") == ("q01", "q99", "min", "max")
    assert set(Scaling("openpi_z_score", VALUES).to_json()["values"]) == {"mean", "std"}

"""Forms of rotation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.datasets.converting.rotations import SIZES, convert_rotation
from regrip.datasets.ledger import DataError

HALF = np.sqrt(0.5)
# a quarter turn about z: x goes to y
QUARTER: dict[str, list[float]] = {
    "rotation_vector": [0, 0, np.pi / 2],
    "rotation_vector_uncanonical": [0, 0, np.pi / 2],
    "euler_xyz": [0, 0, np.pi / 2],
    "quaternion_xyzw": [0, 0, HALF, HALF],
    "quaternion_wxyz": [HALF, 0, 0, HALF],
    "rot6d_rows": [0, -1, 0, 1, 0, 0],
    "rot6d_columns": [0, 1, 0, -1, 0, 0],
    "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1],
}


@pytest.mark.parametrize("to", SIZES)
@pytest.mark.parametrize("source", SIZES)
def test_a_quarter_turn_in_every_form(source: str, to: str) -> None:
    got = convert_rotation(np.array([QUARTER[source]]), source, to)
    np.testing.assert_allclose(got, [QUARTER[to]], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SIZES)), st.sampled_from(sorted(SIZES)))
def test_there_and_back_is_the_same_rotation(seed: int, a: str, b: str) -> None:
    quaternion = np.random.default_rng(seed).standard_normal((5, 4))
    first = convert_rotation(quaternion, "quaternion_xyzw", a)
    again = convert_rotation(convert_rotation(first, a, b), b, a)
    matrices = [convert_rotation(rows, a, "matrix") for rows in (first, again)]
    np.testing.assert_allclose(matrices[0], matrices[1], atol=1e-7)


def test_the_uncanonical_vector_keeps_the_sign_of_its_quaternion() -> None:
    # w < 0: robosuite's arm with its hand down; the same rotation as angle 2 pi - 3.2 about the other axis
    angle = 3.2
    quaternion = np.array([[np.sin(angle / 2), 0, 0, np.cos(angle / 2)]])
    assert quaternion[0, 3] < 0
    np.testing.assert_allclose(
        convert_rotation(quaternion, "quaternion_xyzw", "rotation_vector_uncanonical"), [[angle, 0, 0]]
    )
    np.testing.assert_allclose(
        convert_rotation(quaternion, "quaternion_xyzw", "rotation_vector"), [[angle - 2 * np.pi, 0, 0]]
    )


def test_what_is_no_rotation_is_refused() -> None:
    with pytest.raises(DataError, match="no quaternion_xyzw"):
        convert_rotation(np.zeros((1, 4)), "quaternion_xyzw", "matrix")
    with pytest.raises(DataError, match=r"expected \(N,6\)"):
        convert_rotation(np.zeros((2, 4)), "rot6d_rows", "matrix")
    with pytest.raises(DataError, match="halves are parallel"):
        convert_rotation(np.array([[1, 0, 0, 2, 0, 0]]), "rot6d_rows", "matrix")
    with pytest.raises(DataError, match="the forms are"):
        convert_rotation(np.zeros((1, 3)), "euler_zyx", "matrix")

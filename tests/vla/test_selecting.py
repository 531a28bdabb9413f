"""The best of several imagined chunks is executed, the same one each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regrip.datasets.episode import Observation
from regrip.vla.numerics import tiny_policy
from regrip.vla.pi0 import Settings
from regrip.vla.selecting import Selecting, imagine

torch.set_num_threads(1)

POLICY = tiny_policy(settings=Settings(stem="patch"))


def observe(count: int) -> Observation:
    draw = np.random.default_rng(0)
    return Observation(
        images={name: draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for name in POLICY.cameras},
        state=draw.uniform(-1, 1, (count, 4)).astype(np.float32),
        instruction=["lift the red block"] * count,
    )


def keys(count: int) -> list[tuple[str | int, ...]]:
    return [("test", row) for row in range(count)]


def first_axis(observation: Observation, chunks: NDArray[np.float32]) -> NDArray[np.float32]:
    assert chunks.shape[0] == len(observation)
    score: NDArray[np.float32] = chunks[..., 0].mean(-1)
    return score


def test_what_scores_best_is_executed() -> None:
    seen = observe(4)
    for noise_keys in (keys(4), None):
        answer = Selecting(POLICY, first_axis, 8).act(seen, noise_keys)
        given = [("selecting",)] * 4 if noise_keys is None else noise_keys
        chunks = imagine(POLICY, seen, given, 8, keep_greedy=True)
        assert chunks.shape == (4, 8, POLICY.chunk_size, 3)
        np.testing.assert_array_equal(chunks[:, 0], POLICY.act(seen, None).action)
        best = chunks[..., 0].mean(-1).argmax(1)
        np.testing.assert_array_equal(answer.action, chunks[np.arange(4), best])
        np.testing.assert_array_equal(answer.latent["choice"], best)
        assert (answer.action[..., 0].mean(-1) >= chunks[:, 0, :, 0].mean(-1)).all()
        assert not answer.log_prob.any()
    assert best.any()  # not always the greedy one


def test_more_candidates_are_never_worse_and_leave_the_others_as_they_were() -> None:
    seen, few, many = observe(3), *(imagine(POLICY, observe(3), keys(3), n) for n in (3, 9))
    np.testing.assert_allclose(many[:, :3], few, atol=1e-6)
    scores = [
        np.asarray(Selecting(POLICY, first_axis, n).act(seen, keys(3)).latent["score"]).max(1)
        for n in (1, 3, 9)
    ]
    assert (np.diff(scores, axis=0) >= -1e-6).all()


def test_a_scorer_without_an_opinion_changes_nothing() -> None:
    seen = observe(3)
    same = Selecting(POLICY, lambda observation, chunks: np.zeros(chunks.shape[:2]), 5)
    np.testing.assert_array_equal(same.act(seen, None).action, POLICY.act(seen, None).action)


def test_it_repeats_and_rows_do_not_depend_on_the_batch() -> None:
    seen, selecting = observe(5), Selecting(POLICY, first_axis, 6, keep_greedy=False)
    for noise_keys in (keys(5), None):
        whole = selecting.act(seen, noise_keys)
        again = selecting.act(seen, noise_keys)
        assert whole.action.tobytes() == again.action.tobytes()
        for row in (0, 3):
            key = None if noise_keys is None else [noise_keys[row]]
            alone = selecting.act(seen.take([row]), key)
            np.testing.assert_allclose(alone.action[0], whole.action[row], atol=1e-6)


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"answered with \(2,\), expected \(2, 3\)"):
        Selecting(POLICY, lambda observation, chunks: np.zeros(2), 3).act(observe(2), None)

    def diverged(observation: Observation, chunks: NDArray[np.float32]) -> NDArray[np.float64]:
        score = np.zeros(chunks.shape[:2])
        score[1, 2] = np.nan
        return score

    with pytest.raises(ValueError, match="candidate 2 of row 1 is nan"):
        Selecting(POLICY, diverged, 3).act(observe(2), None)
    with pytest.raises(ValueError, match="candidates 0"):
        Selecting(POLICY, diverged, 0)

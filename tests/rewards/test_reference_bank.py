"""The bank: what stays, what goes, what it calls the same episode, and that it comes back bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from regrip.rewards.reference_bank import Entries, ReferenceBank, episode_identity


def entries(names: list[int], iteration: int, width: int = 2) -> Entries:
    identity = np.zeros((len(names), 16), dtype=np.uint8)
    identity[:, 0] = names
    embedding = np.array(names, dtype=np.float32)[:, None] * np.ones(width, dtype=np.float32) / 3
    return Entries(identity, np.full(len(names), iteration, dtype=np.int64), embedding, embedding * 0)


def held(bank: ReferenceBank, task: str = "toy/a") -> list[int]:
    return [int(name) for name in bank.entries(task).identity[:, 0]]


def test_capacity_drops_the_oldest() -> None:
    bank = ReferenceBank(capacity=3, keep=1)
    for iteration, names in enumerate([[8, 9], [3], [1, 2]]):
        bank.add("toy/a", entries(names, iteration))
        bank.advance(iteration)
    assert held(bank) == [3, 1, 2]


def test_age_drops_the_stale_but_keeps_the_freshest() -> None:
    bank = ReferenceBank(capacity=8, max_age=2, keep=1, half_life=2.0)
    bank.add("toy/a", entries([1], 0))
    bank.add("toy/a", entries([2, 3], 1))
    bank.advance(3)
    assert held(bank) == [2, 3]  # ages 2 2; the one of age 3 is gone
    np.testing.assert_allclose(bank.weight("toy/a"), 0.5)  # one half-life old
    bank.advance(50)
    assert held(bank) == [3]  # a task without new successes keeps its freshest
    bank.advance(7)
    assert bank.newest_iteration == 50  # time does not run back


def test_the_same_episode_is_taken_once_and_order_does_not_matter() -> None:
    one, other = ReferenceBank(), ReferenceBank()
    one.add("toy/a", entries([5, 1, 3], 0))
    one.add("toy/a", entries([1, 2], 0))
    other.add("toy/a", entries([2, 3], 0))
    other.add("toy/a", entries([1, 5, 2], 0))
    assert held(one) == held(other) == [1, 2, 3, 5]
    assert one.entries("toy/a").embedding.tobytes() == other.entries("toy/a").embedding.tobytes()


def test_round_trip_is_bit_exact_through_safetensors() -> None:
    bank = ReferenceBank()
    bank.add("toy/a", entries([1, 2], 3))
    bank.add("toy/b:c", entries([7], 4))
    bank.advance(4)
    stored = safetensors.numpy.load(safetensors.numpy.save(bank.state_dict()))
    loaded = ReferenceBank()
    loaded.load_state_dict(stored)
    state, again = bank.state_dict(), loaded.state_dict()
    assert list(state) == list(again)
    for name in state:
        assert state[name].dtype == again[name].dtype
        assert state[name].shape == again[name].shape
        assert state[name].tobytes() == again[name].tobytes()


def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    bank = ReferenceBank()
    bank.add("toy/a", entries([1], 0))
    good = bank.state_dict()
    for broken, message in (
        ({k: v for k, v in good.items() if k != "rest:toy/a"}, "rest of toy/a is missing, expected"),
        (good | {"iteration:toy/a": np.zeros(1, dtype=np.float32)}, "iteration of toy/a is float32"),
        (good | {"iteration:toy/a": np.zeros(2, dtype=np.int64)}, "arrays of different lengths"),
        (good | {"unknown": np.zeros(1)}, "nothing reads"),
        ({}, "no 'newest_iteration'"),
    ):
        with pytest.raises(ValueError, match=message):
            bank.load_state_dict(broken)
        assert held(bank) == [1]


def test_another_embedding_width_is_refused() -> None:
    bank = ReferenceBank()
    bank.add("toy/a", entries([1], 0, width=2))
    with pytest.raises(ValueError, match="an embedding of 3 numbers, but the bank holds 2"):
        bank.add("toy/a", entries([2], 0, width=3))


def test_identity_is_of_the_episode_not_of_task_or_row(play, walk) -> None:  # type: ignore[no-untyped-def]
    """The siiRL bug: members of a group had one key. Here the row does not matter and the episode does."""
    rollouts = play([walk(0.5, row=0), walk(0.5, row=1), walk(0.5, row=0, index=1)])
    names = episode_identity("run", rollouts)
    assert len({name.tobytes() for name in names}) == 3
    assert np.array_equal(episode_identity("run", rollouts.take([2, 0])), names[[2, 0]])
    for other in (
        episode_identity("other", rollouts),
        episode_identity("run", replace(rollouts, policy_version=1)),
    ):
        assert not (other == names).all(1).any()
    moved = rollouts.action.copy()
    moved[0, 2, 1] += 0.01  # one control step of one episode
    other = episode_identity("run", replace(rollouts, action=moved))
    assert (other == names).all(1).tolist() == [False, True, True]
    padding = rollouts.action.copy()
    padding[~rollouts.valid] = 99.0
    assert np.array_equal(episode_identity("run", replace(rollouts, action=padding)), names)

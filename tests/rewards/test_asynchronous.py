"""A reward in the background: what is pending, dropped, forgotten, failed, saved. Events, not clocks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import reward_toy as toy
from numpy.typing import NDArray
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import RewardSignal
from regrip.rewards.asynchronous import Asynchronous, BackgroundRewardError
from regrip.rewards.binary import at_last_step


class Counted:
    """Pays the number of episodes it has seen before, and 1; waits for `gate` if it is given one."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.seen = 0
        self.error: Exception | None = None
        self.std = False

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        self.entered.set()
        assert self.gate is None or self.gate.wait(60), "nobody opened the gate"
        if self.error is not None:
            raise self.error
        self.batches.append(len(rollouts))
        order = self.seen + 1 + np.arange(len(rollouts))
        self.seen += len(rollouts)
        value = at_last_step(rollouts.valid, order.astype(np.float32))
        fine = np.array(["green" not in said for said in rollouts.instruction])
        components = {"order": order.astype(np.float32)}
        if len(rollouts) == 1:
            components["alone"] = np.ones(1, np.float32)
        return RewardSignal(
            value * fine[:, None, None], components, fine, False, value / 10 if self.std else None
        )

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {"seen": np.array(self.seen)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if list(state) != ["seen"]:
            raise ValueError(f"expected 'seen', not {list(state)}")
        self.seen = int(np.asarray(state["seen"]))


@contextmanager
def opened(gate: threading.Event) -> Iterator[None]:
    """Opens the gate at the end, come what may, so that nothing waits for ever."""
    try:
        yield
    finally:
        gate.set()


def settled(background: Asynchronous, rollouts: Rollouts) -> RewardSignal:
    background(rollouts)
    assert background.wait(60)
    return background(rollouts)


def episodes(*indices: int, colour: str = "red") -> Rollouts:
    return toy.carry([Carry(0.5, colour, index) for index in indices])


def totals(signal: RewardSignal) -> list[float]:
    return [float(total) for total in signal.value.sum((1, 2))]


def test_labels_follow_the_episode_wherever_it_stands() -> None:
    with Asynchronous(Counted()) as background:
        first = settled(background, episodes(1, 2, 3))
        assert totals(first) == [1, 2, 3]
        mixed = background(episodes(3, 9, 1))
        assert totals(mixed) == [3, 0, 1]
        assert mixed.valid.tolist() == [True, False, True]
        assert mixed.components["pending"].tolist() == [0, 1, 0]
        assert mixed.components["label_version"].tolist() == [1, 0, 1]
        assert background.wait(60)
        assert totals(mixed) == [3, 0, 1]  # what was handed out stays as it is
        later = background(episodes(3, 9, 1))
        assert totals(later) == [3, 4, 1]
        assert later.components["label_version"].tolist() == [1, 2, 1]
        assert later.components["alone"].tolist() == [0, 1, 0]


def test_another_instruction_is_another_episode() -> None:
    with Asynchronous(Counted()) as background:
        rollouts = episodes(1)
        assert totals(settled(background, rollouts)) == [1]
        assert totals(settled(background, replace(rollouts, instruction=["drop the red block"]))) == [2]


def test_the_same_episode_twice_is_asked_about_once() -> None:
    reward = Counted()
    with Asynchronous(reward) as background:
        assert totals(settled(background, episodes(1).take([0, 0, 0]))) == [1, 1, 1]
        assert reward.batches == [1]


def test_a_longer_padding_changes_nothing() -> None:
    with Asynchronous(Counted()) as background:
        long = toy.carry([Carry(1.0, index=4)])  # 9 decisions of 12
        expected = settled(background, long).value

        def cut(array: NDArray[np.generic]) -> NDArray[np.generic]:
            return array[:, :9]

        short = replace(
            long,
            **{name: cut(getattr(long, name)) for name in ("state", "privileged", "action", "valid")},
            images={name: cut(frames) for name, frames in long.images.items()},
        )
        np.testing.assert_array_equal(background(short).value, expected[:, :9])


def test_what_could_not_be_judged_is_known_and_not_asked_again() -> None:
    reward = Counted()
    with Asynchronous(reward) as background:
        signal = settled(background, episodes(1, colour="green"))
        assert not signal.valid.any()
        assert signal.components["pending"].tolist() == [0]
        background(episodes(1, colour="green"))
        assert background.wait(60)
    assert reward.batches == [1]


def test_a_full_queue_drops_whole_groups_and_counts_them() -> None:
    gate = threading.Event()
    reward = Counted(gate)
    with Asynchronous(reward, queue_size=3) as background, opened(gate):
        signal = background(episodes(1, 2))
        assert not signal.components["dropped"].any()
        assert reward.entered.wait(60)
        pair = toy.carry([Carry(0.5, index=3, row=0), Carry(0.6, index=3, row=1), Carry(0.5, index=4)])
        signal = background(pair)
        assert signal.components["pending"].tolist() == [1, 1, 1]
        assert signal.components["dropped"].tolist() == [1, 1, 0]  # one place was left, for the last
        assert background.counts["dropped"] == 2
        gate.set()
        assert background.wait(60)
        assert background(pair).valid.tolist() == [False, False, True]
        assert background.wait(60)  # by being looked up it was put in the queue again
        assert background(pair).valid.all()


def test_the_table_forgets_what_was_looked_up_longest_ago() -> None:
    with Asynchronous(Counted(), table_size=2) as background:
        settled(background, episodes(1))
        settled(background, episodes(2))
        background(episodes(1))
        settled(background, episodes(3))
        assert background.counts["forgotten"] == 1
        assert background(episodes(1)).valid.all()
        assert not background(episodes(2)).valid.any()


def test_an_error_is_raised_by_the_next_call_and_the_work_goes_on() -> None:
    reward = Counted()
    with Asynchronous(reward) as background:
        reward.error = OSError("the disk is full")
        background(episodes(1))
        assert background.wait(60)
        with pytest.raises(BackgroundRewardError, match=r"Counted.*OSError: the disk is full") as caught:
            background(episodes(1))
        assert caught.value.__cause__ is reward.error
        reward.error = None
        assert background.counts["errors"] == 1
        failed = background(episodes(1))
        assert failed.components["failed"].tolist() == [1]
        assert failed.components["pending"].tolist() == [0]
        assert not failed.valid.any()
        assert settled(background, episodes(2)).valid.all()


def test_an_error_nobody_heard_of_is_raised_at_the_end() -> None:
    reward = Counted()
    reward.error = ValueError("no such camera")
    background = Asynchronous(reward)
    background(episodes(1))
    assert background.wait(60)
    with pytest.raises(BackgroundRewardError, match="no such camera"):
        background.close()
    background.close()


def test_an_answer_of_a_wrong_shape_is_an_error_too() -> None:
    class Wrong(Counted):
        def __call__(self, rollouts: Rollouts) -> RewardSignal:
            signal = super().__call__(rollouts)
            return replace(signal, value=signal.value[:, :2])

    background = Asynchronous(Wrong())
    background(episodes(1))
    assert background.wait(60)
    with pytest.raises(BackgroundRewardError, match="it gave values"):
        background.close()


def test_closing_drops_the_queue_and_waits_for_the_batch_in_progress() -> None:
    gate = threading.Event()
    reward = Counted(gate)
    background = Asynchronous(reward)
    with opened(gate):
        background(episodes(1))
        assert reward.entered.wait(60)
        background(episodes(2))
        closing = threading.Thread(target=background.close)
        closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert reward.batches == [1]
    with pytest.raises(RuntimeError, match="was closed"):
        background(episodes(3))


def test_a_resumed_run_knows_what_was_known() -> None:
    reward = Counted()
    reward.std = True
    rollouts = toy.carry([Carry(0.5, index=1), Carry(1.0, "green", 2)])
    with Asynchronous(reward) as background:
        settled(background, rollouts)
        expected = settled(background, episodes(3))
        assert expected.std is not None
        state = background.state_dict()
        both = background(rollouts)
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in state.values())
    fresh = Counted()
    with Asynchronous(fresh) as resumed:
        resumed.load_state_dict(state)
        assert fresh.seen == 3
        for asked, before in ((episodes(3), expected), (rollouts, both)):
            after = resumed(asked)
            np.testing.assert_array_equal(after.value, before.value)
            np.testing.assert_array_equal(after.valid, before.valid)
            assert after.std is not None
            assert before.std is not None
            np.testing.assert_array_equal(after.std, before.std)
            assert set(after.components) == set(before.components)
            for name, held in before.components.items():
                np.testing.assert_array_equal(after.components[name], held)
        assert resumed.wait(60)
        assert fresh.batches == []
        again = resumed.state_dict()
        assert settled(resumed, episodes(8)).components["label_version"].tolist() == [3]
    assert set(again) == set(state)
    for name, array in state.items():
        np.testing.assert_array_equal(np.sort(again[name], axis=None), np.sort(array, axis=None))


def test_an_empty_table_is_saved_too() -> None:
    with Asynchronous(Counted()) as background:
        state = background.state_dict()
        background.load_state_dict(state)
        assert settled(background, episodes(1)).valid.all()


def test_saving_does_not_wait_for_the_reward() -> None:
    gate = threading.Event()
    reward = Counted()
    with Asynchronous(reward) as background, opened(gate):
        settled(background, episodes(1))
        reward.gate = gate
        background(episodes(2))
        state = background.state_dict()  # would wait for ever
        assert len(state["key"]) == 1
        assert int(np.asarray(state["reward/seen"])) == 1
        with pytest.raises(RuntimeError, match="before it is called"):
            background.load_state_dict(state)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("value"), "value is missing"),
        (lambda state: state.update(value=state["value"][:-1]), "do not fit each other"),
        (lambda state: state.update(length=state["length"].astype(np.float32)), "length is float32"),
        (lambda state: state.update(key=state["key"][:, :-1]), "do not fit each other"),
        (lambda state: state.update(surprise=np.zeros(1)), "nothing reads"),
        (lambda state: state.pop("reward/seen"), "expected 'seen'"),
    ],
)
def test_a_spoilt_state_changes_nothing(
    spoil: Callable[[dict[str, NDArray[np.generic]]], object], message: str
) -> None:
    with Asynchronous(Counted()) as background:
        settled(background, episodes(1, 2))
        state = background.state_dict()
        spoil(state)
        with pytest.raises(ValueError, match=message):
            background.load_state_dict(state)
        assert totals(background(episodes(1, 2))) == [1, 2]


EXIT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_asynchronous as t
background = t.Asynchronous(t.Counted())
for index in range(200):
    background(t.episodes(index))
print("leaving", flush=True)
"""


def test_a_program_that_forgets_to_close_still_ends() -> None:
    here = __file__.rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", EXIT, here], capture_output=True, timeout=300, check=True)
    assert done.stdout == b"leaving\n"
    assert b"Traceback" not in done.stderr

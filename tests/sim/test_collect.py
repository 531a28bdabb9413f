"""Collection: the same bytes whatever the processes do, and episodes that add up."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from pixel_actor import PixelActor
from puck_env import PuckEnv

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.protocols import ActionSample, Actor
from regrip.datasets.starts import StartState
from regrip.sim.collect import CollectStats, collect
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.tasks import task_names

STARTS = [StartState("puck/push", "train", index // 2) for index in range(26)]
GROUPS = [index // 2 for index in range(26)]


def rollout_bytes(rollouts: Rollouts) -> dict[str, object]:
    """Every field, arrays as bytes, so that equality means identity to the bit."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(rollouts):
        value = getattr(rollouts, field.name)
        parts = value if isinstance(value, Mapping) else {"": value}
        for name, part in parts.items():
            is_array = isinstance(part, np.ndarray)
            found[field.name + name] = (part.dtype, part.shape, part.tobytes()) if is_array else part
    return found


def play(
    pool: WorkerPool, actor: Actor | None = None, num: int = 26, greedy: bool = False
) -> tuple[Rollouts, CollectStats]:
    return collect(
        pool,
        actor or PixelActor(),
        STARTS[:num],
        GROUPS[:num],
        run_key=("run", 3),
        greedy=greedy,
        policy_version=7,
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool("puck_env:make", num_slots=9, num_workers=2) as made:
        yield made


def test_workers_do_not_change_a_byte(pool: WorkerPool) -> None:
    expected, stats = play(pool)
    for num_workers in (1, 4):
        with WorkerPool("puck_env:make", num_slots=9, num_workers=num_workers) as other:
            rollouts, other_stats = play(other)
        assert rollout_bytes(rollouts) == rollout_bytes(expected)
        assert other_stats.num_padded_rows == stats.num_padded_rows


def test_the_tabletop_is_as_reproducible_even_if_workers_are_shot() -> None:
    names = task_names("demo")
    starts = [StartState(names[index % len(names)], "train", index) for index in range(10)]

    def play_tabletop(num_workers: int, shots: tuple[int, ...]) -> Rollouts:
        with WorkerPool("regrip.sim.tabletop.env:make", num_slots=6, num_workers=num_workers) as pool:

            def shoot(done: int, total: int) -> None:
                if done in shots:
                    os.kill(pool.worker_pids[done % num_workers], signal.SIGKILL)

            rollouts, stats = collect(
                pool,
                PixelActor(num_actions=7, scale=0.02),
                starts,
                range(len(starts)),
                run_key=("tabletop",),
                greedy=False,
                policy_version=0,
                on_episode=shoot,
            )
        assert stats.num_incidents == len(shots)
        return rollouts

    expected = rollout_bytes(play_tabletop(1, ()))
    assert rollout_bytes(play_tabletop(3, (1, 3))) == expected


def test_what_the_slots_did_before_does_not_matter(pool: WorkerPool) -> None:
    expected, _ = play(pool)
    play(pool, num=3, greedy=True)
    pool.reset([8, 0], [STARTS[4], STARTS[5]])  # left unfinished, as after Ctrl-C
    assert rollout_bytes(play(pool)[0]) == rollout_bytes(expected)


def test_episodes_are_what_the_environment_plays(pool: WorkerPool) -> None:
    rollouts, stats = play(pool)
    assert list(rollouts.start) == STARTS
    assert rollouts.group.tolist() == GROUPS
    assert rollouts.policy_version == 7
    assert 0 < rollouts.success.sum() < len(STARTS)
    for row in range(len(rollouts)):
        env = PuckEnv()
        env.reset(STARTS[row])
        assert rollouts.instruction[row] == env.instruction
        last, num_decisions = None, int(rollouts.decision_valid[row].sum())
        for decision in range(num_decisions):
            np.testing.assert_array_equal(rollouts.images["top"][row, decision], env.render("top"))
            np.testing.assert_array_equal(rollouts.state[row, decision], env.state())
            np.testing.assert_array_equal(rollouts.privileged[row, decision], env.privileged())
            for index in np.flatnonzero(rollouts.valid[row, decision]):
                assert last is None or not (last.success or last.truncated)
                last = env.step(rollouts.action[row, decision, index])
                assert rollouts.reward[row, decision, index] == last.reward
        assert last is not None
        assert (last.success, last.truncated) == (rollouts.success[row], rollouts.truncated[row])
        for padded in (rollouts.images["top"], rollouts.action, rollouts.reward, rollouts.log_prob):
            assert not padded[row, num_decisions:].any()
    assert stats.num_episodes == len(STARTS)
    assert stats.num_decisions == stats.num_frames == rollouts.decision_valid.sum()
    assert stats.num_steps == rollouts.num_steps.sum()
    assert stats.num_incidents == 0


def test_noise_depends_on_episode_and_decision_alone(pool: WorkerPool) -> None:
    actor = PixelActor()
    rollouts, _ = play(pool, actor)
    decisions = np.argwhere(rollouts.decision_valid)
    assert set(actor.keys) == {("run", 3, int(episode), int(decision)) for episode, decision in decisions}
    # Two episodes from one start see the same first frame and act apart.
    np.testing.assert_array_equal(rollouts.images["top"][0, 0], rollouts.images["top"][1, 0])
    assert (rollouts.action[0, 0] != rollouts.action[1, 0]).any()


def test_greedy_asks_without_noise(pool: WorkerPool) -> None:
    actor = PixelActor()
    rollouts, _ = play(pool, actor, greedy=True)
    assert not actor.keys
    np.testing.assert_array_equal(rollouts.action[0], rollouts.action[1])
    np.testing.assert_array_equal(rollouts.success[0::2], rollouts.success[1::2])


@pytest.mark.parametrize("num", [1, 2, 5, 9, 26])
def test_few_batch_sizes_and_each_episode_once(pool: WorkerPool, num: int) -> None:
    actor = PixelActor()
    told: list[tuple[int, int]] = []
    rollouts, stats = collect(
        pool,
        actor,
        STARTS[:num],
        GROUPS[:num],
        run_key=(),
        greedy=False,
        policy_version=0,
        on_episode=lambda done, total: told.append((done, total)),
    )
    assert set(actor.batch_sizes) <= {5, 4, 3, 2, 1}  # halves of 5 and of 4, rounded up
    assert told == [(done, num) for done in range(1, num + 1)]
    assert len(rollouts) == num
    assert sum(actor.batch_sizes) == stats.num_decisions + stats.num_padded_rows


def test_more_pipelines_than_slots(pool: WorkerPool) -> None:
    rollouts, _ = collect(
        pool,
        PixelActor(),
        STARTS,
        GROUPS,
        run_key=(),
        greedy=True,
        policy_version=0,
        num_pipelines=20,
    )
    assert len(rollouts) == len(STARTS)


def test_a_policy_may_plan_further_than_is_executed() -> None:
    with WorkerPool("puck_env:make", num_slots=3, num_workers=1, chunk_size=2) as short:
        rollouts, _ = play(short, PixelActor(chunk_size=5), num=4)
        # The same policy asked for the two steps alone draws other noise, so it cannot be compared with; but
        # what was executed leads where it leads.
        assert rollouts.action.shape[2] == rollouts.reward.shape[2] == rollouts.log_prob.shape[2] == 5
        assert not rollouts.valid[:, :, 2:].any()
        assert rollouts.valid[:, 0, :2].all()
        assert (rollouts.reward.sum((1, 2)) == rollouts.success).all()
        for row in range(4):
            env = PuckEnv()
            env.reset(STARTS[row])
            for action in rollouts.action[row][rollouts.valid[row]]:
                last = env.step(action)
            assert last.success == rollouts.success[row]


class BrokenActor(PixelActor):
    """A policy whose answer is damaged in one way."""

    def __init__(self, damage: str) -> None:
        super().__init__()
        self.damage = damage

    def act(self, observation: Observation, noise_keys: object) -> ActionSample:
        sample = super().act(observation, None)
        if self.damage == "nan":
            sample.action[-1, 0, 0] = np.nan
            return sample
        return dataclasses.replace(sample, action=sample.action[:, :4])


@pytest.mark.parametrize(("damage", "message"), [("nan", "not finite"), ("shape", r"\(5, 4, 2\)")])
def test_a_broken_policy_is_refused(pool: WorkerPool, damage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        play(pool, BrokenActor(damage))
    play(pool, num=2)  # and the pool is usable afterwards


def test_nothing_to_play_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(ValueError, match="0 start states"):
        play(pool, num=0)
    with pytest.raises(ValueError, match="26 start states and 25 group numbers"):
        collect(pool, PixelActor(), STARTS, GROUPS[:-1], run_key=(), greedy=True, policy_version=0)

"""What the node records, as somebody who wants to train on it would read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy import ARM, SPEC, Toy, Wave, make_core

from regrip.datasets.store.reader import Store
from regrip.real_robot.messages import Frame, Tick
from regrip.real_robot.node import Node
from regrip.real_robot.recorder import Recorder
from regrip.real_robot.rows import contents_of_node


def record(path: Path, *, threaded: bool) -> tuple[list[Tick], Toy]:
    """A success, a failure, and an episode that a person drives and nobody judges."""
    core, robot = make_core(), Toy()
    contents = contents_of_node(SPEC, ARM, core.names, 4, {"noise": ("float32", (4, 4))})
    recorder = Recorder(path, contents, {"checkpoint": "wave-1"}, threaded=threaded)
    ticks: list[Tick] = []
    node = Node(
        core, robot, Wave(), in_loop=True,
        watchers=(recorder, lambda what: ticks.append(what) if isinstance(what, Tick) else None),
    )  # fmt: skip
    node.connect()
    core.configure()
    for outcome in (True, False, None):
        for _ in range(3):  # the arm is seen to stand
            node.step()
        node.events.on_enable(True, robot.now())
        for _ in range(20):
            node.step()
        if outcome is None:
            node.events.on_takeover(True, robot.now())
            node.step()
            node.events.on_enable(False, robot.now())
        else:
            node.events.on_outcome(outcome, robot.now())
        for _ in range(10):
            node.step()
    node.close()
    recorder.close()
    assert not recorder.problems
    return ticks, robot


@pytest.mark.parametrize("threaded", [False, True])
def test_every_step_is_there_and_says_what_was_sent(tmp_path: Path, threaded: bool) -> None:
    ticks, robot = record(tmp_path / "set.zarr", threaded=threaded)
    store = Store(tmp_path / "set.zarr")
    assert [store[i].success for i in range(3)] == [True, False, None]
    first = store[0]
    assert first.task == "wave"
    assert first.about["checkpoint"] == "wave-1"
    acted = [tick for tick in ticks if tick.action is not None][:20]
    np.testing.assert_array_equal(first.streams["action"].rows, np.stack([t.action for t in acted]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.streams["action.step"].rows, np.arange(20))
    sent = np.asarray(first.streams["command"].rows)
    np.testing.assert_array_equal(sent[:20], np.stack([t.sent for t in acted]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sent[0], robot.sent[0].positions[-1])
    # a chunk of four, asked at steps 0, 4, 8, ... each with what the policy said besides
    np.testing.assert_array_equal(first.streams["decision.step"].rows, np.arange(0, 20, 4))
    assert np.asarray(first.streams["decision.latent.noise"].rows)[:, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert first.streams["node.state"].rows[0] == "active"
    driven = np.asarray(store[2].streams["command.intervention"].rows)
    assert driven.any()
    assert not driven[:20].any()
    store.close()


def test_what_the_policy_saw_is_there_to_the_bit(tmp_path: Path) -> None:
    seen: list[tuple[float, np.ndarray]] = []

    class Looks(Wave):
        def answer(self, request):  # type: ignore[no-untyped-def]
            seen.append((request.stamp, request.observation.images["front"][0].copy()))
            return super().answer(request)

    core, robot = make_core(), Toy()
    recorder = Recorder(tmp_path / "s", contents_of_node(SPEC, ARM, core.names, 4, {}), {}, threaded=False)
    node = Node(core, robot, Looks(), in_loop=True, watchers=(recorder,))
    node.connect()
    core.configure()
    for _ in range(3):
        node.step()
    node.events.on_enable(True, robot.now())
    for _ in range(9):
        node.step()
    node.close()
    recorder.close()
    store = Store(tmp_path / "s")
    frames, decided = store[0].streams["observation.images.front"], store[0].streams["observation.state"]
    assert len(decided) == len(seen) == 3
    for (_, image), moment in zip(seen, decided.time, strict=True):
        nearest = int(np.argmin(np.abs(frames.time - moment)))
        np.testing.assert_array_equal(frames.rows[nearest], image)
    store.close()


def test_pictures_that_come_as_files_are_kept_as_they_came_and_the_moments_before_are_kept_too(
    tmp_path: Path,
) -> None:
    from regrip.datasets.frames import encode_jpeg

    core, robot = make_core(), Toy()
    recorder = Recorder(tmp_path / "s", contents_of_node(SPEC, ARM, core.names, 4, {}), {}, threaded=False)
    files = [encode_jpeg(np.full((12, 16, 3), 20 * i, np.uint8)) for i in range(4)]
    for i, file in enumerate(files):
        recorder(Frame("front", 0.1 * i, 0.1 * i, None, file))
    tick = Tick(0.4, "active", "", sent=np.zeros(4), action=np.zeros(4, np.float32), step=1, task="wave")
    recorder(tick)
    recorder.close()
    store = Store(tmp_path / "s")
    frames = store[0].streams["observation.images.front"]
    assert [frames.rows.encoded(i) for i in range(4)] == files  # type: ignore[union-attr]
    np.testing.assert_allclose(frames.time, [0.1, 0.2, 0.3, 0.4])  # time 0 is half a second before it began
    store.close()
    assert robot.time == 0


def test_an_episode_in_which_nothing_happened_is_not_kept(tmp_path: Path) -> None:
    core, robot = make_core(), Toy()
    recorder = Recorder(tmp_path / "s", contents_of_node(SPEC, ARM, core.names, 4, {}), {}, threaded=False)
    recorder(Tick(0.0, "active", "waiting for the policy"))
    recorder(Tick(0.05, "inactive", "disabled"))
    recorder.close()
    store = Store(tmp_path / "s")
    assert len(store) == 0
    store.close()
    assert robot.time == 0

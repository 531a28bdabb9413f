"""A reward's alarms are written with a film, and read back once each."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import reward_toy as toy

from regrip.datasets.protocols import RewardSignal
from regrip.launch.alarms import INDEX, keep_alarms, read_alarms
from regrip.rewards.monitors import Alarm


def test_films_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rollouts = toy.many(2, 3)
    value = np.ones(rollouts.valid.shape, np.float32) * rollouts.valid
    signal = RewardSignal(value, {}, np.ones(5, bool), relative=False)
    alarms = [Alarm("blind", 3, "failures earn more", (4, 2)), Alarm("unjudged", 3, "half of them", ())]
    folder = tmp_path / "alarms"
    keep_alarms(folder, alarms, rollouts, signal)
    keep_alarms(folder, alarms[:1], rollouts, signal)  # killed after writing, resumed
    with open(folder / INDEX, "a") as file:
        file.write('{"iteration": 9, "na')
    found = read_alarms(folder)
    assert [(alarm["iteration"], alarm["name"]) for alarm in found] == [(3, "blind"), (3, "unjudged")]
    first = found[0]["episodes"][0]
    assert first["instruction"] == rollouts.instruction[4]
    assert first["index"] == rollouts.start[4].index
    assert first["earned"] == pytest.approx(rollouts.num_steps[4])
    with av.open(str(folder / first["file"])) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) >= rollouts.decision_valid[4].sum()
    assert frames[0].shape == (96, 192, 3)  # two cameras side by side, three times as large
    assert "failures earn more" in capsys.readouterr().out
    assert read_alarms(tmp_path) == []

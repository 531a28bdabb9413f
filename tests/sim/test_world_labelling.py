"""Actions for videos without any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from latent_toy import SPEC, TASK, clips, config, picture
from torch import Tensor

from regrip.datasets.frames import ArrayFrames
from regrip.datasets.recording import Recording, Track
from regrip.sim.world.goals import tokens_of
from regrip.sim.world.labelling import CONFIDENCE, UnlabelledError, label_video
from regrip.sim.world.model import WorldModel

KEY = "observation.images.top"


def world() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config(latent=8), SPEC, TASK.split()).eval()


def video(places: np.ndarray, rate: float = 30.0, began: float = 1.0) -> Recording:
    frames = ArrayFrames(np.stack([picture(place) for place in places]))
    return Recording({KEY: Track(frames, began + np.arange(len(places)) / rate)}, task=TASK, about={"id": 7})


def usual(model: WorldModel) -> float:
    tokens = tokens_of(model, clips().pictures)
    return float((tokens[2:8:2] - tokens[:6:2]).flatten(1).square().mean(1).sqrt().mean())


def test_actions_are_read_off_moving_pictures() -> None:
    """The inverse model is a ridge regression on the tokens of other episodes."""
    model, data = world(), clips(episodes=300, seed=1)
    tokens = tokens_of(model, data.pictures).flatten(1)
    rows = np.flatnonzero((data.step % 2 == 0) & (data.step < 6))
    change = (tokens[rows + 2] - tokens[rows]).double()
    seen = torch.cat([change, torch.ones(len(rows), 1)], 1)
    moved = torch.from_numpy(data.state[rows + 2] - data.state[rows]).double() / 2  # a control step
    weight = torch.linalg.solve(seen.T @ seen + 1e-2 * torch.eye(seen.shape[1]), seen.T @ moved)

    def inverse(before: Tensor, after: Tensor) -> tuple[np.ndarray, np.ndarray]:
        change = torch.cat([(after - before).flatten(1).double(), torch.ones(len(before), 1)], 1)
        found = (change @ weight)[:, None].expand(-1, 2, -1)
        return found.numpy().astype(np.float32), np.full(len(before), 0.8)

    # To the right for 2 s, then up: 1 px in a frame of 30 Hz is 3 px in a control step of 10 Hz.
    path = [(6 + i / 3, 24) for i in range(60)] + [(26, 24 - i / 3) for i in range(1, 42)]
    found = label_video(model, video(np.array(path)), inverse, usual(model), "a ridge regression")
    action = np.asarray(found.streams["action"].rows)
    assert action.shape == (32, 2), "16 decisions of two actions in 3.33 s"
    np.testing.assert_allclose(found.streams["action"].time, 1 + np.arange(32) / 10)
    assert action[:18, 0].mean() == pytest.approx(1.0, abs=0.5)
    assert action[22:, 1].mean() == pytest.approx(-1.0, abs=0.5)
    assert abs(action[:18, 1].mean()) < 0.4
    assert abs(action[22:, 0].mean()) < 0.4
    assert np.allclose(np.asarray(found.streams[CONFIDENCE].rows), 0.8)
    assert found.about["actions"] == "inferred"
    assert found.about["actions_by"] == "a ridge regression"
    assert found.about["id"] == 7
    assert len(found.streams[KEY]) == len(path), "the video is as it was"


def big(before: Tensor, after: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.full((len(before), 2, 2), 99.0, np.float32), np.ones(len(before))


def test_a_pause_is_not_trusted_and_limits_hold() -> None:
    model = world()
    path = [(6 + i, 16) for i in range(18)] + [(23, 16)] * 12
    found = label_video(model, video(np.array(path)), big, usual(model), "x")
    assert np.asarray(found.streams["action"].rows).max() == 4.0
    sure = np.asarray(found.streams[CONFIDENCE].rows)
    assert sure[0] == 1.0
    assert sure[-1] == 0.0


def test_what_cannot_be_labelled_is_refused() -> None:
    model, path = world(), np.array([(6 + i / 2, 16) for i in range(30)])
    size = usual(model)
    with pytest.raises(UnlabelledError, match=r"clip 3 stands still in 5 of 5 decisions"):
        label_video(model, video(np.full((30, 2), 16.0)), big, size, "x", "clip 3")
    with pytest.raises(UnlabelledError, match=r"0\.10 s long, less than one decision of 0\.20 s"):
        label_video(model, video(path[:4]), big, size, "x")
    with pytest.raises(
        UnlabelledError, match=r"no frame within 50 ms of 1\.\d0 s \(the nearest is \d+ ms off"
    ):
        label_video(model, video(path[:9], rate=3.0), big, size, "x")
    other = Recording({"observation.images.wrist": video(path).streams[KEY]})
    with pytest.raises(UnlabelledError, match=r"no stream observation.images.top.*images.wrist"):
        label_video(model, other, big, size, "x")
    done = label_video(model, video(path), big, size, "x")
    with pytest.raises(UnlabelledError, match="has actions already"):
        label_video(model, done, big, size, "x")

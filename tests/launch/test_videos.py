"""A video is the episode that was measured, seen again."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.durable import StorageError
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.policies import open_policy
from regrip.launch.videos import read_index, record, write_mp4


def test_replay_is_the_episode(tmp_path: Path, tiny_policy: Path) -> None:
    torch.set_num_threads(1)
    policy, _ = open_policy(str(tiny_policy))
    config = EnvConfig(image_size=32, workers=1, slots=2)
    starts = eval_starts(["demo/lift_red"], "test", 2)
    with environments.open_pool(config, policy.chunk_size) as pool:
        played = evaluate(pool, policy, starts, greedy=False)
    (video,) = read_index(record(config, played, tmp_path / "videos"))
    assert video.start == StartState("demo/lift_red", "test", 0)
    assert (video.success, video.steps) == (played.outcomes.success[0], played.outcomes.steps[0])
    with av.open(str(video.file)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == -(-video.steps // 2) + 8, "every second step, then the last frame for 0.8 s"
    assert frames[0].std() > 10, "something is to be seen"
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50, "and it moves"


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*no/such/a\.mp4"):
        write_mp4(tmp_path / "no" / "such" / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8), Fraction(10))


def test_missing_and_damaged_indices(tmp_path: Path) -> None:
    assert read_index(tmp_path) == []
    (tmp_path / "videos.json").write_text('{"videos": [{}]}')
    with pytest.raises(StorageError, match=r"videos\.json is damaged"):
        read_index(tmp_path)

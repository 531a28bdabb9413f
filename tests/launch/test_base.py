"""`regrip base` on the real suite, very small: it records, learns, and writes a policy that loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from regrip.launch.base import BaseConfig, frames, record, train_base
from regrip.launch.environments import EnvConfig
from regrip.launch.policies import open_policy

SMALL = BaseConfig(
    env=EnvConfig(image_size=32, tasks=("press_yellow", "lift_red"), workers=1, slots=4),
    demonstrations=2,
    scenes=2,
    width=32,
    layers=1,
    seeing_steps=2,
    steps=3,
    minibatch=16,
    threads=1,
    action_noise=0.2,
)


def test_a_base_policy_is_made_and_loads(tmp_path: Path) -> None:
    made = train_base(SMALL, tmp_path / "policy")
    policy, published = open_policy(str(tmp_path / "policy"))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), policy.parameters(), strict=True))
    log = json.loads((tmp_path / "policy" / "provenance.json").read_text())["log"]
    assert log["demonstrations"] >= 1
    assert published.provenance["config"]["seed"] == 0


def test_a_disturbance_ends_what_can_be_foretold() -> None:
    demos, _ = record(SMALL)
    batch = frames(demos, 5, ["front", "wrist"], imitate=True)
    row = 0
    for demo in demos:
        steps = len(demo.episode)
        assert not demo.clean[:2].any(), "a disturbed episode begins with a disturbance"
        assert demo.clean[2:10].all()
        for step in range(steps):
            # The label of this very step is always the expert's answer to what was seen ...
            assert batch.valid[row + step, 0]
            assert np.array_equal(batch.action[row + step, 0].numpy(), demo.label[step])
            # ... and the next ones are, as long as nothing disturbed the arm in between or the episode ended.
            for ahead in range(1, 5):
                end = step + ahead
                known = end < steps and bool(demo.clean[step:end].all())
                assert bool(batch.valid[row + step, ahead]) == known
        row += steps

"""Which part of what a learned world draws the policy cannot do without.

    python benchmarks/world_sight.py runs/world -n 12

The policy that ships acts in the simulator, on the same start states, greedily, and sees: the real pictures;
what the model's tokenizer makes of them, which is the best that the model could draw; and, of one camera at a
time, only what is usually seen of the robot in its present pose: no block, no button.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState
from regrip.datasets.statistics import Rate
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.launch.policies import open_policy
from regrip.sim.collect import collect
from regrip.sim.world.files import load_world
from regrip.sim.world.model import WorldModel
from regrip.sim.world.video import VideoDynamics
from regrip.vla.pi0 import Pi0Policy


@dataclasses.dataclass
class Sighted:
    """The policy behind a model's eyes: an `Actor`."""

    policy: Pi0Policy
    model: WorldModel
    cameras: tuple[str, ...]
    usual: bool  # only the robot, as the model knows it

    @torch.no_grad()
    def act(self, observation: Observation, noise_keys: Any) -> ActionSample:
        names = [camera.name for camera in self.model.spec.cameras]
        pixels = np.stack([observation.images[name] for name in names], 1)
        with self.model.half():
            if self.usual:
                assert isinstance(self.model.dynamics, VideoDynamics)
                tokens = self.model.dynamics.usual(self.model.normal_state(observation.state))
            else:
                tokens = self.model.tokenizer.encode(torch.as_tensor(pixels))
        drawn = self.model.pictures(tokens)
        images = {
            name: drawn[:, row] if name in self.cameras else observation.images[name]
            for row, name in enumerate(names)
        }
        return self.policy.act(dataclasses.replace(observation, images=images), noise_keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=12, help="episodes of a task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, _, _ = load_world(arguments.model)
    policy, _ = open_policy("demo")
    config = EnvConfig(workers=1, slots=48)
    tasks = environments.task_names(config)
    starts = [StartState(task, "train", index) for index in range(arguments.n) for task in tasks]
    names = tuple(camera.name for camera in model.spec.cameras)
    rows: list[tuple[str, Any]] = [
        ("real pictures", policy),
        ("through the tokenizer", Sighted(policy, model, names, usual=False)),
        *((f"{name}: the robot alone", Sighted(policy, model, (name,), usual=True)) for name in names),
    ]
    kinds = sorted({task.split("/")[1].split("_")[0] for task in tasks})
    print(f"{'what it sees':28}{'success':30}" + "".join(f"{kind:>8}" for kind in kinds))
    for said, actor in rows:
        with environments.open_pool(config, policy.execute) as pool:
            played, _ = collect(
                pool, actor, starts, range(len(starts)), run_key=("sight",), greedy=True, policy_version=0
            )
        won = played.success
        of_kind = [np.array([f"/{kind}_" in start.task for start in played.start]) for kind in kinds]
        each = "".join(f"{f'{won[rows].sum()}/{rows.sum()}':>8}" for rows in of_kind)
        print(f"{said:28}{Rate(int(won.sum()), len(won))!s:30}{each}", flush=True)


if __name__ == "__main__":
    main()

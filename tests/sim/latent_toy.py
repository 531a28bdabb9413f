"""A world small enough to be learnt in seconds: a bright square that actions push about a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.sim.world.clips import Clips
from regrip.sim.world.config import WorldConfig
from regrip.sim.world.dynamics import Batch

SIZE, CHUNK = 32, 2
TASK = "push it right"
SPEC = RobotSpec(
    name="toy", control_mode="ee_delta", control_rate_hz=10.0, rotation="none", gripper="none",
    action=(Axis("x", "px", -4, 4), Axis("y", "px", -4, 4)),
    state=(Axis("x", "px", 0, SIZE), Axis("y", "px", 0, SIZE)),
    cameras=(Camera("top", SIZE, SIZE),),
)  # fmt: skip


def config(**changes: Any) -> WorldConfig:
    settings: dict[str, Any] = {
        "chunk": CHUNK, "kind": "rssm", "latent": 4, "tokenizer_width": 8, "width": 32, "layers": 1,
        "heads": 2, "context": 2, "recurrent": 32, "groups": 4, "classes": 4, "tokenizer_steps": 30,
        "tokenizer_batch": 8, "steps": 40, "batch": 8, "window": 3, "held_out": 0.2,
    }  # fmt: skip
    return WorldConfig(**{**settings, **changes})


def picture(place: NDArray[np.floating]) -> NDArray[np.uint8]:
    """uint8 (SIZE,SIZE,3) with the square around `place` (x, y)."""
    seen = np.full((SIZE, SIZE, 3), 40, np.uint8)
    x, y = (round(float(value)) for value in place)
    seen[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = (230, 60, 60)
    return seen


def clips(episodes: int = 12, steps: int = 8, seed: int = 0) -> Clips:
    """Random walks; those that end in the right half have succeeded."""
    draw = np.random.default_rng(seed)
    place = draw.uniform(8, SIZE - 8, (episodes, 2))
    action = draw.uniform(-4, 4, (episodes, steps, 2)).astype(np.float32)
    action[:, :, 0] = np.abs(action[:, :, 0]) * np.where(np.arange(episodes) % 2, 1, -1)[:, None]
    places = [place]
    for step in range(steps - 1):
        places.append(np.clip(places[-1] + action[:, step], 4, SIZE - 4))
    state = np.stack(places, 1).reshape(-1, 2).astype(np.float32)
    end = np.clip(places[-1] + action[:, -1], 4, SIZE - 4)
    count = episodes * steps
    return Clips(
        spec=SPEC,
        pictures=np.stack([picture(one) for one in state])[:, None],
        state=state,
        episode=np.repeat(np.arange(episodes), steps),
        step=np.tile(np.arange(steps), episodes),
        first=np.arange(episodes + 1) * steps,
        action=action.reshape(-1, 2),
        tail=np.zeros((episodes, CHUNK - 1, 2), np.float32),
        frame_of=np.arange(count),
        success=end[:, 0] > SIZE / 2,
        task=[TASK] * episodes,
        start=[""] * episodes,
        policy=[""] * episodes,
    )


def batch(rows: int, window: int, seed: int = 0, shape: tuple[int, int, int] = (1, 4, 16)) -> Batch:
    """Any numbers, of the right shapes; tokens (C,n,d) in `shape`."""
    draw = torch.Generator().manual_seed(seed)

    def some(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw)

    return Batch(
        tokens=some(rows, window + 1, *shape),
        state=some(rows, window + 1, 2),
        before=some(rows, window, 2),
        origin=some(rows, *shape),
        began=some(rows, 2),
        action=some(rows, window, CHUNK, 2),
        words=torch.ones(rows, 3, dtype=torch.int64),
        success=torch.zeros(rows, window),
        there=torch.ones(rows, window, dtype=torch.bool),
        follows=torch.ones(rows, window, dtype=torch.bool),
    )

"""A policy small enough for tests that still looks at every pixel, mixes rows in no way, and draws noise."""

from collections.abc import Sequence

import numpy as np

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import counter_generator


class PixelActor:
    def __init__(self, chunk_size: int = 5, num_actions: int = 2, scale: float = 0.3) -> None:
        self.shape, self.scale = (chunk_size, num_actions), scale
        self.batch_sizes: list[int] = []
        self.keys: list[tuple[str | int, ...]] = []

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        num = len(observation)
        self.batch_sizes.append(num)
        images = np.concatenate([frames.reshape(num, -1) for frames in observation.images.values()], axis=1)
        weights = counter_generator("weights").normal(size=(images.shape[1] + observation.state.shape[1], 10))
        seen = np.concatenate([images / 255.0, observation.state], axis=1)
        features = (seen.astype(np.float32) @ weights.astype(np.float32)) % 1.0
        noise = np.zeros((num, *self.shape))
        if noise_keys is not None:
            self.keys += noise_keys
            noise = np.stack([counter_generator(*key).normal(size=self.shape) for key in noise_keys])
        action = self.scale * (np.resize(features - 0.5, (num, *self.shape)) * 0.3 + 0.4 * noise)
        action[..., 0] += self.scale
        log_prob = -0.5 * (noise**2).sum(-1)
        return ActionSample(
            action.astype(np.float32), log_prob.astype(np.float32), {"noise": noise.astype(np.float32)}
        )

"""A policy as the node wants it: one observation at a time, in this process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..datasets.protocols import Actor
from ..real_robot.messages import PolicyError, Request
from ..vla import rtc
from ..vla.pi0 import Pi0Policy

# What a learner needs of each decision; what the VLM made of the pictures is worked out again from them.
LATENT = ("before", "after", "step")


class NodePolicy:
    """Answers requests with `Pi0Policy.act`, guided by the request's prefix if it has one (`vla.rtc`).

    Args:
        policy: loaded.
        explore: names a run: the policy explores, as in training, and its draws depend on this, the episode
            and the request alone; None is greedy.
        chooser: acts in place of `policy`, on requests without a prefix; its decisions hold no latents.
    """

    def __init__(
        self,
        policy: Pi0Policy,
        explore: tuple[str | int, ...] | None = None,
        chooser: Actor | None = None,
    ) -> None:
        self._policy, self._explore, self._chooser = policy, explore, chooser
        self.chunk_size: int = policy.chunk_size
        self.latent: Mapping[str, NDArray[np.generic]] = {}

    def swap(self, policy: Pi0Policy) -> None:
        """Answer by another policy from now on; between episodes, for it knows nothing of the present one.

        Raises:
            SpecMismatchError: it was made for another robot.
        """
        policy.spec.require_match(self._policy.spec, "the new policy", "the one it replaces")
        assert self._chooser is None, "it would go on choosing from the old one's chunks"
        self._policy = policy

    def answer(self, request: Request) -> NDArray[np.float32]:
        self.latent = {}
        if len(request.prefix):
            return rtc.act(self._policy, request.observation, request.prefix, request.frozen)
        keys = None if self._explore is None else [("node", *self._explore, request.episode, request.id)]
        actor: Actor = self._policy if self._chooser is None else self._chooser
        sample = actor.act(request.observation, keys)
        if not np.isfinite(sample.action).all():
            raise PolicyError("its actions are not finite")
        self.latent = {name: np.asarray(sample.latent[name][0]) for name in LATENT if name in sample.latent}
        actions: NDArray[np.float32] = sample.action[0]
        return actions

    def latent_shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name to dtype and shape of `latent`, for `recorder.contents_of_node`; {} for a greedy policy."""
        if self._explore is None or self._policy.settings.head != "flow":
            return {}
        shape = (self._policy.chunk_size, int(self._policy.config.max_action_dim))
        return {"before": ("float32", shape), "after": ("float32", shape), "step": ("int64", ())}

"""A policy as the node wants it: one observation at a time, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        choose: makes of a policy the actor that acts in its place, on requests without a prefix; such an
            actor's decisions hold no latents.
        version: of the policy, for who records; ``""`` leaves it to them.
    """

    def __init__(
        self,
        policy: Pi0Policy,
        explore: tuple[str | int, ...] | None = None,
        choose: Callable[[Pi0Policy], Actor] | None = None,
        version: str = "",
    ) -> None:
        self._policy, self._explore, self._choose = policy, explore, choose
        self._actor: Actor = policy if choose is None else choose(policy)
        self.version = version
        self.chunk_size: int = policy.chunk_size
        self.latent: Mapping[str, NDArray[np.generic]] = {}

    def swap(self, policy: Pi0Policy, version: str = "") -> None:
        """Answer by another policy from now on; between episodes, for it knows nothing of the present one.

        Whoever chooses among chunks then chooses among the new one's. If it is refused, the old one stays.

        Raises:
            SpecMismatchError: it was made for another robot.
            ValueError: its chunks are of another length, or who chooses cannot judge them.
        """
        policy.spec.require_match(self._policy.spec, "the new policy", "the one it replaces")
        if policy.chunk_size != self.chunk_size:
            raise ValueError(
                f"the new policy answers {policy.chunk_size} actions at a time, the one it replaces "
                f"{self.chunk_size}, and so does what is recorded: start a node with the new one"
            )
        actor = policy if self._choose is None else self._choose(policy)
        self._policy, self._actor, self.version = policy, actor, version

    def answer(self, request: Request) -> NDArray[np.float32]:
        self.latent = {}
        if len(request.prefix):
            return rtc.act(self._policy, request.observation, request.prefix, request.frozen)
        keys = None if self._explore is None else [("node", *self._explore, request.episode, request.id)]
        sample = self._actor.act(request.observation, keys)
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

"""A policy as it was at some moment, to hold a learning one against."""

from __future__ import annotations

import copy

from .pi0 import Pi0Policy


def frozen_copy(policy: Pi0Policy) -> Pi0Policy:
    """A copy that does not learn and shares with `policy` what does not learn there either.

    While the VLM is frozen a copy costs the action expert alone, and reads the same `Prefix`.
    """
    shared = {id(parameter): parameter for parameter in policy.parameters() if not parameter.requires_grad}
    return copy.deepcopy(policy, shared).requires_grad_(False)

"""Rollouts in a file: for rewards to be fitted on and compared on. One safetensors file, with JSON inside.

Only what was seen is stored: frames of decisions that were taken. Latents and log-probabilities, which only
the learner of that moment could use, are left out; they come back empty and zero.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .episode import Rollouts
from .starts import StartState

_FORMAT = "regrip rollouts 1"
_ARRAYS = ("group", "state", "privileged", "action", "valid", "reward", "success", "truncated", "invalid")


class RolloutFileError(ValueError):
    """A file holds no rollouts, or only a part of them."""


def save_rollouts(path: Path, rollouts: Rollouts, policy: str) -> None:
    """Write B episodes; an existing file is replaced when the new one is whole.

    Args:
        path: usually ends in ``.rollouts``.
        rollouts: the episodes.
        policy: who played them, in words; rankings of policies use it.

    Raises:
        OSError: the place cannot be written.
    """
    mask = rollouts.decision_valid
    arrays: dict[str, NDArray[Any]] = {name: getattr(rollouts, name) for name in _ARRAYS}
    arrays |= {f"images.{camera}": frames[mask] for camera, frames in rollouts.images.items()}
    about = {
        "format": _FORMAT,
        "policy": policy,
        "policy_version": rollouts.policy_version,
        "start": [dataclasses.asdict(start) for start in rollouts.start],
        "instruction": list(rollouts.instruction),
        "cameras": list(rollouts.images),
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        whole = {name: np.ascontiguousarray(held) for name, held in arrays.items()}
        save_file(whole, beside, metadata={"regrip": json.dumps(about)})
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_rollouts(path: Path) -> tuple[Rollouts, str]:
    """Read what `save_rollouts` wrote.

    Returns:
        The episodes, and who played them.

    Raises:
        RolloutFileError: there is no such file, it is something else, or it is cut short.
    """
    if not path.is_file():
        raise RolloutFileError(f"no file {path}; `regrip rewards record` writes one")
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("regrip", "{}"))
            if about.get("format") != _FORMAT:
                raise RolloutFileError(
                    f"{path} says {about.get('format')!r}, expected {_FORMAT!r}: "
                    "it holds no rollouts; `regrip rewards record` writes some"
                )
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            mask = arrays["valid"].any(-1)
            images = {}
            for camera in about["cameras"]:
                seen = file.get_tensor(f"images.{camera}")
                images[camera] = np.zeros((*mask.shape, *seen.shape[1:]), np.uint8)
                images[camera][mask] = seen
    except (SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, RolloutFileError):
            raise
        raise RolloutFileError(f"{path} is no whole file of rollouts ({error}); record it again") from error
    rollouts = Rollouts(
        start=[StartState(**start) for start in about["start"]],
        instruction=about["instruction"],
        images=images,
        latent={},
        log_prob=np.zeros(arrays["valid"].shape, np.float32),
        policy_version=about["policy_version"],
        **arrays,
    )
    return rollouts, about["policy"]

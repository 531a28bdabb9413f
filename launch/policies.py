"""Finding a policy folder by the name or path that a user gives."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..vla.pi0 import Pi0Policy
from ..vla.policy_files import load_policy
from .checkpoint import MANIFEST, CheckpointError, Published, open_published


def shipped() -> dict[str, Path]:
    """Name to folder of the policies that come with regrip."""
    folder = Path(str(resources.files("regrip.launch") / "checkpoints"))
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}


def find_policy(name: str) -> Published:
    """A checked policy folder.

    Args:
        name: a shipped policy's name, a policy folder, or a run directory (then its ``policy/``).

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    known = shipped()
    path = Path(name)
    if name in known and not path.exists():
        return open_published(known[name])
    if (path / "policy" / MANIFEST).exists():
        return open_published(path / "policy")
    if path.exists():
        return open_published(path)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise CheckpointError(
        f"no policy {name!r}{hint} Give a policy folder, a run directory, or one that ships with regrip "
        f"({', '.join(known) or 'none here'})."
    )


def named(name: str, published: Published) -> str:
    """How a checkpoint is called in what is recorded with it: ``runs/a (0123456789ab)``."""
    return f"{name} ({published.digest[:12]})"


def open_policy(name: str, device: str = "cpu", **changes: Any) -> tuple[Pi0Policy, Published]:
    """Find, check and load a policy; `changes` override fields of its `Settings`.

    Raises:
        CheckpointError: if it is missing or damaged.
        ValueError: if `device` is not there.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} is not available here; `regrip doctor` says why. Use --device cpu"
        )
    found = find_policy(name)
    return load_policy(found.path, **changes).to(device), found

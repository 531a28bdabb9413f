"""World models in a folder: weights and frames as safetensors, all else as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from ...datasets.spec import RobotSpec
from .cameras import Cameras
from .config import WorldConfig
from .model import Calibration, WorldModel
from .starts import Starts

_FORMAT = "regrip world model 2"
WEIGHTS, FRAMES, ABOUT = "world.safetensors", "starts.safetensors", "world.json"
_ARRAYS = ("pictures", "state", "task", "decision", "origin", "split")


class WorldFileError(ValueError):
    """A folder holds no world model, or only a part of one."""


def save_world(folder: Path, model: WorldModel, starts: Starts, card: Mapping[str, Any]) -> None:
    """Write a world model; the JSON comes last, with hashes of the rest: a part is never taken for whole.

    Args:
        folder: made if it is not there.
        model: the model.
        starts: where its episodes begin.
        card: what it was trained on and how; kept as it is.

    Raises:
        ValueError: it is not calibrated.
    """
    if not math.isfinite(model.calibration.doubt):
        raise ValueError(
            f"the world model for {folder} is not calibrated: nothing says which success to believe; "
            "set its calibration to calibrate.calibrate(model, clips, tokens) first"
        )
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: held.detach().cpu().contiguous() for name, held in model.state_dict().items()})
    frames = save_arrays({name: np.ascontiguousarray(getattr(starts, name)) for name in _ARRAYS})
    about = {
        "format": _FORMAT,
        "config": dataclasses.asdict(model.config),
        "calibration": dataclasses.asdict(model.calibration),
        "vocabulary": model.vocabulary,
        "robot": model.spec.to_json(),
        "cameras": model.cameras and model.cameras.to_json(),
        "tasks": starts.tasks,
        "instructions": starts.instructions,
        "limits": starts.limits,
        "hashes": {WEIGHTS: _hash(weights), FRAMES: _hash(frames)},
        "card": dict(card),
    }
    (folder / ABOUT).unlink(missing_ok=True)
    _write(folder / WEIGHTS, weights)
    _write(folder / FRAMES, frames)
    _write(folder / ABOUT, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())


def load_world(folder: Path, device: str = "cpu") -> tuple[WorldModel, Starts, dict[str, Any]]:
    """Read what `save_world` wrote: model, starts and card.

    Raises:
        WorldFileError: missing, damaged, or of another version.
    """
    about = describe(folder)
    data = {}
    for name in (WEIGHTS, FRAMES):
        try:
            data[name] = (folder / name).read_bytes()
        except OSError as error:
            raise WorldFileError(
                f"{folder / name} cannot be read ({error.strerror}); copy it again"
            ) from error
        if _hash(data[name]) != about["hashes"].get(name):
            raise WorldFileError(
                f"{folder / name} is damaged: it does not match the hash in {ABOUT}; copy or fit it again"
            )
    try:
        cameras = about.get("cameras")
        model = WorldModel(
            WorldConfig(**about["config"]),
            RobotSpec.from_json(about["robot"]),
            about["vocabulary"],
            cameras and Cameras.from_json(cameras),
        )
        model.load_state_dict(load(data[WEIGHTS]))
        model.calibration = Calibration(**about["calibration"])
        starts = Starts(
            **load_arrays(data[FRAMES]),
            tasks=tuple(about["tasks"]),
            instructions=tuple(about["instructions"]),
            limits=tuple(about["limits"]),
        )
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WorldFileError(
            f"{folder / ABOUT} does not fit this version of regrip ({error}); fit it again"
        ) from error
    return model.to(torch.device(device)).eval(), starts, about["card"]


def describe(folder: Path) -> dict[str, Any]:
    """What the JSON of a world model says, without its weights: ``robot``, ``tasks``, ``instructions``, ...

    Raises:
        WorldFileError: missing, damaged, or of another version.
    """
    try:
        about = json.loads((folder / ABOUT).read_text())
    except FileNotFoundError as error:
        raise WorldFileError(
            f"{folder} holds no world model: {ABOUT} is missing; `regrip world fit` writes such folders"
        ) from error
    except (OSError, ValueError) as error:
        raise WorldFileError(f"{folder / ABOUT} cannot be read ({error}); copy or fit it again") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise WorldFileError(f"{folder / ABOUT} is of format {found!r}, expected {_FORMAT!r}; fit it again")
    return about


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

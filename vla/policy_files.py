"""Policy folders: weights as safetensors, all else as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PI0Config, PI0ForConditionalGeneration

from ..datasets.spec import RobotSpec
from .normalizer import Normalizer
from .pi0 import Pi0Policy, Settings
from .text import load_tokenizer


def save_policy(policy: Pi0Policy, folder: Path) -> None:
    """Write everything that is needed to act again."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(policy.weights(), str(folder / "model.safetensors"))
    described = {
        "settings": dataclasses.asdict(policy.settings),
        "normalizer": dataclasses.asdict(policy.normalizer),
        "pi0": json.loads(policy.config.to_json_string(use_diff=False)),
    }
    (folder / "config.json").write_text(json.dumps(described, indent=1))
    policy.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "robot.json").write_text(json.dumps(policy.spec.to_json(), indent=1))


def load_policy(folder: Path, **changes: Any) -> Pi0Policy:
    """Read a policy folder; `changes` override fields of its Settings.

    Raises:
        FileNotFoundError: if a file is missing, naming it.
        ValueError: if a file is truncated or does not fit.
    """
    for name in ("config.json", "robot.json", "tokenizer.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a policy folder: {name} is missing. "
                "`regrip base` and `regrip train` write such folders"
            )
    try:
        described = json.loads((folder / "config.json").read_text())
        spec = RobotSpec.from_json(json.loads((folder / "robot.json").read_text()))
        weights = load_file(str(folder / "model.safetensors"))
        tokenizer = load_tokenizer(folder / "tokenizer.json")
    except Exception as error:  # safetensors raises its own class on a torn file, tokenizers the bare one
        if type(error) is not Exception and type(error).__name__ not in (
            "SafetensorError",
            "JSONDecodeError",
        ):
            raise
        raise ValueError(f"policy folder {folder} is damaged ({error}); copy it again") from error
    _require_known(described, folder / "config.json")
    policy = Pi0Policy(
        PI0Config.from_dict(described["pi0"]),
        Settings(**{**described["settings"], **changes}),
        spec,
        Normalizer(**{key: tuple(value) for key, value in described["normalizer"].items()}),
        tokenizer,
    )
    policy.load_weights(weights, str(folder))
    return policy


def from_transformers(folder: Path, settings: Settings, spec: RobotSpec, normalizer: Normalizer) -> Pi0Policy:
    """A pi-zero in transformers' own format (the published size, say), with its own tokenizer.

    The critic starts from random weights. `settings.stem` must be ``patch``: the weights hold patches.

    Raises:
        FileNotFoundError: if the folder or its tokenizer.json is missing.
        ValueError: if the spec or the settings do not fit.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder written by transformers")
    if settings.stem != "patch":
        raise ValueError(f"stem {settings.stem!r}: a published pi0 sees with linear patches, use 'patch'")
    network = PI0ForConditionalGeneration.from_pretrained(str(folder), local_files_only=True)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return Pi0Policy(network.config, settings, spec, normalizer, tokenizer, network)


def _require_known(described: Mapping[str, Any], path: Path) -> None:
    """Refuse a config.json that another program or version wrote, naming what is missing or not known."""
    parts: dict[str, type | None] = {"settings": Settings, "normalizer": Normalizer, "pi0": None}
    for part, kind in parts.items():
        if part not in described:
            raise ValueError(f"{path} has no {part}: another program wrote it, or another version of regrip")
        known = {field.name for field in dataclasses.fields(kind)} if kind else set()
        if kind and (unknown := sorted(described[part].keys() - known)):
            raise ValueError(
                f"{path}: this version of regrip does not know {', '.join(unknown)} in {part}; "
                f"it knows {', '.join(sorted(known))}"
            )

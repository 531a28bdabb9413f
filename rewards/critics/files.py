"""Critics in a folder: weights as safetensors, all else as JSON. What is damaged is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from tokenizers import Tokenizer

from ..embedding import Encoder
from .config import CriticConfig, NetworkConfig, TrainingConfig
from .critic import Critic
from .inputs import Inputs, TextEncoder, Words
from .kinds import kind_of

_FORMAT = "regrip critic 1"
WEIGHTS, ABOUT = "critic.safetensors", "critic.json"


class CriticFileError(ValueError):
    """A folder holds no critic, or only a part of one."""


def save_critic(critic: Critic, folder: Path) -> None:
    """Write a critic; the JSON comes last, with a hash of the weights: a part is never taken for whole.

    Raises:
        OSError: the place cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(
        {name: held.detach().cpu().contiguous() for name, held in critic.network.state_dict().items()}
    )
    about = {
        "format": _FORMAT,
        "kind": critic.kind,
        "config": dataclasses.asdict(critic.config),
        "inputs": dataclasses.asdict(critic.inputs),
        "vocabulary": None if critic.words is None else json.loads(critic.words.tokenizer.to_str()),
        "encoder": _named(critic.encoder),
        "text_encoder": _named(critic.text_encoder),
        "weights": hashlib.blake2b(weights, digest_size=32).hexdigest(),
        **critic.card,
    }
    (folder / ABOUT).unlink(missing_ok=True)
    _write(folder / WEIGHTS, weights)
    _write(folder / ABOUT, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())


def load_critic(
    folder: Path,
    kind: str | None = None,
    *,
    encoder: Encoder | None = None,
    text_encoder: TextEncoder | None = None,
) -> Critic:
    """Read what `save_critic` wrote; on the CPU.

    Args:
        folder: holds critic.json and critic.safetensors.
        kind: what it must be; None takes any.
        encoder: the one it was trained with, if it was.
        text_encoder: the same.

    Raises:
        CriticFileError: missing, damaged, of another version, or an encoder is missing or not wanted.
        WrongKindError: it is of another kind than `kind`.
    """
    about = _read_about(folder)
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CriticFileError(
            f"{folder / WEIGHTS} cannot be read ({error.strerror}); fit it again"
        ) from error
    if hashlib.blake2b(weights, digest_size=32).hexdigest() != about["weights"]:
        raise CriticFileError(
            f"{folder / WEIGHTS} is damaged: it does not match the hash in {ABOUT}; copy or fit it again"
        )
    for name, given in (("encoder", encoder), ("text_encoder", text_encoder)):
        if (about[name] is None) != (given is None):
            wanted = f"it was trained with {about[name]}" if about[name] else "it was trained without one"
            raise CriticFileError(f"critic {folder}: {name} is {given!r}, but {wanted}; load it the same way")
    try:
        config = _config(about)
        inputs = Inputs(**_tupled(about["inputs"]))
        network = kind_of(about["kind"]).network(inputs, config)
        network.load_state_dict(load(weights))
        told = about["vocabulary"]
        words = None if told is None else Words(Tokenizer.from_str(json.dumps(told)))
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise CriticFileError(
            f"critic {folder} does not fit this version of regrip ({error}); fit it again"
        ) from error
    card = {name: about[name] for name in about.keys() - _OWN}
    critic = Critic(about["kind"], config, inputs, network.eval(), words, encoder, text_encoder, card)
    if kind is not None:
        critic.require(kind)
    return critic


_OWN = {"format", "kind", "config", "inputs", "vocabulary", "encoder", "text_encoder", "weights"}


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except FileNotFoundError as error:
        raise CriticFileError(
            f"{folder} holds no critic: {ABOUT} is missing. `regrip rewards fit` writes such folders"
        ) from error
    except OSError as error:
        raise CriticFileError(f"{folder / ABOUT} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CriticFileError(f"{folder / ABOUT} is damaged ({error}); copy or fit it again") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT or about.keys() & _OWN != _OWN:
        found = about.get("format") if isinstance(about, dict) else about
        raise CriticFileError(f"{folder / ABOUT} says {found!r}, expected {_FORMAT!r}: it holds no critic")
    return about


def _config(about: Mapping[str, Any]) -> CriticConfig[Any]:
    told = about["config"]
    return CriticConfig(
        _filled(kind_of(about["kind"]).options(), told["options"]),
        NetworkConfig(**_tupled(told["network"])),
        TrainingConfig(**_tupled(told["training"])),
    )


def _filled(default: Any, told: Mapping[str, Any]) -> Any:
    """A dataclass with the values told, those that are dataclasses themselves filled likewise."""
    changes = {
        name: _filled(getattr(default, name), held) if isinstance(held, dict) else held
        for name, held in _tupled(told).items()
    }
    return dataclasses.replace(default, **changes)


def _tupled(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(held) if isinstance(held, list) else held for name, held in told.items()}


def _named(encoder: Any) -> str | None:
    """For the message when it is missing; a function by its name, anything else as it prints."""
    return None if encoder is None else str(getattr(encoder, "__qualname__", None) or repr(encoder))


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)

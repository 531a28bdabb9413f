"""Checkpoints that survive anything: safetensors and JSON, hashed, renamed into place when they are whole.

A run's checkpoints stand in one directory::

    checkpoints/
      step-00000040/
        tensors.safetensors    everything that is an array
        meta.json              everything else
        manifest.json          size and BLAKE2b hash of the others; written last

A checkpoint is written in a hidden directory beside the others, flushed to the disk and only then renamed, so
a process killed at any moment leaves either the new one or none of it. Damage after that is found by the
hashes, and the one before is used. A policy that is handed on (`publish`) is a folder of the same kind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .durable import StorageError, explain, json_bytes, read_json, sync_file

CHECKPOINTS = 3  # kept of a run
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
META = "meta.json"
_STEP = re.compile(r"(?:\.replaced-)?step-(\d{8,})")


class CheckpointError(StorageError):
    """A checkpoint is missing, damaged, or could not be written."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint failed its hashes and an earlier one is used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        path: the directory it came from.
        step: the iteration after which it was saved.
        tensors: name to tensor, on the CPU, in the dtype it was saved in (arrays come back as tensors).
        meta: JSON values.
    """

    path: Path
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(
    directory: Path,
    step: int,
    tensors: Mapping[str, Tensor | NDArray[Any]],
    meta: Mapping[str, Any],
    keep: int = CHECKPOINTS,
) -> Path:
    """Save a checkpoint and drop all but the newest `keep`.

    When this returns, the checkpoint is on the disk. When it raises, those that were there are untouched.

    Args:
        directory: holds the run's checkpoints; made if it does not exist.
        step: the iteration just finished; a checkpoint of the same step is replaced.
        tensors: name to tensor or numpy array; tensors that share memory are stored once each.
        meta: JSON values, no NaN.
        keep: how many to leave, at least 2, so that one damaged file is never the end.

    Raises:
        CheckpointError: if the disk is full or read-only; it says which checkpoint is the last good one.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}, expected at least 2: the last checkpoint alone may be damaged")

    def write(folder: Path) -> None:
        save_file(_independent(tensors), folder / TENSORS)
        (folder / META).write_bytes(json_bytes(dict(meta)))

    target = directory / f"step-{step:08d}"
    try:
        _replace_folder(target, write)
    except StorageError as error:
        others = [path for path in _candidates(directory) if _damage(path) is None]
        last = f"The last good checkpoint is {others[0]}." if others else "There is no earlier checkpoint."
        raise CheckpointError(f"the checkpoint of step {step} is not saved: {error} {last}") from error
    for old in [path for path in _candidates(directory) if path != target][keep - 1 :]:
        _remove(old)
    return target


def load_latest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None if none was ever saved.

    A damaged one is named in a `DamagedCheckpointWarning` and the one before is used.

    Raises:
        CheckpointError: if there are checkpoints and all are damaged.
    """
    bad: list[str] = []
    for path in _candidates(directory):
        damage = _damage(path)
        if damage is None:
            if bad:
                warnings.warn(f"{'; '.join(bad)}. Using {path}.", DamagedCheckpointWarning, stacklevel=2)
            return _read(path)
        bad.append(f"checkpoint {path} is damaged: {damage}")
    if bad:
        raise CheckpointError(
            f"no checkpoint in {directory} is whole: {'; '.join(bad)}. Begin the run again."
        )
    return None


def load(path: Path) -> Checkpoint:
    """Load one checkpoint.

    Raises:
        CheckpointError: if it is missing or damaged, saying what is wrong with it.
    """
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint {path}. Check the path: it is a folder named step-00000000.")
    damage = _damage(path)
    if damage is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: {damage}. Use an earlier one beside it.")
    return _read(path)


@dataclass(frozen=True)
class Published:
    """A policy folder that was checked.

    Attributes:
        path: the folder.
        digest: a hash over every file but the provenance: the same policy has the same digest.
        provenance: command, seed, code version and whatever else was said when it was published.
    """

    path: Path
    digest: str
    provenance: dict[str, Any]


def publish(folder: Path, write: Callable[[Path], None], provenance: Mapping[str, Any]) -> Published:
    """Write a policy folder that others can load: what `write` puts there, ``provenance.json``, a manifest.

    A policy's own ``save`` writes ``model.safetensors``, ``config.json`` (architecture), ``tokenizer.json``,
    ``robot.json`` (the RobotSpec) and ``normalizer.safetensors``; pass it as `write`. An existing folder is
    replaced whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """

    def write_all(beside: Path) -> None:
        write(beside)
        (beside / "provenance.json").write_bytes(json_bytes(dict(provenance)))

    if folder.exists() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} exists and is not a policy folder (no {MANIFEST}); it is not overwritten. "
            "Choose another place or remove it."
        )
    try:
        _replace_folder(folder, write_all)
    except StorageError as error:
        raise CheckpointError(f"the policy is not saved: {error}") from error
    return open_published(folder)


def open_published(folder: Path) -> Published:
    """Check a policy folder against its manifest before anything in it is used.

    Raises:
        CheckpointError: if it is missing, is not a policy folder, or a file in it is missing or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no policy folder {folder}. Check the path.")
    if not (folder / MANIFEST).exists():
        raise CheckpointError(
            f"{folder} is not a policy folder: it has no {MANIFEST}. Give the folder that holds "
            "model.safetensors, for instance RUN/policy."
        )
    damage = _damage(folder)
    if damage is not None:
        raise CheckpointError(f"policy {folder} is damaged: {damage}. Copy or make it again.")
    files = read_json(folder / MANIFEST, "a manifest")["files"]
    content = {name: entry["blake2b"] for name, entry in files.items() if name != "provenance.json"}
    provenance = read_json(folder / "provenance.json", "the policy's provenance")
    return Published(folder, _hash_bytes(json.dumps(content, sort_keys=True).encode())[:16], provenance)


def _replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make `target` the folder that `write` fills, whole or not at all.

    Raises:
        StorageError: in words; `target` is then as it was.
    """
    parent = target.parent
    beside = parent / f".saving-{target.name}-{os.getpid()}"
    replaced = parent / f".replaced-{target.name}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(".saving-*"):  # by a process that was killed; a run has one writer
            _remove(left)
        beside.mkdir()
        write(beside)
        for file in sorted(beside.iterdir()):
            sync_file(file)
        _write_manifest(beside)
        sync_file(beside)
        if target.exists():
            # Between the two renames `.replaced-step-…` is what a reader finds.
            _remove(replaced)
            os.rename(target, replaced)
        os.rename(beside, target)
        sync_file(parent)
        _remove(replaced)
    except SafetensorError as error:
        raise explain(_os_error(error), "write", target) from error
    except OSError as error:
        raise explain(error, "write", target) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # frees the disk again if it was full


def _os_error(error: SafetensorError) -> OSError:
    """The operating system's error inside safetensors' own, which carries its number only as text."""
    number = re.search(r"os error (\d+)", str(error))
    code = int(number.group(1)) if number else errno.EIO
    return OSError(code, str(error))


def _write_manifest(folder: Path) -> None:
    files = {
        file.name: {"bytes": file.stat().st_size, "blake2b": _hash_file(file)}
        for file in sorted(folder.iterdir())
    }
    manifest = {"files": files, "digest": _hash_bytes(json.dumps(files, sort_keys=True).encode())}
    with open(folder / MANIFEST, "wb") as file:
        file.write(json_bytes(manifest))
        file.flush()
        os.fsync(file.fileno())


def _damage(folder: Path) -> str | None:
    """What is wrong with a folder that should match its manifest, in words; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files, digest = manifest["files"], manifest["digest"]
        if digest != _hash_bytes(json.dumps(files, sort_keys=True).encode()):
            return f"{MANIFEST} does not match its own hash"
        for name, entry in files.items():
            size = (folder / name).stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes, its manifest says {entry['bytes']}"
            if _hash_file(folder / name) != entry["blake2b"]:
                return f"the content of {name} does not match its hash"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"cannot be read ({error})"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not a manifest"
    return None


def _read(path: Path) -> Checkpoint:
    match = _STEP.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not a checkpoint: its name is not of the form step-00000000")
    meta = read_json(path / META, "a checkpoint's meta.json")
    # Copied, because the loaded tensors are a view of a file that a later save will delete.
    tensors = {name: tensor.clone() for name, tensor in load_file(path / TENSORS).items()}
    return Checkpoint(path, int(match.group(1)), tensors, meta)


def _candidates(directory: Path) -> list[Path]:
    """Checkpoint folders, newest first; one that was being replaced comes after its replacement."""
    if not directory.is_dir():
        return []
    found = [(match, path) for path in directory.iterdir() if (match := _STEP.fullmatch(path.name))]
    found.sort(key=lambda item: (-int(item[0].group(1)), item[1].name.startswith(".")))
    return [path for _, path in found]


def _independent(tensors: Mapping[str, Tensor | NDArray[Any]]) -> dict[str, Tensor]:
    """CPU tensors that share no memory, as the file format demands."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        tensor = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor
    return found


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _hash_bytes(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()

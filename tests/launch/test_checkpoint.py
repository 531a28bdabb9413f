"""A checkpoint is whole, or the one before is used."""

import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from regrip.launch.checkpoint import (
    CheckpointError,
    DamagedCheckpointWarning,
    load,
    load_latest,
    open_published,
    publish,
    save_checkpoint,
)


def weights(step: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"w": torch.full((size,), float(step)), "n": torch.tensor(step)}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def flip_byte(path: Path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.randn(6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "bf16": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).bfloat16(),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "whole": shared,
        "view": shared[2:4],
        "turned": torch.arange(6).reshape(2, 3).T,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "u64": np.array([2**63 + 1], dtype=np.uint64),
        "mask": np.array([True, False]),
        "strided": np.arange(8)[::2],
    }
    meta = {"seed": 2**100, "text": "naïve", "rate": 0.1}
    path = save_checkpoint(tmp_path / "c", 7, tensors, meta)
    back = load_latest(tmp_path / "c")
    assert back is not None
    assert (back.path, back.step, back.meta) == (path, 7, meta)
    assert set(back.tensors) == set(tensors)
    for name, value in tensors.items():
        expected = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        got = back.tensors[name]
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.numpy(force=True).tobytes() if got.dtype != torch.bfloat16 and got.numel() else True
        assert torch.equal(
            got.contiguous().reshape(-1).view(torch.uint8),
            expected.contiguous().reshape(-1).view(torch.uint8),
        )


def test_same_content_same_bytes(tmp_path: Path) -> None:
    a = save_checkpoint(tmp_path / "a", 1, weights(1), {"x": 1})
    b = save_checkpoint(tmp_path / "b", 1, weights(1), {"x": 1})
    for name in ("tensors.safetensors", "meta.json", "manifest.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10):
        save_checkpoint(tmp_path, step, weights(step), {}, keep=2)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]
    with pytest.raises(ValueError, match="keep is 1"):
        save_checkpoint(tmp_path, 11, weights(11), {}, keep=1)


def test_same_step_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, weights(3), {"take": 1})
    save_checkpoint(tmp_path, 3, weights(3), {"take": 2})
    back = load_latest(tmp_path)
    assert back is not None
    assert back.meta == {"take": 2}
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda path: flip_byte(path / "tensors.safetensors"),
            "tensors.safetensors does not match",
        ),
        (lambda path: flip_byte(path / "meta.json", 0), "meta.json does not match"),
        (lambda path: flip_byte(path / "manifest.json", 40), "manifest"),
        (lambda path: os.truncate(path / "tensors.safetensors", 100), "tensors.safetensors has 100 bytes"),
        (lambda path: (path / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json is not a manifest"),
    ],
)
def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path, harm: object, words: str) -> None:
    save_checkpoint(tmp_path, 1, weights(1), {})
    harm(save_checkpoint(tmp_path, 2, weights(2), {}))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "step-00000002")
    with pytest.warns(DamagedCheckpointWarning, match=r"step-00000002 is damaged.*Using .*step-00000001"):
        back = load_latest(tmp_path)
    assert back is not None
    assert back.step == 1


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    flip_byte(save_checkpoint(tmp_path, 1, weights(1), {}) / "meta.json")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        load_latest(tmp_path)


def test_no_checkpoint_yet_is_not_an_error(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none") is None
    assert load_latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path / "step-00000001")


def save_until_killed(directory: Path, step: int, stride: int) -> tuple[int, int]:
    """A child that saves for ever: its id, and a pipe that gives each step once it is saved."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        while True:
            save_checkpoint(directory, step, {"w": np.full(200_000, step)}, {"step": step})
            os.write(writing, f"{step}\n".encode())
            step += stride
    finally:
        os._exit(1)


@pytest.mark.parametrize("stride", [1, 0], ids=["next step", "same step again"])
def test_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path, stride: int) -> None:
    rng = random.Random(0)
    step = 1
    for _ in range(10):
        child, pipe = save_until_killed(tmp_path, step, stride)
        first = os.read(pipe, 1000)
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        printed = [int(line) for line in (first + os.read(pipe, 100_000)).split()]
        os.close(pipe)
        back = load_latest(tmp_path)
        assert back is not None
        assert back.step >= max(printed), "a checkpoint reported as saved was lost"
        assert (back.tensors["w"] == back.step).all()
        step = back.step + stride
    save_checkpoint(tmp_path, step + 1, weights(step), {})
    assert not [name for name in names(tmp_path) if name.startswith(".saving")], "a killed save left rubbish"


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        save_checkpoint(tmp_path, 1, weights(1), {})
        with pytest.raises(CheckpointError) as error:
            save_checkpoint(tmp_path, 2, weights(2, size=1_000_000), {})
        assert "the checkpoint of step 2 is not saved" in str(error.value)
        assert "the disk is full" in str(error.value)
        assert f"last good checkpoint is {tmp_path / 'step-00000001'}" in str(error.value)
        assert names(tmp_path) == ["step-00000001"], "the half-written one must free the disk again"
        save_checkpoint(tmp_path, 3, weights(3), {})
        back = load_latest(tmp_path)
        assert back is not None
        assert back.step == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_file_size_limit_is_explained(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            save_checkpoint(tmp_path, 1, {"w": np.zeros(100_000)}, {})
        except CheckpointError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"larger than this process may write" in os.read(reading, 10_000)
    assert load_latest(tmp_path) is None
    os.close(reading)
    os.close(writing)


def test_read_only_directory_is_explained(tmp_path: Path) -> None:
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(CheckpointError, match=r"no permission to write there .*Read-only"):
            save_checkpoint(tmp_path / "c", 1, weights(1), {})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def write_policy(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "robot.json").write_text("{}")


def test_published_policy_is_checked_before_use(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    first = publish(folder, write_policy, {"seed": 1})
    assert first.provenance == {"seed": 1}
    assert names(folder) == ["manifest.json", "model.safetensors", "provenance.json", "robot.json"]
    again = publish(folder, write_policy, {"seed": 2})
    assert again.digest == first.digest, "the digest names the policy, not its history"
    assert open_published(folder) == again
    os.truncate(folder / "model.safetensors", 3)
    with pytest.raises(CheckpointError, match=r"policy is damaged: model\.safetensors has 3 bytes"):
        open_published(folder)


def test_what_is_not_a_policy_is_refused_and_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no policy folder"):
        open_published(tmp_path / "none")
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="not a policy folder"):
        open_published(tmp_path)
    with pytest.raises(CheckpointError, match="not overwritten"):
        publish(tmp_path, write_policy, {})
    assert (tmp_path / "thesis.tex").read_text() == "precious"

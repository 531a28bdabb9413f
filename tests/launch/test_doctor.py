"""The doctor tries things; here some of them are made to fail."""

import socket
from pathlib import Path

import pytest
import torch

from regrip.launch import cli, doctor
from regrip.launch.doctor import Finding
from regrip.vla import numerics

torch.set_num_threads(1)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_machine_renders_and_encodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--no-numerics"]) == 0
    out = capsys.readouterr().out
    assert "rendered a frame with" in out
    assert "H.264" in out
    assert out.rstrip().endswith("ready")


def only_numerics(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in ("machine_checks", "rendering_checks", "optional_checks"):
        monkeypatch.setattr(doctor, section, lambda: iter(()))


def test_numerics_of_both_heads_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_numerics(monkeypatch)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for head in ("flow", "token"):
        for check in ("ratio before the first update", "mask", "dropout off", "score averages to zero"):
            assert f"ok  {head} head: {check}" in out


def test_numerics_of_a_given_policy_are_checked(
    tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_numerics(monkeypatch)
    assert cli.main(["doctor", "--policy", str(tiny_policy)]) == 0
    assert "tiny: float32 log-probabilities" in capsys.readouterr().out
    assert cli.main(["doctor", "--policy", "nowhere"]) == 1
    assert "no policy 'nowhere'" in capsys.readouterr().err


def test_wrong_numerics_are_not_ready(
    tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_numerics(monkeypatch)
    monkeypatch.setattr(numerics, "_TOLERANCE", -1.0)  # nothing is exact enough
    assert cli.main(["doctor", "--policy", str(tiny_policy)]) == 1
    out = capsys.readouterr().out
    assert "WRONG  tiny: ratio before the first update" in out
    assert "wrong, tiny: ratio before the first update: do not train with it" in out


def test_missing_renderer_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mesa and NVIDIA alike find their drivers through this; an empty folder is a machine without one.
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", "/nonexistent")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")
    monkeypatch.setattr(doctor, "optional_checks", lambda: iter(()))
    assert cli.main(["doctor", "--no-numerics"]) == 1
    out = capsys.readouterr().out
    assert "MISSING  EGL" in out
    assert "needed, EGL: on Debian or Ubuntu: apt-get install libegl1" in out
    assert out.rstrip().endswith("not ready: EGL")


def test_little_room_is_named() -> None:
    assert doctor._enough("disk here", 1.0, 5.0, "free", "free some") == Finding(
        "disk here", "missing", "1.0 GB free, at least 5 GB is wanted", "free some"
    )


def test_directory_without_write_access_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    finding = by_name(list(doctor.machine_checks()))["write to /proc"]
    assert finding.verdict == "missing"


def test_ros_master_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("ROS_MASTER_URI", f"http://127.0.0.1:{port}/")
        assert doctor._ros1().verdict == "ok"
    finding = doctor._ros1()
    assert finding.verdict == "optional"
    assert f"no master at 127.0.0.1:{port}" in finding.detail
    monkeypatch.setenv("ROS_MASTER_URI", "nonsense:port")
    assert doctor._ros1().verdict == "optional"

"""The front door answers at once and explains itself."""

import subprocess
import sys
import time

import pytest

from regrip.launch import cli


def test_help_is_instant_and_names_every_command() -> None:
    code = "import sys, regrip.launch.cli as c; c.main(['--help']); print(sorted(sys.modules))"
    start = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert time.monotonic() - start < 2.0
    for name in cli.COMMANDS:
        assert f"  {name} " in out
    for heavy in ("'torch'", "'numpy'", "'mujoco'", "'tyro'"):
        assert heavy not in out


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean `regrip train`?" in capsys.readouterr().err


def test_our_errors_are_words_and_their_place_is_shown_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGRIP_TRACEBACK", raising=False)
    assert cli.main(["report", "no/such/run"]) == 1
    err = capsys.readouterr().err
    assert "no/such/run" in err
    assert "Traceback" not in err
    monkeypatch.setenv("REGRIP_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="no/such/run"):
        cli.main(["report", "no/such/run"])

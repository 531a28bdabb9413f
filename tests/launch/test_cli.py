"""The front door answers at once and explains itself."""

import importlib.util
import resource
import subprocess
import sys

import pytest

from regrip.launch import cli, data_cli, rewards_cli, world_cli


def test_help_is_instant_and_names_every_command() -> None:
    code = "import sys, regrip.launch.cli as c; c.main(['--help']); print(sorted(sys.modules))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2.0
    for name in cli.COMMANDS:
        assert f"  {name} " in out
    for heavy in ("'torch'", "'numpy'", "'mujoco'", "'tyro'"):
        assert heavy not in out


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean `regrip train`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "wrong", "near", "known"),
    [
        ("data", "pgae", "page", data_cli.COMMANDS),
        ("rewards", "recrod", "record", rewards_cli.COMMANDS),
        ("world", "chekc", "check", world_cli.COMMANDS),
    ],
)
def test_commands_of_commands(
    command: str, wrong: str, near: str, known: dict[str, tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 0
    out = capsys.readouterr().out
    for name, (module, summary) in known.items():
        assert f"  {name} " in out
        assert summary in out
        assert importlib.util.find_spec(f"regrip.launch.{module}"), f"{command} {name} runs nothing"
    assert cli.main([command, wrong]) == 2
    assert f"regrip {command}: no command {wrong!r}; did you mean {near!r}?" in capsys.readouterr().err


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

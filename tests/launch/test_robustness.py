"""`regrip eval --perturb`."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from regrip.datasets.starts import StartState
from regrip.launch import cli
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import perturbations
from regrip.launch.measurement import Measurement, Outcomes, load_measurement
from regrip.launch.robustness import listens, print_robustness


def measured(won: int, of: int = 20) -> Measurement:
    starts = tuple(StartState("demo/lift_red", "test", index) for index in range(of))
    outcomes = Outcomes(starts, tuple(index < won for index in range(of)), (10,) * of)
    return Measurement({}, "test", 0, "p", "d", {}, {"greedy": outcomes}, {})


def test_a_policy_that_succeeds_without_words_is_not_said_to_listen() -> None:
    assert "so the policy heeds" in listens("silent", measured(18), measured(2), "greedy")
    assert "nothing shows" in listens("silent", measured(18), measured(18), "greedy")
    assert "nothing shows" in listens("wrong", measured(2), measured(1), "greedy")


def test_each_kind_is_measured_on_the_same_starts(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.json"
    arguments = ["--tasks", "lift_red", "-n", "4", "--workers", "1", "--slots", "4"]
    assert (
        cli.main(["eval", str(tiny_policy), *arguments, "--perturb", "camera,wrong", "--out", str(out)]) == 0
    )
    found = {kind: load_measurement(tmp_path / f"tiny-{kind}.json") for kind in ("none", "camera", "wrong")}
    assert [found[kind].environment["perturb"] for kind in found] == list(found)
    assert len({measurement.headline.starts for measurement in found.values()}) == 1
    said = capsys.readouterr().out
    assert "0/4" in said
    assert "front camera moved" in said
    assert "wrong: success does not measurably fall" in said


def test_a_kind_that_does_not_exist_is_refused_before_anything_is_played(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", str(tiny_policy), "--perturb", "lihgt", "--out", str(tmp_path / "a.json")]) == 1
    assert "did you mean 'light'" in capsys.readouterr().err


def test_what_a_simulator_cannot_change_is_in_the_table() -> None:
    starts = tuple(StartState("robosuite/door", "test", index) for index in range(20))
    played = {}
    for kind, won in (("none", 15), ("light", 10)):
        outcomes = Outcomes(starts, tuple(index < won for index in range(20)), (10,) * 20)
        environment = {"name": "robosuite", "suite": "robosuite", "perturb": kind}
        played[kind] = Measurement(environment, "test", 0, "p", "d", {}, {"greedy": outcomes}, {})
    console = Console(file=io.StringIO(), width=150)
    print_robustness(played, "greedy", whole=True, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "10/20" in said
    assert said.count("not available") == 1
    assert "used to the edge" in said
    console = Console(file=io.StringIO(), width=150)
    print_robustness(played, "greedy", whole=False, console=console)
    assert "not available" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_simulator_cannot_change_is_refused_with_the_reason() -> None:
    config = EnvConfig(name="robosuite", suite="robosuite")
    with pytest.raises(ValueError, match="no perturbation 'layout': the bin of can and the table of wipe"):
        perturbations("layout", config)
    with pytest.raises(ValueError, match="did you mean 'light'"):
        perturbations("lihgt", config)

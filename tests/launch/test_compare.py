"""Only what was measured alike is compared, and then in pairs."""

from dataclasses import replace
from pathlib import Path

import pytest

from regrip.datasets.starts import StartState
from regrip.launch import cli
from regrip.launch.compare import difference
from regrip.launch.measurement import Measurement, Outcomes


def outcomes(success: list[int], task: str = "demo/lift_red", first: int = 0) -> Outcomes:
    starts = tuple(StartState(task, "test", first + index) for index in range(len(success)))
    return Outcomes(starts, tuple(map(bool, success)), (10,) * len(success))


def measured(found: Outcomes, mode: str = "greedy") -> Measurement:
    return Measurement(
        environment={"name": "tabletop", "suite": "demo", "paraphrase": "canonical"},
        split="test",
        seed=0,
        policy="base",
        digest="abc",
        robot={},
        modes={mode: found},
        facts={"code": {"commit": "c0ffee"}},
    )


BEFORE = measured(outcomes([1, 1, 0, 0, 0, 0, 0, 1]))
AFTER = replace(measured(outcomes([1, 0, 1, 1, 1, 1, 1, 1])), policy="post", digest="def")


def compare(tmp_path: Path, first: Measurement, second: Measurement) -> int:
    first.save(tmp_path / "a.json")
    second.save(tmp_path / "b.json")
    return cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])


def test_pairs_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, BEFORE, AFTER) == 0
    out = capsys.readouterr().out
    assert "3/8 = 37.5 %" in out
    assert "7/8 = 87.5 %" in out
    assert "+50.0 points [" in out
    assert "5 gained, 1 lost, McNemar p = 0.22" in out


def test_order_does_not_matter_and_strangers_are_left_out() -> None:
    first = outcomes([1, 0, 0])
    second = Outcomes(
        starts=(*reversed(first.starts), StartState("demo/lift_red", "test", 99)),
        success=(True, False, True, True),
        steps=(1, 1, 1, 1),
    )
    found = difference(first, second)
    assert (found.num_pairs, found.only_first, found.only_second) == (3, 0, 1)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(AFTER, split="train"), "split: 'test' in "),
        (replace(AFTER, seed=1), "seed of the start states: 0"),
        (replace(AFTER, environment={"name": "tabletop", "suite": "goal"}), "suite: 'demo' in"),
        (measured(outcomes([1]), "sampled"), "no mode in common"),
        (measured(outcomes([1], "demo/push_red")), "no start state in common"),
    ],
)
def test_what_differs_is_refused(
    tmp_path: Path, other: Measurement, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, BEFORE, other) == 1
    assert words in capsys.readouterr().err


def test_reader_is_told_what_else_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(
        AFTER,
        environment={**AFTER.environment, "paraphrase": "heldout"},
        digest="abc",
        modes={"greedy": outcomes([1] * 9)},
        facts={"code": {"commit": "0ddba11"}},
    )
    assert compare(tmp_path, BEFORE, other) == 0
    out = capsys.readouterr().out
    assert "paraphrase is canonical in A and heldout in B" in out
    assert "different versions of the code" in out
    assert "the same policy" in out
    assert "1 episodes have no partner" in out

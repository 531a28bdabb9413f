"""`regrip rewards compare` from files to page, and what it says about data that cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import reward_toy as toy

from regrip.datasets.episode import Rollouts
from regrip.datasets.rollout_files import save_rollouts
from regrip.datasets.starts import StartState
from regrip.launch import cli, rewards_compare
from regrip.launch.progress import Progress
from regrip.launch.rewards_page import render
from regrip.rewards.scorers import Difference, FrameProgress, Frames

from .test_report import check, words

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def to_file(rollouts: Rollouts, policy: str = "toy", name: str = "data") -> str:
        path = tmp_path / f"{name}.rollouts"
        save_rollouts(path, rollouts, policy)
        return str(path)

    return to_file


def run(tmp_path: Path, *args: str) -> int:
    return cli.main(["rewards", "compare", *args, "--out", str(tmp_path / "out")])


def numbers(tmp_path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((tmp_path / "out/rewards.json").read_text())  # type: ignore[no-any-return]


def test_from_files_to_a_page(tmp_path: Path, save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(toy.many(18, 12, seed=1, split="select"), "good", "good")
    weak = save(toy.many(6, 24, seed=1, split="select"), "weak", "weak")
    assert run(tmp_path, good, weak, "--rewards", "binary,self_referential-state") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "binary: It repeats the simulator's verdict" in said
    assert "from the other half of the start states; no start state is in both" in said

    told = numbers(tmp_path)
    data = told["data"]
    assert data["episodes"] + data["learned_from"]["episodes"] == 60
    assert data["splits"] == ["select"]
    assert data["policies"].keys() == {"good", "weak"}
    assert len(told["episodes"]) == data["episodes"]
    learned = told["rewards"]["self_referential-state"]
    assert learned["learned"]
    assert learned["judged"] == data["episodes"] == len(learned["scores"])
    assert learned["numbers"]["auroc"]["value"] > 0.9
    assert told["rewards"]["binary"]["numbers"]["auroc"]["value"] == 0.5
    assert told["rewards"]["binary"]["numbers"]["starc"]["value"] == pytest.approx(0, abs=1e-6)

    page = (tmp_path / "out/rewards.html").read_text()
    check(page)
    seen = words(page)
    assert learned["sentence"] in seen.replace("&#39;", "'")
    assert f"Judged on {data['episodes']} episodes" in seen
    assert page.count("data:image/webp;base64,") == 12
    assert seen.index("failure, score") < seen.index("success, score")


def test_other_files_to_learn_from(tmp_path: Path, save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    data = save(toy.many(9, 9, seed=1, split="select"))
    others = save(toy.many(20, 0, seed=2), name="others")
    line = (data, "--rewards", "self_referential-state")
    assert run(tmp_path, *line, "--learn-from", others) == 0
    assert numbers(tmp_path)["data"]["episodes"] == 18
    assert numbers(tmp_path)["data"]["learned_from"] == {
        "episodes": 20, "successes": 20, "splits": ["train"], "other_half": False,
    }  # fmt: skip
    assert run(tmp_path, *line, "--learn-from", data) == 1
    assert "18 start states are both in the data and in --learn-from" in capsys.readouterr().err


def test_the_test_split_is_for_rewards_that_do_not_learn(
    tmp_path: Path, save: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save(toy.many(6, 6, split="test"))
    assert run(tmp_path, data, "--rewards", "binary") == 0
    assert run(tmp_path, data, "--rewards", "binary,self_referential-state") == 1
    assert "'self_referential-state', which learns, was given the test start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rollouts", "why"),
    [
        (toy.many(6, 0), "no task has both a success and a failure"),
        (toy.many(0, 6), "no task has both a success and a failure"),
    ],
    ids=["all won", "all lost"],
)
def test_what_cannot_be_told_apart_is_said(tmp_path: Path, save: Save, rollouts: Rollouts, why: str) -> None:
    assert run(tmp_path, save(rollouts), "--rewards", "binary,self_referential-pixels") == 0
    told = numbers(tmp_path)["rewards"]["self_referential-pixels"]
    assert (
        told["numbers"]["auroc"] == {"value": None, "low": None, "high": None, "why": why}
        or not told["judged"]
    )
    check((tmp_path / "out/rewards.html").read_text())


def test_bad_files_are_named(tmp_path: Path, save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*args: str) -> str:
        assert run(tmp_path, *args) == 1
        return capsys.readouterr().err

    assert "no file nothing.rollouts" in fails("nothing.rollouts")
    one = toy.many(2, 2)
    assert "no valid episode" in fails(save(replace(one, invalid=~one.invalid)))
    other = save(replace(one, images={"front": one.images["front"]}), name="other")
    assert "cameras: ['close', 'front'] and ['front']" in fails(save(one), other)
    assert "no reward 'binry'; did you mean 'binary'?" in fails(save(one), "--rewards", "binry")
    assert "each task has only one start state" in fails(
        save(one.take([0])), "--rewards", "self_referential-state"
    )


def test_a_reward_that_refuses_does_not_stop_the_others(tmp_path: Path) -> None:
    class Side:
        bounds = (0.0, 1.0)

        def score(self, frames: Frames) -> object:
            return frames.camera("side").mean((1, 2, 3))

    class Nothing:
        bounds = (0.0, 1.0)

        def score(self, frames: Frames) -> object:
            return frames.state[:, 0] * float("nan")

    rollouts = toy.many(4, 4)
    data = rewards_compare.Data(rollouts, ["toy"] * 8, 0)
    made = {
        type(scorer).__name__: (scorer, Difference(FrameProgress(scorer)))  # type: ignore[arg-type]
        for scorer in (Side(), Nothing())
    }
    with Progress("asking") as bar:
        refused, blind = rewards_compare.judge(made, data, bar)
    assert refused.findings is None
    assert "no camera 'side' in the rollouts" in refused.sentence
    assert blind.sentence == "Nothing can be said: it could judge no episode."
    page = tmp_path / "page.html"
    render(page, [refused, blind], data, rewards_compare.facts(data), 3)
    check(page.read_text())
    assert "no camera &#39;side&#39;" in page.read_text()


def test_half_of_the_starts_of_each_task() -> None:
    starts = [StartState("toy/a", "train", n) for n in (4, 0, 0, 7)] + [StartState("toy/b", "train", 1)]
    assert rewards_compare.every_second(starts) == {starts[1], starts[3], starts[4]}


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rewards", "list"]) == 0
    said = capsys.readouterr().out
    assert "episodes, learns" in said
    assert "encoder: " in said

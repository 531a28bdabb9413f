"""A measurement is a function of policy and start states, and of nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample, StepResult
from regrip.datasets.spec import Axis, RobotSpec
from regrip.datasets.starts import StartState, counter_generator
from regrip.datasets.statistics import Rate
from regrip.launch import cli, evaluate
from regrip.launch.durable import StorageError
from regrip.launch.measurement import Measurement, Outcomes, load_measurement


class Guessing:
    """Succeeds in the step in which the action is above what the start state demands; three chunks of two."""

    spec = RobotSpec("toy", "ee_delta", 10.0, "none", "none", (Axis("x", "m", 0.0, 1.0),), (), ())
    num_slots, chunk_size = 3, 2

    def __init__(self) -> None:
        self.start: dict[int, StartState] = {}
        self.played: dict[int, int] = {}
        self.answer: dict[int, tuple[int, bool]] = {}

    def reset(self, slots: Sequence[int], starts: Sequence[StartState]) -> None:
        for slot, start in zip(slots, starts, strict=True):
            self.start[slot], self.played[slot], self.answer[slot] = start, 0, (0, False)

    def step(self, slots: Sequence[int], chunks: NDArray[np.float32]) -> None:
        for slot, chunk in zip(slots, chunks, strict=True):
            hits = chunk[:, 0] > self.start[slot].index / 10
            executed = int(hits.argmax()) + 1 if hits.any() else 2
            self.played[slot] += 1
            self.answer[slot] = (executed, bool(hits.any()))

    def receive(self, slots: Sequence[int]) -> StepResult:
        size = len(slots)
        state = np.array([[self.start[slot].index] for slot in slots], np.float32)
        success = np.array([self.answer[slot][1] for slot in slots])
        return StepResult(
            observation=Observation({}, state, ["guess"] * size),
            privileged=state,
            executed=np.array([self.answer[slot][0] for slot in slots]),
            reward=np.zeros((size, 2), np.float32),
            success=success,
            invalid=np.zeros(size, bool),
            done=success | np.array([self.played[slot] == 3 for slot in slots]),
        )


class Uniform:
    """Greedy: always 0.5. Sampled: uniform, from the noise key alone."""

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        shape = (len(observation), 2, 1)
        action = (
            np.full(shape, 0.5)
            if noise_keys is None
            else np.stack([counter_generator(*key).random(shape[1:]) for key in noise_keys])
        )
        return ActionSample(action.astype(np.float32), np.zeros(shape[:2], np.float32))


def play(starts: Sequence[StartState], greedy: bool) -> evaluate.Played:
    return evaluate.evaluate(Guessing(), Uniform(), starts, greedy=greedy)  # type: ignore[arg-type]


STARTS = evaluate.eval_starts(["toy/a", "toy/b"], "test", 10)


def test_outcomes_are_those_of_the_start_states() -> None:
    played = play(STARTS, greedy=True)
    # 0.5 is above 0, 0.1, ... 0.4: indices 0 to 4 succeed with the first action, the others try six times.
    assert [s.index for s, won in zip(STARTS, played.outcomes.success, strict=True) if won] == [
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4,
    ]  # fmt: skip
    assert played.outcomes.steps == (1,) * 10 + (6,) * 10
    assert [len(action) for action in played.actions] == list(played.outcomes.steps)
    assert played.outcomes.by_task() == {"toy/a": Rate(5, 10), "toy/b": Rate(5, 10)}
    assert played.outcomes.rate == Rate(10, 20)


def test_pieces_do_not_repeat_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [StartState("toy/a", "test", 9)] * 40
    monkeypatch.setattr(evaluate, "_PIECE", 20)
    seen: list[tuple[int, int]] = []
    played = evaluate.evaluate(
        Guessing(),
        Uniform(),
        same,
        greedy=False,
        on_episode=lambda *progress: seen.append(progress),  # type: ignore[arg-type]
    )
    first, second = played.actions[:20], played.actions[20:]
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, second, strict=True))
    assert seen[-1] == (40, 40)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert play(same, greedy=False).outcomes.success[:20] == played.outcomes.success[:20]


def measurement(modes: dict[str, Outcomes]) -> Measurement:
    return Measurement({"name": "toy", "suite": "toy"}, "test", 0, "p", "d", {}, modes, {"seconds": 1.0})


def test_result_file_reads_back_equal(tmp_path: Path) -> None:
    found = measurement({"greedy": play(STARTS, True).outcomes, "sampled": play(STARTS, False).outcomes})
    found.save(tmp_path / "a.json")
    assert load_measurement(tmp_path / "a.json") == found
    assert json.loads((tmp_path / "a.json").read_text())["split"] == "test"


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "regrip measurement 1"}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StorageError, match=r"a\.json"):
        load_measurement(tmp_path / "a.json")


def test_eval_from_the_command_line_and_workers_do_not_matter(
    tmp_path: Path, tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        line = ["eval", str(tiny_policy), "--tasks", "lift_red", "-n", "2", "--slots", "2"]
        assert cli.main([*line, "--workers", workers, "--out", str(out), "--mode", "sampled"]) == 0
        results.append(json.loads(out.read_text()))
    assert "demo/lift_red" in capsys.readouterr().out
    for result in results:
        del result["facts"]
    assert results[0] == results[1]
    assert len(results[0]["modes"]["sampled"]["success"]) == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--env", "tabletopp"], "did you mean 'tabletop'"),
        (["--suite", "demoo"], "did you mean 'demo'"),
        (["--tasks", "lift_rad"], "lift_red'?"),
        (["--out", "/proc/no/where.json"], "cannot write"),
        (["--device", "cuda"], "--device cpu"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_played(
    tiny_policy: Path, args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cli.main(["eval", str(tiny_policy), *args]) == 1
    assert words in capsys.readouterr().err


def test_bad_policy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(tmp_path / "none")]) == 1
    assert "no policy" in capsys.readouterr().err
    (tmp_path / "x.txt").write_text("")
    assert cli.main(["eval", str(tmp_path)]) == 1
    assert "not a policy folder" in capsys.readouterr().err


def test_policy_of_another_robot_is_refused(
    tmp_path: Path, tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from regrip.launch.checkpoint import publish

    def other(folder: Path) -> None:
        for file in tiny_policy.iterdir():
            if file.name not in ("manifest.json", "provenance.json"):
                (folder / file.name).write_bytes(file.read_bytes())
        robot = json.loads((folder / "robot.json").read_text())
        robot["name"] = "other-arm"
        robot["action"][0]["unit"] = "mm"
        (folder / "robot.json").write_text(json.dumps(robot))

    publish(tmp_path / "other", other, {})
    args = ["eval", str(tmp_path / "other"), "-n", "1", "--workers", "1", "--out", str(tmp_path / "o.json")]
    assert cli.main(args) == 1
    err = capsys.readouterr().err
    assert "'other-arm'" in err
    assert "unit='mm'" in err

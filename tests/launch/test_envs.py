"""`regrip envs`."""

import io
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from regrip.launch import cli, environments, envs
from regrip.launch.environments import EnvConfig
from regrip.sim.tabletop.tasks import load


def test_every_task_of_a_suite_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["envs", "--env", "tabletop", "--suite", "goal", "--size", "32", "--out", str(tmp_path)]
    assert cli.main(line) == 0
    page, said = (tmp_path / "index.html").read_text(), capsys.readouterr().out
    tasks = load("goal").tasks
    assert page.count("data:image/png;base64,") == len(tasks)
    for task in tasks:
        assert f"goal/{task.name}" in page
        assert f"goal/{task.name}" in said
        assert task.instruction in page


def test_a_task_is_shown_by_its_start_states_and_its_expert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["envs", "show", "demo/press_yellow", "--starts", "8", "--size", "32", "--out", str(tmp_path)]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    sheet = Image.open(io.BytesIO((tmp_path / "tabletop-demo-press_yellow.png").read_bytes()))
    assert sheet.size == (6 * 34 - 2, 2 * 34 - 2)
    cells = {sheet.crop((34 * k, 0, 34 * k + 32, 32)).tobytes() for k in range(6)}
    assert len(cells) == 6, "each start state looks different"
    with av.open(str(tmp_path / "tabletop-demo-press_yellow.mp4")) as file:
        frames = sum(1 for _ in file.decode(video=0))
    steps = int(said.split("succeeds after ")[1].split()[0])
    assert frames == steps + 16  # and the last frame stands for 0.8 s


def test_what_does_not_exist_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["envs", "--env", "tabletops"]) == 1
    assert "did you mean 'tabletop'" in capsys.readouterr().err
    assert cli.main(["envs", "show", "demo/lift_rad"]) == 1
    assert "did you mean 'demo/lift_red'" in capsys.readouterr().err
    assert cli.main(["envs", "show", "lift_red"]) == 1
    assert "`regrip envs` lists all" in capsys.readouterr().err
    assert cli.main(["envs", "show", "libero_spacial/lift"]) == 1
    assert "did you mean 'libero_spatial'" in capsys.readouterr().err


def test_one_simulator_that_does_not_start_does_not_spoil_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {name: environments.FACTORIES[name] for name in ("metaworld", "tabletop")}
    monkeypatch.setattr(environments, "FACTORIES", both)
    monkeypatch.setattr(envs, "suites", {"metaworld": ["mt3"], "tabletop": ["demo"]}.__getitem__)
    monkeypatch.setenv("REGRIP_METAWORLD_PYTHON", sys.executable)  # has no Meta-World
    assert cli.main(["envs", "--size", "32", "--out", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "metaworld, suite mt3, is left out:" in said
    assert "make metaworld" in said
    assert (tmp_path / "index.html").read_text().count("data:image/png;base64,") == len(load("demo").tasks)


@pytest.mark.parametrize(
    ("suite", "simulator"),
    [
        ("demo", "tabletop"),
        ("mt10", "metaworld"),
        ("cubes", "maniskill"),
        ("blocks", "robosuite"),
        ("libero_10", "libero"),
        ("kitchen", "gymnasium"),
        ("some/my.toml", "gymnasium"),
    ],
)
def test_a_suite_tells_its_simulator(suite: str, simulator: str) -> None:
    assert envs.simulator_of(suite) == simulator


def test_no_two_simulators_have_a_suite_of_one_name() -> None:
    names = [name for name in environments.FACTORIES if name not in environments.IN_PROCESS]
    every = [suite for name in names for suite in envs.suites(name)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("tabletop", "goal/open_drawer", True),
        ("metaworld", "mt10/reach", True),
        ("robosuite", "robosuite/lift", True),
        ("robosuite", "robosuite/door", False),
        ("maniskill", "panda/PickCube", True),
        ("maniskill", "panda/PlugCharger", False),
        ("libero", "libero_goal/turn_on_the_stove", False),
        ("gymnasium", "fetch/reach", True),
        ("gymnasium", "pusht/push", False),
    ],
)
def test_who_has_an_expert_is_known_without_the_simulator(name: str, task: str, expected: bool) -> None:
    config = EnvConfig(name=name, suite=task.split("/")[0])  # type: ignore[arg-type]
    assert task in environments.task_names(config)
    assert environments.has_expert(config, task) is expected

"""A configuration is read whole or refused by name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from regrip.launch.config import (
    ConfigError,
    from_dict,
    load_config,
    load_preset,
    parse_with_preset,
    save_config,
    to_dict,
)
from regrip.launch.durable import StorageError


@dataclass(frozen=True)
class Learner:
    lr: float = 1e-4
    algorithm: Literal["grpo", "ppo"] = "grpo"
    clip: tuple[float, float] = (0.2, 0.28)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}, expected a positive number")


@dataclass(frozen=True)
class Run:
    learner: Learner = field(default_factory=Learner)
    seed: int = 0
    tasks: tuple[str, ...] = ("lift", "push")
    base: Path | None = None
    weights: dict[str, float] = field(default_factory=dict)
    partial_reset: bool = True


@dataclass(frozen=True)
class Options:
    out: Path | None = None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def parse(preset: str, *args: str) -> Run:
    return parse_with_preset(
        Options, Run, [preset, *args], command="train", description="", default_preset="none"
    ).config


def test_preset_gives_only_what_differs(tmp_path: Path) -> None:
    preset = write(
        tmp_path / "p.toml",
        'seed = 3\ntasks = ["stack"]\nbase = "a/b"\n[learner]\nlr = 1\n[weights]\nprogress = 0.5\n',
    )
    assert load_preset(Run, preset) == Run(
        learner=Learner(lr=1.0), seed=3, tasks=("stack",), base=Path("a/b"), weights={"progress": 0.5}
    )


def test_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = Run(learner=Learner(3e-4, "ppo", (0.1, 0.3)), seed=7, base=Path("x"), weights={"a": 1.0})
    save_config(tmp_path / "config.json", config, {"command": ["regrip"]})
    assert load_config(Run, tmp_path / "config.json") == config
    assert from_dict(Run, to_dict(config)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[learner]\nlrr = 1.0", ["p.toml: learner.lrr", "did you mean learner.lr?"]),
        ("lr = 1.0", ["p.toml: lr:", "did you mean learner.lr?"]),
        ("sead = 1", ["did you mean seed?"]),
        ('seed = "1"', ["seed: '1' is a str, expected a whole number"]),
        ("seed = 1.5", ["seed: 1.5 is a float, expected a whole number"]),
        ("seed = true", ["seed: True is a bool"]),
        ("partial_reset = 1", ["partial_reset: 1 is a int, expected true or false"]),
        ("learner = 4", ["learner: 4 is a int, expected a table"]),
        ('[learner]\nalgorithm = "gpro"', ["learner.algorithm: 'gpro'", "did you mean 'grpo'", "'ppo'"]),
        ("[learner]\nclip = [0.1]", ["learner.clip: [0.1] has 1 entries, expected 2"]),
        ("tasks = [1]", ["tasks[0]: 1 is a int, expected a text"]),
        ("[learner]\nlr = -1.0", ["learner: lr is -1.0, expected a positive number"]),
        ("[learner]\nlr = nan", ["learner.lr: nan is not a finite number"]),
        ("[weights]\nx = 'a'", ["weights.x: 'a' is a str, expected a number"]),
        ("seed = ", ["p.toml is not valid TOML: Invalid value"]),
    ],
)
def test_bad_preset_is_refused_by_name(tmp_path: Path, text: str, words: list[str]) -> None:
    preset = write(tmp_path / "p.toml", text)
    with pytest.raises(ConfigError) as error:
        load_preset(Run, preset)
    for word in words:
        assert word in str(error.value)


def test_unknown_preset_names_the_file_or_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the preset no/such\.toml"):
        load_preset(Run, "no/such.toml")
    with pytest.raises(ConfigError, match="there is no preset 'dmeo'; did you mean 'demo'"):
        load_preset(Run, "dmeo")


def test_command_line_overrides_the_preset(tmp_path: Path) -> None:
    preset = write(tmp_path / "p.toml", "seed = 3\n[learner]\nlr = 1e-3\n")
    config = parse(preset, "--learner.lr", "2e-4", "--no-partial-reset", "--tasks", "a", "b")
    assert config == Run(learner=Learner(lr=2e-4), seed=3, tasks=("a", "b"), partial_reset=False)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--learner.lrr", "1"], "--learner.lr"),
        (["--learner.algorithm", "gpro"], "grpo"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_bad_command_line_is_refused_by_name(
    tmp_path: Path, args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = write(tmp_path / "p.toml", "")
    with pytest.raises(SystemExit) as stop:
        parse(preset, *args)
    assert stop.value.code == 2
    assert words in "".join(capsys.readouterr())


def test_value_refused_by_the_dataclass_names_the_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = write(tmp_path / "p.toml", "")
    with pytest.raises((SystemExit, ConfigError, ValueError)) as stop:
        parse(preset, "--learner.lr", "-1")
    assert "expected a positive number" in "".join(capsys.readouterr()) + str(stop.value)


def test_damaged_saved_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(StorageError, match=r"no file .*config\.json"):
        load_config(Run, path)
    path.write_text('{"config": {"seed": ')
    with pytest.raises(StorageError, match="cut short or was edited"):
        load_config(Run, path)
    path.write_text('{"config": {"sed": 1}}')
    with pytest.raises(ConfigError, match=r"config\.json: sed.*did you mean seed"):
        load_config(Run, path)

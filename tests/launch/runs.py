"""Makes a run directory as `regrip train` leaves it, with invented numbers, to look at reports."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from regrip.datasets.starts import StartState
from regrip.launch.config import save_config
from regrip.launch.durable import write_json
from regrip.launch.measurement import Measurement, Outcomes
from regrip.launch.metrics import MetricsWriter
from regrip.launch.run_directory import RunDirectory
from regrip.launch.videos import write_mp4

TASKS = {
    "lift_red": "pick up the red block",
    "lift_green": "pick up the green block",
    "push_blue": "push the blue block to the mat",
    "push_red": "push the red block to the mat",
    "press_yellow": "press the yellow button",
    "stack_red_on_green": "put the red block on the green one",
}


@dataclass(frozen=True)
class Learner:
    learning_rate: float = 2e-4
    clip: tuple[float, float] = (0.2, 0.28)
    note: str = 'a "quoted" <b>text</b>'


@dataclass(frozen=True)
class Config:
    policy: str = "demo"
    seed: int = 0
    tasks: tuple[str, ...] = ()
    resume: str | None = None
    learner: Learner = field(default_factory=Learner)


def make_run(
    path: Path, before: float = 0.45, after: float = 0.93, iterations: int = 20, incidents: int = 3
) -> RunDirectory:
    run = RunDirectory(path)
    path.mkdir(parents=True)
    facts = {
        "command": ["regrip", "train", "demo", "--seed", "0"],
        "code": {"regrip": "0.1.0", "commit": "1f2e3d4c5b6a79880716253443526170deadbeef", "dirty": False},
    }
    save_config(run.config, Config(), facts)
    write_metrics(run, iterations, before, after)
    for number in range(incidents):
        kind = ("hung", "died", "memory")[number % 3]
        run.add_incident(4 * number + 2, {"kind": kind, "worker": number % 2, "detail": "no answer for 60 s"})
    for label, rate, file in (("before", before, run.eval_before), ("after", after, run.eval_after)):
        measured = measurement(label, rate)
        measured.save(file)
        write_videos(run.videos / label, measured.modes["greedy"])
    return run


def measurement(label: str, rate: float) -> Measurement:
    starts = tuple(StartState(f"demo/{task}", "test", index) for index in range(30) for task in TASKS)
    modes = {}
    for mode, shift in (("greedy", 0.0), ("sampled", -0.04)):
        rng = np.random.default_rng(7)
        ease = rng.normal(size=len(starts)) + 0.7 * np.array([(hash_of(s.task) - 0.5) for s in starts])
        luck = 0.5 * np.random.default_rng([len(label), len(mode)]).normal(size=len(starts))
        level = math.log(max(rate + shift, 1e-6) / max(1 - rate - shift, 1e-6))
        success = tuple(bool(won) for won in ease + luck + 0.75 * level > 0)
        steps = tuple(int(30 + 50 * rng.random()) if won else 90 for won in success)
        modes[mode] = Outcomes(starts, success, steps)
    return Measurement(
        environment={"name": "tabletop", "suite": "demo", "paraphrase": "canonical", "image_size": 64},
        split="test",
        seed=0,
        policy="demo" if label == "before" else "runs/demo-001/policy",
        digest="0a1b2c3d4e5f6071" if label == "before" else "99aabbccddeeff00",
        robot={"name": "regrip-panda", "control_mode": "ee_delta", "control_rate_hz": 20.0},
        modes=modes,
        facts={"code": {"commit": "1f2e3d4c"}, "seconds": 31.0},
    )


def hash_of(task: str) -> float:
    return (sum(task.encode()) % 97) / 97


def write_metrics(run: RunDirectory, iterations: int, before: float, after: float) -> None:
    rng = np.random.default_rng(0)
    with MetricsWriter(run.path) as metrics:
        for iteration in range(1, iterations + 1):
            rate = before + (after - before) * (1 - math.exp(-3 * iteration / max(iterations, 1)))
            won = int(rng.binomial(576, rate))
            solved, failed = int(72 * rate**3), int(72 * (1 - rate) ** 3)
            row = {
                "episodes": 576 * iteration,
                "env_steps": 576 * 58 * iteration,
                "train/successes": won,
                "train/episodes": 576,
                "reward/successes": 1.0 + 0.02 * rng.normal(),
                "reward/failures": 0.35 + 0.1 * rate + 0.03 * rng.normal(),
                "reward/ranking": min(1.0, 0.985 + 0.01 * rng.normal()),
                "elapsed_s": 41.0 * iteration,
                "groups/played": 72,
                "groups/all_won": solved,
                "groups/all_failed": failed,
                "episodes/wasted": 8 * (solved + failed),
                "seconds/collect": 25.0,
                "seconds/learn": 14.0,
                "seconds/evaluate": 2.4 if iteration % 5 == 0 else 0.0,
                "seconds/save": 0.3,
                "clip_fraction": 0.1,
            }
            if iteration % 5 == 0 or iteration == iterations:
                row |= {"select/successes": int(rng.binomial(96, rate)), "select/episodes": 96}
            metrics.write(iteration, row)


def write_videos(folder: Path, outcomes: Outcomes) -> None:
    folder.mkdir(parents=True)
    entries = []
    for task, instruction in TASKS.items():
        start = StartState(f"demo/{task}", "test", 0)
        row = outcomes.starts.index(start)
        write_mp4(
            folder / f"{task}-0.mp4", frames(outcomes.steps[row] // 2, outcomes.success[row]), Fraction(10)
        )
        entries.append(
            {
                "task": start.task,
                "split": "test",
                "index": 0,
                "seed": 0,
                "greedy": True,
                "instruction": instruction,
                "success": outcomes.success[row],
                "steps": outcomes.steps[row],
                "file": f"{task}-0.mp4",
            }
        )
    write_json(folder / "videos.json", {"videos": entries})


def frames(count: int, success: bool, size: int = 128) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A block that is carried to its goal, or past it."""
    out = np.full((count, size, size, 3), (222, 212, 196), np.uint8)
    out[:, : size // 4] = (190, 208, 224)
    out[:, 84:104, 90:110] = (120, 180, 120)
    for index in range(count):
        x = int(10 + (80 if success else 50) * index / max(count - 1, 1))
        out[index, 84:104, x : x + 20] = (190, 60, 50)
    return out

"""What a run keeps of a reward's alarms: a line each, and a film of the failures that earned most."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal
from ..rewards.monitors import Alarm
from .durable import explain
from .videos import write_mp4

_SCALE, _FRAMES_PER_SECOND = 3, Fraction(4)
INDEX = "alarms.jsonl"


def keep_alarms(folder: Path, alarms: Sequence[Alarm], rollouts: Rollouts, reward: RewardSignal) -> None:
    """Write each alarm into `folder` (made if need be) and say it aloud.

    A film shows what the policy saw at its decisions, all cameras side by side.

    Raises:
        StorageError: if it cannot be written.
    """
    for alarm in alarms:
        episodes = []
        for rank, row in enumerate(alarm.rows):
            name = f"{alarm.iteration:04d}-{alarm.name}-{rank}.mp4"
            folder.mkdir(parents=True, exist_ok=True)
            count = int(rollouts.decision_valid[row].sum())
            seen = np.concatenate([frames[row, :count] for frames in rollouts.images.values()], axis=2)
            write_mp4(folder / name, seen.repeat(_SCALE, 1).repeat(_SCALE, 2), _FRAMES_PER_SECOND)
            episodes.append(
                {
                    **dataclasses.asdict(rollouts.start[row]),
                    "instruction": rollouts.instruction[row],
                    "earned": float(reward.value[row].sum()),
                    "file": name,
                }
            )
        line = {"iteration": alarm.iteration, "name": alarm.name, "message": alarm.message}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / INDEX, "a") as file:
                file.write(json.dumps({**line, "episodes": episodes}) + "\n")
        except OSError as error:
            raise explain(error, "append to", folder / INDEX) from error
        shown = f"; the failures that earn most: {folder / episodes[0]['file']}" if episodes else ""
        print(f"reward alarm ({alarm.name}), iteration {alarm.iteration + 1}: {alarm.message}{shown}")


def read_alarms(folder: Path) -> list[dict[str, Any]]:
    """Every alarm, oldest first, each once: a run that was killed and resumed may have written one twice."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    index = folder / INDEX
    for line in index.read_text().splitlines() if index.exists() else []:
        try:
            alarm = json.loads(line)
        except ValueError:  # the process died while writing it
            continue
        found[alarm["iteration"], alarm["name"]] = alarm
    return list(found.values())

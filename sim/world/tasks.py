"""The tasks of a learned world: those of the episodes it was trained on. A suite is a model's folder."""

from __future__ import annotations

from pathlib import Path

from .files import describe


def task_names(suite: str) -> list[str]:
    """``suite/task`` of each, as the recordings say it.

    Raises:
        WorldFileError: the folder holds no world model.
    """
    return [str(name) for name in describe(Path(suite))["tasks"]]


def sentences(suite: str) -> list[str]:
    """Every instruction that was recorded with a task.

    Raises:
        WorldFileError: the folder holds no world model.
    """
    return [str(text) for text in describe(Path(suite))["instructions"]]


def has_expert(suite: str, task: str) -> bool:
    """Nobody can demonstrate in an imagined world."""
    return False

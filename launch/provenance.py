"""Where a file came from: the command, the seed and the code that made it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import regrip


def code_version() -> dict[str, Any]:
    """The version of regrip and, in a git checkout, its commit and whether the tree had changes."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"regrip": regrip.__version__, "commit": commit, "dirty": bool(changes)}


def command_line() -> list[str]:
    """The command that runs now, as it was typed."""
    return ["regrip" if Path(sys.argv[0]).stem in ("regrip", "cli") else sys.argv[0], *sys.argv[1:]]


def _git(*args: str) -> str | None:
    """Output of git in the checkout that holds this file; None where there is no git or no checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None

"""Asking other packages, in an interpreter of their own (`make referees`), what they make of a set."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python() -> Path:
    """The referees' interpreter; skips the test where there is none."""
    named = os.environ.get("REGRIP_REFEREES_PYTHON")
    path = Path(named) if named else ROOT / ".venv-referees/bin/python"
    if not path.exists():
        pytest.skip("the other packages are not here: make referees")
    return path


def ask(script: str, *arguments: object) -> Any:
    """Run a script of `referees/`; the JSON of its last line."""
    interpreter = python()
    libraries = interpreter.parent.parent / "ffmpeg"
    names = ("PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT")
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    env["LD_LIBRARY_PATH"] = str(libraries)
    command = [str(interpreter), str(Path(__file__).parent / "referees" / script)]
    command += [a if isinstance(a, str) else json.dumps(a) for a in map(_plain, arguments)]
    with tempfile.TemporaryDirectory() as home:  # lerobot's libraries keep caches
        env["HF_HOME"] = home
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value

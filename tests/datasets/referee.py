"""Packages that are referees of our formats, in an interpreter of their own: they cannot share ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]


def ask(script: str, *arguments: object) -> Any:
    """Run ``referees/<script>`` and return the JSON it prints last; skip where there is no interpreter."""
    python = os.environ.get("REGRIP_REFEREES_PYTHON") or str(_ROOT / ".venv-referees/bin/python")
    if not Path(python).exists():
        pytest.skip("no interpreter with the formats' own packages: make referees")
    command = [python, str(Path(__file__).parent / "referees" / script), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode:
        pytest.fail(f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])

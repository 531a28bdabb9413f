"""Shared modules of these tests; and openpi's own client, from the referees' interpreter.

The client asks for an older numpy than ours, and runs without.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # scenario.py and what it is played with
_ROOT = Path(__file__).resolve().parents[2]


def _bring(package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        return
    python = Path(os.environ.get("REGRIP_REFEREES_PYTHON") or _ROOT / ".venv-referees/bin/python")
    for found in python.parent.parent.glob(f"lib/python*/site-packages/{package}/__init__.py"):
        spec = importlib.util.spec_from_file_location(
            package, found, submodule_search_locations=[str(found.parent)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)


_bring("openpi_client")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A busy machine must not fail a suite, nor a soak hold one up: they run when asked for."""
    asked = {
        "realtime": ("REGRIP_REALTIME", "plays in real time: make realtime, on a quiet machine"),
        "long": ("REGRIP_LONG", "takes many minutes: make long"),
    }
    for item in items:
        for mark, (variable, why) in asked.items():
            if item.get_closest_marker(mark) and not os.environ.get(variable):
                item.add_marker(pytest.mark.skip(reason=why))

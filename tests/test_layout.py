"""The rules of the house that no other tool would notice being broken."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "regrip"

# `datasets` is the vocabulary and `launch` the wiring; the four between never meet but in `launch`.
MAY_IMPORT: dict[str, set[str]] = {
    "datasets": set(),
    "sim": {"datasets"},
    "rewards": {"datasets"},
    "vla": {"datasets"},
    "real_robot": {"datasets"},
    "launch": {"datasets", "sim", "rewards", "vla", "real_robot"},
}
ROOMS = sorted(MAY_IMPORT)


def rooms_imported(source: str, depth: int) -> Iterator[tuple[int, str]]:
    """Line and room of each import, at any depth of nesting, of a module.

    Args:
        source: the module's text.
        depth: how many dots, in that module, name the package `regrip` itself.
    """
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = node.level == depth or (node.level == 0 and (node.module or "").startswith("regrip"))
            if inside:
                base = "regrip" if node.level else ""
                module = ".".join(part for part in (base, node.module) if part)
                names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "regrip" and len(parts) > 1 and parts[1] in MAY_IMPORT:
                yield node.lineno, parts[1]


def trespasses(room: str) -> list[str]:
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        depth = len(path.relative_to(ROOT).parts)
        for line, other in rooms_imported(path.read_text(), depth):
            if other != room and other not in MAY_IMPORT[room]:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_linked_into_the_package(room: str) -> None:
    link = PACKAGE / room
    assert link.is_symlink(), f"{link} must be a link; a checkout without links builds an empty wheel"
    assert link.resolve() == ROOT / room


@pytest.mark.parametrize("room", ROOMS)
def test_room_does_not_hide_an_installed_package(room: str) -> None:
    assert not (ROOT / room / "__init__.py").exists(), f"it would hide any installed package named {room!r}"


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    assert trespasses(room) == []


def test_package_holds_the_rooms_and_nothing_else() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert entries == {*ROOMS, "__init__.py", "py.typed"}


@pytest.mark.parametrize(
    ("source", "depth", "rooms"),
    [
        ("from ..sim.env import Env", 2, ["sim"]),
        ("from .. import sim", 2, ["sim"]),
        ("from ..sim.env import Env", 3, []),  # launch/x/y.py: two dots stay inside launch
        ("from ...sim.env import Env", 3, ["sim"]),
        ("import regrip.sim.env", 2, ["sim"]),
        ("from regrip.sim import env", 2, ["sim"]),
        ("from regrip import sim", 2, ["sim"]),
        ("def f():\n    from ..sim import env", 2, ["sim"]),
        ("import datasets", 2, []),  # Hugging Face's
        ("from .sim import x", 2, []),
    ],
)
def test_the_check_itself(source: str, depth: int, rooms: list[str]) -> None:
    assert [room for _, room in rooms_imported(source, depth)] == rooms


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    forbidden = re.compile(
        r"\bpickle\b|\bdill\b|allow_pickle=True|weights_only=False|(?<![\w.])eval\(|(?<![\w.])exec\(|shell=True"
    )
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                assert not forbidden.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_registry_host_is_named() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    hosts = "(" + "|".join(("pyp" + "i", "pythonhost" + "ed", "npm" + "js")) + r")\.(org|com)"
    found = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-nIiE", hosts], capture_output=True, text=True, check=False
    )
    assert found.stdout == "", "which index to install from is the user's configuration"

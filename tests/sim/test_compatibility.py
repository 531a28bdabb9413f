"""A simulator's package in a version that does not go is refused before it fails strangely."""

from importlib import metadata
from pathlib import Path

import pytest

from regrip.sim.compatibility import GENESIS, LIBERO, MANISKILL, METAWORLD, ROBOSUITE, Requirement, strangers

REPOSITORY = Path(__file__).parents[2]
EVERY = (ROBOSUITE, LIBERO, METAWORLD, MANISKILL, GENESIS)


@pytest.mark.parametrize(
    ("requirement", "distribution", "good", "bad"),
    [
        (ROBOSUITE, "mujoco", "3.9.0", "3.10.0"),
        (ROBOSUITE, "robosuite", "1.5.2", "1.4.0"),
        (LIBERO, "mujoco", "3.8.1", "3.9.0"),
        (LIBERO, "robosuite", "1.4.0", "1.5.2"),
        (METAWORLD, "mujoco", "3.16.0", "3.17.0"),
        (METAWORLD, "mujoco-core", "3.3.0", "4.0.1"),
        (METAWORLD, "metaworld", "3.1.1", "2.0.0"),
        (MANISKILL, "mani_skill", "3.0.1", "3.1.0"),
        (GENESIS, "genesis-world", "1.4.5", "1.5.0rc1"),
    ],
)
def test_a_version_that_does_not_go_is_named_with_one_that_does(
    requirement: Requirement, distribution: str, good: str, bad: str
) -> None:
    requirement.check(distribution, good)
    with pytest.raises(RuntimeError) as raised:
        requirement.check(distribution, bad)
    said = str(raised.value)
    assert f"{distribution} {bad} does not go with {requirement.package}" in said
    assert f"was seen to run on {requirement.works} (" in said
    assert f"`make {requirement.target}`" in said


@pytest.mark.parametrize("requirement", EVERY, ids=lambda one: one.package)
def test_what_make_installs_goes(requirement: Requirement) -> None:
    pins = (REPOSITORY / f"constraints-{requirement.target}.txt").read_text().lower().replace("-", "_")
    versions = dict(line.split("==") for line in pins.split() if "==" in line)
    checked = 0
    for distribution in requirement.ranges:
        if version := versions.get(distribution.replace("-", "_")):
            requirement.check(distribution, version)
            checked += 1
    assert checked, "no version of it is pinned"


def test_a_requirement_looks_at_this_interpreter() -> None:
    version = metadata.version("numpy")
    asked = Requirement("numpy", "numpy", "x", {"numpy": ((0, 0), (1, 0))}, "0.9", "it is old")
    with pytest.raises(RuntimeError, match=f"numpy {version} does not go with numpy"):
        asked.check_interpreter()
    absent = Requirement("Nothing", "no_such_module", "x", {}, "", "")
    with pytest.raises(RuntimeError, match="no module 'no_such_module', which Nothing needs: `make x`"):
        absent.check_interpreter()


def test_pins_that_are_here_in_another_version_are_found() -> None:
    have = {"gym-aloha": "0.1.5", "mujoco": "4.0.0"}

    def version(name: str) -> str:
        if name not in have:
            raise metadata.PackageNotFoundError(name)
        return have[name]

    assert strangers("gym-aloha==0.1.5 mujoco==3.8.1 pymunk==6.11.1 other", version) == ["mujoco 4.0.0"]
    assert strangers("", version) == []

"""Which versions go with which package, and what to type when one of them is not there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Requirement:
    """What a package needs of its interpreter.

    Attributes:
        package: for messages.
        module: it is there if this can be imported.
        target: of the Makefile.
        ranges: distribution to the first version that goes and the first that does not, major and minor.
        works: versions it was seen to run on.
        because: what happens on others.
    """

    package: str
    module: str
    target: str
    ranges: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]
    works: str
    because: str

    def check(self, distribution: str, version: str) -> None:
        """Refuse a version that would only fail later, and strangely.

        Raises:
            RuntimeError: if it is none that goes.
        """
        first, beyond = self.ranges[distribution]
        major, minor = (int(part) for part in version.split(".")[:2])
        if not first <= (major, minor) < beyond:
            raise RuntimeError(
                f"{distribution} {version} does not go with {self.package} as it is played here, which "
                f"was seen to run on {self.works} ({self.because}). {self._make}"
            )

    def check_interpreter(self) -> None:
        """Refuse this interpreter if the package is missing or a version does not go.

        Raises:
            RuntimeError: if it is so.
        """
        if importlib.util.find_spec(self.module) is None:
            raise RuntimeError(self._lacks(self.module))
        for distribution in self.ranges:
            try:
                version = metadata.version(distribution)
            except metadata.PackageNotFoundError:  # under another name, or a source tree
                continue
            self.check(distribution, version)

    def missing(self, error: ModuleNotFoundError) -> RuntimeError:
        """What to say when a module is not there."""
        return RuntimeError(self._lacks(str(error.name)))

    def _lacks(self, module: str) -> str:
        return f"this interpreter has no module {module!r}, which {self.package} needs: {self._make}"

    @property
    def _make(self) -> str:
        return f"`make {self.target}` makes .venv-{self.target}, whose Python is then run"


def _mujoco_below(beyond: tuple[int, int]) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    return dict.fromkeys(("mujoco", "mujoco-core"), ((0, 0), beyond))


ROBOSUITE = Requirement(
    "robosuite",
    "robosuite",
    "robosuite",
    {"robosuite": ((1, 5), (1, 6)), **_mujoco_below((3, 10))},
    "robosuite 1.5.2 with mujoco 3.8.1 and 3.9.0",
    "from mujoco 3.10 on its resets fail in mj_fullM",
)
LIBERO = Requirement(
    "LIBERO",
    "libero",
    "libero",
    {"hf-libero": ((0, 1), (0, 2)), "robosuite": ((1, 4), (1, 5)), **_mujoco_below((3, 9))},
    "hf-libero 0.1.4 with robosuite 1.4.0 and mujoco 3.8.1",
    "hf-libero asks for mujoco below 3.9, and robosuite 1.4.0 fails on 4.0",
)
METAWORLD = Requirement(
    "Meta-World",
    "metaworld",
    "metaworld",
    {"metaworld": ((3, 1), (3, 2)), **_mujoco_below((3, 17))},
    "metaworld 3.1.1 with mujoco 3.3.0 and 3.16.0",
    "from mujoco 3.17 on its resets fail in reset_mocap_welds",
)
MANISKILL = Requirement(
    "ManiSkill",
    "mani_skill",
    "maniskill",
    {"mani_skill": ((3, 0), (3, 1)), "sapien": ((3, 0), (3, 1))},
    "mani_skill 3.0.1 with sapien 3.0.3",
    "others were not tried, and its scenes and controllers are reached into",
)
GENESIS = Requirement(
    "Genesis",
    "genesis",
    "genesis",
    {"genesis-world": ((1, 4), (1, 5))},
    "genesis-world 1.4.5",
    "others were not tried, and the solver's own arrays are read and written",
)


def strangers(install: str, version: Callable[[str], str] = metadata.version) -> list[str]:
    """Of packages that are pinned in a line for pip, those that are here in another version, with it.

    Args:
        install: for instance ``gym-aloha==0.1.5 mujoco==3.8.1``.
        version: of a distribution; raises PackageNotFoundError.
    """
    found = []
    for word in install.split():
        name, pinned, wanted = word.partition("==")
        try:
            have = version(name) if pinned else wanted
        except metadata.PackageNotFoundError:
            continue
        if have != wanted:
            found.append(f"{name} {have}")
    return found

"""Which mujoco goes with which package, and what to type when one of them is not there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """What a package needs of its interpreter.

    Attributes:
        package: with its version, for messages.
        target: of the Makefile.
        below: the first version of mujoco, major and minor, that it does not run on.
        works: versions it was seen to run on.
        because: what happens on a later one.
    """

    package: str
    target: str
    below: tuple[int, int]
    works: str
    because: str

    def check(self, version: str) -> None:
        """Refuse a version of mujoco that would only fail later, and strangely.

        Raises:
            RuntimeError: if it is too new.
        """
        major, minor = (int(part) for part in version.split(".")[:2])
        if (major, minor) >= self.below:
            raise RuntimeError(
                f"{self.package} does not run on mujoco {version} ({self.because}); it runs on {self.works}. "
                f"`make {self.target}` makes .venv-{self.target}, whose Python the workers then run"
            )

    def check_interpreter(self) -> None:
        """Refuse this interpreter if its mujoco is missing or too new.

        Raises:
            RuntimeError: if it is.
        """
        try:
            import mujoco
        except ModuleNotFoundError as error:
            raise self.missing(error) from error
        self.check(mujoco.__version__)

    def missing(self, error: ModuleNotFoundError) -> RuntimeError:
        """What to say when a module is not there."""
        return RuntimeError(
            f"this interpreter has no module {error.name!r}, which {self.package} needs: "
            f"`make {self.target}` makes .venv-{self.target}, whose Python the workers then run"
        )


ROBOSUITE = Requirement(
    "robosuite 1.5.2",
    "robosuite",
    (3, 10),
    "3.8.1 and 3.9.0",
    "from 3.10 on its resets fail in mj_fullM",
)
LIBERO = Requirement(
    "LIBERO (hf-libero 0.1.4 with robosuite 1.4.0)",
    "libero",
    (3, 9),
    "3.8.1",
    "hf-libero asks for less than 3.9, and robosuite 1.4.0 fails on 4.0",
)

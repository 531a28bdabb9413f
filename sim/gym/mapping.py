"""A mapping: what a Gymnasium environment's numbers and pictures mean, as a TOML file. See docs/gymnasium.md.

Reading one needs neither gymnasium nor the package the environment comes from, so names, sentences and the
robot contract are known where only the policy lives.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...datasets.spec import Axis, Camera, RobotSpec
from ..wording import Paraphrase, unknown

CONTROL_MODES = ("ee_delta", "ee_position", "joint_position", "joint_velocity")
ROOTS = ("observation", "info", "reward", "terminated", "mujoco", "attribute")
VIEWS = ("mujoco", "free", "method", "observation")


class MappingError(ValueError):
    """A mapping says what cannot be."""


@dataclass(frozen=True)
class Place:
    """Where numbers are found: ``observation.goal``, ``info.block_pose[0:2]``, ``mujoco.qpos[16:19]``.

    Attributes:
        text: as it was written.
        root: one of `ROOTS`.
        keys: what follows the root, split at dots.
        start: first of the flattened values.
        stop: one after the last; None for all.
        optional: a final ``?``: absent counts as zero.
    """

    text: str
    root: str
    keys: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Vector:
    """Numbers from one or more places, end to end."""

    places: tuple[Place, ...]

    def __str__(self) -> str:
        return ", ".join(place.text for place in self.places)


@dataclass(frozen=True)
class Success:
    """When a task is done: a place that is true, or at least (at most) a number."""

    place: Place
    at_least: float = 0.5
    at_most: float = math.inf


@dataclass(frozen=True)
class View:
    """How a camera's picture is made.

    Attributes:
        name: of the camera, for the policy.
        kind: ``mujoco`` (a camera of the model), ``free`` (one that we place), ``method`` (of the unwrapped
            environment, returns a frame) or ``observation`` (a frame among the observations).
        source: the model's camera, the method's name or the observation's keys.
        place: of a free camera: distance (m), azimuth, elevation (degrees), and the point looked at (m).
        rotate: degrees anticlockwise, a multiple of 90.
        flip: ``none``, ``vertical`` (upside down) or ``horizontal`` (mirrored); after the rotation.
    """

    name: str
    kind: str
    source: str = ""
    place: tuple[float, ...] = ()
    rotate: int = 0
    flip: Literal["none", "vertical", "horizontal"] = "none"


@dataclass(frozen=True)
class Task:
    """One environment with one thing to do.

    Attributes:
        name: of the task.
        instruction: the canonical sentence.
        train_phrases: other ways to say it, which training may use.
        heldout_phrases: ways to say it that training never sees.
        id: of the environment in Gymnasium's registry; empty if `Mapping.envhub` makes it.
        kwargs: of its constructor; the text ``{image_size}`` stands for the pictures' size.
        max_steps: the step limit, in control steps.
        success: when the task is done.
        state: where the policy's state is found.
        privileged: where the privileged state is found.
        instruction_from: a text that the environment gives at reset, said instead of the sentences.
        expert: name of the scripted expert, see `experts.EXPERTS`; empty if there is none.
        group: the suite's name in the dictionary that ``make_env`` returns.
        index: the task's number in it.
    """

    name: str
    instruction: str
    train_phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]
    id: str
    kwargs: Table[str, Any]
    max_steps: int
    success: Success
    state: Vector
    privileged: Vector
    instruction_from: Place | None
    expert: str
    group: str
    index: int

    def phrases(self, paraphrase: Paraphrase) -> tuple[str, ...]:
        """The sentences from which an episode draws one."""
        if paraphrase == "canonical":
            return (self.instruction,)
        if paraphrase == "train":
            return (self.instruction, *self.train_phrases)
        return self.heldout_phrases or (self.instruction,)


@dataclass(frozen=True)
class Mapping:
    """A suite of tasks with one robot.

    Attributes:
        name: of the suite, as in ``suite/task``.
        source: the file it was read from.
        robot: name, control mode, rate, rotation and gripper of the `RobotSpec`.
        action: one entry for each action dimension.
        native: what the environment is given at each action's low and high limit; None for the same numbers.
        state: one entry for each state dimension.
        privileged_names: one name for each privileged number.
        views: how each camera's picture is made, in the order the policy gets them.
        markers: a site of the model to where it is shown, in pictures only.
        tasks: by name.
        modules: imported first, because they register the environments.
        install: what to give to pip when a module is missing; the versions that were tried.
        envhub: file or folder with a ``make_env``, see `host.open_envhub`; None for Gymnasium's registry.
        repeat: environment steps for which an action is held.
        settle: environment steps with `settle_action` after a reset.
        settle_action: in the environment's own units.
        simulator: attribute of the unwrapped environment that holds MuJoCo's ``model`` and ``data``.
        diverges_with: exceptions, ``module:Class``, by which the environment says that its simulation has
            blown up; the episode is then invalid.
        skip: methods, below the unwrapped environment, that draw pictures nobody looks at.
        surface: bodies or geometries that things stand on, for perturbations; empty if there are none.
        surface_textured: they have textures, which may be changed.
    """

    name: str
    source: str
    robot: Table[str, Any]
    action: tuple[Axis, ...]
    native: tuple[tuple[float, float], ...] | None
    state: tuple[Axis, ...]
    privileged_names: tuple[str, ...]
    views: tuple[View, ...]
    markers: Table[str, Vector]
    tasks: Table[str, Task]
    modules: tuple[str, ...] = ()
    install: str = ""
    envhub: Path | None = None
    repeat: int = 1
    settle: int = 0
    settle_action: tuple[float, ...] = ()
    simulator: str = ""
    diverges_with: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    surface: tuple[str, ...] = ()
    surface_textured: bool = False

    def view(self, name: str) -> View:
        """The view of a camera.

        Raises:
            ValueError: if there is none of that name, naming the nearest.
        """
        views = {view.name: view for view in self.views}
        if name not in views:
            raise ValueError(unknown(f"camera of suite {self.name!r}", name, list(views)))
        return views[name]

    def spec(self, cameras: Sequence[str], image_size: int) -> RobotSpec:
        """The robot contract with square pictures from these cameras."""
        return RobotSpec(
            **self.robot,
            action=self.action,
            state=self.state,
            cameras=tuple(Camera(self.view(name).name, image_size, image_size) for name in cameras),
        )


def read(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        MappingError: if the file cannot be read or does not make sense, naming file, key and nearest valid.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise MappingError(f"cannot read the mapping {path}: {error.strerror}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path} is not valid TOML: {error}") from error
    return _Reader(str(path)).mapping(data, path)


_SUITE = (
    *("name", "modules", "install", "envhub", "repeat", "settle", "settle_action", "simulator", "skip"),
    *("diverges_with", "surface", "surface_textured"),
    *("markers", "robot", "action", "state", "privileged", "cameras", "tasks"),
    *("id", "kwargs", "max_steps", "success"),  # for all tasks that give none of their own
)
_TASK = (
    "id", "kwargs", "max_steps", "success", "state", "privileged", "instruction", "train_phrases",
    "heldout_phrases", "instruction_from", "expert", "group", "index",
)  # fmt: skip


class _Reader:
    """Reads one file; every complaint names it."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, message: str) -> MappingError:
        return MappingError(f"{self.source}: {key}: {message}")

    def mapping(self, data: dict[str, Any], path: Path) -> Mapping:
        self.known(data, _SUITE, "")
        for key in ("robot", "action", "state", "cameras", "tasks"):
            if not isinstance(data.get(key), dict) or not data[key]:
                raise self.fail(key, "missing: a mapping has the tables robot, action, state, cameras, tasks")
        name = self.get(data, "name", str, path.stem)
        if not re.fullmatch(r"[\w.-]+", name):
            raise self.fail("name", f"{name!r} is not of letters, digits, '_', '-' and '.'")
        self.known(data["action"], ("axes", "native"), "action.")
        action = self.axes(data["action"], "action")
        self.known(data["state"], ("axes", "from"), "state.")
        state = self.axes(data["state"], "state")
        privileged = self.get(data, "privileged", dict, {})
        self.known(privileged, ("names", "from"), "privileged.")
        envhub = self.get(data, "envhub", str, "")
        settle = self.count(data, "settle", 0, least=0)
        return Mapping(
            name=name,
            source=self.source,
            robot=self.robot(data["robot"]),
            action=action,
            native=self.native(data["action"].get("native"), len(action)),
            state=state,
            privileged_names=self.texts(privileged, "names", "privileged."),
            views=tuple(self.view(key, table) for key, table in data["cameras"].items()),
            markers={
                site: Vector((self.place(f"markers.{site}", place),))
                for site, place in self.get(data, "markers", dict, {}).items()
            },
            tasks={key: self.task(key, table, data) for key, table in data["tasks"].items()},
            modules=self.texts(data, "modules"),
            install=self.get(data, "install", str, ""),
            envhub=(path.parent / envhub).absolute() if envhub else None,
            repeat=self.count(data, "repeat", 1),
            settle=settle,
            settle_action=self.numbers(data, "settle_action", len(action)) if settle else (),
            simulator=self.get(data, "simulator", str, ""),
            diverges_with=self.texts(data, "diverges_with"),
            skip=self.texts(data, "skip"),
            surface=self.texts(data, "surface"),
            surface_textured=self.get(data, "surface_textured", bool, False),
        )

    def robot(self, table: dict[str, Any]) -> dict[str, Any]:
        self.known(table, ("name", "control_mode", "control_rate_hz", "rotation", "gripper"), "robot.")
        mode = self.get(table, "control_mode", str, None, "robot.")
        if mode not in CONTROL_MODES:
            raise self.fail("robot.control_mode", unknown("control mode", mode, list(CONTROL_MODES)))
        rate = table.get("control_rate_hz")
        if rate is None or not _is_number(rate) or not rate > 0:
            raise self.fail("robot.control_rate_hz", f"{rate!r} is not a positive number")
        return {
            "name": self.get(table, "name", str, None, "robot."),
            "control_mode": mode,
            "control_rate_hz": float(rate),
            "rotation": self.get(table, "rotation", str, "none", "robot."),
            "gripper": self.get(table, "gripper", str, "none", "robot."),
        }

    def axes(self, table: dict[str, Any], key: str) -> tuple[Axis, ...]:
        rows = self.get(table, "axes", list, None, f"{key}.")
        axes = []
        for number, row in enumerate(rows):
            if (
                not isinstance(row, list)
                or [type(item) for item in row[:2]] != [str, str]
                or len(row) != 4
                or not all(map(_is_number, row[2:]))
                or not row[2] < row[3]
            ):
                raise self.fail(
                    f"{key}.axes[{number}]", f"{row!r} is not [name, unit, low, high] with low below high"
                )
            axes.append(Axis(row[0], row[1], float(row[2]), float(row[3])))
        names = [axis.name for axis in axes]
        if not axes or len(set(names)) != len(names):
            raise self.fail(f"{key}.axes", f"the names {names} are none, or not all different")
        return tuple(axes)

    def native(self, value: Any, dims: int) -> tuple[tuple[float, float], ...] | None:
        if value is None:
            return None
        pairs = [value] * dims if isinstance(value, list) and all(map(_is_number, value)) else value
        if (
            not isinstance(pairs, list)
            or len(pairs) != dims
            or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
            or not all(_is_number(number) for pair in pairs for number in pair)
        ):
            raise self.fail("action.native", f"{value!r} is neither [low, high] nor {dims} such pairs")
        return tuple((float(low), float(high)) for low, high in pairs)

    def view(self, name: str, table: Any) -> View:
        key = f"cameras.{name}"
        if not isinstance(table, dict):
            raise self.fail(key, f"{table!r} is not a table")
        self.known(table, (*VIEWS, "rotate", "flip"), f"{key}.")
        kinds = [kind for kind in VIEWS if kind in table]
        if len(kinds) != 1:
            raise self.fail(key, f"gives {kinds or 'nothing'}, expected one of {', '.join(VIEWS)}")
        kind, source = kinds[0], ""
        place: tuple[float, ...] = ()
        if kind == "free":
            place = self.free(f"{key}.free", table["free"])
        else:
            source = self.get(table, kind, str, None, f"{key}.")
        rotate, flip = table.get("rotate", 0), table.get("flip", "none")
        if rotate not in (0, 90, 180, 270):
            raise self.fail(f"{key}.rotate", f"{rotate!r} is not 0, 90, 180 or 270 degrees")
        if flip not in ("none", "vertical", "horizontal"):
            raise self.fail(f"{key}.flip", f"{flip!r} is not none, vertical or horizontal")
        return View(name, kind, source, place, rotate, flip)

    def free(self, key: str, table: Any) -> tuple[float, ...]:
        names = ("distance", "azimuth", "elevation", "lookat")
        if not isinstance(table, dict) or set(table) != set(names):
            raise self.fail(key, f"{table!r} does not give exactly {', '.join(names)}")
        at = table["lookat"]
        numbers = [*(table[name] for name in names[:3]), *(at if isinstance(at, list) else [at])]
        if len(numbers) != 6 or not all(map(_is_number, numbers)):
            raise self.fail(key, "distance, azimuth and elevation are numbers, lookat is three of them")
        return tuple(map(float, numbers))

    def task(self, name: str, table: Any, data: dict[str, Any]) -> Task:
        prefix = f"tasks.{name}."
        if not isinstance(table, dict):
            raise self.fail(f"tasks.{name}", f"{table!r} is not a table")
        self.known(table, _TASK, prefix)
        kwargs = {**self.get(data, "kwargs", dict, {}), **self.get(table, "kwargs", dict, {}, prefix)}
        merged = {**{key: data[key] for key in ("id", "max_steps", "success") if key in data}, **table}
        identity = self.get(merged, "id", str, "", prefix)
        if bool(identity) == ("envhub" in data):
            raise self.fail(
                f"{prefix}id", "a task has the id of an environment, or the mapping has an envhub"
            )
        dynamic = self.get(table, "instruction_from", str, "", prefix)
        return Task(
            name=name,
            instruction=self.get(table, "instruction", str, None, prefix),
            train_phrases=self.texts(table, "train_phrases", prefix),
            heldout_phrases=self.texts(table, "heldout_phrases", prefix),
            id=identity,
            kwargs=kwargs,
            max_steps=self.count(merged, "max_steps", None, prefix=prefix),
            success=self.success(self.get(merged, "success", str, None, prefix), f"{prefix}success"),
            state=self.vector(table.get("state", data["state"].get("from")), f"{prefix}state"),
            privileged=self.vector(
                table.get("privileged", data.get("privileged", {}).get("from", [])), f"{prefix}privileged"
            ),
            instruction_from=self.place(f"{prefix}instruction_from", dynamic) if dynamic else None,
            expert=self.get(table, "expert", str, "", prefix),
            group=self.get(table, "group", str, "", prefix),
            index=self.count(table, "index", 0, least=0, prefix=prefix),
        )

    def success(self, text: str, key: str) -> Success:
        place, sign, number = (*re.split(r"\s*(>=|<=)\s*", text, maxsplit=1), "", "")[:3]
        if not sign:
            return Success(self.place(key, place))
        try:
            limit = float(number)
        except ValueError:
            raise self.fail(key, f"{text!r} does not end in a number") from None
        least, most = (limit, math.inf) if sign == ">=" else (-math.inf, limit)
        return Success(self.place(key, place), least, most)

    def vector(self, value: Any, key: str) -> Vector:
        if not isinstance(value, list):
            raise self.fail(key, f"{value!r} is not a list of places such as 'observation.agent_pos[0:2]'")
        return Vector(tuple(self.place(key, text) for text in value))

    def place(self, key: str, text: Any) -> Place:
        match = isinstance(text, str) and re.fullmatch(
            r"(?P<root>\w+)(?P<keys>(?:\.[^.\[\]?]+)*)(?:\[(?P<first>\d+)(?P<colon>:(?P<stop>\d+))?\])?(?P<q>\?)?",
            text,
        )
        if not match:
            raise self.fail(
                key, f"{text!r} is not a place such as 'observation.agent_pos[0:2]' or 'info.success'"
            )
        root, keys = match["root"], tuple(match["keys"].split(".")[1:])
        if root not in ROOTS:
            raise self.fail(key, unknown("kind of place", root, list(ROOTS)))
        if root in ("mujoco", "attribute", "info") and not keys:
            raise self.fail(key, f"{text!r}: {root} of what?")
        first = int(match["first"] or 0)
        stop = int(match["stop"]) if match["colon"] else first + 1 if match["first"] else None
        return Place(text, root, keys, first, stop, bool(match["q"]))

    def known(self, table: dict[str, Any], keys: Sequence[str], prefix: str) -> None:
        for key in table:
            if key not in keys:
                raise self.fail(f"{prefix}{key}", unknown("setting", key, list(keys)))

    def get(self, table: dict[str, Any], key: str, kind: type, default: Any, prefix: str = "") -> Any:
        value = table.get(key, default)
        if value is None:
            raise self.fail(f"{prefix}{key}", "missing, and it has no default")
        if not isinstance(value, kind):
            raise self.fail(
                f"{prefix}{key}", f"{value!r} is a {type(value).__name__}, expected {_WORDS[kind]}"
            )
        return value

    def count(
        self, table: dict[str, Any], key: str, default: int | None, least: int = 1, prefix: str = ""
    ) -> int:
        value = table.get(key, default)
        if type(value) is not int or value < least:
            raise self.fail(f"{prefix}{key}", f"{value!r} is not a whole number of at least {least}")
        return value

    def texts(self, table: dict[str, Any], key: str, prefix: str = "") -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(f"{prefix}{key}", f"{value!r} is not a list of texts")
        return tuple(value)

    def numbers(self, table: dict[str, Any], key: str, dims: int) -> tuple[float, ...]:
        value = table.get(key)
        if not isinstance(value, list) or len(value) != dims or not all(map(_is_number, value)):
            raise self.fail(key, f"{value!r} is not a list of {dims} numbers, one for each action dimension")
        return tuple(map(float, value))


_WORDS: dict[Any, str] = {str: "a text in quotes", dict: "a table", list: "a list"}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


assert {entry.name for entry in dataclasses.fields(Task)} >= set(_TASK) - {"name"}, "every key has a field"

"""`regrip envs`: every task there is, on a page of pictures; `regrip envs show TASK`: one seen closely.

`regrip envs skeleton ID` prints the beginning of a mapping for a Gymnasium environment of the user's own.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from ..datasets.starts import StartState
from ..sim.demonstrate import demonstrate
from ..sim.worker_process import ask
from . import environments
from .config import parse_options
from .durable import explain, write_durably
from .environments import EnvConfig
from .report import template
from .videos import write_mp4

_COLUMNS = 6


@dataclass(frozen=True)
class ListOptions:
    """`regrip envs`.

    Attributes:
        env: one simulator by name; all that can run here if none is given.
        suite: one of its suites; all if none is given.
        size: of a picture, pixels.
        out: folder of the page.
    """

    env: str = ""
    suite: str = ""
    size: int = 192
    out: Path = Path("runs/envs")


@dataclass(frozen=True)
class ShowOptions:
    """`regrip envs show`.

    Attributes:
        task: ``suite/task``, as `regrip envs` lists them; of a mapping of your own ``path/to/my.toml/task``.
        env: the simulator; the one that has the suite if none is given (of the tabletop's, not genesis).
        starts: how many start states.
        size: of a picture, pixels.
        out: folder of the contact sheet and the video.
    """

    task: tyro.conf.Positional[str]
    env: str = ""
    starts: int = 24
    size: int = 192
    out: Path = Path("runs/envs")


@dataclass(frozen=True)
class SkeletonOptions:
    """`regrip envs skeleton`.

    Attributes:
        wanted: the environment's id; or the path of a file or folder with a `make_env`, whose code is run.
        modules: Python modules to import first, because they register the id.
    """

    wanted: tyro.conf.Positional[str]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A task on the page."""

    task: str
    instruction: str
    picture: str


def main(args: Sequence[str]) -> int:
    if args and args[0] == "show":
        about = "Start states of a task as a contact sheet, and its expert as a video."
        return show(parse_options(ShowOptions, args[1:], prog="regrip envs show", description=about))
    if args and args[0] == "skeleton":
        about = "Print the beginning of a mapping for a Gymnasium environment (docs/gymnasium.md)."
        return skeleton(
            parse_options(SkeletonOptions, args[1:], prog="regrip envs skeleton", description=about)
        )
    about = "List every task, with a picture of each. `regrip envs show TASK` looks at one."
    return list_tasks(parse_options(ListOptions, args, prog="regrip envs", description=about))


def list_tasks(options: ListOptions) -> int:
    """Print every task and write a page with pictures of all; what cannot be opened is left out, and said."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    sections: list[tuple[str, list[Card]]] = []
    failed = False
    if options.env:
        environments.require_known(options.env, list(environments.FACTORIES), "simulator")
    # What plays the tabletop's suites over again is shown when it is asked for.
    names = [name for name in environments.FACTORIES if name not in environments.IN_PROCESS]
    for name in [options.env] if options.env else names:
        try:
            environments.interpreter(EnvConfig(name=name))  # type: ignore[arg-type]
        except FileNotFoundError as error:
            if options.env:
                raise
            console.print(f"{name} is left out: {error}", highlight=False)
            continue
        for suite in [options.suite] if options.suite else suites(name):
            config = EnvConfig(name=name, suite=suite, image_size=options.size)  # type: ignore[arg-type]
            try:
                cards = draw_cards(environments.native(config))
            except (OSError, RuntimeError, ValueError) as error:
                if options.env:
                    raise
                failed = True
                console.print(f"{name}, suite {suite}, is left out: {error}", highlight=False)
                continue
            sections.append((f"{name}, {suite}", cards))
            table = Table(title=sections[-1][0], title_justify="left")
            table.add_column("task")
            table.add_column("instruction")
            for card in cards:
                table.add_row(card.task, card.instruction)
            console.print(table)
    page = options.out / "index.html"
    make_folder(options.out)
    write_durably(page, template("envs.html").render(sections=sections).encode())
    print(f"page: {page}")
    return int(failed)


def suites(name: str) -> list[str]:
    found: dict[str, Any] = importlib.import_module(environments.CATALOGUES[name]).SUITES
    return list(found)


def simulator_of(suite: str) -> str:
    """The one that has a suite of this name; what plays another's suites over again is not meant.

    Raises:
        ValueError: if none has, naming the nearest.
    """
    if suite.endswith(".toml"):
        return "gymnasium"
    names = [name for name in environments.FACTORIES if name not in environments.IN_PROCESS]
    home = {one: name for name in names for one in suites(name)}
    environments.require_known(suite, list(home), "suite")
    return home[suite]


def draw_cards(config: EnvConfig) -> list[Card]:
    """The first training start of each task."""
    starts = [StartState(task, "train", 0) for task in environments.task_names(config)]
    pictures, sentences = first_pictures(config, starts)
    return [
        Card(start.task, sentence, base64.b64encode(png(picture)).decode())
        for start, picture, sentence in zip(starts, pictures, sentences, strict=True)
    ]


def first_pictures(
    config: EnvConfig, starts: Sequence[StartState]
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """What the first camera sees at the beginning of each episode, and what is said."""
    slots = list(range(len(starts)))
    with environments.open_pool(dataclasses.replace(config, slots=len(starts)), chunk_size=1) as pool:
        pool.reset(slots, starts)
        seen = pool.receive(slots).observation
        camera = pool.spec.cameras[0].name
        return [picture.copy() for picture in seen.images[camera]], list(seen.instruction)


def show(options: ShowOptions) -> int:
    """Write a contact sheet of a task's start states and a video of its expert; both of the train split."""
    suite, task = split_task(options.task)
    env = options.env or simulator_of(suite)
    environments.require_known(env, list(environments.FACTORIES), "simulator")
    config = EnvConfig(name=env, suite=suite, tasks=(task,), image_size=options.size)  # type: ignore[arg-type]
    [name] = environments.task_names(config)  # refuses what does not exist before anything is started
    config = environments.native(config)
    starts = [StartState(name, "train", index) for index in range(options.starts)]
    pictures, sentences = first_pictures(config, starts)
    make_folder(options.out)
    sheet = options.out / f"{env}-{name.replace('/', '-')}.png"
    write_durably(sheet, png(contact_sheet(pictures)))
    print(f"{name}: {sentences[0]}\n{len(starts)} start states: {sheet}")
    if not environments.has_expert(config, name):
        print("nobody demonstrates this task: it has no scripted expert")
        return 0
    one = dataclasses.replace(config, slots=1, workers=1)
    with environments.open_pool(one, chunk_size=1, expert=True) as pool:
        demonstration = demonstrate(pool, starts[:1], behaviour="expert", key=("envs",))[0]
        rate_hz = Fraction(pool.spec.control_rate_hz).limit_denominator(1000)
        camera = pool.spec.cameras[0].name
    video = sheet.with_suffix(".mp4")
    write_mp4(video, demonstration.episode.images[camera], rate_hz)
    ended = "succeeds" if demonstration.episode.outcome.success else "FAILS"
    print(f"the expert {ended} after {len(demonstration.episode)} steps: {video}")
    return 0


def split_task(text: str) -> tuple[str, str]:
    """The suite, by name or as the path of a .toml file, and the task.

    Raises:
        ValueError: if there are not both.
    """
    file, dot, task = text.rpartition(".toml/")
    suite = f"{file}.toml" if dot else ""
    if not dot:
        suite, _, task = text.partition("/")
    if not suite or not task:
        raise ValueError(
            f"task {text!r} is not of the form suite/task, for instance demo/lift_red or my.toml/stack: "
            "`regrip envs` lists all"
        )
    return suite, task


def skeleton(options: SkeletonOptions) -> int:
    """Print a mapping to fill in, made by the workers' interpreter from the environment's spaces."""
    python = environments.interpreter(EnvConfig(name="gymnasium"))
    print(ask(python, ".sim.gym.skeleton", [options.wanted, *options.modules]), end="")
    return 0


def contact_sheet(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (h,w,3) in rows of six, with a gap of two white pixels."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // _COLUMNS)
    sheet = np.full((rows * (height + 2) - 2, _COLUMNS * (width + 2) - 2, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, _COLUMNS)
        top, left = row * (height + 2), column * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, "write", folder) from error

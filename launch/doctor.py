"""`regrip doctor`: try what regrip needs on this machine, and say what is missing and what to install."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .config import parse_options

Verdict = Literal["ok", "missing", "wrong", "optional"]

# One frame of one red box, in a process of its own: a renderer that is not there may abort the process.
_RENDER_ONE_FRAME = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='box' size='.2 .2 .2' rgba='1 0 0 1'/>"
    "<camera name='c' pos='0 -1 1' xyaxes='1 0 0 0 1 1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 48) as renderer:
    renderer.update_scene(data, camera="c")
    frame = renderer.render()
    from OpenGL import GL
    print((GL.glGetString(GL.GL_RENDERER) or b"OpenGL").decode())
assert frame[..., 0].max() > 60, "the frame is empty"
"""
_RENDER_TIMEOUT_S = 120.0
_DEBIAN_EGL = "apt-get install libegl1 libgl1 libgles2 libgl1-mesa-dri"
_DEBIAN_OSMESA = "apt-get install libosmesa6"
_MARKS: dict[Verdict, str] = {
    "ok": "[green]ok[/]",
    "missing": "[red]MISSING[/]",
    "wrong": "[red]WRONG[/]",
    "optional": "[yellow]-[/]",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        name: of the thing.
        verdict: ``ok``; ``missing`` if regrip cannot work well without it; ``wrong`` if it is there but may
            not be trusted; ``optional`` if only some uses need it.
        detail: what was seen.
        advice: what to do, if it is not ok.
    """

    name: str
    verdict: Verdict
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Options:
    """`regrip doctor`.

    Attributes:
        numerics: also check the arithmetic of policy and learner (some seconds).
        policy: check that of this policy folder, or policy that ships with regrip, instead of small policies
            of random weights.
    """

    numerics: bool = True
    policy: str | None = None


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip doctor", description="Say what is missing on this machine."
    )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    findings: list[Finding] = []
    sections: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("machine", machine_checks),
        ("rendering", rendering_checks),
        ("video, GPU, robots", optional_checks),
    ]
    if options.numerics:
        sections.append(("numerics", partial(numerics_checks, options.policy)))
    for title, check in sections:
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for finding in check():
            findings.append(finding)
            table.add_row(_MARKS[finding.verdict], finding.name, escape(finding.detail))
        if table.rows:
            console.print(table)
            console.print()
    todo = [finding for finding in findings if finding.advice and finding.verdict != "ok"]
    for finding in sorted(todo, key=lambda finding: finding.verdict):
        need = {"missing": "needed", "wrong": "wrong"}.get(finding.verdict, "optional")
        console.print(f"{need}, {finding.name}: {finding.advice}", highlight=False, markup=False)
    bad = [finding.name for finding in findings if finding.verdict in ("missing", "wrong")]
    print(f"not ready: {', '.join(bad)}" if bad else "ready")
    return 1 if bad else 0


def machine_checks() -> Iterator[Finding]:
    """Python, cores, memory, disk, shared memory, write access."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    if quota is not None and quota < cores:
        yield Finding("cores", "ok", f"{cores} visible, but this container may use {quota:g}")
    elif cores == 1:
        yield Finding("cores", "optional", "1", "one core works, but simulation and learning then take turns")
    else:
        yield Finding("cores", "ok", str(cores))
    memory = psutil.virtual_memory()
    yield _enough(
        "memory", memory.available / 1e9, 4.0, "free", "close other programs, or use fewer --workers"
    )
    yield _enough(
        "disk here",
        shutil.disk_usage(".").free / 1e9,
        5.0,
        "free",
        "runs and checkpoints need room; free some",
    )
    temporary = Path(tempfile.gettempdir())
    yield _enough(
        f"disk {temporary}", shutil.disk_usage(temporary).free / 1e9, 0.5, "free", "free some, or set TMPDIR"
    )
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield _enough(
            "shared memory",
            shutil.disk_usage(shared).free / 1e9,
            0.25,
            "free in /dev/shm",
            "the workers' images go there; in a container start it with --shm-size=1g",
        )
    for place in (Path.cwd(), temporary):
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
            yield Finding(f"write to {place}", "ok", "yes")
        except OSError as error:
            yield Finding(
                f"write to {place}", "missing", str(error.strerror), "go to a directory you can write to"
            )


def rendering_checks() -> Iterator[Finding]:
    """Really render a frame with each of MuJoCo's headless backends."""
    chosen = os.environ.get("MUJOCO_GL")
    works: dict[str, str] = {}
    why: dict[str, str] = {}
    for backend in ("egl", "osmesa"):
        done, words = _render(backend)
        if done:
            works[backend] = words
        else:
            why[backend] = words
    for backend, install in (("egl", _DEBIAN_EGL), ("osmesa", _DEBIAN_OSMESA)):
        if backend in works:
            yield Finding(backend.upper(), "ok", f"rendered a frame with {works[backend]}")
            continue
        # One of the two is enough; EGL is the one that is used unless MUJOCO_GL says otherwise.
        need: Verdict = "missing" if backend == (chosen or "egl") else "optional"
        yield Finding(
            backend.upper(), need, f"cannot render: {why[backend]}", f"on Debian or Ubuntu: {install}"
        )
    if chosen and chosen not in ("egl", "osmesa"):
        yield Finding(
            "MUJOCO_GL", "optional", chosen, "needs a screen; without one: unset MUJOCO_GL, or set it to egl"
        )


def optional_checks() -> Iterator[Finding]:
    """What only some uses need."""
    yield _video()
    yield _gpu()
    yield _program(
        "ffmpeg program", "ffmpeg", "only for making videos by hand; regrip brings its own codec",
        "apt-get install ffmpeg",
    )  # fmt: skip
    yield _ros2()
    yield _ros1()


def numerics_checks(name: str | None = None) -> Iterator[Finding]:
    """Check the arithmetic of policy and learner, by default on small policies of random weights.

    Args:
        name: a policy folder, or a policy that ships with regrip.

    Raises:
        CheckpointError: if there is no such policy.
    """
    import torch

    from ..vla.numerics import self_check, tiny_policy
    from .policies import open_policy

    if name is None:
        torch.set_num_threads(1)  # these are so small that threads would only wait for each other
        policies = {"flow head": tiny_policy("flow"), "token head": tiny_policy("tokens")}
    else:
        policies = {Path(name).name: open_policy(name)[0]}
    for label, policy in policies.items():
        for check in self_check(policy):
            yield Finding(
                f"{label}: {check.name}",
                "ok" if check.passed else "wrong",
                check.detail,
                "do not train with it; install the versions in constraints.txt, then ask again",
            )


def _render(backend: str) -> tuple[bool, str]:
    """Whether one frame came out, and the renderer's name or the reason."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RENDER_ONE_FRAME],
            env={**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend},
            capture_output=True,
            text=True,
            timeout=_RENDER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no frame within {_RENDER_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return True, done.stdout.strip()
    if done.returncode < 0:
        return False, f"the process died of signal {-done.returncode}"
    library = {"egl": "EGL", "osmesa": "OSMesa"}[backend]
    if ctypes.util.find_library(library) is None:
        return False, f"the library lib{library} is not installed"
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    return False, lines[-1][:160] if lines else f"exit status {done.returncode}"


def _video() -> Finding:
    """Encode and decode some frames."""
    from fractions import Fraction

    import av
    import numpy as np

    from .videos import write_mp4

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        try:
            write_mp4(path, np.zeros((5, 64, 64, 3), np.uint8), Fraction(10))
            with av.open(str(path)) as file:
                count = sum(1 for _ in file.decode(video=0))
        except (RuntimeError, ValueError) as error:
            return Finding("video codec", "missing", str(error), "pip install --force-reinstall av")
    return Finding("video codec", "ok", f"H.264 through av {av.__version__}, {count} frames there and back")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        driver = "an NVIDIA driver is there" if shutil.which("nvidia-smi") else "no NVIDIA driver found"
        return Finding(
            "GPU", "optional", f"none; {driver}, torch {torch.__version__}",
            "everything runs on the CPU; for --device cuda install the driver and a torch built for it",
        )  # fmt: skip
    try:
        total = float((torch.ones(256, 256, device="cuda") @ torch.ones(256, 256, device="cuda")).sum())
    except RuntimeError as error:
        return Finding(
            "GPU", "optional", f"found, but does not compute: {error}", "match driver and torch versions"
        )
    properties = torch.cuda.get_device_properties(0)
    bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
    words = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16} bfloat16"
    good = total == 256.0**3
    return Finding("GPU", "ok" if good else "optional", words, "" if good else "its matrix product is wrong")


def _ros2() -> Finding:
    """ROS 2 is reached through CycloneDDS; an installed distribution is not needed."""
    distribution = os.environ.get("ROS_DISTRO") if os.environ.get("ROS_VERSION") == "2" else None
    version = _version("cyclonedds")
    if version:
        where = f", ROS 2 {distribution} sourced" if distribution else ""
        return Finding("ROS 2", "ok", f"cyclonedds {version}{where}")
    seen = f"ROS 2 {distribution} sourced, but no cyclonedds" if distribution else "no cyclonedds"
    return Finding("ROS 2", "optional", seen, "only to run a robot: pip install 'regrip[ros]'")


def _ros1() -> Finding:
    """Ask the ROS 1 master, if one is configured, whether it is there."""
    uri = os.environ.get("ROS_MASTER_URI")
    if not uri:
        return Finding(
            "ROS 1",
            "optional",
            "ROS_MASTER_URI is not set",
            "only for a ROS 1 robot: export ROS_MASTER_URI",
        )
    address = uri.split("//", 1)[-1].split("/", 1)[0]
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port or 11311)), timeout=3.0):
            return Finding("ROS 1", "ok", f"a master answers at {address}")
    except (OSError, ValueError) as error:
        return Finding(
            "ROS 1", "optional", f"no master at {address}: {error}", "start roscore, or mend ROS_MASTER_URI"
        )


def _program(name: str, program: str, purpose: str, install: str) -> Finding:
    path = shutil.which(program)
    return (
        Finding(name, "ok", path) if path else Finding(name, "optional", "not found", f"{purpose}: {install}")
    )


def _enough(name: str, amount: float, least: float, unit: str, advice: str) -> Finding:
    words = f"{amount:.1f} GB {unit}"
    if amount >= least:
        return Finding(name, "ok", words)
    return Finding(name, "missing", f"{words}, at least {least:g} GB is wanted", advice)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cgroup_cores() -> float | None:
    """How many cores a container's quota allows; None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None

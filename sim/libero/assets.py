"""The meshes and textures of LIBERO, which its packages on PyPI do not carry: the user gives their folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

VARIABLE = "REGRIP_LIBERO_ASSETS"
_FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)
_SHOWN = 5
_WHERE = (
    "It is the folder libero/libero/assets of the LIBERO repository (Lifelong-Robot-Learning/LIBERO), which "
    "its packages on PyPI lack (docs/libero.md)"
)


def folder() -> Path:
    """Where the assets are.

    Raises:
        FileNotFoundError: if the user did not say, or what was said is not a folder of assets.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        raise FileNotFoundError(f"LIBERO needs its assets: set {VARIABLE} to their folder. {_WHERE}")
    found = Path(given).expanduser().absolute()
    missing = [name for name in _FOLDERS if not (found / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{VARIABLE} is {found}, which is not a folder of LIBERO's assets: it has no "
            f"{', '.join(missing)}. {_WHERE}"
        )
    return found


def require_files(xml: str, assets: Path) -> None:
    """Refuse a model some of whose files are not there.

    Args:
        xml: the complete model, naming files by absolute paths.
        assets: for the message.

    Raises:
        FileNotFoundError: naming the first missing files.
    """
    named = {Path(name) for name in re.findall(r'\bfile="([^"]+)"', xml)}
    missing = sorted(str(path) for path in named if not path.exists())
    if missing:
        raise FileNotFoundError(lacking(missing, assets))


def lacking(missing: list[str], assets: Path) -> str:
    """The message for files that are not in the folder of assets."""
    shown = [name.removeprefix(f"{assets}/") for name in missing[:_SHOWN]]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return f"LIBERO's assets in {assets} lack {', '.join(shown)}{more}. {_WHERE}"

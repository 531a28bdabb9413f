"""What LeRobot's `meta/` says of a set, every field checked: info.json, features, lines of JSON, paths."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..contents_json import DTYPES
from ..ledger import DataError, Problem
from ..recording import StreamSpec
from ..video import MAX_PIXELS, DepthCode

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_KNOWN = ("codebase_version", "fps", "features", "robot_type", "data_path", "video_path", "total_episodes",
          "total_frames", "total_tasks", "total_videos", "total_chunks", "chunks_size", "splits",
          "data_files_size_in_mb", "video_files_size_in_mb")  # fmt: skip
_MAX_JSON = 64 << 20
_MAX_LINE = 16 << 20
_EDITED = "the file is damaged or was edited: take it from its source again"


@dataclass(frozen=True)
class Feature:
    """One entry of ``features``.

    Attributes:
        spec: the stream it becomes.
        storage: ``column`` (numbers or text in parquet), ``image`` (files in parquet), ``video`` or
            ``language`` (lists of records in parquet).
        depth: what a depth video's codes mean.
    """

    spec: StreamSpec
    storage: str
    depth: DepthCode | None = None


@dataclass
class Info:
    """info.json.

    Attributes:
        version: (major, minor) of the format.
        fps: frames per second.
        robot: its name, or ``""``.
        features: by key, without the bookkeeping.
        data_path: template, or ``""``.
        video_path: template, or ``""``.
        chunks_size: episodes (v2) or files (v3) in a folder.
        totals: ``total_episodes`` and the like, as far as they are numbers.
        rest: keys that this module does not know, and ``splits``.
        problems: what was odd.
    """

    version: tuple[int, int]
    fps: float
    robot: str
    features: dict[str, Feature]
    data_path: str
    video_path: str
    chunks_size: int
    totals: dict[str, int]
    rest: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)


def looks_like(root: Path, major: int) -> bool:
    """Whether a folder holds a LeRobot set of this major version."""
    try:
        version = read_json(root / "meta" / "info.json").get("codebase_version")
    except (DataError, OSError):
        return False
    return isinstance(version, str) and version.lstrip("v").split(".")[0] == str(major)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DataError: there is none, it is none, or it is too large to be one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1)
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror})", "check the path", file=path) from error
    if len(data) > _MAX_JSON:
        raise DataError(f"more than {_MAX_JSON >> 20} MiB of JSON", _EDITED, file=path)
    found = parse_json(data, path)
    if not isinstance(found, dict):
        raise DataError(f"it holds a JSON {type(found).__name__}, expected an object", _EDITED, file=path)
    return found


def parse_json(data: bytes, path: Path, line: int | None = None) -> Any:
    try:
        found = json.loads(data)
        if b"\\ud" in data.lower():  # half of a surrogate pair cannot be written anywhere again
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        where = "" if line is None else f"line {line}: "
        raise DataError(f"{where}no valid JSON ({error})", _EDITED, file=path) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line.

    Raises:
        DataError: it cannot be read, or a line is no object.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(_MAX_LINE):
                number += 1
                if not data.strip():
                    continue
                found = parse_json(data, path, number)
                if not isinstance(found, dict):
                    raise DataError(f"line {number} is no JSON object", _EDITED, file=path)
                yield found
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror})", "check the path", file=path) from error


def read_info(root: Path) -> Info:
    """Read and check info.json.

    Raises:
        DataError: a field that reading needs is missing or senseless.
    """
    path = root / "meta" / "info.json"
    data = read_json(path)
    version = data.get("codebase_version")
    match = re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})(\.\d+)?", version) if isinstance(version, str) else None
    if match is None:
        raise DataError(
            f"codebase_version is {version!r}",
            "expected v2.0, v2.1 or v3.0",
            file=path,
            key="codebase_version",
        )
    fps = data.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise DataError(f"fps is {fps!r}", "write the frames per second into info.json", file=path, key="fps")
    declared = data.get("features")
    if not isinstance(declared, dict):
        raise DataError("features is missing or no object", _EDITED, file=path, key="features")
    problems: list[Problem] = []
    if not isinstance(fps, int):
        problems.append(
            Problem(f"fps is {fps!r}, LeRobot's is an integer", "read as it is", True, str(path), key="fps")
        )
    features = {}
    for key, value in declared.items():
        if key in BOOKKEEPING:
            continue
        features[key] = _feature(key, value, float(fps), path, problems)
    chunks = data.get("chunks_size", 1000)
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise DataError(
            f"chunks_size is {chunks!r}", "expected a number above 0", file=path, key="chunks_size"
        )
    robot = data.get("robot_type")
    return Info(
        version=(int(match[1]), int(match[2])),
        fps=float(fps),
        robot=robot if isinstance(robot, str) else "",
        features=features,
        data_path=_template(data, "data_path", path),
        video_path=_template(data, "video_path", path),
        chunks_size=chunks,
        totals={k: v for k, v in data.items() if k.startswith("total_") and type(v) is int},
        rest={k: v for k, v in data.items() if k not in _KNOWN or k == "splits"},
        problems=problems,
    )


def _template(data: Mapping[str, Any], key: str, path: Path) -> str:
    value = data.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > 1000):
        raise DataError(f"{key} is {value!r:.80}", "expected a path", file=path, key=key)
    return value or ""


def _feature(key: str, value: Any, fps: float, path: Path, problems: list[Problem]) -> Feature:
    """One feature as a stream; legacy forms are repaired and reported."""
    if not isinstance(value, dict) or not key or len(key) > 200:
        raise DataError(f"the feature {key!r:.60} is described by {value!r:.60}", _EDITED, file=path, key=key)
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str):
        raise DataError(f"its dtype is {dtype!r:.60}", _EDITED, file=path, key=key)
    info = value.get("info")
    if "video_info" in value and not info:
        info = value["video_info"]
        problems.append(_legacy("its description is called video_info, as before v2.1", path, key))
    info = info if isinstance(info, dict) else {}
    about: dict[str, Any] = {"dtype": dtype, "time": "nominal"} | ({"info": info} if info else {})
    if dtype in ("string", "language"):
        return Feature(
            StreamSpec(key, "text", "str", (), rate_hz=fps, about=about),
            "column" if dtype == "string" else "language",
        )
    sizes = _shape(shape, path, key)
    if dtype in ("image", "video"):
        return _picture(key, dtype, sizes, value.get("names"), info, fps, about, path, problems)
    if dtype not in DTYPES:
        raise DataError(
            f"its dtype is {dtype!r:.60}", f"expected one of {', '.join(DTYPES)}", file=path, key=key
        )
    if math.prod(sizes) > 1 << 27 or len(sizes) > 6:
        raise DataError(f"its shape is {list(sizes)}", _EDITED, file=path, key=key)
    row = () if sizes == (1,) else sizes
    names, odd = _names(value.get("names"), math.prod(sizes))
    if odd:
        about["names"] = value["names"]
        problems.append(_legacy(f"its names are {odd}", path, key, repaired=bool(names)))
    if key in ("next.reward", "next.success", "next.done", "next.truncated"):
        about["meaning"] = f"after this step: {key.removeprefix('next.')}"
    if len(sizes) > 1 or row == ():
        about, names = about | ({"names": list(names)} if names else {}), ()
    return Feature(StreamSpec(key, "vector", dtype, row, names, rate_hz=fps, about=about), "column")


def _picture(
    key: str, dtype: str, shape: tuple[int, ...], names: Any, info: Mapping[str, Any], fps: float,
    about: dict[str, Any], path: Path, problems: list[Problem],
) -> Feature:  # fmt: skip
    if len(shape) == 2:
        shape = (*shape, 1)
    labels = [str(name).rstrip("s") for name in names] if isinstance(names, list) else []
    if len(shape) != 3:
        raise DataError(f"a picture of shape {list(shape)}", "expected (H,W,C)", file=path, key=key)
    last = labels[2:3] == ["channel"] or (labels[:1] != ["channel"] and shape[2] in (1, 3, 4))
    if not last:
        if shape[0] not in (1, 3, 4):
            raise DataError(
                f"a picture of shape {list(shape)}, names {names!r:.60}",
                "expected (H,W,C)",
                file=path,
                key=key,
            )
        shape = (*shape[1:], shape[0])
        problems.append(_legacy(f"its shape has channels first; read as {list(shape)}", path, key))
    if isinstance(names, dict):
        problems.append(_legacy("its names are an object", path, key))
    if shape[2] not in (1, 3, 4) or 0 in shape or shape[0] * shape[1] > MAX_PIXELS:
        raise DataError(f"a picture of shape {list(shape)}", "expected (H,W,3)", file=path, key=key)
    rate = info.get("video.fps")
    if isinstance(rate, int | float) and dtype == "video" and rate != fps:
        problems.append(
            Problem(
                f"its video is said to have {rate} frames per second, the set {fps:g}",
                "frames are found by their time in the file, as LeRobot does",
                True,
                str(path),
                key=key,
            )
        )
    mapped = info.get("is_depth_map", info.get("video.is_depth_map", False)) is True
    if mapped or (shape[2] == 1 and dtype == "image"):
        unit = str(info.get("depth_unit", "m" if mapped else "unknown"))
        code = None
        if dtype == "video":
            code = _depth_code(info, unit, path, key)
        about["unit"] = unit
        spec = StreamSpec(key, "depth", "float32" if code else "uint16", shape[:2], rate_hz=fps, about=about)
        return Feature(spec, dtype, code)
    codec = info.get("video.codec")
    about["codec"] = (codec if isinstance(codec, str) else "video") if dtype == "video" else "png"
    return Feature(StreamSpec(key, "image", "uint8", (*shape[:2], 3), rate_hz=fps, about=about), dtype)


def _depth_code(info: Mapping[str, Any], unit: str, path: Path, key: str) -> DepthCode:
    def number(name: str, usual: float) -> float:
        value = info.get(f"video.{name}", info.get(name, usual))
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
            raise DataError(f"{name} is {value!r:.40}", "expected a distance in metres", file=path, key=key)
        return float(value)

    code = DepthCode(
        number("depth_min", 0.01),
        number("depth_max", 10.0),
        number("shift", 3.5),
        info.get("video.use_log", info.get("use_log", True)) is not False,
        "mm" if unit == "mm" else "m",
    )
    if not code.nearest_m < code.farthest_m or (code.log and code.nearest_m + code.shift_m <= 0):
        raise DataError(
            f"depth from {code.nearest_m} to {code.farthest_m} m, shift {code.shift_m}",
            "expected depth_min below depth_max, and both above -shift",
            file=path,
            key=key,
        )
    return code


def _shape(value: Any, path: Path, key: str) -> tuple[int, ...]:
    good = isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 31 for size in value)
    if not good or len(value) > 8:
        raise DataError(f"its shape is {value!r:.60}", "expected a list of sizes", file=path, key=key)
    return tuple(value) or (1,)


def _names(value: Any, count: int) -> tuple[tuple[str, ...], str]:
    """Names of a vector's entries out of any form they ever had, and what was odd of it."""
    odd = ""
    if value is None or value == []:
        return (), ""
    if isinstance(value, dict):
        odd = "an object"
        if all(type(index) is int for index in value.values()):
            value = sorted(value, key=lambda name: value[name])
        else:
            value = [one for part in value.values() for one in (part if isinstance(part, list) else [part])]
    if isinstance(value, list) and any(isinstance(one, list) for one in value):
        odd = odd or "lists in a list"
        value = [one for part in value for one in (part if isinstance(part, list) else [part])]
    if not isinstance(value, list) or len(value) != count or not all(isinstance(x, str) for x in value):
        return (), f"{value!r:.60}, expected {count} texts"
    return tuple(value), odd


def _legacy(what: str, path: Path, key: str, *, repaired: bool = True) -> Problem:
    remedy = "an old form, read as it is meant" if repaired else "left out; give names in the mapping"
    return Problem(what, remedy, repaired, str(path), key=key)


def fill(template: str, path: Path, **values: int | str) -> str:
    """A path of a template such as ``chunk-{chunk_index:03d}``: names and widths, no attributes, no code."""

    def put(match: re.Match[str]) -> str:
        name, width = match[1], match[2]
        if name not in values:
            raise DataError(f"the template {template!r} asks for {name!r}", _EDITED, file=path)
        value = values[name]
        return str(value).zfill(int(width or 0)) if isinstance(value, int) else value

    filled = re.sub(r"\{([a-z_]+)(?::0?(\d{1,2})d)?\}", put, template)
    if not filled or "{" in re.sub(r"\{[a-z_]+(?::0?\d{1,2}d)?\}", "", template):
        raise DataError(f"{template!r} is no template of a path", _EDITED, file=path)
    return filled


def inside(root: Path, relative: str, said_by: Path) -> Path:
    """A path in a set, refused where its text leads out of it; `within` looks at links, before it is read.

    Args:
        root: of the set, resolved.
        relative: as its metadata have it.
        said_by: file that says so.

    Raises:
        DataError: it leads out.
    """
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    if not parts or ".." in parts or relative[:1] in "/\\" or any(":" in p or "\0" in p for p in parts):
        raise DataError(
            f"the path {relative!r:.120} leads out of the set", "do not use this set, or ask who made it",
            file=said_by,
        )  # fmt: skip
    return root.joinpath(*parts)


def within(root: Path, path: Path) -> Path:
    """The path, if no link on the way leads out of the set."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"its links go in a circle ({error})", _EDITED, file=path) from error
    if not real.is_relative_to(root):
        raise DataError(
            "it is a link to a file outside the set", "copy the set with its files, as cp -rL does", file=path
        )
    return path

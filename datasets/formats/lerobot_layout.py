"""How the streams of a set become features of a LeRobot set, and what of them that loses. Nothing is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..contents_json import DTYPES
from ..ledger import DataError, Loss
from ..recording import Contents, StreamSpec
from . import WriteOptions
from .lerobot_info import BOOKKEEPING

FILES = ("jpeg", "png", "webp", "tiff")  # image files that LeRobot's reader, Pillow, opens
_VIDEOS = ("av1", "h264", "hevc", "vp9", "mpeg4", "video")
_PICTURE = ["height", "width", "channels"]


@dataclass(frozen=True)
class Laid:
    """Where one stream goes.

    Attributes:
        spec: of the stream.
        name: of the feature.
        storage: ``video``, ``image`` (files in parquet), ``column``, ``annotation`` (a column of task
            indices) or ``task`` (the task of each row).
        feature: its entry in info.json; a video's ``info`` comes when the first is written.
    """

    spec: StreamSpec
    name: str
    storage: str
    feature: dict[str, Any]


class Layout:
    """The features of the set to be written.

    Attributes:
        contents: what the set holds.
        options: how it is written.
        fps: LeRobot's one rate.
        laid: by stream key, in order.

    Raises:
        DataError: contents that the format cannot hold: no rate or one far from a whole number, reserved or
            senseless names, images of odd size as video.
    """

    def __init__(self, contents: Contents, options: WriteOptions, *, gr00t: bool = False) -> None:
        self.contents, self.options, self.gr00t = contents, options, gr00t
        self.fps = _fps(contents)
        self.laid = {key: self._lay(spec) for key, spec in contents.streams.items()}
        names: dict[str, str] = {}
        for key, laid in self.laid.items():
            if laid.storage == "task":
                continue
            if laid.name in names:
                raise DataError(
                    f"it and {names[laid.name]!r} are both called {laid.name!r} in LeRobot",
                    "rename one in the mapping",
                    key=key,
                )
            names[laid.name] = key
        if not names:
            raise DataError("there are no streams", "keep at least one in the mapping")

    @property
    def keys(self) -> dict[str, str]:
        """Feature to stream, where they differ."""
        return {laid.name: key for key, laid in self.laid.items() if laid.name != key}

    def features(self, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """``features`` of info.json, with what is known of each video."""
        found = {}
        for laid in self.laid.values():
            if laid.storage != "task":
                info = {"info": dict(infos[laid.name])} if laid.name in infos else {}
                found[laid.name] = {**laid.feature, **info}
        for name in BOOKKEEPING:
            dtype = "float32" if name == "timestamp" else "int64"
            found[name] = {"dtype": dtype, "shape": [1], "names": None}
        return found

    def losses(self) -> list[Loss]:
        """What is lost whatever the episodes hold."""
        found = []
        for key, laid in self.laid.items():
            codec = laid.spec.about.get("codec", "")
            if laid.name != key:
                found.append(Loss(key, "renamed", f"to {laid.name}: LeRobot's names have no slash", 0))
            if laid.spec.about.get("dtype") == "language" and laid.spec.kind == "text":
                found.append(Loss(key, "metadata", "a language column becomes a column of JSON texts", 0))
            if laid.storage == "video" and not (codec in _VIDEOS and self.options.images == "copy"):
                how = f"{codec or 'images'} to video ({self.options.video_codec}, crf {self.options.crf})"
                found.append(Loss(key, "re-encoded", how, 0))
            if laid.storage == "image" and laid.spec.kind == "image" and self.options.images == "jpeg":
                how = f"{codec or 'images'} to JPEG, quality {self.options.quality}"
                found.append(Loss(key, "re-encoded", how, 0))
        rate = self.contents.rate_hz
        if rate is not None and rate != self.fps:
            found.append(Loss("", "time", f"the rate of {rate:g} Hz is called {self.fps}", 0))
        return found

    def _lay(self, spec: StreamSpec) -> Laid:
        name = _name(spec.key)
        if spec.kind == "text":
            if spec.key == "task":
                return Laid(spec, name, "task", {})
            if self.gr00t and spec.key.startswith("annotation."):
                return Laid(spec, name, "annotation", {"dtype": "int64", "shape": [1], "names": None})
            return Laid(spec, name, "column", {"dtype": "string", "shape": [1], "names": None})
        if spec.kind == "image":
            storage = "video" if self.gr00t else self._storage(spec)
            feature: dict[str, Any] = {"dtype": storage, "shape": list(spec.shape), "names": _PICTURE}
            is_odd = spec.shape[0] % 2 or spec.shape[1] % 2
            is_copied = spec.about.get("codec") in _VIDEOS and self.options.images == "copy"
            if storage == "video" and is_odd and not is_copied:
                raise DataError(
                    f"images of {spec.shape[0]} x {spec.shape[1]} pixels cannot be yuv420p video",
                    "height and width must be even: resize in the mapping"
                    + ("" if self.gr00t else ", or write images (--images png)"),
                    key=spec.key,
                )
            return Laid(spec, name, storage, feature)
        if spec.kind == "depth":
            unit = str(spec.about.get("unit", "unknown"))
            info = {"is_depth_map": True, "depth_unit": unit}
            feature = {
                "dtype": "image",
                "shape": [*spec.shape, 1],
                "names": _PICTURE,
                "info": info,
            }
            return Laid(spec, name, "image", feature)
        if spec.dtype not in DTYPES or 0 in spec.shape or len(spec.shape) > 5:
            raise DataError(
                f"rows of {spec.dtype}, shape {list(spec.shape)}",
                f"LeRobot has {', '.join(DTYPES)} with 1 to 5 dimensions: leave it out in the mapping",
                key=spec.key,
            )
        shape = list(spec.shape) or [1]
        names = list(spec.names) or None
        if names is None and len(shape) == 1 and shape[0] > 1:
            names = [f"{name.split('.')[-1]}_{i}" for i in range(shape[0])]
        return Laid(spec, name, "column", {"dtype": spec.dtype, "shape": shape, "names": names})

    def _storage(self, spec: StreamSpec) -> str:
        if self.options.images in ("jpeg", "png"):
            return "image"
        if self.options.images == "video":
            return "video"
        codec = spec.about.get("codec", "")
        if codec in FILES or codec == "jxl":
            return "image"
        if codec in _VIDEOS:
            return "video"
        return "image" if spec.shape[0] % 2 or spec.shape[1] % 2 else "video"


def _fps(contents: Contents) -> int:
    rate = contents.rate_hz
    if rate is None:
        raise DataError(
            "nothing says at what rate the set was recorded, and LeRobot has one for all",
            "resample to a rate in the mapping, or name the rate there",
        )
    whole = max(round(rate), 1)
    if abs(rate - whole) > 0.01 * rate:
        raise DataError(
            f"the rate is {rate:g} Hz, and LeRobot's is a whole number",
            f"resample to {whole} Hz in the mapping",
        )
    return whole


def _name(key: str) -> str:
    """The feature's name, which is also the name of a folder."""
    name = key.replace("/", ".")
    bad = any(c in '\\:*?"<>|' or not c.isprintable() for c in name)
    if not name.strip(". ") or bad or ".." in name or len(name.encode("utf-8", "replace")) > 200:
        raise DataError(f"a stream called {key!r:.80}", "give it a plain name in the mapping", key=key[:80])
    if name in BOOKKEEPING or (name == "task" and key != "task"):
        raise DataError(
            f"LeRobot has a column {name!r} of its own", "rename the stream in the mapping", key=key
        )
    return name

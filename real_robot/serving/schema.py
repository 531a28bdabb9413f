"""What a served policy wants and gives: the handshake's metadata, and the check of every observation.

Nothing is converted here that training does not convert: images are taken in the camera's own size or
refused, never resized; a state becomes float32. What comes out goes to the policy as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.ledger import DataError
from ...datasets.spec import Camera, RobotSpec

PROTOCOL_VERSION = 1
# What openpi's examples call the outer and the wrist camera (LIBERO, DROID, the model's own names), and what
# OpenVLA-OFT calls them.
OUTER_KEYS = ("observation/image", "observation/exterior_image_1_left", "image", "base_0_rgb", "full_image")
WRIST_KEYS = ("observation/wrist_image", "observation/wrist_image_left", "wrist_image", "left_wrist_0_rgb")
STATE_KEYS = ("observation/state", "observation.state", "state", "proprio")
PROMPT_KEYS = ("prompt", "task", "instruction", "language_instruction")
EXTENSIONS = (
    "__session__", "__episode__", "__seq__", "__t_obs__", "__step__", "__prefix__", "__jpeg__", "__seed__",
    "__reset__",
)  # fmt: skip
_BLACK = 8  # no pixel above this: a lens cap, or a dead camera
_FAR = 6.0  # standard deviations from training's mean that earn a warning


class ObservationError(ValueError):
    """An observation that the policy cannot be shown: which key, what was expected, what came."""


@dataclass(frozen=True)
class Ask:
    """One checked observation.

    Attributes:
        images: camera to uint8 (H,W,3) RGB.
        state: float32 (S,).
        instruction: the sentence.
        seq: the client's number of it, echoed; None if it gave none.
        t_obs: the client's time of it in nanoseconds, echoed.
        step: index of the control step to which the first action belongs; None if not said.
        seed: the answer is to be sampled with this seed; None: as the server does by itself.
        prefix: float32 (K,A) actions that are planned already, see `messages.Request`; empty for none.
        frozen: rows of `prefix` that will be executed before the answer comes.
        warnings: what looks wrong with its content, in words.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str
    seq: int | None = None
    t_obs: int | None = None
    step: int | None = None
    seed: int | None = None
    prefix: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    frozen: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """What a policy wants and gives.

    Attributes:
        spec: the robot it acts on.
        horizon: H, actions in one answer.
        model: its name.
        digest: hash of its weights; ``""`` for one without.
        execute: how many of the H it is meant to have executed before it looks again; 0 for all.
        rtc: whether it takes the prefix of real-time chunking.
        sampled: whether a seed makes a difference to it.
        state_mean: of its training, for warnings; empty if not known.
        state_std: likewise.
        prompt: the instruction of an observation that has none; ``""``: such an observation is refused.
        range_margin: how far outside the spec's limits a state may be, as a share of their span.
        action_margin: likewise an action.
    """

    spec: RobotSpec
    horizon: int
    model: str
    digest: str = ""
    execute: int = 0
    rtc: bool = False
    sampled: bool = False
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    prompt: str = ""
    range_margin: float = 0.05
    action_margin: float = 0.01

    @property
    def version(self) -> str:
        """What every answer says it comes from."""
        return f"{self.model}@{self.digest}" if self.digest else self.model

    @cached_property
    def image_keys(self) -> dict[str, Camera]:
        """Every key under which an image may come, to its camera."""
        found: dict[str, Camera] = {}
        outer = next((c for c in self.spec.cameras if "wrist" not in c.name), None)
        wrist = next((c for c in self.spec.cameras if "wrist" in c.name), None)
        others = [camera for camera in self.spec.cameras if camera is not outer]
        for camera, keys in ((outer, OUTER_KEYS), (wrist or next(iter(others), None), WRIST_KEYS)):
            if camera is not None:
                found.update(dict.fromkeys(keys, camera))
        for camera in self.spec.cameras:  # its own name always means itself
            for form in ("{}", "observation/{}", "observation/images/{}", "observation.images.{}"):
                found[form.format(camera.name)] = camera
        return found

    def metadata(self) -> dict[str, Any]:
        """The first frame of a connection; openpi's clients hand it on and ignore what they do not know."""
        spec = self.spec
        return {
            "protocol_version": PROTOCOL_VERSION,
            "server": "regrip",
            "model_id": self.model,
            "model_hash": self.digest,
            "version": self.version,
            "action_horizon": self.horizon,
            "action_execute": self.execute or self.horizon,
            "action_dim": spec.action_dim,
            "action": [vars(axis) for axis in spec.action],
            "control_mode": spec.control_mode,
            "rotation": spec.rotation,
            "gripper": spec.gripper,
            "control_hz": spec.control_rate_hz,
            "images": {
                camera.name: {
                    "shape": [camera.height, camera.width, 3],
                    "dtype": "uint8",
                    "orientation": camera.orientation,
                    "keys": [key for key, other in self.image_keys.items() if other is camera],
                }
                for camera in spec.cameras
            },
            "image_resize": "none: send exactly this size, as in training",
            "state": {"axes": [vars(axis) for axis in spec.state], "keys": list(STATE_KEYS)},
            "prompt": {"keys": list(PROMPT_KEYS), "default": self.prompt},
            "supports": {
                "rtc": self.rtc,
                "seed": self.sampled,
                "reset": True,
                "batch": True,
                "superseded": True,
                "jpeg": True,
            },
            "extensions": list(EXTENSIONS),
            "robot": spec.to_json(),
        }

    def read(self, message: Mapping[str, Any]) -> Ask:
        """Check an observation.

        Raises:
            ObservationError: naming the key.
        """
        images, state, instruction, unused = self._sort(message)
        missing = [camera.name for camera in self.spec.cameras if camera.name not in images]
        if missing:
            keys = [key for key, camera in self.image_keys.items() if camera.name == missing[0]]
            raise ObservationError(
                f"there is no image of camera {missing[0]!r}: expected uint8 "
                f"{_size(self.image_keys[missing[0]])} under one of {', '.join(keys)}; got {_names(message)}"
            )
        if state is None:
            raise ObservationError(
                f"there is no state: expected ({self.spec.state_dim},) numbers under one of "
                f"{', '.join(STATE_KEYS)}; got {_names(message)}"
            )
        if not instruction:
            raise ObservationError(f"there is no instruction: give one of {', '.join(PROMPT_KEYS)}")
        warnings = [f"{key!r} is not used" for key in unused]
        warnings += [f"the image of {name} is black" for name, image in images.items() if _black(image)]
        warnings += self._unusual(state)
        prefix, frozen = self._prefix(message.get("__prefix__"))
        seed = whole_number(message, "__seed__")
        if seed is not None and not self.sampled:
            warnings.append(f"'__seed__' makes no difference to {self.model}")
        elif seed is not None and len(prefix):
            warnings.append("'__seed__' makes no difference with '__prefix__': the chunk is greedy")
        return Ask(
            {camera.name: images[camera.name] for camera in self.spec.cameras},
            state,
            instruction,
            whole_number(message, "__seq__"),
            whole_number(message, "__t_obs__"),
            whole_number(message, "__step__"),
            seed,
            prefix,
            frozen,
            tuple(warnings),
        )

    def _sort(
        self, message: Mapping[str, Any]
    ) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32] | None, str, list[str]]:
        images: dict[str, NDArray[np.uint8]] = {}
        state: NDArray[np.float32] | None = None
        instruction, unused = "", []
        jpeg = _listed(message.get("__jpeg__"))
        for key, value in _flat(message):
            camera = self.image_keys.get(key)
            if camera is not None:
                if camera.name in images:
                    raise ObservationError(f"{key}: a second image of camera {camera.name!r}: send one")
                images[camera.name] = _image(key, value, camera, jpeg is True or key in (jpeg or ()))
            elif key in STATE_KEYS:
                if state is not None:
                    raise ObservationError(f"{key}: a second state: send one")
                state = self._state(key, value)
            elif key in PROMPT_KEYS:
                if not isinstance(value, str) or len(value) > 10_000:
                    raise ObservationError(f"{key}: expected a sentence, got {_described(value)}")
                instruction = instruction or str(value)
            elif key.startswith("__") and key.endswith("__"):
                if key not in EXTENSIONS:
                    near = difflib.get_close_matches(key, EXTENSIONS, n=1)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    raise ObservationError(f"{key}: there is no such extension{hint}")
            else:
                unused.append(key)
        return images, state, instruction or self.prompt, unused

    def _state(self, key: str, value: Any) -> NDArray[np.float32]:
        axes = self.spec.state
        if isinstance(value, np.ndarray) and value.dtype.kind not in "fiu":
            raise ObservationError(f"{key}: expected numbers ({len(axes)},), got {_described(value)}")
        try:
            state = np.asarray(value, np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise ObservationError(
                f"{key}: expected numbers ({len(axes)},), got {_described(value)}"
            ) from error
        if state.shape != (len(axes),):
            raise ObservationError(
                f"{key}: expected shape ({len(axes)},) ({', '.join(axis.name for axis in axes)}), "
                f"got {_described(value)}"
            )
        low, high = self.state_limits
        wrong = ~((state >= low) & (state <= high))  # NaN is wrong, too
        if wrong.any():
            index = int(np.argmax(wrong))
            axis = axes[index]
            raise ObservationError(
                f"{key}: {axis.name} is {state[index]:.6g} {axis.unit}, "
                f"expected [{axis.low:.6g}, {axis.high:.6g}]"
            )
        return state.astype(np.float32)

    @cached_property
    def action_limits(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(A,) what an action must be within to leave the server."""
        low, high = self.spec.action_low, self.spec.action_high
        slack = self.action_margin * (high - low)
        return np.asarray(low - slack, np.float32), np.asarray(high + slack, np.float32)

    @cached_property
    def state_limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(S,) what a state must be within to be shown to the policy."""
        low = np.array([axis.low for axis in self.spec.state], np.float64)
        high = np.array([axis.high for axis in self.spec.state], np.float64)
        largest = np.finfo(np.float32).max
        low, high = np.clip(low, -largest, largest), np.clip(high, -largest, largest)
        margin = self.range_margin * (high - low)
        return np.maximum(low - margin, -largest), np.minimum(high + margin, largest)

    def _unusual(self, state: NDArray[np.float32]) -> list[str]:
        if not self.state_std:
            return []
        off = np.abs(state - np.array(self.state_mean)) / np.array(self.state_std)
        return [
            f"state: {self.spec.state[int(i)].name} is {state[i]:.4g}, {off[i]:.1f} standard deviations from "
            "its mean in training"
            for i in np.flatnonzero(off > _FAR)
        ]

    def _prefix(self, value: Any) -> tuple[NDArray[np.float32], int]:
        dims = self.spec.action_dim
        if value is None:
            return np.zeros((0, dims), np.float32), 0
        wanted = f"__prefix__: expected {{'actions': (K,{dims}) numbers, 'frozen': 0 to K}}, K at most "
        wanted += str(self.horizon)
        if not self.rtc:
            raise ObservationError(f"__prefix__: {self.model} does not do real-time chunking: leave it out")
        if not isinstance(value, Mapping) or set(value) != {"actions", "frozen"}:
            raise ObservationError(f"{wanted}; got {_described(value)}")
        try:
            actions = np.array(value["actions"], np.float32).reshape(-1, dims)
        except (ValueError, TypeError) as error:
            raise ObservationError(f"{wanted}; got {_described(value['actions'])}") from error
        frozen = value["frozen"]
        if type(frozen) is not int or not 0 <= frozen <= len(actions) <= self.horizon:
            raise ObservationError(f"{wanted}; got {len(actions)} actions, frozen {_described(frozen)}")
        if not np.isfinite(actions).all():
            raise ObservationError("__prefix__: an action is not finite")
        return actions, frozen


def _flat(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values, with what stands under ``images`` (ALOHA) one by one."""
    found: list[tuple[str, Any]] = []
    for key, value in message.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        if name == "images" and isinstance(value, Mapping):
            found += [(str(inner), image) for inner, image in value.items()]
        else:
            found.append((name, value))
    return found


def _image(key: str, value: Any, camera: Camera, encoded: bool) -> NDArray[np.uint8]:
    if isinstance(value, bytes):
        if not encoded:
            raise ObservationError(f"{key}: an image file must be listed: '__jpeg__': [{key!r}]")
        return _decoded(key, value, camera)
    wanted = (camera.height, camera.width, 3)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        hint = ": multiply by 255" if isinstance(value, np.ndarray) and value.dtype.kind == "f" else ""
        raise ObservationError(f"{key}: expected uint8 {_size(camera)}, got {_described(value)}{hint}")
    if value.shape == wanted:
        return value
    if value.shape == (3, camera.height, camera.width):  # as openpi's ALOHA client sends it
        return np.ascontiguousarray(value.transpose(1, 2, 0))
    raise ObservationError(
        f"{key}: expected shape {_size(camera)}, got {value.shape}: resize on your side as in training"
    )


def _black(image: NDArray[np.uint8]) -> bool:
    middle = image[len(image) // 2, image.shape[1] // 2]
    return bool(max(middle.tolist()) <= _BLACK and image.max() <= _BLACK)  # one pixel tells, mostly


def _decoded(key: str, data: bytes, camera: Camera) -> NDArray[np.uint8]:
    try:
        from ...datasets.frames import codec_of, decode_image
        from ...datasets.store.images import check_file
    except ModuleNotFoundError as error:
        raise ObservationError(f"{key}: this server lacks {error.name} to read image files") from error
    if codec_of(data) not in ("jpeg", "png"):
        raise ObservationError(f"{key}: {len(data)} bytes that are neither JPEG nor PNG")
    try:
        check_file(data, (camera.height, camera.width, 3), "uint8")  # its header, before it can grow
        image: NDArray[np.uint8] = decode_image(data, where=key)
    except DataError as error:
        raise ObservationError(f"{key}: {error}") from error
    return image


def _listed(value: Any) -> bool | list[str]:
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ObservationError(f"__jpeg__: expected true or a list of keys, got {_described(value)}")


def whole_number(message: Mapping[str, Any], key: str) -> int | None:
    """The whole number of 64 bits under `key`, if there is one.

    Raises:
        ObservationError: there is something else.
    """
    value = message.get(key)
    if isinstance(value, np.integer):
        value = int(value)
    if value is None or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    raise ObservationError(f"{key}: expected a whole number, got {_described(value)}")


def _size(camera: Camera) -> str:
    return f"({camera.height}, {camera.width}, 3)"


def _names(message: Mapping[str, Any]) -> str:
    names = [name for name, _ in _flat(message)]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(name[:40] for name in names[:12]) or "nothing") + more


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        span = ""
        if value.size and value.dtype.kind in "fiu":
            span = f" in [{value.min():.4g}, {value.max():.4g}]"
        return f"{value.dtype} {value.shape}{span}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, (str, bytes, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}"[:60]

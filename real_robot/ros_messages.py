"""ROS messages and the node's own words, one into the other: pure functions, for all transports of ROS.

Reading takes any object with the fields of the type: rospy's, rclpy's and rosbags' classes, and the JSON of
rosbridge after `from_json`. Writing takes a `Make`, which is how a transport makes a message of its own; the
fields are given as plain Python numbers, lists and bytes. Times have ROS 2's field names, ``sec`` and
``nanosec``; a ROS 1 `Make` turns them into ``secs`` and ``nsecs``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.frames import decode_image, encode_jpeg
from ..datasets.ledger import DataError
from .messages import Command, Frame, Joints

Vector = NDArray[np.float64]
MAX_SIDE = 1 << 14  # pixels


class MessageError(ValueError):
    """A message that is not what its type says."""


class Make(Protocol):
    """Makes a message: of ``package/Name`` (``builtin_interfaces/Time`` and ``Duration`` among them)."""

    def __call__(self, kind: str, **fields: Any) -> Any: ...


# Times ---------------------------------------------------------------------------------------------------


def seconds(time: Any) -> float:
    """Of a ROS 1 (secs, nsecs) or ROS 2 (sec, nanosec) time or duration."""
    if hasattr(time, "nanosec"):
        return int(time.sec) + int(time.nanosec) * 1e-9
    return int(time.secs) + int(time.nsecs) * 1e-9


def _split(moment: float) -> dict[str, int]:
    whole, rest = divmod(round(moment * 1e9), 1_000_000_000)
    return {"sec": whole, "nanosec": rest}


def time(make: Make, moment: float) -> Any:
    """A time from seconds."""
    return make("builtin_interfaces/Time", **_split(moment))


def duration(make: Make, length: float) -> Any:
    """A duration from seconds."""
    return make("builtin_interfaces/Duration", **_split(length))


def header(make: Make, stamp: float, frame_id: str = "") -> Any:
    """Stamp 0 means "from now on" for a trajectory."""
    return make("std_msgs/Header", stamp=time(make, stamp), frame_id=frame_id)


# What comes in -------------------------------------------------------------------------------------------


def from_json(value: Any) -> Any:
    """JSON of rosbridge as an object with fields."""
    if isinstance(value, Mapping):
        return SimpleNamespace(**{str(name): from_json(inner) for name, inner in value.items()})
    if isinstance(value, list) and value and isinstance(value[0], Mapping | list):
        return [from_json(inner) for inner in value]
    return value


def byte_array(data: Any) -> NDArray[np.uint8]:
    """(N,) of a uint8[] field: bytes, array.array, numpy, a list of numbers, or base64 text (rosbridge)."""
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise MessageError(f"{len(data)} characters that are no base64: {error}") from error
    if isinstance(data, list | tuple):
        try:
            return np.array(data, np.uint8)
        except (OverflowError, TypeError, ValueError) as error:
            raise MessageError(f"a list that is not of bytes: {error}") from error
    return np.frombuffer(memoryview(data), np.uint8)


# encoding: dtype, channels, order of the channels that gives RGB (none: depth)
_PIXELS: dict[str, tuple[str, int, list[int]]] = {
    "rgb8": ("u1", 3, [0, 1, 2]),
    "bgr8": ("u1", 3, [2, 1, 0]),
    "8UC3": ("u1", 3, [2, 1, 0]),  # OpenCV's order
    "rgba8": ("u1", 4, [0, 1, 2]),
    "bgra8": ("u1", 4, [2, 1, 0]),
    "mono8": ("u1", 1, [0, 0, 0]),
    "8UC1": ("u1", 1, [0, 0, 0]),
    "yuv422": ("u1", 2, []),
    "yuv422_yuy2": ("u1", 2, []),
    "mono16": ("u2", 1, []),
    "16UC1": ("u2", 1, []),
    "32FC1": ("f4", 1, []),
}


def pixels(message: Any) -> NDArray[Any]:
    """A sensor_msgs/Image as uint8 (H,W,3) RGB; depth as uint16 or float32 (H,W).

    Raises:
        MessageError: the encoding is not known, or there are fewer bytes than its size asks for.
    """
    encoding, height, width, step = (
        message.encoding,
        int(message.height),
        int(message.width),
        int(message.step),
    )
    if encoding not in _PIXELS:
        raise MessageError(f"images of encoding {encoding!r} are not read; {', '.join(_PIXELS)} are")
    kind, channels, order = _PIXELS[encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and step >= row):
        raise MessageError(f"an image of {height} x {width} {encoding} with rows of {step} bytes")
    data = byte_array(message.data)
    if len(data) < step * (height - 1) + row:
        raise MessageError(f"an image of {height} x {width} {encoding} with only {len(data)} bytes")
    if len(data) < step * height:  # the last row may lack its padding
        data = np.concatenate([data, np.zeros(step * height - len(data), np.uint8)])
    lines = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row])
    if encoding.startswith("yuv422"):
        if width % 2:
            raise MessageError(f"an image of {height} x {width} {encoding}: the width must be even")
        return _yuv422(lines.reshape(height, width, 2), luma=0 if encoding == "yuv422_yuy2" else 1)
    image = lines.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(height, width, channels)
    if not order:
        return image[..., 0]
    return image if order == [0, 1, 2] and channels == 3 else np.ascontiguousarray(image[..., order])


def _yuv422(pairs: NDArray[np.uint8], luma: int) -> NDArray[np.uint8]:
    """BT.601, video range: what OpenCV and cv_bridge do."""
    y = (pairs[..., luma].astype(np.float32) - 16) * 1.164
    chroma = pairs[..., 1 - luma].astype(np.float32) - 128
    u, v = np.repeat(chroma[:, ::2], 2, axis=1), np.repeat(chroma[:, 1::2], 2, axis=1)
    rgb = np.stack([y + 1.596 * v, y - 0.391 * u - 0.813 * v, y + 2.018 * u], axis=-1)
    return np.asarray(np.rint(rgb).clip(0, 255), np.uint8)


def image_file(message: Any) -> bytes:
    """The JPEG or PNG file in a sensor_msgs/CompressedImage, as it came."""
    return byte_array(message.data).tobytes()


def frame(camera: str, message: Any, *, compressed: bool, stamp: float, received: float) -> Frame:
    """A camera's message.

    Args:
        camera: the policy's name of it.
        message: CompressedImage if `compressed`, else Image.
        compressed: which.
        stamp: the header's, on the node's clock.
        received: node time.

    Raises:
        MessageError: it cannot be decoded, or is no colour picture.
    """
    encoded = image_file(message) if compressed else None
    try:
        image = pixels(message) if encoded is None else decode_image(encoded, where=camera)
    except DataError as error:
        raise MessageError(f"{camera}: {error}") from error
    if image.dtype != np.uint8 or image.ndim != 3:
        raise MessageError(f"{camera} sends depth ({image.dtype} {image.shape}), expected colour pictures")
    return Frame(camera, stamp, received, image, encoded)


def joints(message: Any, *, stamp: float, received: float) -> Joints:
    """A sensor_msgs/JointState. Its velocities may be absent, or of another length: then there are none."""
    position = _numbers(message.position)
    velocity = _numbers(message.velocity)
    names = tuple(str(name) for name in message.name)
    return Joints(stamp, received, names, position, velocity if len(velocity) == len(names) else np.zeros(0))


def _numbers(values: Any) -> Vector:
    """JSON has no NaN: rosbridge sends null."""
    if isinstance(values, list | tuple):
        values = [np.nan if value is None else value for value in values]
    try:
        return np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise MessageError(f"a list that is not of numbers: {error}") from error


def flag(message: Any) -> bool:
    """A std_msgs/Bool. Nothing but true and false: the text ``"false"`` must not enable an arm."""
    if not isinstance(message.data, bool | np.bool_ | int) or message.data not in (0, 1):
        raise MessageError(f"a Bool with {message.data!r}")
    return bool(message.data)


def text(message: Any) -> str:
    """A std_msgs/String."""
    if not isinstance(message.data, str):
        raise MessageError(f"a String with {message.data!r}")
    return message.data


def trajectory_rows(message: Any) -> tuple[tuple[str, ...], Vector, Vector]:
    """A trajectory_msgs/JointTrajectory: joint names, positions (T,N), seconds (T,) until each.

    Raises:
        MessageError: a point has another number of joints, or its time does not come after the one before.
    """
    names = tuple(str(name) for name in message.joint_names)
    rows = [_numbers(point.positions) for point in message.points]
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise MessageError(f"point {index} has {len(row)} positions for {len(names)} joints")
    times = np.array([seconds(point.time_from_start) for point in message.points])
    if (np.diff(times, prepend=0.0) <= 0).any():
        raise MessageError(f"times from start {times.tolist()}, expected them to rise from above 0")
    return names, np.array(rows).reshape(len(rows), len(names)), times


# What goes out -------------------------------------------------------------------------------------------


def trajectory(make: Make, command: Command, frame_id: str = "") -> Any:
    """A trajectory_msgs/JointTrajectory: positions only, stamp 0 (start now), row i at (i+1)/rate."""
    points = [
        make(
            "trajectory_msgs/JointTrajectoryPoint",
            positions=row.tolist(),
            time_from_start=duration(make, (index + 1) / command.rate_hz),
        )
        for index, row in enumerate(command.positions)
    ]
    return make(
        "trajectory_msgs/JointTrajectory",
        header=header(make, 0.0, frame_id),
        joint_names=list(command.names),
        points=points,
    )


def array(make: Make, values: NDArray[Any], labels: tuple[str, str] = ("row", "column")) -> Any:
    """A std_msgs/Float64MultiArray of (N,) or (T,N), row by row."""
    sizes = values.shape if values.ndim == 2 else (len(values),)
    dims = [
        make("std_msgs/MultiArrayDimension", label=label, size=int(size), stride=int(np.prod(sizes[axis:])))
        for axis, (label, size) in enumerate(zip(labels[-len(sizes) :], sizes, strict=True))
    ]
    layout = make("std_msgs/MultiArrayLayout", dim=dims, data_offset=0)
    return make(
        "std_msgs/Float64MultiArray", layout=layout, data=values.astype(np.float64).reshape(-1).tolist()
    )


def chunk(make: Make, names: tuple[str, ...], actions: NDArray[np.float32]) -> Any:
    """The policy's raw chunk (H,A) as Float64MultiArray; its second dimension's label names the columns."""
    return array(make, actions, ("row", ",".join(names)))


def multi_array(message: Any) -> Vector:
    """A Float64MultiArray as its dimensions say; (N,) if it has none.

    Raises:
        MessageError: more or fewer numbers than they say.
    """
    values = _numbers(message.data)[int(message.layout.data_offset) :]
    sizes = [int(dim.size) for dim in message.layout.dim]
    if not sizes:
        return values
    if int(np.prod(sizes)) != len(values):
        raise MessageError(f"{len(values)} numbers for dimensions {sizes}")
    return values.reshape(sizes)


Pose = Callable[[Vector], tuple[Vector, Vector]]


def tool_velocity(pose: Pose, command: Command, num_joints: int) -> Vector:
    """(6,) m/s and rad/s of the tool in the base frame, over the last step of a command; 0 at rest.

    Args:
        pose: arm joints to tool position (3,) and quaternion (4,) w, x, y, z (`kinematics.Arm.pose`).
        command: whose first `num_joints` columns are the arm's.
        num_joints: of the arm.
    """
    rows = command.positions[:, :num_joints]
    if len(rows) < 2 or np.array_equal(rows[-1], rows[-2]):
        return np.zeros(6)
    (place, turned), (before, unturned) = pose(rows[-1]), pose(rows[0])
    dt = (len(rows) - 1) / command.rate_hz
    w = float(turned @ unturned)
    # vector part of turned * conjugate(unturned)
    axis = unturned[0] * turned[1:] - turned[0] * unturned[1:] - np.cross(turned[1:], unturned[1:])
    if w < 0:
        w, axis = -w, -axis
    size = float(np.linalg.norm(axis))
    angle = 2 * np.arctan2(size, w)
    spin = axis / size * angle if size > 0 else np.zeros(3)
    return np.concatenate([place - before, spin]) / dt


def twist(make: Make, velocity: Vector, stamp: float, frame_id: str) -> Any:
    """A geometry_msgs/TwistStamped from (6,); MoveIt Servo wants a fresh stamp."""
    parts = [make("geometry_msgs/Vector3", x=x, y=y, z=z) for x, y, z in velocity.reshape(2, 3).tolist()]
    return make(
        "geometry_msgs/TwistStamped",
        header=header(make, stamp, frame_id),
        twist=make("geometry_msgs/Twist", linear=parts[0], angular=parts[1]),
    )


_LEVELS = {"active": 0, "inactive": 0, "human": 0, "hold": 1, "unconfigured": 1, "estop": 2}


def diagnostics(
    make: Make, name: str, stamp: float, state: str, reason: str, figures: Mapping[str, float], *,
    level_bytes: bool = False,
) -> Any:  # fmt: skip
    """A diagnostic_msgs/DiagnosticArray of one status: ``state: reason``, and the figures as values.

    Args:
        make: of the transport.
        name: of the node.
        stamp: now, on the robot's clock.
        state: of the core: OK (0) while it does as it is told, WARN (1) while it holds, ERROR (2) at e-stop.
        reason: in words; may be empty.
        figures: to be shown.
        level_bytes: rclpy has the level as a byte string, the others as a number.
    """
    level = _LEVELS.get(state, 2)
    values = [
        make("diagnostic_msgs/KeyValue", key=key, value=f"{value:.6g}") for key, value in figures.items()
    ]
    status = make(
        "diagnostic_msgs/DiagnosticStatus",
        level=bytes([level]) if level_bytes else level,
        name=name,
        message=f"{state}: {reason}" if reason else state,
        hardware_id="",
        values=values,
    )
    return make("diagnostic_msgs/DiagnosticArray", header=header(make, stamp), status=[status])


# What a robot sends: for simulated ones, and tests -------------------------------------------------------


def image(make: Make, picture: NDArray[np.uint8], stamp: float, frame_id: str = "") -> Any:
    """A sensor_msgs/Image, rgb8, of uint8 (H,W,3)."""
    height, width = picture.shape[:2]
    return make(
        "sensor_msgs/Image",
        header=header(make, stamp, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=picture.tobytes(),
    )


def compressed_image(make: Make, picture: NDArray[np.uint8], stamp: float, frame_id: str = "") -> Any:
    """A sensor_msgs/CompressedImage, JPEG, of uint8 (H,W,3)."""
    data = encode_jpeg(picture)
    return make("sensor_msgs/CompressedImage", header=header(make, stamp, frame_id), format="jpeg", data=data)


def joint_state(make: Make, state: Joints, frame_id: str = "") -> Any:
    """A sensor_msgs/JointState with the stamp of `state`."""
    return make(
        "sensor_msgs/JointState",
        header=header(make, state.stamp, frame_id),
        name=list(state.names),
        position=state.position.tolist(),
        velocity=state.velocity.tolist(),
        effort=[],
    )

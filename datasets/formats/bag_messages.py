"""ROS messages as rows: which types are known, what each says, and how its images are held.

Types are decoded by `rosbags`, which does ROS 1 and CDR alike and gives arrays without a copy for every
element (`mcap-ros2-support` makes Python lists). `rosbags` compiles the definitions it is given, so it is
given only its own and those below: a bag's text is parsed and compared, and never compiled.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError

from ..frames import codec_of, decode_image
from ..ledger import DataError

_MORE = {
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms",
    "tf/msg/tfMessage": "geometry_msgs/TransformStamped[] transforms",
    "foxglove_msgs/msg/CompressedVideo": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
    ),
}
MAX_SIDE = 1 << 14  # pixels


class MessageError(ValueError):
    """A message that is not what its type says."""


@dataclass(frozen=True)
class Row:
    """One row of one stream, as one message gives it.

    Attributes:
        suffix: of the topic's key, ``.position``; ``""`` for the topic itself.
        kind: of stream.
        value: the numbers, the text; None for an image, which stays where it is.
        shape: of an image.
        dtype: of an image.
        names: of a vector's entries.
        about: what else the message says of the stream.
        stamp_ns: when it was taken; 0 if the message does not say.
    """

    suffix: str
    kind: str
    value: NDArray[Any] | str | None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    names: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    stamp_ns: int = 0


@cache
def typestore(encoding: str) -> Any:
    """The types of ``cdr`` (ROS 2) or ``ros1`` messages, those of `_MORE` among them."""
    store = get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_JAZZY)
    for name, text in _MORE.items():
        if name not in store.fielddefs:
            store.register(get_types_from_msg(text, name))
    return store


def decode(encoding: str, kind: str, data: bytes) -> Any:
    """A message as an object with the fields of its type.

    Raises:
        MessageError: the bytes are not of this type.
    """
    store = typestore(encoding)
    try:
        if encoding == "ros1":
            return store.deserialize_ros1(data, kind)
        return store.deserialize_cdr(data, kind)
    except (SerdeError, struct.error, ValueError, AssertionError, IndexError, OverflowError) as error:
        raise MessageError(f"it is no {kind}: {error}") from error


@cache
def unlike(encoding: str, kind: str, text: str) -> str:
    """Why a bag's own definition of a type is not the one we decode by; ``""`` if it is, or there is none."""
    if not text:
        return ""
    try:
        parse = get_types_from_idl if text.startswith("=" * 80 + "\nIDL:") else None
        found = parse(text) if parse else get_types_from_msg(text[: 1 << 16], kind)
    except (TypesysError, RecursionError, KeyError, ValueError, IndexError, AssertionError) as error:
        return f"its definition cannot be parsed ({type(error).__name__})"
    ours, todo, seen = typestore(encoding).fielddefs, [kind], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in found or name not in ours:
            continue
        seen.add(name)
        theirs = [(field_name.lower(), desc) for field_name, desc in found[name][1]]
        if theirs != [(field_name.lower(), desc) for field_name, desc in ours[name][1]]:
            return f"the file defines {name} otherwise than ROS does"
        todo += [str(part) for _, desc in ours[name][1] for part in _named(desc)]
    return ""


def _named(desc: Any) -> Iterator[str]:
    if isinstance(desc, tuple):
        for part in desc:
            yield from _named(part)
    elif isinstance(desc, str) and "/" in desc:
        yield desc


def rows(kind: str, message: Any) -> list[Row]:
    """What a message says, of the types in `READ`.

    Raises:
        MessageError: it contradicts itself (more positions than names, an image shorter than its size).
    """
    return READ[kind](message)


def _stamp(message: Any) -> tuple[int, dict[str, Any]]:
    header = getattr(message, "header", None)
    if header is None:
        return 0, {}
    return nanoseconds(header.stamp), {"frame_id": header.frame_id} if header.frame_id else {}


def nanoseconds(stamp: Any) -> int:
    """Of a ROS time."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


# encoding: dtype, channels, order of the channels that gives RGB
_PIXELS: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "rgb8": ("uint8", 3, (0, 1, 2)),
    "bgr8": ("uint8", 3, (2, 1, 0)),
    "rgba8": ("uint8", 4, (0, 1, 2)),
    "bgra8": ("uint8", 4, (2, 1, 0)),
    "8UC3": ("uint8", 3, (2, 1, 0)),  # OpenCV's order
    "mono8": ("uint8", 1, (0, 0, 0)),
    "8UC1": ("uint8", 1, (0, 0, 0)),
    "mono16": ("uint16", 1, ()),
    "16UC1": ("uint16", 1, ()),
    "32FC1": ("float32", 1, ()),
}


def _image(message: Any) -> list[Row]:
    encoding, height, width = message.encoding, int(message.height), int(message.width)
    if encoding not in _PIXELS:
        raise MessageError(f"images of encoding {encoding!r} are not read; {', '.join(_PIXELS)} are")
    dtype, channels, order = _PIXELS[encoding]
    least = width * channels * np.dtype(dtype).itemsize
    step = int(message.step)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and least <= step):
        raise MessageError(f"an image of {height} x {width} {encoding} with rows of {step} bytes")
    if len(message.data) < step * (height - 1) + least:
        raise MessageError(f"an image of {height} x {width} {encoding} with only {len(message.data)} bytes")
    stamp, about = _stamp(message)
    about["encoding"] = encoding
    if order:
        return [Row("", "image", None, (height, width, 3), "uint8", about=about, stamp_ns=stamp)]
    about |= {"16UC1": {"unit": "mm"}, "32FC1": {"unit": "m"}}.get(encoding, {})
    return [Row("", "depth", None, (height, width), dtype, about=about, stamp_ns=stamp)]


def pixels(message: Any) -> NDArray[Any]:
    """A sensor_msgs/Image as uint8 (H,W,3) RGB, or (H,W) uint16 or float32."""
    _image(message)  # its sizes are right
    dtype, channels, order = _PIXELS[message.encoding]
    kind = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    least = message.width * channels * kind.itemsize
    data = np.frombuffer(memoryview(message.data), np.uint8)
    short = message.step * message.height - len(data)  # the last row may lack its padding
    if short > 0:
        data = np.concatenate([data, np.zeros(short, np.uint8)])
    lines = data[: message.step * message.height].reshape(message.height, message.step)[:, :least]
    image = np.ascontiguousarray(lines).view(kind).astype(dtype, copy=False)
    if not order:
        return image
    return np.ascontiguousarray(image.reshape(message.height, message.width, channels)[..., list(order)])


def _compressed(message: Any) -> list[Row]:
    data = image_file(message)
    stamp, about = _stamp(message)
    height, width, deep = _size(data)
    about["format"] = message.format
    about["codec"] = codec_of(data)
    if not deep:
        return [Row("", "image", None, (height, width, 3), "uint8", about=about, stamp_ns=stamp)]
    if "16UC1" in message.format:
        about["unit"] = "mm"
    return [Row("", "depth", None, (height, width), deep, about=about, stamp_ns=stamp)]


def image_file(message: Any) -> bytes:
    """The image file in a sensor_msgs/CompressedImage.

    Raises:
        MessageError: it is none that we know.
    """
    data = bytes(memoryview(message.data))
    if "compressedDepth" in message.format:
        if not message.format.startswith("16UC1"):
            raise MessageError(
                f"depth of format {message.format!r} is quantised: only 16UC1 with PNG is read"
            )
        data = data[12:]  # the plugin's own header, which says nothing for 16UC1
    if not codec_of(data):
        raise MessageError(f"format {message.format!r} with bytes {data[:4].hex()}: JPEG, PNG, WebP are read")
    return data


def _size(data: bytes) -> tuple[int, int, str]:
    """Height, width, and the dtype if it is depth; of JPEG and PNG from the head alone."""
    codec = codec_of(data)
    try:
        if codec == "jpeg":
            height, width = (int(size) for size in simplejpeg.decode_jpeg_header(data)[:2])
            deep = ""
        elif codec == "png":
            width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
            deep = "uint16" if bits == 16 and colour == 0 else ""
        else:
            image = decode_image(data)
            height, width = image.shape[:2]
            deep = "" if image.ndim == 3 else str(image.dtype)
    except (ValueError, struct.error, DataError) as error:
        raise MessageError(f"a {codec} image that cannot be read ({error})") from error
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise MessageError(f"an image of {height} x {width} pixels")
    return height, width, deep


def _video(message: Any) -> list[Row]:
    raise MessageError(
        f"{message.format} video needs the frames since its last keyframe: decode it to images first "
        "(image_transport republish), or record CompressedImage"
    )


def _joints(message: Any) -> list[Row]:
    names = tuple(message.name)
    stamp, about = _stamp(message)
    if len(set(names)) != len(names):
        raise MessageError(f"joint names {names} are not distinct")
    found = []
    for part in ("position", "velocity", "effort"):
        values = np.asarray(getattr(message, part), dtype=np.float64)
        if len(values) == 0:
            continue
        if len(values) != len(names):
            raise MessageError(f"{len(values)} of {part} for {len(names)} joint names")
        found.append(Row(f".{part}", "vector", values, names=names, about=about, stamp_ns=stamp))
    return found


def _trajectory(message: Any) -> list[Row]:
    names = tuple(message.joint_names)
    stamp, about = _stamp(message)
    if len(set(names)) != len(names):
        raise MessageError(f"joint names {names} are not distinct")
    found = []
    for part in ("positions", "velocities", "accelerations", "effort"):
        points = [np.asarray(getattr(point, part), dtype=np.float64) for point in message.points]
        if not any(len(point) for point in points):
            continue
        if any(len(point) != len(names) for point in points):
            raise MessageError(f"points of {[len(p) for p in points]} {part} for {len(names)} joint names")
        value = points[0] if len(points) == 1 else np.stack(points)
        found.append(Row(f".{part}", "vector", value, names=names, about=about, stamp_ns=stamp))
    if len(message.points) > 1:
        offsets = [nanoseconds(point.time_from_start) / 1e9 for point in message.points]
        found.append(Row(".time_from_start", "vector", np.array(offsets), about=about, stamp_ns=stamp))
    return found


_XYZ, _QUATERNION = ("x", "y", "z"), ("qx", "qy", "qz", "qw")
_TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")


def _numbers(*parts: Any) -> NDArray[np.float64]:
    return np.array([getattr(part, name) for part in parts for name in "xyzw" if hasattr(part, name)])


def _pose_of(pose: Any) -> NDArray[np.float64]:
    return _numbers(pose.position, pose.orientation)


def _transform_of(transform: Any) -> NDArray[np.float64]:
    return _numbers(transform.translation, transform.rotation)


def _vector(names: tuple[str, ...], get: Callable[[Any], NDArray[Any]], suffix: str = "") -> Any:
    def read(message: Any) -> list[Row]:
        stamp, about = _stamp(message)
        return [Row(suffix, "vector", get(message), names=names, about=about, stamp_ns=stamp)]

    return read


def _odometry(message: Any) -> list[Row]:
    twist = message.twist.twist
    return [
        *_vector(_XYZ + _QUATERNION, lambda m: _pose_of(m.pose.pose), ".pose")(message),
        *_vector(_TWIST, lambda m: _numbers(twist.linear, twist.angular), ".twist")(message),
    ]


def _imu(message: Any) -> list[Row]:
    return [
        *_vector(_QUATERNION, lambda m: _numbers(m.orientation), ".orientation")(message),
        *_vector(_XYZ, lambda m: _numbers(m.angular_velocity), ".angular_velocity")(message),
        *_vector(_XYZ, lambda m: _numbers(m.linear_acceleration), ".linear_acceleration")(message),
    ]


def _transforms(message: Any) -> list[Row]:
    found = []
    for one in message.transforms:
        stamp, about = _stamp(one)
        found.append(
            Row(
                "." + one.child_frame_id.strip("/").replace("/", "."),
                "vector",
                _transform_of(one.transform),
                names=_XYZ + _QUATERNION,
                about=about,
                stamp_ns=stamp,
            )
        )
    return found


def _single(dtype: str) -> Any:
    return lambda message: [Row("", "vector", np.array(message.data, dtype=dtype))]


def _array(dtype: str) -> Any:
    def read(message: Any) -> list[Row]:
        data = np.array(message.data, dtype=dtype)
        sizes = [int(dim.size) for dim in message.layout.dim]
        fits = len(sizes) > 1 and len(sizes) <= 8 and np.prod(sizes, dtype=object) == len(data)
        offset = int(message.layout.data_offset)
        if offset:
            raise MessageError(f"an array with a data_offset of {offset}")
        return [Row("", "vector", data.reshape(sizes) if fits else data)]

    return read


READ: dict[str, Callable[[Any], list[Row]]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed,
    "foxglove_msgs/msg/CompressedVideo": _video,
    "sensor_msgs/msg/JointState": _joints,
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    "sensor_msgs/msg/Imu": _imu,
    "nav_msgs/msg/Odometry": _odometry,
    "tf2_msgs/msg/TFMessage": _transforms,
    "tf/msg/tfMessage": _transforms,
    "std_msgs/msg/String": lambda message: [Row("", "text", message.data)],
    "std_msgs/msg/Bool": _single("bool"),
    "geometry_msgs/msg/Pose": _vector(_XYZ + _QUATERNION, _pose_of),
    "geometry_msgs/msg/PoseStamped": _vector(_XYZ + _QUATERNION, lambda m: _pose_of(m.pose)),
    "geometry_msgs/msg/Transform": _vector(_XYZ + _QUATERNION, _transform_of),
    "geometry_msgs/msg/TransformStamped": _vector(_XYZ + _QUATERNION, lambda m: _transform_of(m.transform)),
    "geometry_msgs/msg/Point": _vector(_XYZ, _numbers),
    "geometry_msgs/msg/PointStamped": _vector(_XYZ, lambda m: _numbers(m.point)),
    "geometry_msgs/msg/Vector3": _vector(_XYZ, _numbers),
    "geometry_msgs/msg/Vector3Stamped": _vector(_XYZ, lambda m: _numbers(m.vector)),
    "geometry_msgs/msg/Quaternion": _vector(_QUATERNION, _numbers),
    "geometry_msgs/msg/QuaternionStamped": _vector(_QUATERNION, lambda m: _numbers(m.quaternion)),
    "geometry_msgs/msg/Twist": _vector(_TWIST, lambda m: _numbers(m.linear, m.angular)),
    "geometry_msgs/msg/TwistStamped": _vector(_TWIST, lambda m: _numbers(m.twist.linear, m.twist.angular)),
    "geometry_msgs/msg/Wrench": _vector(
        ("fx", "fy", "fz", "tx", "ty", "tz"), lambda m: _numbers(m.force, m.torque)
    ),
    "geometry_msgs/msg/WrenchStamped": _vector(
        ("fx", "fy", "fz", "tx", "ty", "tz"), lambda m: _numbers(m.wrench.force, m.wrench.torque)
    ),
}
for _kind in ("Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"):
    READ[f"std_msgs/msg/{_kind}"] = _single(_kind.lower())
    READ[f"std_msgs/msg/{_kind}MultiArray"] = _array(_kind.lower())


def camera_info(message: Any) -> dict[str, Any]:
    """A sensor_msgs/CameraInfo as JSON."""
    matrix = getattr(message, "K", None) if hasattr(message, "K") else message.k
    distortion = getattr(message, "D", None) if hasattr(message, "D") else message.d
    return {
        "height": int(message.height),
        "width": int(message.width),
        "model": str(message.distortion_model),
        "matrix": [float(x) for x in np.asarray(matrix)],
        "distortion": [float(x) for x in np.asarray(distortion)],
    }

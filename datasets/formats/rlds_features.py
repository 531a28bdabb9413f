"""What an RLDS set declares in `features.json`, and the rows of one record that answer to it.

The messages are tensorflow-datasets' own. Nothing is imported because a file names it: feature classes that are
not in the table below are refused. Rows are taken from the message here rather than by its `ExampleParserNp`,
which loses nested sequences of a fixed length; the tests compare the two.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow_datasets.core.proto import feature_pb2
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from ..ledger import DataError

_CORE = "tensorflow_datasets.core.features."
_CLASSES = {
    _CORE + "features_dict.FeaturesDict": "features_dict",
    _CORE + "dataset_feature.Dataset": "sequence",
    _CORE + "sequence_feature.Sequence": "sequence",
    _CORE + "tensor_feature.Tensor": "tensor",
    _CORE + "feature.Tensor": "tensor",
    _CORE + "scalar.Scalar": "tensor",
    _CORE + "text_feature.Text": "text",
    _CORE + "image_feature.Image": "image",
    _CORE + "class_label_feature.ClassLabel": "class_label",
}
_NUMBERS = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_MAX_FILE = 1 << 24
_MAX_ROW = 1 << 27  # entries of one row
_MAX_DEPTH = 24
_MAX_LEAVES = 4096

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Leaf:
    """One declared feature.

    Attributes:
        path: as in the record, ``steps/observation/state``.
        kind: ``image`` (an encoded file for each row), ``number``, ``text`` or ``ragged`` (rows of their own
            lengths).
        shape: of one row; None where the set does not say.
        dtype: numpy's name; ``str`` for text.
        encoding: ``none``, or ``bytes`` and ``zlib`` where a row is stored as its raw bytes.
        levels: sequences around the value, inside the step.
        format: of an image, ``jpeg`` or ``png``, if declared.
        classes: of a class label.
    """

    path: str
    kind: Literal["image", "number", "text", "ragged"]
    shape: Shape
    dtype: str
    encoding: str = "none"
    levels: int = 0
    format: str = ""
    classes: int = 0

    @property
    def in_steps(self) -> bool:
        return self.path.startswith("steps/")


def load_features(file: Path) -> list[Leaf]:
    """Every feature that `features.json` declares.

    Raises:
        DataError: the file is damaged, too large, or names a class or type that is not read.
    """
    try:
        if file.stat().st_size > _MAX_FILE:
            raise ValueError("more than 16 MB")
        node = json.loads(file.read_bytes())
        message = json_format.ParseDict(_modern(node), feature_pb2.Feature())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, json_format.Error) as error:
        if isinstance(error, DataError):
            raise DataError(error.what, error.remedy, file=file, key=error.key) from error
        raise DataError(
            f"no features can be read from it ({type(error).__name__}: {str(error)[:200]})",
            "take the file from its source again; sets older than TFDS 4.0 have to be prepared again",
            file=file,
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", "check the path and its rights", file=file
        ) from error
    leaves: list[Leaf] = []
    try:
        _walk(message, (), 0, leaves)
    except DataError as error:
        raise DataError(error.what, error.remedy, file=file, key=error.key) from error
    if not any(leaf.in_steps for leaf in leaves):
        raise DataError("it declares no steps", "only RLDS sets are read: a Dataset called steps", file=file)
    return leaves


def _modern(node: Any, depth: int = 0) -> dict[str, Any]:
    """A feature as TFDS writes it since 4.5, of any age."""
    if not isinstance(node, dict) or depth > _MAX_DEPTH:
        raise ValueError("a feature that is no object, or nested too deeply")
    if not isinstance(node.get("type"), str):
        name = str(node.get("pythonClassName", node.get("python_class_name", "")))
        known = _class(name)
        old = node.get("jsonFeature", node.get("json_feature"))
        if old is not None:
            return _modern({"type": name, "content": json.loads(old["json"])}, depth + 1)
        content = node[_camel(known)] if _camel(known) in node else node.get(known, {})
    else:
        name, content = node["type"], node["content"]
        known = _class(name)
        if isinstance(content, str):
            content = json.loads(content)
        if not node.get("proto_cls"):
            content = _older(known, content)
    if known == "features_dict":
        content = {
            "features": {str(k): _modern(v, depth + 1) for k, v in content.get("features", {}).items()}
        }
    elif known == "sequence":
        content = {**content, "feature": _modern(content["feature"], depth + 1)}
    return {"pythonClassName": name, _camel(known): content}


def _older(known: str, content: Any) -> dict[str, Any]:
    """The content of a feature from before TFDS used messages for it."""
    if known == "features_dict":
        return {"features": content}
    if known == "sequence":
        length = content.get("length")
        return {"feature": content["feature"], "length": -1 if length is None else length}
    if known == "class_label":
        return {"numClasses": content.get("num_classes") or 0}
    if known == "text":
        if "use_encoder" in content:
            raise ValueError("text stored as numbers of a vocabulary")
        return {}
    shape = {"dimensions": [-1 if extent is None else extent for extent in content["shape"]]}
    older = {"shape": shape, "dtype": content.get("dtype") or "uint8"}
    for name in ("encoding", "encoding_format"):
        if content.get(name):
            older[_camel(name)] = content[name]
    return older


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _class(name: str) -> str:
    if name not in _CLASSES:
        raise DataError(
            f"the feature class {name[:200]!r} is not one that regrip reads, and nothing is imported by name",
            "write the set again with the features of tensorflow-datasets itself (Tensor, Image, Text, ...)",
        )
    return _CLASSES[name]


def _walk(feature: Any, path: tuple[str, ...], levels: int, leaves: list[Leaf], outer: Shape = ()) -> None:
    where = "/".join(path)
    known = _class(feature.python_class_name)
    if feature.WhichOneof("content") not in (known, None) or len(leaves) > _MAX_LEAVES:
        raise DataError("its class and its content do not agree", "the file is damaged", key=where)
    if known == "features_dict":
        for name, child in sorted(feature.features_dict.features.items()):
            if not name or "/" in name:
                raise DataError(f"a feature is called {name!r}", "the file is damaged", key=where)
            _walk(child, (*path, name), levels, leaves, outer)
        return
    if known == "sequence":
        steps = path == ("steps",)
        length = None if feature.sequence.length < 0 else int(feature.sequence.length)
        more = () if steps else (length,)
        _walk(feature.sequence.feature, path, levels + (not steps), leaves, outer + more)
        return
    leaves.append(_leaf(feature, known, where, levels, outer))


def _leaf(feature: Any, known: str, where: str, levels: int, outer: Shape) -> Leaf:
    if known == "text":
        return Leaf(where, "ragged" if levels else "text", outer, "str", levels=levels)
    if known == "class_label":
        classes = int(feature.class_label.num_classes)
        return Leaf(where, _rows(outer), outer, "int64", levels=levels, classes=classes)
    said = feature.tensor if known == "tensor" else feature.image
    inner = tuple(None if extent < 0 else int(extent) for extent in said.shape.dimensions)
    entries = 1
    for extent in (*outer, *inner):
        entries *= 1 if extent is None else extent
    if entries > _MAX_ROW or len(outer) + len(inner) > 8:
        raise DataError(f"a row of shape {(*outer, *inner)} is declared", "the file is damaged", key=where)
    if known == "image":
        dtype = said.dtype or "uint8"
        if dtype not in ("uint8", "uint16", "float32") or len(inner) not in (0, 3):
            raise DataError(f"images of {dtype} and shape {inner}", "only (H,W,C) images are read", key=where)
        kind: Literal["image", "ragged"] = "ragged" if levels else "image"
        return Leaf(where, kind, inner or (None, None, 3), dtype, levels=levels, format=said.encoding_format)
    if said.dtype in ("string", "object", "str", "bytes"):
        return Leaf(where, "ragged" if outer or inner else "text", outer + inner, "str", levels=levels)
    if said.dtype not in _NUMBERS:
        raise DataError(f"entries of {said.dtype!r}", "only numbers, truths and text are read", key=where)
    encoding = said.encoding or "none"
    if encoding not in ("none", "bytes", "zlib"):
        raise DataError(f"a tensor stored as {encoding!r}", "the file is damaged", key=where)
    kind_of_rows = _rows(outer + inner)
    return Leaf(where, kind_of_rows, outer + inner, said.dtype, encoding, levels)


def _rows(shape: Shape) -> Literal["number", "ragged"]:
    return "ragged" if None in shape else "number"


def parse_example(payload: bytes) -> Mapping[str, Any]:
    """The features of one record by path.

    Raises:
        ValueError: the bytes are no `tf.train.Example`.
    """
    try:
        message = tf_example_pb2.Example.FromString(payload)
    except (DecodeError, ValueError) as error:
        raise ValueError(f"its bytes are no tf.train.Example ({error})") from error
    features: Mapping[str, Any] = message.features.feature
    return features


def file_list(features: Mapping[str, Any], path: str) -> list[bytes]:
    """The rows of a feature of bytes.

    Raises:
        ValueError: it holds numbers, or is not there.
    """
    feature = _of(features, path)
    if feature.WhichOneof("kind") not in ("bytes_list", None):
        raise ValueError("numbers, where bytes are declared")
    return list(feature.bytes_list.value)


def _of(features: Mapping[str, Any], path: str) -> Any:
    if path not in features:
        raise ValueError("the record lacks it")
    return features[path]


def numbers(features: Mapping[str, Any], leaf: Leaf) -> NDArray[Any]:
    """Rows (N,*shape) of a feature of numbers, in its declared type.

    Raises:
        ValueError: they do not fit its shape or type.
    """
    shape = tuple(extent or 0 for extent in leaf.shape)
    entries = int(np.prod(shape, dtype=np.int64))
    if leaf.encoding != "none":
        size = entries * np.dtype(leaf.dtype).itemsize
        rows = [_raw(row, leaf.encoding, size) for row in file_list(features, leaf.path)]
        return np.frombuffer(b"".join(rows), leaf.dtype).reshape((len(rows), *shape)).copy()
    path = leaf.path
    if leaf.levels and f"{path}/ragged_flat_values" in features:
        path = f"{path}/ragged_flat_values"
    flat = flat_numbers(_of(features, path), leaf.dtype)
    if entries == 0:
        raise ValueError(f"rows of shape {shape} hold nothing, so they cannot be counted")
    if len(flat) % entries:
        raise ValueError(f"{len(flat)} numbers are no whole number of rows of shape {shape}")
    return flat.reshape((-1, *shape))


def _raw(row: bytes, encoding: str, size: int) -> bytes:
    if encoding == "zlib":
        unpacker = zlib.decompressobj()
        try:
            row = unpacker.decompress(row, size + 1)
        except zlib.error as error:
            raise ValueError(f"a row cannot be unpacked ({error})") from error
    if len(row) != size:
        raise ValueError(f"a row of {len(row)} bytes, expected {size}")
    return row


def flat_numbers(feature: Any, dtype: str) -> NDArray[Any]:
    """All numbers of a feature in a row, in a type that holds them.

    Raises:
        ValueError: bytes, or integers that the type cannot hold.
    """
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        # The packed field is the array itself: quicker than Python floats, and NaNs keep their bits.
        packed = feature.float_list.SerializeToString(deterministic=True)
        start = len(packed) - 4 * len(feature.float_list.value)
        flat: NDArray[Any] = np.frombuffer(packed, "<f4", offset=start)
        if np.dtype(dtype).kind in "iu" and not (np.isfinite(flat).all() and (flat == np.trunc(flat)).all()):
            raise ValueError(f"fractions, where {dtype} is declared")
    elif kind == "int64_list":
        flat = np.fromiter(feature.int64_list.value, np.int64, len(feature.int64_list.value))
        if dtype == "uint64":
            return flat.view(np.uint64)
        if np.dtype(dtype).kind in "iu" and len(flat):
            limits = np.iinfo(dtype)
            if flat.min() < limits.min or flat.max() > limits.max:
                raise ValueError(f"numbers from {flat.min()} to {flat.max()}, where {dtype} is declared")
    elif kind is None:
        return np.empty(0, dtype)
    else:
        raise ValueError("bytes, where numbers are declared")
    with np.errstate(all="ignore"):
        return flat.astype(dtype)


def ragged(features: Mapping[str, Any], leaf: Leaf, steps: int) -> list[str]:
    """Rows of unequal lengths, each as JSON.

    Raises:
        ValueError: the lengths do not add up.
    """
    path = leaf.path
    flat_path = f"{path}/ragged_flat_values" if f"{path}/ragged_flat_values" in features else path
    if leaf.dtype == "str":
        values: list[Any] = [text_of(item) for item in file_list(features, flat_path)]
    else:
        if leaf.encoding != "none":
            raise ValueError("rows of unequal lengths that are stored as raw bytes are not read")
        inner = leaf.shape[leaf.levels :]
        entries = int(np.prod([extent or 1 for extent in inner], dtype=np.int64))
        flat = flat_numbers(_of(features, flat_path), leaf.dtype)
        if None in inner or not leaf.levels:
            return _evenly(flat.tolist(), steps)
        if len(flat) % max(entries, 1):
            raise ValueError(f"{len(flat)} numbers for rows of {entries}")
        values = flat.reshape((-1, *(extent or 0 for extent in inner))).tolist()
    if not leaf.levels:
        return _evenly(values, steps)
    for level in range(leaf.levels - 1, -1, -1):
        key = f"{path}/ragged_row_lengths_{level}"
        if key not in features:
            raise ValueError("the record lacks the lengths of its rows")
        lengths = flat_numbers(features[key], "int64")
        if (lengths < 0).any() or lengths.sum() != len(values):
            raise ValueError(f"lengths that add up to {lengths.sum()} for {len(values)} values")
        ends = np.cumsum(lengths)
        values = [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return [json.dumps(row) for row in values]


def _evenly(values: list[Any], steps: int) -> list[str]:
    if not steps or len(values) % steps:
        raise ValueError(f"{len(values)} values cannot be shared out to {steps} steps")
    size = len(values) // steps
    return [json.dumps(values[i * size : (i + 1) * size]) for i in range(steps)]


def text_of(item: bytes) -> str:
    """Text from bytes; what is no UTF-8 is shown by escapes rather than refused."""
    return item.decode("utf-8", errors="backslashreplace")


def float_feature(rows: NDArray[Any]) -> Any:
    """Numbers as a feature, bits untouched."""
    packed = np.ascontiguousarray(rows, "<f4").tobytes()
    message = tf_feature_pb2.FloatList.FromString(b"\x0a" + _varint(len(packed)) + packed if packed else b"")
    return tf_feature_pb2.Feature(float_list=message)


def int_feature(rows: NDArray[Any]) -> Any:
    flat = rows.ravel()
    flat = flat.view(np.int64) if flat.dtype == np.uint64 else flat.astype(np.int64)
    return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=flat.tolist()))


def bytes_feature(rows: Sequence[bytes]) -> Any:
    return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=rows))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def example_bytes(features: Mapping[str, Any]) -> bytes:
    """A whole `tf.train.Example`, the same bytes for the same features."""
    message = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    data: bytes = message.SerializeToString(deterministic=True)
    return data

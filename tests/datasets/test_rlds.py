"""RLDS sets: what we write read by tensorflow-datasets, and what others write read by us."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings as rec
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from PIL import Image
from tensorflow_datasets.core import example_parser, example_serializer

from regrip.datasets.formats import WriteOptions, get_format, rlds_write, tfrecord
from regrip.datasets.frames import ArrayFrames, EncodedFrames, encode_jpeg, encode_png
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track

RLDS = get_format("rlds")
F = tfds.features


def write(path: Path, of: Contents, made: list[Recording], images: Any = "copy") -> Ledger:
    ledger = Ledger()
    sink = RLDS.create(path, of, WriteOptions(images=images), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


def foreign(
    folder: Path, steps: dict[str, Any], episodes: list[Any], beside: Any = None, shards: int = 1
) -> Path:
    """A set as tensorflow-datasets writes it, with nothing of ours in it."""
    features = F.FeaturesDict({"steps": F.Dataset(steps), **(beside or {})})
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    folder.mkdir(parents=True, exist_ok=True)
    per = -(-len(episodes) // shards)
    for index in range(shards):
        with open(folder / tfrecord.shard_name("toy", "train", index, shards), "wb") as file:
            for episode in episodes[index * per : (index + 1) * per]:
                episode = episode if isinstance(episode, dict) else {"steps": episode}
                file.write(tfrecord.frame(serializer.serialize_example(features.encode_example(episode))))
    features.save_config(str(folder))
    return folder


def vectors(steps: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"action": np.full(7, k + 1, np.float32), **{name: make(k) for name, make in more.items()}}
        for k in range(steps)
    ]


ACTION = {"action": F.Tensor(shape=(7,), dtype=np.float32)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=rec.recordings(raw=False))
def test_round_trip(tmp_path_factory, drawn):
    of, made = drawn
    path = tmp_path_factory.mktemp("rlds") / "toy_set"
    write(path, of, made)
    assert RLDS.detect(path)
    source = RLDS.open(path)
    rec.assert_set(source, of, made)
    assert source.contents == of
    for got, want in zip(source, made, strict=True):
        assert (got.success, got.terminated, got.truncated) == (want.success, want.terminated, want.truncated)


def test_tfds_takes_the_folder_and_reads_the_same(tmp_path):
    """The referee: `builder_from_directory` and the numpy parser, neither of which know of us."""
    of = rec.contents(depth=True)
    made = [
        rec.recording(of, n, seed=n, task=f"задача {n}", lacks=(rec.WRIST,) * (n == 5)) for n in (3, 5, 1)
    ]
    write(tmp_path / "toy_set", of, made)
    builder = tfds.builder_from_directory(str(tmp_path / "toy_set"))
    assert builder.info.splits["train"].num_examples == 3
    assert builder.info.splits["train"].shard_lengths == [3]
    assert (builder.info.name, str(builder.info.version)) == ("toy_set", "1.0.0")
    features = builder.info.features
    assert features["steps"]["observation"]["front"].shape == (32, 48, 3)
    parser = example_parser.ExampleParserNp(features.get_serialized_info())
    (file,) = builder.info.splits["train"].filepaths
    for record, want in zip(tfrecord.scan(Path(os.fspath(file))), made, strict=True):
        got = parser.parse_example(tfrecord.read(record))
        steps, n = got["steps"], want.num_steps
        np.testing.assert_array_equal(steps["action"], want.streams["action"].rows)
        np.testing.assert_array_equal(steps["observation"]["state"], want.streams["observation.state"].rows)
        assert [t.decode() for t in steps["language_instruction"]] == [want.task] * n
        np.testing.assert_array_equal(steps["discount"], np.ones(n, np.float32))
        assert steps["is_first"].tolist() == [k == 0 for k in range(n)]
        assert steps["is_last"].tolist() == [k == n - 1 for k in range(n)]
        assert steps["is_terminal"].tolist() == [k == n - 1 for k in range(n)]
        assert list(steps["observation"]["front"]) == list(want.streams[rec.FRONT].rows.files)
        if n == 5:
            assert list(steps["observation"]["wrist"]) == [b""] * 5
        depth = np.asarray(Image.open(io.BytesIO(steps["observation"]["front_depth"][0])))
        np.testing.assert_array_equal(depth, want.streams[rec.DEPTH].rows[0])
        json.loads(got["episode_metadata"]["regrip"])
    assert "tensorflow" not in sys.modules


def test_whatever_streams_there_are(tmp_path):
    """float64, whole numbers of each size, truths, text, float depth, times of its own, two splits in turns."""
    n, rng = 4, np.random.default_rng(0)
    rows: dict[str, Any] = {
        "action": rng.standard_normal((n, 7)),
        "observation.state": np.array([[np.nan, np.inf, -0.0, 1e-45]] * n, np.float32),
        "observation.joints.left": rng.standard_normal((n, 2, 3)).astype(np.float16),
        "count": np.array([0, 2**64 - 1, 1, 2**63], np.uint64),
        "small": np.array([[-128, 127]] * n, np.int8),
        "flag": np.array([True, False, True, True]),
        "reward": rng.standard_normal(n),
        "action.gripper": np.ones((n, 1), np.float32),
        "note": ["", "ü\x00", "b", "c"],
        "task": ["first", "first", "then", "then"],
    }
    kinds = {key: "text" if isinstance(r, list) else "vector" for key, r in rows.items()}
    specs = [
        StreamSpec(
            key,
            kinds[key],
            "str" if isinstance(r, list) else r.dtype.name,
            () if isinstance(r, list) else r.shape[1:],
        )
        for key, r in rows.items()
    ]
    depth = rng.standard_normal((n, 16, 24)).astype(np.float32)
    specs.append(StreamSpec("observation.depth.top", "depth", "float32", (16, 24), about={"unit": "m"}))
    specs.append(StreamSpec("observation.images.top", "image", "uint8", (16, 24, 3)))
    of = Contents({s.key: s for s in specs}, rate_hz=30.0)
    time = np.array([0.0, 0.031, 0.07, 0.9])
    made = []
    for split in ("train", "val", "val", "train"):
        streams = {key: Track(r, time) for key, r in rows.items()}
        streams["observation.depth.top"] = Track(ArrayFrames(depth), time)
        pictures = EncodedFrames([encode_png(rec.picture(k, 16, 24)) for k in (1, 3)], (16, 24, 3))
        streams["observation.images.top"] = Track(pictures, time[[1, 3]])  # no image at steps 0 and 2
        made.append(
            Recording(
                streams, task="first", began_ns=17, about={"split": split, "seed": len(made), "x": [1, None]}
            )
        )
    write(tmp_path / "odd", of, made)
    builder = tfds.builder_from_directory(str(tmp_path / "odd"))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "val": 2}
    source = RLDS.open(tmp_path / "odd")
    rec.assert_set(source, of, made)
    assert [one.about for one in source] == [one.about for one in made]
    assert source[0].streams["observation.state"].rows.tobytes() == rows["observation.state"].tobytes()
    assert (source[0].began_ns, source[0].success) == (17, None)
    assert source.num_rows(0)["observation.images.top"] == 2


def test_a_loss_is_told_with_its_psnr(tmp_path):
    of = rec.contents()
    losses = write(tmp_path / "set", of, [rec.recording(of, 5, codec="raw")]).losses
    assert {(loss.stream, loss.what, loss.rows) for loss in losses} == {
        (rec.FRONT, "re-encoded", 5),
        (rec.WRIST, "re-encoded", 5),
    }
    assert all(25 < loss.measure["psnr_db"] < 60 for loss in losses)
    assert not write(tmp_path / "png", of, [one := rec.recording(of, 5, codec="raw")], "png").losses
    rec.assert_same(RLDS.open(tmp_path / "png")[0], one)


def test_prepared_elsewhere_is_the_same(tmp_path):
    of = rec.contents(depth=True)
    one = rec.recording(of, 3, codec="raw")
    options, ledger = WriteOptions(images="jpeg", quality=90), Ledger()
    ready = RLDS.prepare(one, of, options, tmp_path, ledger)
    for name, recording in (("a", one), ("b", ready)):
        sink = RLDS.create(tmp_path / name / "set", of, options, Ledger())
        sink.write(recording)
        sink.close()
    shard = "set-train.tfrecord-00000-of-00001"
    assert (tmp_path / "a/set" / shard).read_bytes() == (tmp_path / "b/set" / shard).read_bytes()
    assert len(ledger.losses) == 2


def test_nested_and_dictionaries(tmp_path):
    steps = {
        "action": {"world_vector": F.Tensor(shape=(3,), dtype=np.float32), "open": F.Scalar(np.bool_)},
        "observation": {
            "image": F.Image(shape=(None, None, 3)),
            "wrist_image": F.Image(shape=(16, 24, 3), encoding_format="png"),
            "never": F.Image(shape=(16, 24, 3)),
            "grey": F.Image(shape=(16, 24, 1), encoding_format="png"),
            "rgba": F.Image(shape=(16, 24, 4), encoding_format="png"),
            "depth": F.Image(shape=(16, 24, 1), dtype=np.uint16, encoding_format="png"),
            "raw": F.Tensor(shape=(16, 24, 3), dtype=np.uint8),
            "files": F.Text(),
            "state": F.Tensor(shape=(8,), dtype=np.float64),
            "robot": {"qpos": F.Tensor(shape=(2,), dtype=np.float32, encoding="zlib")},
            "natural_language_instruction": F.Text(),
            "language_embedding": F.Tensor(shape=(5,), dtype=np.float32),
        },
        "is_first": F.Scalar(np.bool_),
        "is_last": F.Scalar(np.bool_),
        "is_terminal": F.Scalar(np.bool_),
        "label": F.ClassLabel(num_classes=4),
    }
    beside = {
        "episode_metadata": {
            "file_path": F.Text(),
            "success": F.Scalar(np.bool_),
            "xyz": F.Tensor(shape=(2,), dtype=np.float32),
        }
    }
    picture = rec.picture(0, 16, 24)
    grey, rgba = picture[..., 0], np.dstack([picture, picture[..., 0]])

    def png(pixels: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def step(k: int) -> dict[str, Any]:
        return {
            "action": {"world_vector": np.full(3, k, np.float32), "open": k == 1},
            "observation": {
                "image": encode_jpeg(picture),
                "wrist_image": b"" if k == 1 else encode_png(picture),
                "never": b"",
                "grey": png(grey),
                "rgba": png(rgba),
                "depth": encode_png(np.full((16, 24), 300 + k, np.uint16)),
                "raw": picture,
                "files": encode_png(picture),
                "state": np.full(8, 0.1),
                "robot": {"qpos": np.array([k, 2], np.float32)},
                "natural_language_instruction": "open the drawer",
                "language_embedding": np.ones(5, np.float32),
            },
            "is_first": k == 0,
            "is_last": k == 2,
            "is_terminal": False,
            "label": k,
        }

    said = {"file_path": "/x/y.npy", "success": True, "xyz": np.array([1, 2], np.float32)}
    path = foreign(
        tmp_path / "toy/1.0.0",
        steps,
        [{"steps": [step(k) for k in range(3)], "episode_metadata": said}],
        beside,
    )
    source = RLDS.open(path.parent)  # the version is found
    one, streams = source[0], source.contents.streams
    assert one.task == "open the drawer"
    assert "task" not in streams
    assert (one.success, one.terminated, one.truncated) == (True, False, True)
    assert one.about["episode_metadata"] == {"file_path": "/x/y.npy", "success": True, "xyz": [1.0, 2.0]}
    assert one.streams["action.world_vector"].rows[:, 0].tolist() == [0, 1, 2]
    assert streams["action.open"].about["rlds"] == "steps/action/open"
    assert one.streams["observation.images.image"].rows.encoded(0) == encode_jpeg(picture)
    assert streams["observation.images.image"].shape == (16, 24, 3)
    assert "observation.images.never" not in one.streams
    assert one.streams["observation.images.wrist_image"].time.tolist() == [0.0, 2.0]
    np.testing.assert_array_equal(one.streams["observation.images.grey"].rows[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(one.streams["observation.images.raw"].rows[2], picture)
    np.testing.assert_array_equal(one.streams["observation.images.files"].rows[2], picture)
    assert one.streams["observation.images.rgba"].rows.encoded(0) == png(rgba)
    assert one.streams["observation.depth.depth"].rows[2][0, 0] == 302
    assert one.streams["observation.robot.qpos"].rows[2].tolist() == [2, 2]
    assert one.streams["observation.state"].rows.dtype == np.float64
    assert one.streams["observation.state"].rows[0, 0] == np.float64(np.float32(0.1))
    assert one.streams["observation.language_embedding"].rows.shape == (3, 5)
    assert one.streams["label"].rows.tolist() == [0, 1, 2]
    told = " ".join(str(problem) for problem in source.problems)
    assert "float64" in told
    assert "4 channels" in told
    assert source.contents.rate_hz is None
    assert streams["label"].about["time"] == "nominal"
    # and the names come back when it is written again
    kept = {
        key: track for key, track in one.streams.items() if key != "observation.images.raw"
    }  # would be JPEG
    one = dataclasses.replace(one, streams=kept)
    write(tmp_path / "again", source.contents, [one])
    features = tfds.builder_from_directory(str(tmp_path / "again")).info.features["steps"]
    assert set(features["observation"]) >= {"wrist_image", "robot", "grey", "state"}
    assert set(features["action"]) == {"world_vector", "open"}
    rec.assert_same(RLDS.open(tmp_path / "again")[0], one)


def test_rows_agree_with_tfds_parser(tmp_path):
    """Ours and theirs take the same numbers out of a record, NaNs and empty sequences included."""
    steps = {
        **ACTION,
        "x": F.Tensor(shape=(2, 3), dtype=np.float32),
        "i": F.Tensor(shape=(2,), dtype=np.int32),
        "u": F.Scalar(np.uint64),
        "t": F.Text(),
    }
    rng = np.random.default_rng(1)
    episode = vectors(
        4,
        x=lambda k: np.where(rng.random((2, 3)) < 0.3, np.nan, rng.standard_normal((2, 3))).astype(
            np.float32
        ),
        i=lambda k: rng.integers(-(2**31), 2**31, 2).astype(np.int32),
        u=lambda k: np.uint64(2**63 + k),
        t=lambda k: f"{k}",
    )
    path = foreign(tmp_path / "set", steps, [episode])
    info = F.FeaturesDict({"steps": F.Dataset(steps)}).get_serialized_info()
    record = next(tfrecord.scan(path / "toy-train.tfrecord-00000-of-00001"))
    theirs = example_parser.ExampleParserNp(info).parse_example(tfrecord.read(record))["steps"]
    ours = RLDS.open(path)[0].streams
    for key in ("x", "i", "u", "action"):
        np.testing.assert_array_equal(ours[key].rows, theirs[key])
        assert ours[key].rows.dtype == theirs[key].dtype
    assert [text.encode() for text in ours["t"].rows] == list(theirs["t"])


def test_ragged_rows_become_text(tmp_path):
    """Sequences of their own lengths inside a step; TFDS cannot write those without TensorFlow, so by hand."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    path = foreign(tmp_path / "set", {**ACTION, "boxes": F.Tensor(shape=(2,), dtype=np.float32)}, [])
    declared = F.FeaturesDict(
        {
            "steps": F.Dataset(
                {
                    **ACTION,
                    "boxes": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)),
                    "words": F.Sequence(F.Text()),
                    "three": F.Sequence(F.Scalar(np.int64), length=3),
                }
            )
        }
    )
    declared.save_config(str(path))
    floats, ints = rlds_write.float_feature, rlds_write.int_feature
    features = {
        "steps/action": floats(np.ones((3, 7), np.float32)),
        "steps/boxes/ragged_flat_values": floats(np.arange(6, dtype=np.float32)),
        "steps/boxes/ragged_row_lengths_0": ints(np.array([2, 0, 1])),
        "steps/words/ragged_flat_values": rlds_write.bytes_feature([b"a", b"b"]),
        "steps/words/ragged_row_lengths_0": ints(np.array([0, 1, 1])),
        "steps/three/ragged_flat_values": ints(np.arange(9)),
        "steps/three/ragged_row_lengths_0": ints(np.array([3, 3, 3])),
    }
    payload = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features)).SerializeToString()
    (path / "toy-train.tfrecord-00000-of-00001").write_bytes(tfrecord.frame(payload))
    one = RLDS.open(path)[0]
    assert [json.loads(row) for row in one.streams["boxes"].rows] == [[[0, 1], [2, 3]], [], [[4, 5]]]
    assert [json.loads(row) for row in one.streams["words"].rows] == [[], ["a"], ["b"]]
    assert one.streams["three"].rows.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_language_that_changes_and_last_action_of_zero(tmp_path):
    steps = {
        **ACTION,
        "language_instruction": F.Text(),
        "is_last": F.Scalar(np.bool_),
        "is_terminal": F.Scalar(np.bool_),
    }
    one = vectors(
        4, language_instruction=lambda k: "ab"[k // 2], is_last=lambda k: k == 3, is_terminal=lambda k: k == 3
    )
    one[-1]["action"] = np.zeros(7, np.float32)
    same = vectors(
        2, language_instruction=lambda k: "c", is_last=lambda k: k == 1, is_terminal=lambda k: k == 1
    )
    source = RLDS.open(foreign(tmp_path / "set", steps, [one, same]))
    assert list(source[0].streams["task"].rows) == ["a", "a", "b", "b"]
    assert source[0].task == "a"
    assert "task" not in source[1].streams
    assert (source[1].task, source[1].terminated, source[1].truncated) == ("c", True, False)
    assert len(source[0].streams["action"]) == 4  # kept
    (problem,) = [p for p in source.problems if "all zero" in p.what]
    assert (problem.episode, problem.frame, problem.key) == (0, 3, "action")
    later = RLDS.open(foreign(tmp_path / "later", steps, [same, one]))
    assert later[1].about["task_changes"] == [[2, "b"]]


def test_shards_in_natural_order_and_missing_ones_told(tmp_path):
    path = foreign(tmp_path / "set", ACTION, [vectors(k + 1) for k in range(12)], shards=12)
    assert [one.num_steps for one in RLDS.open(path)] == list(range(1, 13))
    (path / "toy-train.tfrecord-00004-of-00012").unlink()
    source = RLDS.open(path)
    assert len(source) == 11
    assert "1 of 12 shards" in str(source.problems[0])
    info = {"name": "toy", "version": "1.0.0", "splits": [{"name": "train", "shardLengths": ["2", "1"]}]}
    (path / "dataset_info.json").write_text(json.dumps(info))
    assert any("dataset_info.json says 2" in problem.what for problem in RLDS.open(path).problems)


def test_old_features_json(tmp_path):
    """The form of TFDS 4.0, plain objects with `type` and `content`."""
    path = foreign(
        tmp_path / "set", {**ACTION, "label": F.ClassLabel(num_classes=3)}, [vectors(2, label=lambda k: k)]
    )
    core = "tensorflow_datasets.core.features."

    def old(name: str, content: Any) -> dict[str, Any]:
        return {"type": core + name, "content": content}

    inner = old(
        "features_dict.FeaturesDict",
        {
            "action": old("feature.Tensor", {"shape": [7], "dtype": "float32"}),
            "label": old("class_label_feature.ClassLabel", {"num_classes": 3}),
        },
    )
    steps = old("dataset_feature.Dataset", {"feature": inner, "length": None})
    (path / "features.json").write_text(json.dumps(old("features_dict.FeaturesDict", {"steps": steps})))
    one = RLDS.open(path)[0]
    assert one.streams["action"].rows[1, 0] == 2
    assert one.streams["label"].rows.tolist() == [0, 1]


def test_an_unknown_class_is_refused_and_not_imported(tmp_path):
    path = foreign(tmp_path / "set", ACTION, [vectors(2)])
    text = (path / "features.json").read_text()
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        (path / "features.json").write_text(
            text.replace("tensorflow_datasets.core.features.tensor_feature.Tensor", "evil_module.Tensor")
        )
        with pytest.raises(DataError, match=r"evil_module\.Tensor"):
            RLDS.open(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules


def test_damage_is_named_by_file_and_record(tmp_path):
    path = foreign(tmp_path / "set", ACTION, [vectors(3), vectors(4)])
    shard = path / "toy-train.tfrecord-00000-of-00001"
    whole = shard.read_bytes()
    second = next(r for r in tfrecord.scan(shard) if r.number == 1)
    flipped = bytearray(whole)
    flipped[second.offset + 40] ^= 1
    shard.write_bytes(flipped)
    source = RLDS.open(path)
    assert source[0].num_steps == 3
    with pytest.raises(DataError, match=r"00000-of-00001, episode 1: record 1: the checksum of its content"):
        source[1]
    shard.write_bytes(whole[:-9])
    with pytest.raises(DataError, match="record 1 is cut short"):
        RLDS.open(path)
    flipped = bytearray(whole)
    flipped[1] ^= 255  # the length itself: never believed
    shard.write_bytes(flipped)
    with pytest.raises(DataError, match="record 0: the checksum of its length"):
        RLDS.open(path)


def test_hostile_declarations(tmp_path):
    path = foreign(tmp_path / "set", ACTION, [vectors(2)])
    text = (path / "features.json").read_text()
    for shape in ('"99999999999"', '"-7"', '"0"', '"3"'):
        (path / "features.json").write_text(text.replace('"7"', shape))
        with pytest.raises(DataError):
            RLDS.open(path)[0]
    (path / "features.json").write_text("[" * 100_000)
    with pytest.raises(DataError):
        RLDS.open(path)
    (path / "features.json").write_text(text)
    outside = tmp_path / "outside"
    shutil.move(path / "toy-train.tfrecord-00000-of-00001", outside)
    (path / "toy-train.tfrecord-00000-of-00001").symlink_to(outside)
    with pytest.raises(DataError, match="link that leads out"):
        RLDS.open(path)


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    of = rec.contents()
    with pytest.raises(DataError, match="exists already"):
        RLDS.create(tmp_path, of, WriteOptions(), Ledger())
    sink = RLDS.create(tmp_path / "set", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match=r"episode 0, observation\.\w+.*times of their own"):
        sink.write(rec.uneven(rec.recording(of, 9), 3))
    other = rec.contents(depth=True)
    with pytest.raises(DataError, match=r"observation\.depth\.front: the set does not declare"):
        sink.write(rec.recording(other, 2))
    sink.abandon()
    with pytest.raises(DataError, match="other streams or options"):
        RLDS.create(tmp_path / "set", other, WriteOptions(), Ledger())
    assert not (tmp_path / "set").exists()


WRITER = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
import recordings as rec
from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import Ledger
of = rec.contents()
sink = get_format({name!r}).create(Path({path!r}), of, WriteOptions(), Ledger())
for i in range(sink.done, 1000):
    sink.write(rec.recording(of, 3 + i % 3, seed=i))
    print(sink.done, flush=True)
"""


def killed_writer(name: str, path: Path, after: int) -> int:
    """A process that writes episodes and is killed in the middle of it; how many it said were done."""
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "src")]
    code = WRITER.format(paths=here, name=name, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = 0
    for line in process.stdout:
        said = int(line)
        if said >= after:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    return said


def test_killed_and_resumed(tmp_path, monkeypatch):
    path = tmp_path / "set"
    said = killed_writer("rlds", path, 4)
    said = max(said, killed_writer("rlds", path, said + 3))
    assert not path.exists()
    partial = tmp_path / ".set.partial"
    with open(partial / "train-00000.part", "ab") as file:
        file.write(b"half a record")
    with open(partial / "journal.jsonl", "ab") as file:
        file.write(b'{"split": "tra')
    of = rec.contents()
    monkeypatch.setattr(rlds_write, "SHARD_BYTES", 20_000)
    sink = RLDS.create(path, of, WriteOptions(), Ledger())
    assert sink.done >= said
    last = sink.done + 3
    for i in range(sink.done, last):
        sink.write(rec.recording(of, 3 + i % 3, seed=i))
    sink.close()
    assert not partial.exists()
    rec.assert_set(RLDS.open(path), of, [rec.recording(of, 3 + i % 3, seed=i) for i in range(last)])
    shards = tfds.builder_from_directory(str(path)).info.splits["train"].shard_lengths
    assert len(shards) > 1
    assert sum(shards) == last


def fuzz(count: int, seed: int, folder: Path) -> int:
    """Mutate one file of a small set at a time; a `DataError` or a set that reads. Returns how many failed."""
    of = rec.contents(depth=True)
    good = folder / "good"
    write(good, of, [rec.recording(of, n, seed=n) for n in (2, 3)])
    bare = foreign(
        folder / "bare",
        {**ACTION, "language_instruction": F.Text(), "image": F.Image(shape=(None, None, 3))},
        [vectors(2, language_instruction=lambda k: "x", image=lambda k: encode_png(rec.picture(k)))],
    )
    rng, refused = np.random.default_rng(seed), 0
    for number in range(count):
        base = (good, bare)[number % 2]
        trial = folder / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(base, trial)
        files = sorted(file for file in trial.iterdir() if file.suffix != ".md")
        file = files[rng.integers(len(files))]
        data = mutated(file.read_bytes(), rng, records="tfrecord" in file.name and bool(rng.integers(2)))
        file.write_bytes(data)
        try:
            source = RLDS.open(trial)
            for episode in range(len(source)):
                for track in source[episode].streams.values():
                    if not isinstance(track.rows, (np.ndarray, list)):
                        list(track.rows)
        except DataError as error:
            refused += 1
            assert error.remedy
        assert file.read_bytes() == data
    return refused


def mutated(data: bytes, rng: np.random.Generator, records: bool) -> bytes:
    """Cut, flip, overwrite, repeat or replace numbers; in a TFRecord also behind checksums that are right."""
    if records:
        frames, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            frames.append(data[at + 12 : at + 12 + size])
            at += size + 16
        frames = [mutated(payload, rng, False) if rng.integers(2) else payload for payload in frames]
        return b"".join(tfrecord.frame(payload) for payload in frames)
    way, at = rng.integers(6), int(rng.integers(max(len(data), 1)))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if way == 2:
        return data[:at] + rng.bytes(8) + data[at + 8 :]
    if way == 3:
        return data[:at] + data[max(0, at - 30) :]
    digits = [i for i in range(len(data)) if data[i : i + 1].isdigit()] or [at]
    at = digits[int(rng.integers(len(digits)))]
    if way == 4:
        return (
            data[:at]
            + rng.choice([b"99999999999999", b"-1", b"null", b"NaN", b"{}", b"1e999"])
            + data[at + 1 :]
        )
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def test_fuzz(tmp_path):
    count = int(os.environ.get("REGRIP_FUZZ", "150"))
    refused = fuzz(count, 0, tmp_path)
    assert count // 5 < refused < count

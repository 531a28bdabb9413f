"""The store: what is written is read back bit for bit, by us and by zarr-python."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from recordings import ACTION, FRONT, WRIST, assert_set, contents, picture, recording, recordings

from regrip.datasets.formats import WriteOptions, detect_format, get_format, open_source
from regrip.datasets.frames import ArrayFrames, EncodedFrames, encode_jpeg, encode_png, encode_tiff
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, RowAccess, StreamSpec, Track
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.store import zarr_codec  # the entry point does this where regrip is installed anew
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter

PNG = WriteOptions(images="png")


def write(path: Path, of: Contents, made: list[Recording], options: WriteOptions | None = None) -> Store:
    with StoreWriter.create(path, of, options, source="a test") as sink:
        for one in made:
            sink.write(one)
    return Store(path)


def zarr_equals(store: Store) -> None:
    """zarr-python reads the same rows and times from every stream."""
    group = zarr.open_group(store.path, mode="r")
    for key, spec in store.contents.streams.items():
        node = group[f"streams/{key}"]
        rows, time = node["rows"], node["time"][:]
        count = max((int(last) for _, last in store.bounds(key)), default=0)
        assert rows.shape[0] == len(time) == count
        np.testing.assert_array_equal(time, store.times(key, np.arange(count)))
        if spec.kind in ("image", "depth"):
            ours = [store.image(key, row) for row in range(count)]
            np.testing.assert_array_equal(rows[:], np.stack(ours) if ours else rows[:])
            assert rows.shape[1:] == spec.shape
        elif spec.kind == "text":
            ends, raw = node["ends"][:], node["strings"][:].tobytes()
            texts = [raw[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            assert [texts[code] for code in rows[:]] == store.texts(key, np.arange(count))
        else:
            assert rows.dtype == spec.dtype
            np.testing.assert_array_equal(rows[:], store.vectors(key, np.arange(count)))


@settings(max_examples=8, deadline=None)
@given(recordings(aligned=True, raw=False))
def test_files_of_images_survive_bit_for_bit(drawn: tuple[Contents, list[Recording]]) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder) / "set", of, made)
        assert store.problems == []
        assert_set(store, of, made, images="bytes")
        assert [store.verify(index) for index in range(len(made))] == [[]] * len(made)
        zarr_equals(store)


@settings(max_examples=8, deadline=None)
@given(recordings(aligned=False))
def test_uneven_clocks_and_raw_pixels_survive(drawn: tuple[Contents, list[Recording]]) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder) / "set", of, made, PNG)
        assert_set(store, of, made, images="pixels")
        zarr_equals(store)


DTYPES = [
    "bool",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
]


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0,), (2, 0, 3)])
def test_every_dtype_and_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    of = Contents({name: StreamSpec(name, "vector", name, shape) for name in DTYPES})
    streams = {}
    for name in DTYPES:
        raw = rng.integers(0, 256, (5, int(np.prod(shape)) * np.dtype(name).itemsize), np.uint8)
        rows = (raw & 1 if name == "bool" else raw).reshape(5, -1).view(name).reshape(5, *shape)
        streams[name] = Track(rows, np.arange(5.0))
    store = write(tmp_path / "set", of, [Recording(streams)] * 2)
    with np.errstate(invalid="ignore"):
        assert_set(store, of, [Recording(streams)] * 2)
        assert store.vectors("float16", np.array([7, 2])).shape == (2, *shape)
        zarr_equals(store)


def test_rows_over_many_files(tmp_path: Path) -> None:
    """A row of 1 MiB: four fit in a file. Random access across files keeps the order asked for."""
    of = Contents({"touch": StreamSpec("touch", "vector", "uint8", (1024, 1024))})
    rows = np.arange(11, dtype=np.uint8)[:, None, None] * np.ones((1, 1024, 1024), np.uint8)
    store = write(tmp_path / "set", of, [Recording({"touch": Track(rows, np.arange(11.0))})])
    assert len(list((tmp_path / "set/streams/touch/rows/c").iterdir())) == 3
    assert store.vectors("touch", np.array([10, 0, 3, 4, 3]))[:, 0, 0].tolist() == [10, 0, 3, 4, 3]
    np.testing.assert_array_equal(store[0].streams["touch"].rows, rows)
    np.testing.assert_array_equal(zarr.open_group(store.path, mode="r")["streams/touch/rows"][:], rows)


def test_images_over_many_shards(tmp_path: Path) -> None:
    of = Contents({"eye": StreamSpec("eye", "image", "uint8", (8, 8, 3))})
    files = [encode_png(np.full((8, 8, 3), i % 251, np.uint8)) for i in range(251)]

    def made(count: int, at: int) -> Recording:
        frames = EncodedFrames([files[(at + i) % 251] for i in range(count)], (8, 8, 3))
        return Recording({"eye": Track(frames, np.arange(float(count)))})

    with StoreWriter.record(tmp_path / "set", of) as sink:
        sink.write(made(2000, 0))
        sink.write(made(48, 2000))  # the shard is exactly full
        sink.begin_episode()
        for i in range(2100):  # fills a whole shard and more, and is dropped
            sink.add("eye", files[0], i)
        sink.discard_episode()
        assert [p.name for p in (tmp_path / "set/streams/eye/rows/c").glob("*/0/0/0")] == ["0"]
        sink.write(made(4200, 2048))
    store = Store(tmp_path / "set")
    assert store.problems == []
    assert store.bounds("eye").tolist() == [[0, 2000], [2000, 2048], [2048, 6248]]
    for row in (0, 2047, 2048, 4095, 4096, 6247):
        assert store.encoded("eye", row) == files[row % 251]
    assert store.verify(2) == []
    rows = zarr.open_group(store.path, mode="r")["streams/eye/rows"]
    assert rows[2040:2056, 0, 0, 0].tolist() == [i % 251 for i in range(2040, 2056)]


def test_what_the_set_says_of_itself_survives(tmp_path: Path) -> None:
    axes = (Axis("x", "m", -0.05, 0.05),), (Axis("q", "rad", -3.0, 3.0),)
    camera = Camera("front", 32, 48)
    spec = RobotSpec("panda", "ee_delta", 20.0, "rotation_vector_base", "1 is open", *axes, (camera,))
    of = contents(
        wrist=False,
        spec=spec,
        conventions=Conventions(
            "delta",
            "rotation_vector",
            observed="before",
            orientation={FRONT: "rot180"},
            grippers=(Gripper("action", 6, "binary", -1.0, 1.0),),
        ),
        about={"licence": "CC-BY", "nested": {"a": [1, None, "ü"]}},
    )
    one = recording(of, 3, task="lift 🤖 «it»", began_ns=1_700_000_000_123_456_789, about={"operator": "A"})
    store = write(tmp_path / "set", of, [one, dataclasses.replace(one, success=None, truncated=None)])
    assert store.contents == of
    assert store.provenance["source"] == "a test"
    got = store[0]
    assert (got.task, got.began_ns, got.about) == (one.task, one.began_ns, one.about)
    assert (store[1].success, store[1].terminated, store[1].truncated) == (None, True, None)
    assert store.tasks() == [one.task] * 2


def test_texts(tmp_path: Path) -> None:
    of = Contents({"task": StreamSpec("task", "text", "str", ())})
    said = [["", "grasp", "grasp", "lift ü 🤖"], ["lift ü 🤖", "", "place"]]
    made = [Recording({"task": Track(one, np.arange(float(len(one))))}) for one in said]
    path = tmp_path / "set"
    write(path, of, made[:1])
    with StoreWriter.record(path) as sink:  # knows the texts of before
        sink.begin_episode()
        sink.add("task", "never", 0.0)
        sink.discard_episode()
        sink.write(made[1])
    store = Store(path)
    assert_set(store, of, made)
    assert store.records[-1].spans["task"].strings[0] == 4, (
        "each text is kept once, the dropped one not at all"
    )
    zarr_equals(store)


def test_depth_keeps_the_files_it_was_given(tmp_path: Path) -> None:
    """Raw depth is zarr's own zstd; when a file comes, our codec takes over and reads both."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (4, 6, 5)).astype(np.uint16)
    metres = rng.random((4, 6, 5)).astype(np.float32)
    of = Contents(
        {"d": StreamSpec("d", "depth", "uint16", (6, 5)), "m": StreamSpec("m", "depth", "float32", (6, 5))}
    )
    files = {"d": [encode_png(one) for one in pixels], "m": [encode_tiff(one) for one in metres]}
    time = np.arange(4.0)
    raw = Recording({"d": Track(ArrayFrames(pixels), time), "m": Track(ArrayFrames(metres), time)})
    kept = Recording({key: Track(EncodedFrames(files[key], (6, 5)), time) for key in files})
    path = tmp_path / "set"
    write(path, of, [raw])

    def codecs() -> list[str]:
        metadata = json.loads((path / "streams/d/rows/zarr.json").read_bytes())
        return [one["name"] for one in metadata["codecs"][0]["configuration"]["codecs"]]

    assert codecs() == ["bytes", "zstd"]
    zarr_equals(Store(path))
    with StoreWriter.record(path) as sink:
        sink.write(kept)
        sink.write(raw)
    assert codecs() == ["regrip.image"]
    store = Store(path)
    assert_set(store, of, [raw, kept, raw])
    assert (store.encoded("d", 5), store.encoded("d", 0)) == (files["d"][1], None)
    zarr_equals(store)


def test_options_and_ledger(tmp_path: Path) -> None:
    of = contents(wrist=False)
    raw, jpeg = recording(of, 4, codec="raw"), recording(of, 3, codec="jpeg")
    store_format = get_format("regrip")
    assert store_format.create is not None
    assert store_format.plan is not None
    assert store_format.plan(of, WriteOptions()) == [], "the source says its images are JPEG files"
    ledger = Ledger()
    with store_format.create(tmp_path / "a", of, WriteOptions(), ledger) as sink:  # type: ignore[attr-defined]
        sink.write(raw)
        sink.write(jpeg)
    (loss,) = ledger.losses
    assert (loss.stream, loss.what, loss.rows, loss.episodes) == (FRONT, "re-encoded", 4, 1)
    assert 25 < loss.measure["psnr_db"] < 60
    store = Store(tmp_path / "a")
    assert store.ledger.to_json() == ledger.to_json(), "it is kept in the set"
    assert store[1].streams[FRONT].rows.encoded(2) == jpeg.streams[FRONT].rows.encoded(2)  # type: ignore[union-attr]
    png = Ledger()
    with StoreWriter.create(tmp_path / "b", of, PNG, png) as sink:
        sink.write(jpeg)
    assert "keeps every pixel" in png.losses[0].detail
    with pytest.raises(DataError, match="no video"):
        StoreWriter.create(tmp_path / "c", of, WriteOptions(images="video"))
    prepared = store_format.prepare(raw, of, WriteOptions(), tmp_path, Ledger())  # type: ignore[misc]
    assert prepared.streams[FRONT].rows.encoded(0) == store[0].streams[FRONT].rows.encoded(0)  # type: ignore[union-attr]


def test_the_format_is_found_and_opened(tmp_path: Path) -> None:
    of = contents()
    write(tmp_path / "set", of, [recording(of)])
    assert detect_format(tmp_path / "set") == "regrip"
    source = open_source(tmp_path / "set")
    assert source.num_rows(0)["action"] == 7
    access: RowAccess = Store(tmp_path / "set")
    assert access.bounds(WRIST).tolist() == [[0, 7]]
    source.close()


def test_what_is_asked_for_wrongly_is_refused_by_name(tmp_path: Path) -> None:
    of = contents()
    store = write(tmp_path / "set", of, [recording(of, lacks=(WRIST,)), recording(of)])
    assert store.bounds(WRIST).tolist() == [[0, 0], [0, 7]]
    assert WRIST not in store[0].streams
    with pytest.raises(IndexError):
        store[2]
    for row in (-1, 7):
        with pytest.raises(IndexError):
            store.image(WRIST, row)
        with pytest.raises(IndexError):
            store.vectors("reward", np.array([14 if row > 0 else -1]))
    with pytest.raises(DataError, match="no image or depth stream 'action'"):
        store.image("action", 0)
    with pytest.raises(DataError, match="no stream 'x'"):
        store.bounds("x")
    with pytest.raises(DataError, match="no such folder"):
        Store(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"there is no zarr\.json"):
        Store(tmp_path)


@pytest.mark.parametrize(
    "key", ["../../x", "/etc/passwd", "/joint_states", ".", "..", "__x", "a b", "ü", "a~b", "%2e%2e", "c@1"]
)
def test_a_key_never_leads_out_of_the_set(tmp_path: Path, key: str) -> None:
    of = Contents({key: StreamSpec(key, "vector", "int32", ())})
    one = Recording({key: Track(np.arange(3, dtype=np.int32), np.arange(3.0))})
    store = write(tmp_path / "a/set", of, [one])
    assert_set(store, of, [one])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["set"]
    folders = [p for p in (tmp_path / "a/set/streams").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert folders[0].name.isascii()
    names = [name for name, _ in zarr.open_group(store.path, mode="r")["streams"].groups()]
    assert names == [folders[0].name]


@pytest.mark.parametrize(
    "spec",
    [
        StreamSpec("x", "vector", "complex64", (2,)),
        StreamSpec("x", "vector", "object", (2,)),
        StreamSpec("x", "image", "float32", (4, 4, 3)),
        StreamSpec("x", "image", "uint8", (4, 4)),
        StreamSpec("x", "depth", "uint16", (0, 4)),
        StreamSpec("x", "text", "str", (2,)),
        StreamSpec("x", "vector", "float64", (1 << 20, 1 << 20)),
        StreamSpec("x" * 201, "vector", "float64", ()),
        StreamSpec("", "vector", "float64", ()),
    ],
)
def test_streams_it_cannot_hold_are_refused(tmp_path: Path, spec: StreamSpec) -> None:
    with pytest.raises(DataError):
        StoreWriter.create(tmp_path / "set", Contents({spec.key: spec}))
    assert list(tmp_path.iterdir()) == []


def test_keys_that_differ_in_case_alone(tmp_path: Path) -> None:
    streams = {key: StreamSpec(key, "vector", "int8", ()) for key in ("State", "state")}
    with pytest.raises(DataError, match="case alone"):
        StoreWriter.create(tmp_path / "set", Contents(streams))


def test_appending_after_zarr_python_has_written(tmp_path: Path) -> None:
    """zarr-python may open a set for writing, change attributes and rows, and we go on."""
    of = contents(wrist=False, depth=True)
    made = [recording(of, 5, seed=i) for i in range(3)]
    path = tmp_path / "set"
    write(path, of, made[:1])
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["note"] = "seen"
    state = group["streams/observation.state/rows"]
    state[2] = np.arange(8)
    state.attrs["calibrated"] = True
    with StoreWriter.record(path) as sink:
        sink.write(made[1])
        sink.write(made[2])
    assert zarr.open_group(str(path), mode="r").attrs["note"] == "seen"
    assert zarr.open_group(str(path), mode="r")["streams/observation.state/rows"].attrs["calibrated"]
    store = Store(path)
    assert len(store) == 3
    assert store[0].streams["observation.state"].rows[2].tolist() == list(range(8))  # type: ignore[index]
    (problem,) = store.verify(0)
    assert "content hash" in problem.what
    assert problem.key == "observation.state"
    assert store.verify(1) == store.verify(2) == []
    zarr_equals(store)


@pytest.mark.parametrize("change", ["end", "blosc", "chunks", "shard"])
def test_unusual_arrays_are_read_by_zarr_python_and_said(tmp_path: Path, change: str) -> None:
    of = contents(wrist=False)
    one = recording(of, 5, codec="png")
    path = tmp_path / "set"
    write(path, of, [one])
    group = zarr.open_group(str(path), mode="r+")
    key = "action" if change == "blosc" else FRONT
    rows = group[f"streams/{key}/rows"][:]
    del group[f"streams/{key}/rows"]
    layout: dict[str, Any] = {
        "end": {"chunks": (1, 32, 48, 3), "shards": (2048, 32, 48, 3)},
        "shard": {"chunks": (1, 32, 48, 3), "shards": (10, 32, 48, 3)},
        "chunks": {"chunks": (4, 32, 48, 3)},
        "blosc": {"chunks": (3, 7), "compressors": zarr.codecs.BloscCodec()},
    }[change]
    group[f"streams/{key}"].create_array("rows", data=rows, **layout)
    store = Store(path)
    (problem,) = store.problems
    assert "not what regrip writes" in problem.what
    assert "slowly" in problem.remedy
    assert_set(store, of, [one], images="pixels")
    assert store.image(FRONT, 3).tolist() == one.streams[FRONT].rows[3].tolist()  # type: ignore[index, union-attr]
    assert store.vectors("action", np.array([3, 0, 3])).shape == (3, len(ACTION))
    with pytest.raises(DataError, match="nothing can be added"):
        StoreWriter.record(path)


def test_the_codec_reads_and_writes_through_zarr_python(tmp_path: Path) -> None:
    for codec, dtype, shape in (
        ("png", "uint8", (8, 9, 3)),
        ("zstd", "float32", (8, 9)),
        ("tiff", "uint16", (8, 9)),
    ):
        array = zarr.create_array(
            str(tmp_path / codec),
            shape=(5, *shape),
            chunks=(1, *shape),
            shards=(4, *shape),
            dtype=dtype,
            serializer=zarr_codec.ImageCodec(codec),
            compressors=None,
        )
        data = np.random.default_rng(0).integers(0, 200, (5, *shape)).astype(dtype)
        array[:] = data
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(zarr.open_array(str(tmp_path / codec), mode="r")[:], data)
    with pytest.raises(ValueError, match="codec 'gif'"):
        zarr_codec.ImageCodec("gif")


def test_zarr_python_finds_the_codec_by_itself(tmp_path: Path) -> None:
    """A process that imports nothing of ours, where regrip is installed: what pip writes is made by hand."""
    of = contents(wrist=False)
    store = write(tmp_path / "set", of, [recording(of)])
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site/regrip-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: regrip\nVersion: 0\n")
    points = project["entry-points"]["zarr.codecs"]
    (info / "entry_points.txt").write_text(
        "[zarr.codecs]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
    )
    code = (
        "import sys, zarr; sys.path.append(sys.argv[2])\n"
        f"print(zarr.open_group(sys.argv[1], mode='r')['streams/{FRONT}/rows'][3].sum())\n"
    )
    code = "import sys; sys.path.insert(0, sys.argv[3]);" + code
    src = str(Path(__file__).parents[2] / "src")
    told = subprocess.run(
        [sys.executable, "-c", code, store.path, src, str(tmp_path / "site")],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert int(told.stdout) == int(store.image(FRONT, 3).sum())


def test_webp_and_mixed_files_in_one_stream(tmp_path: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture(3)).save(buffer, "WEBP", lossless=True)
    files = [buffer.getvalue(), encode_png(picture(1)), encode_jpeg(picture(2))]
    of = Contents({FRONT: StreamSpec(FRONT, "image", "uint8", (32, 48, 3))})
    one = Recording({FRONT: Track(EncodedFrames(files, (32, 48, 3)), np.arange(3.0))})
    store = write(tmp_path / "set", of, [one])
    assert_set(store, of, [one])
    np.testing.assert_array_equal(store.image(FRONT, 0), picture(3))
    zarr_equals(store)


def _read(store: Store, out: Any) -> None:
    out.put([len(store), int(store.image(FRONT, 3).sum()), store.vectors("reward", np.array([2])).tolist()])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_store_goes_to_another_process(tmp_path: Path, start: str) -> None:
    of = contents()
    store = write(tmp_path / "set", of, [recording(of)])
    want = [1, int(store.image(FRONT, 3).sum()), store.vectors("reward", np.array([2])).tolist()]
    with StoreWriter.record(tmp_path / "set") as sink:
        sink.write(recording(of, seed=1))
    copy = pickle.loads(pickle.dumps(store))
    assert len(copy) == 1, "the copy sees what the original saw, not what was recorded since"
    np.testing.assert_array_equal(copy.image(FRONT, 3), store.image(FRONT, 3))
    context = multiprocessing.get_context(start)
    out = context.Queue()
    process = context.Process(target=_read, args=(store, out))
    process.start()
    assert out.get(timeout=60) == want
    process.join(30)


def test_content_hash_says_what_not_where(tmp_path: Path) -> None:
    of = contents(wrist=False)
    made = [recording(of, 3, seed=i) for i in range(2)]
    first = write(tmp_path / "a", of, made).content_hash()
    with StoreWriter.record(tmp_path / "b", of) as sink:
        sink.write(made[0])
        sink.begin_episode()
        sink.add("reward", 1.0, 0.0)
        sink.discard_episode()
        sink.write(made[1])
    assert Store(tmp_path / "b").content_hash() == first
    assert Store(tmp_path / "b").head.summary == {"episodes": 2, "content_hash": first}
    assert write(tmp_path / "c", of, made[::-1]).content_hash() != first

"""Views in files, over sets on disk: written, opened again, hostile."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from regrip.datasets.formats import WriteOptions, detect_format, get_format, open_source
from regrip.datasets.formats.view import save_view
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording, Source, Track
from regrip.datasets.views.changing import Rename, Resize
from regrip.datasets.views.choosing import choose
from regrip.datasets.views.cutting import Every, Trim
from regrip.datasets.views.idle import TrimIdle
from regrip.datasets.views.resampled_layer import Resample
from regrip.datasets.views.resampling import resample
from regrip.datasets.views.splitting import Keep, Split
from regrip.datasets.views.view import Base, RowView, View, make_view

from .memory_source import MemoryRowSource, MemorySource
from .recordings import FRONT, WRIST, assert_same, contents, recording
from .test_views import assert_rows, assert_views, every_row, sliced


def store(path: Path, of: Contents, made: list[Recording]) -> Source:
    """The recordings in a store."""
    regrip = get_format("regrip")
    assert regrip.create is not None
    sink = regrip.create(path, of, WriteOptions(), Ledger())
    for one in made:
        sink.write(one)
    sink.close()
    return regrip.open(path)


@pytest.fixture
def made() -> list[Recording]:
    of = contents()
    return [recording(of, 4 + 3 * i, i, f"task {i % 2}", lacks=(WRIST,) if i == 2 else ()) for i in range(5)]


def test_a_view_of_a_store_reads_like_the_list_and_copies_its_bytes(
    tmp_path: Path, made: list[Recording]
) -> None:
    source = store(tmp_path / "set", contents(), made)
    before = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}
    view = make_view(source, [Keep("1:"), Trim("1:-1"), Every(2)])
    assert isinstance(view, RowView)
    assert_views(view, [sliced(one, slice(1, one.num_steps - 1, 2)) for one in made[1:]])
    # Materialised, it is a set of its own with the same image files.
    copy = store(tmp_path / "copy", view.contents, every_row(view))
    for i, one in enumerate(made[1:]):
        want = sliced(one, slice(1, one.num_steps - 1, 2))
        assert_same(copy[i], want, images="bytes")
    assert copy[0].about["from"]["episode"] == 1
    assert [each["op"] for each in copy.contents.about["edits"]] == ["keep", "trim", "every"]
    after = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert before == after


def test_a_view_file_opens_as_the_view_that_was_saved(tmp_path: Path, made: list[Recording]) -> None:
    source = store(tmp_path / "sets" / "a", contents(), made) if (tmp_path / "sets").mkdir() is None else None
    assert source is not None
    operations = [
        TrimIdle(), Split({"train": 0.6, "val": "rest"}, 3), Keep("split=train"),
        Rename({FRONT: "observation.images.top"}), Resize(16, 16, keys=(WRIST,)), Resample(10.0),
    ]  # fmt: skip
    view = make_view([Base(source, "a", (Trim("1:"),)), Base(source, "a")], operations)
    path = tmp_path / "views" / "b.view.yaml"
    path.parent.mkdir()
    save_view(view, path)
    assert str(tmp_path) not in path.read_text()
    assert detect_format(path) == "view"
    again = open_source(path)
    assert isinstance(again, View)
    assert again.operations == view.operations
    assert dataclasses.replace(again.contents, about={}) == dataclasses.replace(view.contents, about={})
    assert_views(again, every_row(view))
    assert again[0].about["from"]["set"] == "../sets/a"
    with pytest.raises(DataError, match="such a file already"):
        save_view(view, path)
    # A view of the view, moved together with its set.
    save_view(make_view(again, [Keep("0")]), tmp_path / "views" / "c.view.yaml")
    (tmp_path / "elsewhere").mkdir()
    for name in ("sets", "views"):
        os.replace(tmp_path / name, tmp_path / "elsewhere" / name)
    third = open_source(tmp_path / "elsewhere" / "views" / "c.view.yaml")
    assert_views(third, [view[0]])  # type: ignore[arg-type]


def test_a_view_of_a_store_goes_to_worker_processes(tmp_path: Path, made: list[Recording]) -> None:
    source = store(tmp_path / "set", contents(), made)
    view = make_view(source, [Keep("1:"), Trim("1:"), Resize(8, 8)])
    assert_rows(view)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(view))
    assert_views(again, every_row(view))


def test_resampling_in_a_view_is_that_of_each_recording() -> None:
    of = contents(depth=True)
    made = []
    for seed in range(3):
        one, rng = recording(of, 13, seed), np.random.default_rng(seed)
        streams = {k: Track(t.rows, np.cumsum(rng.uniform(0.03, 0.07, 13))) for k, t in one.streams.items()}
        made.append(dataclasses.replace(one, streams=streams))
    operation = Resample(7.0, policies={"action": "previous"}, latency_s={FRONT: 0.02})
    view = make_view(MemoryRowSource(of, made), [Keep("0,2"), operation])
    want = [
        resample(made[i], of, rate_hz=7.0, policies={"action": "previous"}, latency_s={FRONT: 0.02})[0]
        for i in (0, 2)
    ]
    assert_views(view, want)
    assert all(one.aligned for one in every_row(view))
    assert {loss.what for loss in view.losses()} >= {"resampled"}
    assert view.contents.rate_hz == 7.0
    with pytest.raises(DataError, match="did you mean 'action'"):
        make_view(MemoryRowSource(of, made), [Resample(7.0, policies={"actoin": "next"})])
    delta = dataclasses.replace(of, conventions=dataclasses.replace(of.conventions, action="delta"))
    with pytest.raises(DataError, match="by another way"):
        make_view(MemoryRowSource(delta, made), [Resample(7.0)])


HEAD = "regrip_view: 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sets: [{path: set}]\n", "begins with regrip_view: 1"),
        (HEAD + "sets: []\n", "list of 1 to"),
        (HEAD + "sets: [{path: set}]\nfilter: 1\n", "has a field 'filter'"),
        (HEAD + "sets: [{path: /etc}]\n", "is absolute"),
        (HEAD + "sets: [{path: 'C:\\\\data'}]\n", "is absolute"),
        (HEAD + 'sets: [{path: "a\\0b"}]\n', "relative to this file"),
        (HEAD + "sets: [{path: gone}]\n", "'gone' is not there. it has moved"),
        (HEAD + "sets: [{path: me.view.yaml}]\n", "shows itself"),
        (HEAD + "sets: [{path: ../v/me.view.yaml}]\n", "shows itself"),
        (HEAD + "sets: [{path: set, format: pickle}]\n", "no format is called 'pickle'"),
        (HEAD + "sets: [{path: set, eval: '1'}]\n", "is no set"),
        (HEAD + "sets: [{path: set}]\noperations: [{op: dele, episodes: '1'}]\n", "did you mean 'delete'"),
        (HEAD + "sets: [{path: set}]\noperations: [{op: keep, episodes: '99'}]\n", "no episode 99"),
        (HEAD + "sets: [{path: set}]\noperations: {op: keep}\n", "no list"),
        (HEAD + "sets: [{path: set}]\ndiffer: 3\n", "no list of names"),
        (HEAD + "a: &a [1]\nsets: *a\n", "is no YAML"),
        (HEAD + "sets: !!python/object/apply:os.system ['true']\n", "is no YAML"),
        ("[" * 100_000, "is no YAML"),
        ("- x\n" * 400_000, "more than a megabyte"),
        ("\x00", "is no YAML"),
        ("", "begins with"),
        (HEAD + "sets: [{path: " + "x" * 300 + "}]\n", "is no path|is not there"),
        (HEAD + "sets: [{path: 2001-01-01}]\n", "relative to this file"),
    ],
)
def test_a_hostile_view_file_is_refused(tmp_path: Path, made: list[Recording], text: str, words: str) -> None:
    (tmp_path / "v").mkdir()
    store(tmp_path / "v" / "set", contents(), made[:1])
    path = tmp_path / "v" / "me.view.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        open_source(path)


def test_views_that_show_each_other_are_refused(tmp_path: Path) -> None:
    for a, b in (("a", "b"), ("b", "a")):
        (tmp_path / f"{a}.view.yaml").write_text(HEAD + f"sets: [{{path: {b}.view.yaml}}]\n")
    with pytest.raises(DataError, match="shows itself"):
        open_source(tmp_path / "a.view.yaml")
    os.symlink(tmp_path / "loop.view.yaml", tmp_path / "loop.view.yaml")
    with pytest.raises(DataError):
        open_source(tmp_path / "loop.view.yaml")
    # Each level shows the next many times over: a small file must not open a million sets.
    store(tmp_path / "set", contents(), [])
    for level in range(7):
        below = f"l{level + 1}.view.yaml" if level < 6 else "set"
        many = ", ".join([f"{{path: {below}}}"] * 10)
        (tmp_path / f"l{level}.view.yaml").write_text(HEAD + f"sets: [{many}]\n")
    with pytest.raises(DataError, match="more than 256 sets"):
        open_source(tmp_path / "l0.view.yaml")
    for level in range(12):
        (tmp_path / f"d{level}.view.yaml").write_text(HEAD + f"sets: [{{path: d{level + 1}.view.yaml}}]\n")
    with pytest.raises(DataError, match="more than 8 views of views"):
        open_source(tmp_path / "d0.view.yaml")


def test_damaged_view_files_give_a_set_or_a_reason(tmp_path: Path, made: list[Recording]) -> None:
    source = store(tmp_path / "set", contents(), made[:3])
    operations = [
        Trim("1:", "0"), Split({"train": 1.0, "val": 1}, 3), Rename({"reward": "score"}),
        Resize(8, 8), Every(2),
    ]  # fmt: skip
    good = tmp_path / "good.view.yaml"
    save_view(make_view([Base(source, "x"), Base(source, "x", (Keep("0"),))], operations), good)
    text, path = good.read_text(), tmp_path / "bad.view.yaml"
    rng = random.Random(0)
    readable = 0
    for _ in range(int(os.environ.get("REGRIP_FUZZ", "120"))):
        path.write_bytes(mutated(text, rng))
        try:
            view = open_source(path)
            for i in range(len(view)):
                view[i]
            view.contents  # noqa: B018
            readable += 1
        except DataError:
            pass
    assert readable  # most cuts of the text are refused, small changes of a value are not


def mutated(text: str, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:  # cut short
        return text[: rng.randrange(len(text))].encode()
    if kind == 1:  # flipped bits
        data = bytearray(text.encode())
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    said: Any = yaml.safe_load(text)
    worse: list[Any] = [
        None, -1, 0, 10**30, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]], {"op": "keep"}, True,
        "\u0000", "::-1", "0:0", "-9999999999999999:", "1e9s:", "success=", "=", "../../..", "9" * 50,
    ]  # fmt: skip
    places = list(walk(said))
    for _ in range(rng.randrange(1, 3)):
        holder, key = rng.choice(places)
        if kind == 2:
            holder[key] = rng.choice(worse)
        elif isinstance(holder, dict):
            holder[str(rng.choice(worse))] = holder.get(key)
    return json.dumps(said).encode() if rng.random() < 0.5 else yaml.safe_dump(said).encode()


def walk(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from walk(inner)


def test_choices_of_any_text_end_in_an_answer_or_a_reason(made: list[Recording]) -> None:
    view = make_view(MemorySource(contents(), made), [Trim("0:")])
    rng = random.Random(1)
    letters = "0123456789:,-=<>! *?[]abst.success=truerowsecond\u0000é"
    for _ in range(500):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
        try:
            chosen = choose(text, _Facts(view))
        except DataError:
            continue
        assert all(0 <= i < len(view) for i in chosen)
    with pytest.raises(DataError):
        choose("a" + " " * 500_000 + "b", _Facts(view))


class _Facts:
    def __init__(self, view: View) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, episode: int) -> Recording:
        return self.view[episode]

    def num_steps(self, episode: int) -> int:
        return self.view[episode].num_steps

    def seconds(self, episode: int) -> float:
        return float(self.view[episode].streams["action"].time[-1])

    def task(self, episode: int) -> str:
        return self.view[episode].task


def test_times_are_kept_when_nothing_is_cut_at_the_start(made: list[Recording]) -> None:
    later = dataclasses.replace(
        made[0], streams={k: dataclasses.replace(t, time=t.time + 0.3) for k, t in made[0].streams.items()}
    )
    view = make_view(MemorySource(contents(), [later]), [Trim(":-1")])
    np.testing.assert_array_equal(view[0].streams["action"].time, later.streams["action"].time[:-1])

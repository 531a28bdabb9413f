"""What a mapping makes of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from recordings import FRONT, WRIST, contents, recording

from regrip.datasets.converting.mapping import Mapped, Rotate, SetMapping, StreamMapping, propose
from regrip.datasets.ledger import DataError, Ledger, Problem
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track

KEYS = (FRONT, WRIST, "observation.state", "action", "reward")


class InMemory:
    """A set that lies in memory."""

    format, path = "memory", "memory"
    problems: Sequence[Problem] = ()

    def __init__(self, of: Contents, made: list[Recording]) -> None:
        self.contents, self.made = of, made

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, episode: int) -> Recording:
        return self.made[episode]

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(track) for key, track in self.made[episode].streams.items()}

    def close(self) -> None: ...


def small(**conventions: object) -> InMemory:
    of = contents(conventions=Conventions(**conventions))  # type: ignore[arg-type]
    return InMemory(of, [recording(of, 5, seed) for seed in range(2)])


def mapping(**streams: StreamMapping) -> SetMapping:
    """The identity but for these (``__`` in a name stands for a dot)."""
    given = {name.replace("__", "."): how for name, how in streams.items()}
    used = {source for how in given.values() for source in how.source}
    rest = {key: StreamMapping((key,)) for key in KEYS if key not in used}
    return SetMapping(rest | given)


def test_the_proposal_changes_nothing_but_known_names() -> None:
    of = Contents(
        {k: StreamSpec(k, "vector", "float32", (2,)) for k in ("state", "actions", "odd", "action")}
    )
    proposed = propose(of)
    assert {new: how.source[0] for new, how in proposed.streams.items()} == {
        "observation.state": "state", "actions": "actions", "odd": "odd", "action": "action",
    }  # fmt: skip  # the set has an `action` already: `actions` stays apart
    held = small()
    mapped, ledger = Mapped(held, propose(held.contents)), Ledger()
    assert mapped.contents == held.contents
    assert mapped.read(0, ledger).streams == held[0].streams
    assert not ledger.losses


def test_a_gripper_keeps_its_meaning_when_it_is_moved_and_turned_round() -> None:
    gripper = Gripper("action", 6, "binary", open=-1.0, closed=1.0)
    held = small(grippers=(gripper,), action="delta")
    how = StreamMapping(
        ("action",), entries=(6, 0), scale=(-0.5, 1.0), offset=(0.5, 0.0), names=("grip", "x")
    )
    mapped = Mapped(held, mapping(action=how))
    said = mapped.contents.conventions
    assert said.grippers == (Gripper("action", 1 - 1, "binary", open=1.0, closed=0.0),)
    assert said.action == "delta"
    ledger = Ledger()
    rows = np.asarray(mapped.read(0, ledger).streams["action"].rows)
    before = np.asarray(held[0].streams["action"].rows)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.stack([0.5 - 0.5 * before[:, 6], before[:, 0]], 1), rtol=1e-6)
    assert mapped.contents.streams["action"].names == ("grip", "x")
    assert {(loss.stream, loss.what) for loss in ledger.losses} == {
        ("action", "computed"),
        ("action", "dropped"),
    }


def test_vectors_are_joined_and_their_rotation_rewritten() -> None:
    of = Contents(
        {
            "pos": StreamSpec("pos", "vector", "float64", (3,), ("x", "y", "z"), ("m",) * 3),
            "quat": StreamSpec("quat", "vector", "float64", (4,)),
            "grip": StreamSpec("grip", "vector", "float32", ()),
        },
        conventions=Conventions(grippers=(Gripper("grip", 0, "width", 0.08, 0.0, "m"),)),
    )
    time, half = np.arange(2) / 10, np.sqrt(0.5)
    quat = np.array([[0, 0, 0, 1], [0, 0, half, half]])
    tracks = {"pos": np.ones((2, 3)), "quat": quat, "grip": np.array([0.01, 0.02], np.float32)}
    held = InMemory(of, [Recording({key: Track(rows, time) for key, rows in tracks.items()})])
    how = StreamMapping(
        ("pos", "quat", "grip"), (Rotate(3, "quaternion_xyzw", "rotation_vector"),), dtype="float32"
    )
    mapped = Mapped(held, SetMapping({"observation.state": how}))
    spec = mapped.contents.streams["observation.state"]
    assert (spec.shape, spec.dtype) == ((7,), "float32")
    assert spec.names == ("x", "y", "z", "rotation_vector_0", "rotation_vector_1", "rotation_vector_2", "")
    assert spec.units == ("m", "m", "m", "", "", "", "")
    assert mapped.contents.conventions.grippers[0].index == 6
    assert mapped.contents.conventions.state_rotation == "rotation_vector"
    rows = np.asarray(mapped[0].streams["observation.state"].rows)
    np.testing.assert_allclose(
        rows, [[1, 1, 1, 0, 0, 0, 0.01], [1, 1, 1, 0, 0, np.pi / 2, 0.02]], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ("lies", "turn", "then"),
    [("rot180", "rot180", "upright"), ("vflip", "vflip", "upright"), ("vflip", "rot180", "mirrored"),
     ("upright", "mirror", "mirrored"), ("unknown", "rot180", None)],
)  # fmt: skip
def test_a_turned_camera_is_turned_once_and_says_how_it_lies(lies: str, turn: str, then: str | None) -> None:
    held = small(orientation={FRONT: lies})
    how = SetMapping({key: StreamMapping((key,), turn=turn if key == FRONT else "none") for key in KEYS})  # type: ignore[arg-type]
    mapped = Mapped(held, how)
    assert mapped.contents.conventions.orientation.get(FRONT) == then
    got, want = mapped[0].streams[FRONT].rows[2], held[0].streams[FRONT].rows[2]
    flips = {"rot180": want[::-1, ::-1], "vflip": want[::-1], "mirror": want[:, ::-1]}
    np.testing.assert_array_equal(got, flips[turn])
    assert mapped[0].streams[FRONT].rows.encoded(2) is None  # type: ignore[union-attr]
    assert mapped[0].streams[WRIST].rows.encoded(2) == held[0].streams[WRIST].rows.encoded(2)  # type: ignore[union-attr]


def test_nothing_is_left_out_in_silence() -> None:
    held = small()
    with pytest.raises(DataError, match="says nothing of the stream 'reward'"):
        Mapped(held, SetMapping({key: StreamMapping((key,)) for key in KEYS if key != "reward"}))
    ledger = Ledger()
    streams = {key: StreamMapping((key,)) for key in KEYS if key != "reward"}
    Mapped(held, SetMapping(streams, dropped=("reward",))).read(1, ledger)
    assert [(loss.stream, loss.what, loss.rows) for loss in ledger.losses] == [("reward", "dropped", 5)]


def test_a_cast_that_loses_is_entered_with_its_error_and_one_that_does_not_is_not() -> None:
    held, ledger = small(), Ledger()
    Mapped(held, mapping(action=StreamMapping(("action",), dtype="float64"))).read(0, ledger)
    assert not ledger.losses
    Mapped(held, mapping(action=StreamMapping(("action",), dtype="float16"))).read(0, ledger)
    (loss,) = ledger.losses
    before = np.asarray(held[0].streams["action"].rows)
    worst = np.abs(before.astype(np.float16).astype(np.float64) - before).max()
    assert (loss.what, loss.detail) == ("cast", "float32 to float16")
    assert loss.measure["max_error"] == pytest.approx(worst)


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ({"action": StreamMapping(("acton",))}, "did you mean 'action'"),
        ({"action": StreamMapping(("action",), entries=(7,))}, "choose of 0 to 6"),
        ({"action": StreamMapping(("action",), scale=(1.0, 2.0))}, "scale has 2 entries, the stream has 7"),
        ({"both": StreamMapping((FRONT, "action"))}, "only vectors can"),
        ({"action": StreamMapping(("action",), turn="vflip")}, "only images can be turned"),
        ({"action": StreamMapping(("action",), (Rotate(5, "quaternion_xyzw", "matrix"),))}, "ends at 9"),
        ({"action": StreamMapping(("action",), (Rotate(3, "unknown", "matrix"),))}, "the forms are"),
        ({"empty": StreamMapping(())}, "no source stream"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_says_where(streams: dict[str, StreamMapping], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Mapped(small(), mapping(**streams))


def test_streams_on_two_clocks_are_not_joined() -> None:
    held = small()
    track = held.made[1].streams["reward"]
    late = Recording({**held.made[1].streams, "reward": Track(track.rows, track.time + 0.01)})
    mapped = Mapped(
        InMemory(held.contents, [held.made[0], late]), mapping(x=StreamMapping(("action", "reward")))
    )
    assert np.asarray(mapped[0].streams["x"].rows).shape == (5, 8)
    with pytest.raises(DataError, match=r"episode 1, x: reward and action.*do not share a clock.*resample"):
        mapped[1]


def test_tasks_are_renamed_and_said() -> None:
    held, ledger = small(), Ledger()
    how = SetMapping({key: StreamMapping((key,)) for key in KEYS}, tasks={"pick up the cup": "lift the mug"})
    assert Mapped(held, how).read(0, ledger).task == "lift the mug"
    assert [loss.what for loss in ledger.losses] == ["metadata"]

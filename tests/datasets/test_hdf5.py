"""robomimic and LIBERO files: what robomimic reads of ours, what others write, what is not followed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import recordings as rec
from harm import killed_writer, mutated
from hypothesis import HealthCheck, given, settings
from referee import ask

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.formats.libero import align_before, aligned_contents, drop_noops
from regrip.datasets.frames import ArrayFrames
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track

ROBOMIMIC, LIBERO = get_format("robomimic"), get_format("libero")


def write(name: str, path: Path, of: Contents, made: list[Recording]) -> Ledger:
    ledger = Ledger()
    create = get_format(name).create
    assert create is not None
    sink = create(path, of, WriteOptions(), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


@pytest.mark.parametrize(("name", "file"), [("robomimic", "set.hdf5"), ("libero", "suite")])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=rec.recordings())
def test_round_trip(tmp_path_factory, name, file, drawn):
    of, made = drawn
    path = tmp_path_factory.mktemp("hdf5") / file
    write(name, path, of, made)
    assert get_format(name).detect(path)
    source = get_format(name).open(path)
    rec.assert_set(source, of, made, images="pixels")
    assert source.contents == of
    for index, want in enumerate(made):
        got = source[index]
        assert (got.success, got.terminated, got.truncated) == (want.success, want.terminated, want.truncated)
        assert source.num_rows(index) == rec.rows_of(want)
    source.close()


def quiet(one: Recording) -> Recording:
    """The same with actions within [-1, 1]."""
    action = one.streams["action"]
    return dataclasses.replace(
        one, streams={**one.streams, "action": Track(np.tanh(action.rows), action.time)}
    )


@pytest.mark.slow
def test_robomimic_reads_ours(tmp_path):
    """The referee: robomimic's SequenceDataset and its get_dataset_info."""
    of = rec.contents(depth=True)
    made = [quiet(rec.recording(of, n, seed=n)) for n in range(1, 13)]
    made = [
        dataclasses.replace(one, about={"split": ["train", "valid"][i % 2]}) for i, one in enumerate(made)
    ]
    path = tmp_path / "set.hdf5"
    ledger = write("robomimic", path, of, made)
    kinds = {"low_dim": ["state"], "rgb": ["front_image", "wrist_image"], "depth": ["front_depth"]}
    said = ask("robomimic_read.py", path, json.dumps(kinds), "train", "valid")
    assert said["length"] == sum(range(1, 13))
    assert said["refused"] == ""
    assert [demo["name"] for demo in said["demos"]] == [f"demo_{i}" for i in range(12)]
    assert said["filtered"]["valid"] == [f"demo_{i}" for i in range(1, 12, 2)]
    for demo, want in zip(said["demos"], made, strict=True):
        np.testing.assert_array_equal(np.float32(demo["actions"]), want.streams["action"].rows)
        np.testing.assert_array_equal(np.float32(demo["rewards"]), want.streams["reward"].rows)
        np.testing.assert_array_equal(
            np.float32(demo["obs"]["state"]), want.streams["observation.state"].rows
        )
        assert demo["dones"] == [0.0] * (want.num_steps - 1) + [1.0]
        pixels = np.stack(list(want.streams[rec.FRONT].rows))
        assert demo["obs"]["front_image"] == zlib.crc32(pixels)
        depth = np.stack(list(want.streams[rec.DEPTH].rows))
        assert demo["obs"]["front_depth"] == zlib.crc32(depth)
    assert {(loss.stream, loss.what) for loss in ledger.losses} == {
        (rec.FRONT, "re-encoded"),
        (rec.WRIST, "re-encoded"),
    }
    assert sum(loss.rows for loss in ledger.losses if loss.stream == rec.FRONT) == 78


@pytest.mark.slow
def test_robomimic_refuses_what_we_said_it_would(tmp_path):
    of = rec.contents(wrist=False)
    one = rec.recording(of, 4)
    one.streams["action"].rows[2, 0] = 1.5
    ledger = write("robomimic", tmp_path / "set.hdf5", of, [one])
    outside = int((np.abs(one.streams["action"].rows) > 1).any(1).sum())
    (loss,) = [loss for loss in ledger.losses if loss.stream == "action"]
    assert loss.rows == outside
    said = ask(
        "robomimic_read.py", tmp_path / "set.hdf5", json.dumps({"low_dim": ["state"], "rgb": ["front_image"]})
    )
    assert "actions in [-1., 1.]" in said["refused"]


@pytest.mark.slow
def test_a_part_that_robomimic_named_is_read(tmp_path):
    of = rec.contents(wrist=False)
    write("robomimic", tmp_path / "set.hdf5", of, [rec.recording(of, 2, seed=i) for i in range(3)])
    with h5py.File(tmp_path / "set.hdf5", "a") as file:  # as if another program had written it
        for thing in (file["data"], *file["data"].values()):
            for name in [name for name in thing.attrs if name.startswith("regrip")]:
                del thing.attrs[name]
    assert ask("robomimic_split.py", tmp_path / "set.hdf5", "train", "demo_2", "demo_0") == [2, 2]
    splits = [one.about.get("split") for one in ROBOMIMIC.open(tmp_path / "set.hdf5")]
    assert splits == ["train", None, "train"]


ENV = {
    "env_name": "Lift",
    "type": 1,
    "env_kwargs": {
        "control_freq": 20,
        "robots": ["Panda"],
        "controller_configs": {"type": "OSC_POSE", "control_delta": True},
    },
}


def robomimic_file(
    path: Path, demos: dict[str, int], *, next_obs: bool = True, twice: bool = False, **options: Any
) -> Path:
    """A file as robomimic's scripts lay it out."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        text = json.dumps(ENV)
        data.attrs["env_args"] = json.dumps(text) if twice else text
        data.attrs["total"] = sum(demos.values())
        for name, steps in demos.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = "<mujoco/>"
            number = int(name[5:])
            demo["actions"] = np.full((steps, 7), number / 100)
            demo["rewards"], demo["dones"] = np.zeros(steps), np.zeros(steps, np.int64)
            demo["states"] = np.random.default_rng(0).standard_normal((steps, 32))
            images = np.random.default_rng(1).integers(0, 255, (steps + 1, 16, 24, 3), np.uint8)
            qpos = np.random.default_rng(2).standard_normal((steps + 1, 7))
            demo.create_dataset("obs/agentview_image", data=images[:-1], **options)
            demo.create_dataset(
                "obs/agentview_depth", data=np.ones((steps, 16, 24, 1), np.float32), **options
            )
            demo.create_dataset("obs/robot0_joint_pos", data=qpos[:-1], **options)
            if next_obs:
                demo["next_obs/agentview_image"], demo["next_obs/robot0_joint_pos"] = images[1:], qpos[1:]
        file["mask/train"] = np.array(list(demos)[:1], dtype="S")
        file["mask/20_percent"] = list(demos)
    return path


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "lzf", "chunks": True}])
def test_what_robomimic_says(tmp_path, options):
    names = {f"demo_{i}": 3 + i % 3 for i in (0, 10, 2, 1)}
    source = ROBOMIMIC.open(robomimic_file(tmp_path / "lift.hdf5", names, **options))
    assert [one.about["demo"] for one in source] == ["demo_0", "demo_1", "demo_2", "demo_10"]
    assert [float(one.streams["action"].rows[0, 0]) for one in source] == [0, 0.01, 0.02, 0.1]
    one, contents = source[0], source.contents
    assert one.about["masks"] == ["20_percent", "train"]
    assert one.about["split"] == "train"
    assert one.about["attributes"] == {"model_file": "<mujoco/>"}
    assert set(one.streams) == {
        "action",
        "reward",
        "done",
        "states",
        "observation.images.agentview",
        "observation.depth.agentview",
        "observation.robot0_joint_pos",
    }
    assert contents.streams["observation.depth.agentview"].shape == (16, 24)
    assert contents.streams["observation.images.agentview"].about["hdf5"] == "obs/agentview_image"
    assert one.streams["observation.depth.agentview"].rows[0].shape == (16, 24)
    assert (contents.rate_hz, contents.robot) == (20.0, "Panda")
    assert one.streams["action"].time.tolist() == [0.0, 0.05, 0.1]
    said = contents.conventions
    assert (said.action, said.rotation, said.observed) == ("delta", "rotation_vector", "before")
    assert said.orientation == {"observation.images.agentview": "upright"}
    assert said.grippers == (Gripper("action", 6, "binary", -1.0, 1.0),)
    assert any("one step on" in p.what and "left out" in p.remedy for p in source.problems)
    frames = one.streams["observation.images.agentview"].rows
    there = pickle.loads(pickle.dumps(frames))  # ours, to a worker process and back
    np.testing.assert_array_equal(there[1], frames[1])
    # written again, it has the names, attributes and masks it had
    made = list(source)
    write("robomimic", tmp_path / "again.hdf5", contents, made)
    with h5py.File(tmp_path / "again.hdf5") as file:
        assert json.loads(file["data"].attrs["env_args"]) == ENV
        assert file["data/demo_3"].attrs["model_file"] == "<mujoco/>"
        assert set(file["data/demo_0/obs"]) == {"agentview_image", "agentview_depth", "robot0_joint_pos"}
        assert file["data/demo_0/obs/agentview_depth"].shape == (3, 16, 24, 1)
        assert file["data/demo_0/states"].dtype == np.float64
        assert file["data"].attrs["total"] == sum(names.values())
        assert set(file["mask"]) == {"20_percent", "train"}
        assert file["mask/train"][()].tolist() == [b"demo_0"]
    rec.assert_set(ROBOMIMIC.open(tmp_path / "again.hdf5"), contents, made, images="pixels")
    source.close()


def test_oddities_of_robomimic(tmp_path):
    path = robomimic_file(tmp_path / "odd.hdf5", {"demo_0": 4, "demo_1": 2}, twice=True)
    with h5py.File(path, "a") as file:
        del file["data/demo_0"].attrs["num_samples"]
        file["data/demo_0/next_obs/robot0_joint_pos"][0] = 7
        del file["data/demo_1/next_obs"]
        del file["data/demo_0/states"]
        file["data/demo_0/states"] = np.empty((0, 3))
        file["data/notes"] = np.zeros(3)
        file["mask/broken"] = np.array([b"demo_77"])
    source = ROBOMIMIC.open(path)
    assert source.contents.rate_hz == 20.0  # JSON in JSON
    one = source[0]
    assert "states" not in one.streams
    np.testing.assert_array_equal(one.streams["next_obs.robot0_joint_pos"].rows[0], np.full(7, 7.0))
    assert "next_obs.robot0_joint_pos" not in source[1].streams
    told = " | ".join(str(problem) for problem in source.problems)
    for words in (
        "num_samples is None, there are 4",
        "not obs one step on",
        "'notes'",
        "names 1 demos",
        "are counted",
    ):
        assert words in told
    source.close()
    with h5py.File(path, "a") as file:
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = np.zeros(5)
    with pytest.raises(DataError, match=r"odd\.hdf5, episode 1, reward: 5 rows, there are 2 steps"):
        ROBOMIMIC.open(path)[1]


def libero_file(path: Path, *, language: Any = "pick up the bowl", own: bool = True, steps: int = 4) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if own:
            data.attrs["problem_info"] = json.dumps({"problem_name": "p", "language_instruction": language})
            data.attrs["macros_image_convention"] = "opengl"
            data.attrs["bddl_file_name"] = "a.bddl"
            data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
            data.attrs["num_demos"], data.attrs["total"] = 2, 2 * steps
        for i in range(2):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = steps
            demo.attrs["init_state"] = np.arange(3) / 3
            k = np.arange(steps, dtype=np.float64)[:, None]
            demo["actions"] = np.hstack([np.zeros((steps, 6)) + k / 10, np.sign(k - 1.5)])
            demo["states"], demo["robot_states"] = np.tile(k, 5), np.tile(k + 1, 9)
            demo["rewards"] = demo["dones"] = np.eye(steps, dtype=np.uint8)[-1]
            image = np.zeros((steps, 16, 24, 3), np.uint8) + k[..., None, None].astype(np.uint8)
            demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = image, image + 100
            demo["obs/ee_states"], demo["obs/ee_ori"] = np.tile(k + 1, 6), np.tile(k + 1, 3)
            demo["obs/gripper_states"], demo["obs/joint_states"] = np.tile(k + 1, 2), np.tile(k + 1, 7)
    return path


def test_what_libero_fixes(tmp_path):
    suite = tmp_path / "libero_goal"
    suite.mkdir()
    libero_file(suite / "pick_up_the_bowl_demo.hdf5")
    libero_file(suite / "KITCHEN_SCENE1_open_the_drawer_demo.hdf5", language=['"open the drawer"'])
    assert LIBERO.detect(suite)
    assert LIBERO.detect(suite / "pick_up_the_bowl_demo.hdf5")
    assert not ROBOMIMIC.detect(suite / "pick_up_the_bowl_demo.hdf5")
    source = LIBERO.open(suite)
    assert [one.task for one in source] == ["open the drawer"] * 2 + ["pick up the bowl"] * 2
    said = source.contents.conventions
    assert (said.action, said.rotation, said.frame, said.observed) == (
        "delta",
        "rotation_vector",
        "base",
        "after",
    )
    assert said.grippers == (Gripper("action", 6, "binary", -1.0, 1.0),)
    assert set(said.orientation.values()) == {"vflip"}  # upside down, not turned
    streams = source.contents.streams
    assert set(source[0].streams) == {
        "action",
        "reward",
        "done",
        "states",
        "robot_states",
        "observation.images.agentview",
        "observation.images.eye_in_hand",
        "observation.ee_states",
        "observation.ee_ori",
        "observation.gripper_states",
        "observation.joint_states",
    }
    assert streams["observation.ee_ori"].about["rotation"] == "rotation_vector_uncanonical"
    assert streams["action"].names[-1] == "gripper"
    assert source.contents.rate_hz == 20.0
    assert source[0].about["attributes"]["init_state"] == [0, 1 / 3, 2 / 3]
    assert any("language_instruction" in p.what and p.repaired for p in source.problems)
    write("libero", tmp_path / "again", source.contents, made := list(source))
    names = ["KITCHEN_SCENE1_open_the_drawer_demo.hdf5", "pick_up_the_bowl_demo.hdf5"]
    assert sorted(os.listdir(tmp_path / "again")) == names
    with h5py.File(tmp_path / "again" / names[1]) as file:
        data = file["data"].attrs
        assert json.loads(data["problem_info"])["language_instruction"] == "pick up the bowl"
        assert (data["macros_image_convention"], data["bddl_file_name"]) == ("opengl", "a.bddl")
        assert (data["num_demos"], data["total"]) == (2, 8)
        assert set(file["data/demo_0/obs"]) >= {"agentview_rgb", "eye_in_hand_rgb", "ee_states"}
        assert file["data/demo_0/dones"][()].tolist() == [0, 0, 0, 1]
        np.testing.assert_array_equal(file["data/demo_1"].attrs["init_state"], np.arange(3) / 3)
    rec.assert_set(LIBERO.open(tmp_path / "again"), source.contents, made, images="pixels")


def test_libero_made_anew_by_others_says_less(tmp_path):
    path = libero_file(tmp_path / "LIVING_ROOM_SCENE5_put_the_mug_down_demo.hdf5", own=False)
    assert LIBERO.detect(path)
    source = LIBERO.open(path)
    assert source[0].task == "put the mug down"
    said = source.contents.conventions
    assert (said.observed, set(said.orientation.values())) == ("unknown", {"unknown"})
    assert source.contents.rate_hz is None
    assert sum("problem_info" in str(p) for p in source.problems) >= 2


def test_upright_images_are_said_to_be_upright(tmp_path):
    """Ours from another robot: LIBERO's own attribute says how images lie, and another gripper is refused."""
    of = rec.contents(conventions=Conventions(orientation={rec.FRONT: "upright", rec.WRIST: "upright"}))
    write("libero", tmp_path / "one_demo.hdf5", of, [rec.recording(of, 2)])
    with h5py.File(tmp_path / "one_demo.hdf5") as file:
        assert file["data"].attrs["macros_image_convention"] == "opencv"
    other = rec.contents(conventions=Conventions(grippers=(Gripper("action", 6, "binary", 1.0, 0.0),)))
    with pytest.raises(DataError, match=r"1 open and 0 closed, LIBERO's is -1 and 1"):
        LIBERO.create(tmp_path / "two", other, WriteOptions(), Ledger())
    sink = LIBERO.create(tmp_path / "two_demo.hdf5", of, WriteOptions(), Ledger())
    for task in ("a", "b"):
        sink.write(rec.recording(of, 2, task=task))
    with pytest.raises(DataError, match=r"2 tasks.*a folder"):
        sink.close()
    assert not (tmp_path / "two_demo.hdf5").exists()


def test_observations_come_before_their_actions(tmp_path):
    source = LIBERO.open(libero_file(tmp_path / "pick_demo.hdf5"))
    one, ledger = source[0], Ledger()
    moved = align_before(one, ledger)
    # stored: state k+1 beside action k. So action 1 now has state 1, the one after action 0.
    assert moved.streams["action"].rows[:, 0].tolist() == [0.1, 0.2, 0.3]
    assert moved.streams["observation.ee_states"].rows[:, 0].tolist() == [1, 2, 3]
    assert moved.streams["robot_states"].rows[:, 0].tolist() == [1, 2, 3]
    assert moved.streams["states"].rows[:, 0].tolist() == [
        1,
        2,
        3,
    ]  # the simulator's, before the action already
    assert [int(p[0, 0, 0]) for p in moved.streams["observation.images.agentview"].rows] == [0, 1, 2]
    assert moved.aligned
    assert moved.streams["action"].time.tolist() == [0.0, 0.05, 0.1]
    assert aligned_contents(source.contents).conventions.observed == "before"
    (loss,) = ledger.losses
    assert (loss.what, loss.rows) == ("dropped", 1)


def test_noops_are_left_out():
    action = np.zeros((7, 7))
    action[:, 6] = [-1, -1, -1, 1, 1, -1, -1]
    action[2, 0] = 1e-3
    action[6, 3] = 9e-5
    # 0: still, nothing before it; 1: still; 2: moves; 3: gripper closes; 4: still; 5: opens; 6: below 1e-4
    time = np.arange(7) / 20
    frames = ArrayFrames(np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8))
    one = Recording({"action": Track(action, time), "observation.images.a": Track(frames, time)})
    ledger = Ledger()
    kept = drop_noops(one, ledger)
    assert [int(p[0, 0, 0]) for p in kept.streams["observation.images.a"].rows] == [2, 3, 5]
    assert kept.streams["action"].time.tolist() == [0.0, 0.05, 0.1]
    assert (ledger.losses[0].what, ledger.losses[0].rows) == ("dropped", 4)
    assert drop_noops(kept, ledger) is kept


def test_made_rewards_and_times_of_its_own(tmp_path):
    of = Contents({"action": StreamSpec("action", "vector", "float64", (2,))})
    time = np.array([0.0, 0.2, 0.21])
    made = [
        Recording({"action": Track(np.ones((3, 2)), time)}, task="t", success=success)
        for success in (True, None)
    ]
    ledger = write("robomimic", tmp_path / "set.hdf5", of, made)
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert [file[f"data/demo_{i}/rewards"][()].tolist() for i in (0, 1)] == [[0, 0, 1], [0, 0, 0]]
        assert json.loads(file["data/demo_0"].attrs["ep_meta"]) == {"lang": "t"}
    assert [loss.what for loss in ledger.losses] == ["computed"]
    rec.assert_set(ROBOMIMIC.open(tmp_path / "set.hdf5"), of, made)


def test_nothing_is_followed_out_of_the_file(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["pixels"] = np.zeros((3, 7))

    def tamper(change: Any) -> Path:
        path = robomimic_file(tmp_path / "set.hdf5", {"demo_0": 3}, next_obs=False)
        with h5py.File(path, "a") as file:
            del file["data/demo_0/actions"]
            change(file)
        return path

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((3, 7), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "pixels", (3, 7), "f8")
        file.create_virtual_dataset("data/demo_0/actions", layout)

    def huge(file: Any) -> None:
        file.create_dataset("data/demo_0/actions", (1 << 40, 7), "f4", chunks=(1024, 7))

    changes = {
        "ExternalLink": lambda f: f.__setitem__(
            "data/demo_0/actions", h5py.ExternalLink(str(secret), "pixels")
        ),
        "SoftLink": lambda f: f.__setitem__("data/demo_0/actions", h5py.SoftLink("/data/demo_0/states")),
        "lie in other files": virtual,
        "other files": lambda f: f.create_dataset(
            "data/demo_0/actions", (3, 7), "f4", external=[(str(secret), 0, 168)]
        ),
        "objects": lambda f: f.create_dataset("data/demo_0/actions", (3,), h5py.vlen_dtype(np.uint8)),
        "are never loaded": lambda f: f.create_dataset(
            "data/demo_0/actions", (3,), np.dtype([("a", "f4"), ("b", "i4")])
        ),
        "declares": huge,
    }
    for words, change in changes.items():
        path = tamper(change)
        before = path.read_bytes()
        with pytest.raises(DataError, match=words) as caught:
            ROBOMIMIC.open(path)[0]
        assert "set.hdf5" in str(caught.value)
        assert path.read_bytes() == before
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "a_demo.hdf5").symlink_to(libero_file(tmp_path / "elsewhere.hdf5"))
    with pytest.raises(DataError, match="leads out"):
        LIBERO.open(suite)


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    of = rec.contents()
    for path, words in ((tmp_path, "one file"), (tmp_path / "x.hdf5", "exists already")):
        (tmp_path / "x.hdf5").touch()
        with pytest.raises(DataError, match=words):
            ROBOMIMIC.create(path, of, WriteOptions(), Ledger())
    sink = ROBOMIMIC.create(tmp_path / "y.hdf5", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match=r"episode 0, .*times of their own"):
        sink.write(rec.uneven(rec.recording(of, 9), 3))
    with pytest.raises(DataError, match="action: the episode has no actions"):
        sink.write(rec.recording(of, 2, lacks=("action",)))
    sink.abandon()
    assert not (tmp_path / "y.hdf5").exists()


@pytest.mark.parametrize(("name", "file"), [("robomimic", "set.hdf5"), ("libero", "suite")])
def test_killed_and_resumed(tmp_path, name, file):
    path = tmp_path / file
    said = killed_writer(name, path, 4)
    assert not path.exists()
    partial = tmp_path / f".{file}.partial"
    (partial / f"episode-{said + 9:07d}.tmp").write_bytes(b"half")
    of = rec.contents()
    create = get_format(name).create
    assert create is not None
    sink = create(path, of, WriteOptions(), Ledger())
    assert sink.done >= said
    last = sink.done + 2
    for i in range(sink.done, last):
        sink.write(rec.recording(of, 3 + i % 3, seed=i))
    sink.close()
    assert not partial.exists()
    made = [rec.recording(of, 3 + i % 3, seed=i) for i in range(last)]
    rec.assert_set(get_format(name).open(path), of, made, images="pixels")


FUZZ = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
import test_hdf5
print(test_hdf5.fuzz({count}, {seed}, Path({folder!r})))
"""


def fuzz(count: int, seed: int, folder: Path) -> int:
    """Mutate a file; a `DataError` or a set that reads. Returns how many failed."""
    files = [
        robomimic_file(folder / "a.hdf5", {"demo_0": 3}, compression="gzip"),
        libero_file(folder / "b_demo.hdf5"),
    ]
    of = rec.contents()
    write("robomimic", folder / "c.hdf5", of, [rec.recording(of, 2)])
    files.append(folder / "c.hdf5")
    rng, refused = np.random.default_rng(seed), 0
    for number in range(count):
        data = files[number % 3].read_bytes()
        where = int(rng.integers(0, 12_000)) if rng.integers(2) else 0  # metadata lie at the front
        changed = data[:where] + mutated(data[where : where + 4000], rng, False) + data[where + 4000 :]
        trial = folder / f"trial_{number}_demo.hdf5"
        trial.write_bytes(changed)
        try:
            source = (LIBERO if number % 3 == 1 else ROBOMIMIC).open(trial)
            try:
                for episode in range(len(source)):
                    for track in source[episode].streams.values():
                        if not isinstance(track.rows, (np.ndarray, list)):
                            list(track.rows)
            finally:
                source.close()
        except DataError as error:
            refused += bool(error.remedy)
        assert trial.read_bytes() == changed
        trial.unlink()
    return refused


def test_fuzz(tmp_path):
    """In a process of its own: the HDF5 library is C, and a crash must be seen as one."""
    count = int(os.environ.get("REGRIP_FUZZ", "150"))
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "src")]
    code = FUZZ.format(paths=here, count=count, seed=0, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280 + count)
    assert done.returncode == 0, done.stderr[-3000:]
    assert count // 10 < int(done.stdout) < count
    shutil.rmtree(tmp_path)

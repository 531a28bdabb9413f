"""What a server takes for an observation, what it refuses and by which words; its built-in policies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import ARM, SCHEMA, Echo, ended, observation, raw, serving, url
from websockets.exceptions import ConnectionClosed

from regrip.datasets.frames import encode_jpeg
from regrip.datasets.spec import Axis, Camera
from regrip.real_robot.serving.client import Client, RefusedError
from regrip.real_robot.serving.policies import HoldPolicy, built_in
from regrip.real_robot.serving.schema import ObservationError
from regrip.real_robot.serving.sessions import Run
from regrip.real_robot.serving.wire import pack, unpack

# What observations may be ------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"observation/state": np.zeros(3)},
        r"observation/state: expected shape \(2,\) \(joint1, gripper_width\), got",
    ),
    ({"observation/state": np.array(["a", "b"])}, "observation/state: expected numbers"),
    ({"observation/state": np.array([np.nan, 0.0])}, "observation/state: joint1 is nan"),
    ({"observation/state": np.array([2.0, 0.0])}, r"joint1 is 2 rad, expected \[-1, 1\]"),
    ({"observation/state": np.array([1e300, 0.0])}, r"joint1 is 1e\+300"),
    (
        {"observation/image": np.zeros((24, 32, 3), np.float32)},
        r"expected uint8 \(24, 32, 3\).*multiply by 255",
    ),
    ({"observation/image": np.zeros((64, 64, 3), np.uint8)}, r"got \(64, 64, 3\): resize on your side"),
    ({"observation/image": b"\xff\xd8\xff"}, "must be listed: '__jpeg__'"),
    ({"observation/image": b"\xff\xd8\xff", "__jpeg__": True}, "observation/image: .*JPEG"),
    ({"observation/image": b"GIF89a", "__jpeg__": ["observation/image"]}, "neither JPEG nor PNG"),
    ({"front": np.zeros((24, 32, 3), np.uint8)}, "a second image of camera 'front'"),
    ({"state": np.zeros(2)}, "a second state"),
    ({"prompt": 7}, "prompt: expected a sentence"),
    ({"prompt": ""}, "no instruction"),
    ({"__seq__": "one"}, "__seq__: expected a whole number"),
    ({"__seq__": 2**63}, "__seq__: expected a whole number"),
    ({"__sed__": 1}, "did you mean __seed__"),
    ({"__jpeg__": 3}, "__jpeg__: expected true or a list"),
    ({"__prefix__": {"actions": np.zeros((2, 2)), "frozen": 1}}, "does not do real-time chunking"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG)
def test_a_wrong_observation_is_refused_by_name(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        SCHEMA.read(observation() | wrong)


@pytest.mark.parametrize(
    "left_out", ["observation/image", "observation/wrist_image", "observation/state", "prompt"]
)
def test_a_missing_part_is_named(left_out: str) -> None:
    partial = {key: value for key, value in observation().items() if key != left_out}
    with pytest.raises(ObservationError, match=r"no image of camera|no state|no instruction"):
        SCHEMA.read(partial)


@pytest.mark.parametrize(("wrong", "says"), WRONG[::5])
def test_over_the_wire_it_is_a_text_frame_and_1011(wrong: dict[str, Any], says: str) -> None:
    with serving(HoldPolicy(SCHEMA)) as server, raw(server) as connection:
        connection.send(pack(observation() | wrong))
        words, code = ended(connection)
        assert code == 1011
        assert re.search(says, words)
        assert "/" + "real_robot" not in words


def test_the_same_observation_by_any_of_its_names() -> None:
    plain = SCHEMA.read(observation())
    front, wrist = plain.images["front"], plain.images["wrist"]
    state = [0.25, 0.04]
    for message in (
        {"front": front, "wrist": wrist, "state": state, "task": "lift the block"},
        {
            "observation/front": front,
            "observation/wrist": wrist,
            "observation.state": state,
            "prompt": "lift the block",
        },
        {
            "observation.images.front": front,
            "observation/images/wrist": wrist,
            "state": state,
            "instruction": "lift the block",
        },
        {  # ALOHA's layout, channels first
            "images": {"front": front.transpose(2, 0, 1).copy(), "wrist": wrist.transpose(2, 0, 1).copy()},
            "state": state,
            "prompt": "lift the block",
        },
    ):
        ask = SCHEMA.read(unpack(pack(message)))
        assert np.array_equal(ask.images["front"], front)
        assert np.array_equal(ask.images["wrist"], wrist)
        assert np.array_equal(ask.state, plain.state)
        assert ask.state.dtype == np.float32
        assert ask.instruction == "lift the block"
        assert ask.warnings == ()


def test_a_cameras_own_name_means_itself() -> None:
    """A camera called ``image`` that is not the first keeps the name from openpi's outer camera."""
    spec = replace(ARM, cameras=(Camera("top", 8, 8), Camera("image", 8, 8)))
    images = {
        "observation/top": np.full((8, 8, 3), 1, np.uint8),
        "observation/image": np.full((8, 8, 3), 2, np.uint8),
    }
    ask = replace(SCHEMA, spec=spec).read({**images, "state": [0, 0], "prompt": "x"})
    assert ask.images["top"][0, 0, 0] == 1
    assert ask.images["image"][0, 0, 0] == 2


def test_odd_content_earns_a_warning_in_the_reply() -> None:
    odd = observation(0.9) | {"observation/image": np.zeros((24, 32, 3), np.uint8), "extra": 1}
    with serving(HoldPolicy(SCHEMA)) as server, Client(url(server)) as client:
        warnings = client.infer(odd)["warnings"]
        assert warnings == [
            "'extra' is not used",
            "the image of front is black",
            "state: joint1 is 0.9, 9.0 standard deviations from its mean in training",
        ]
        assert "warnings" not in client.infer(observation())


def test_image_files_are_taken_and_their_claims_checked_first() -> None:
    plain = observation()
    image = plain["observation/image"]
    files = plain | {"observation/image": encode_jpeg(image, 95), "__jpeg__": ["observation/image"]}
    with serving(Echo()) as server, Client(url(server)) as client:
        assert client.infer({k: v for k, v in files.items() if k != "__jpeg__"})["actions"].shape == (5, 2)
        large = encode_jpeg(np.zeros((4000, 4000, 3), np.uint8), 10)
        with pytest.raises(RefusedError, match="4000, 4000"):
            client.infer(plain | {"observation/image": large})
    seen = SCHEMA.read(files).images["front"]
    assert seen.shape == image.shape
    assert not np.array_equal(seen, image)


def test_a_prefix_reaches_a_policy_that_takes_one() -> None:
    policy = Echo(replace(SCHEMA, rtc=True))
    prefix = np.full((3, 2), 0.05, np.float32)
    with serving(policy) as server, Client(url(server)) as client:
        assert client.metadata["supports"]["rtc"] is True
        client.infer(observation(__prefix__={"actions": prefix, "frozen": 2}, __step__=17))
        ask = policy.seen[-1][0]
        assert np.array_equal(ask.prefix, prefix)
        assert (ask.frozen, ask.step) == (2, 17)
        for wrong in ({"actions": prefix, "frozen": 4}, {"actions": np.zeros((9, 2)), "frozen": 0}, [1]):
            with pytest.raises(RefusedError, match="__prefix__: expected"):
                client.infer(observation(__prefix__=wrong))
        with pytest.raises(RefusedError, match="not finite"):
            client.infer(observation(__prefix__={"actions": prefix * np.nan, "frozen": 0}))


# Hostile frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "cut short"),
        (b"\xff\xd8 no msgpack at all", "follow"),
        (b"\x91" * 100_000, "nested deeper"),
        (b"\xdd\x7f\xff\xff\xff", "values"),
        (pack([1, 2, 3]), "expected a map"),
        (pack(7), "expected a map"),
        (pack({"images": {str(i): i for i in range(300)}}), "no image of camera"),
        (pack({1: 2, b"\xff": 3}), "dialect|no image"),
        (pack({"__session__": {}}), "__session__"),
        (pack({"__session__": "x" * 500}), "__session__"),
        (pack({"__reset__": True, "__seq__": []}), "__seq__"),
        ("a text frame", "text frame"),
        (pack(observation() | {"observation/image": {"a": {"b": 1}}}), "observation/image"),
        (pack(observation() | {"__jpeg__": {}}), "__jpeg__"),
    ],
)
def test_a_hostile_frame_ends_in_words_and_the_server_lives(frame: Any, says: str) -> None:
    with serving(HoldPolicy(SCHEMA)) as server:
        with raw(server) as connection:
            connection.send(frame)
            words, code = ended(connection)
            assert re.search(says, words), words
            assert code == 1011
            assert len(words) < 1500
        with Client(url(server)) as client:
            assert client.infer(observation())["actions"].shape == (5, 2)


def test_a_message_that_is_too_large_is_refused_unread() -> None:
    with serving(HoldPolicy(SCHEMA), max_bytes=100_000) as server:
        large = pack(observation() | {"more": np.zeros(1_000_000, np.uint8)})
        with raw(server) as connection, pytest.raises(ConnectionClosed) as closed:
            _ = connection.send(large), connection.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        with Client(url(server)) as client:
            assert client.infer(observation())["actions"].shape == (5, 2)


leaves = st.none() | st.booleans() | st.integers(-100, 100) | st.floats() | st.text(max_size=5) | st.binary()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KEYS = ["observation/image", "observation/state", "prompt", "__prefix__", "__jpeg__", "__seed__", "images"]


@given(anything, st.sampled_from(KEYS))
@settings(max_examples=150, deadline=None)
def test_any_value_under_any_key_is_taken_or_refused(value: Any, key: str) -> None:
    try:
        SCHEMA.read(observation() | {key: value})
    except ObservationError as error:
        assert len(str(error)) < 1500  # noqa: PT017  # that it is short is the point


# Built-in policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hold", "random", "fault:latency:0.01"])
def test_built_in_policies_answer_within_limits(name: str) -> None:
    policy = built_in(name, SCHEMA)
    with serving(policy) as server, Client(url(server)) as client:
        assert client.infer(observation())["version"] == policy.schema.model


@pytest.mark.parametrize(
    "name", ["hodl", "replay:", "fault:", "fault:nun", "fault:drop:2", "fault:latency:x", ""]
)
def test_a_policy_that_does_not_exist_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="policy"):
        built_in(name, SCHEMA)


def test_holding_an_end_effector_is_no_motion_and_the_gripper_as_it_is() -> None:
    spec = replace(
        ARM,
        control_mode="ee_delta",
        action=(Axis("dx", "m", -0.1, 0.1), Axis("gripper", "m", 0.0, 0.08)),
    )
    policy = HoldPolicy(replace(SCHEMA, spec=spec))
    ask = policy.schema.read(observation(0.5))
    assert np.allclose(policy.act([ask], [Run("s", "", policy)])[0], [[0.0, 0.04]] * 5)
    with pytest.raises(ValueError, match="dx"):
        HoldPolicy(replace(SCHEMA, spec=replace(spec, control_mode="velocity")))


def test_replay_plays_a_recorded_set(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    policy = built_in(f"replay:{path}", SCHEMA)
    with serving(policy) as server, Client(url(server)) as client:
        client.reset()
        first, second = (client.infer(observation(0.5))["actions"] for _ in range(2))
        assert np.allclose(first[:, 0], np.arange(5) / 100)
        assert np.allclose(second[:, 0], [0.05, 0.06, 0.5, 0.5, 0.5])  # seven rows, and then it holds
        assert np.allclose(client.infer(observation(__step__=2))["actions"][:, 0], np.arange(2, 7) / 100)
        client.reset()
        assert np.allclose(client.infer(observation())["actions"][:, 0], -np.arange(5) / 100)


def recorded(folder: Path) -> Path:
    """Two episodes of seven steps in LIBERO's HDF5 form."""
    h5py = pytest.importorskip("h5py")
    path = folder / "demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "x", "type": 1, "env_kwargs": {}})
        data.attrs["total"] = 14
        for index, sign in enumerate((1, -1)):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = 7
            actions = np.stack([sign * np.arange(7) / 100, np.full(7, 0.04)], 1)
            demo.create_dataset("actions", data=actions)
            demo.create_dataset("rewards", data=np.zeros(7))
            demo.create_dataset("dones", data=np.zeros(7))
            demo.create_group("obs").create_dataset("robot0_joint_pos", data=actions)
    return path

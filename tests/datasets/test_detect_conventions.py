"""Conventions of made robots are found out where the numbers tell them, and nowhere else."""

import numpy as np
import pytest
from robots import RATE, hand, robot, smooth, turned, vectors
from scipy.spatial.transform import Rotation

from regrip.datasets.inspecting.evidence import Detected
from regrip.datasets.inspecting.inspection import SURE, inspect
from regrip.datasets.recording import Conventions, Gripper

STATE = "observation.state"


@pytest.mark.parametrize("observed", ["before", "after"])
@pytest.mark.parametrize("kind", ["absolute", "delta", "velocity"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_an_action_means_and_when_the_state_was_taken(kind: str, observed: str, seed: int) -> None:
    found = inspect(vectors(robot(kind, observed=observed, seed=seed))).conventions
    assert found["action"].value == kind
    assert found["action"].confidence > (0.6 if kind == "velocity" else SURE), found["action"]
    assert found["observed"].value == observed
    if kind != "absolute":
        assert found["observed"].confidence > 0.5, found["observed"]


def test_a_scaled_delta_is_no_velocity() -> None:
    found = inspect(vectors(robot("delta", scale=0.5))).conventions["action"]
    assert found.value == "delta"
    assert "0.5" in found.evidence


def test_a_delta_scaled_by_the_period_is_not_sure_to_be_a_velocity() -> None:
    found = inspect(vectors(robot("delta", scale=1 / RATE))).conventions["action"]
    assert found.value == "velocity"  # 20 Hz and a scale of 0.05: nothing in the numbers can tell
    assert found.confidence < 0.8
    assert "look alike" in found.evidence


def test_an_absolute_target_seen_after_may_be_a_quick_robot() -> None:
    found = inspect(vectors(robot("absolute", observed="after"))).conventions["observed"]
    assert found.value == "after"
    assert found.confidence < SURE
    assert "at once" in found.evidence


def test_units_settle_it() -> None:
    parts = robot("velocity")
    found = inspect(vectors(parts, units={"action": ("m/s",) * 3})).conventions["action"]
    assert (found.value, found.confidence) == ("velocity", 0.95)


@pytest.mark.parametrize("seed", range(4))
def test_unrelated_numbers_tell_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    walks = {  # walks that drift, whose levels correlate by chance
        STATE: [smooth(rng, 200, 8, 1.0) for _ in range(4)],
        "action": [smooth(rng, 200, 7, 1.0) for _ in range(4)],
    }
    found = inspect(vectors(walks)).conventions
    assert found["action"].confidence < 0.4
    assert found["observed"].confidence < 0.4


def test_few_rows_are_not_believed() -> None:
    found = inspect(vectors(robot("delta", episodes=1, steps=10))).conventions
    assert found["action"].confidence < 0.3


def test_no_state_and_no_action() -> None:
    parts = robot("delta")
    assert inspect(vectors({"action": parts["action"]})).conventions["action"].value == "unknown"
    assert (
        inspect(vectors({STATE: parts[STATE]})).conventions["action"].evidence == "there is no action stream"
    )


def test_what_the_format_says_is_not_doubted_but_contradiction_is_told() -> None:
    source = vectors(
        robot("delta", observed="after"), conventions=Conventions(action="absolute", observed="before")
    )
    found = inspect(source)
    assert found.conventions["action"] == Detected("absolute", 1.0, "the set or its format says so")
    told = [p.what for p in found.problems]
    assert any("action is said to be absolute, the numbers say delta" in what for what in told)
    assert any("observed is said to be before, the numbers say after" in what for what in told)


@pytest.mark.parametrize("shift", [0, 1])
def test_actions_that_are_states(shift: int) -> None:
    parts = robot("absolute")
    states = parts[STATE]
    copied = [np.concatenate([s[shift:], s[len(s) - shift :]]) for s in states]
    what = " ".join(p.what for p in inspect(vectors({STATE: states, "action": copied})).problems)
    assert ("exactly the state of the same row" in what) == (shift == 0)
    assert ("exactly the state of the next row" in what) == (shift == 1)


@pytest.mark.parametrize("up_is_open", [True, False])
@pytest.mark.parametrize("state", ["width", "fingers"])
def test_which_way_a_gripper_opens(up_is_open: bool, state: str) -> None:
    names = {
        "observation.gripper": ("gripper_width",) if state == "width" else ("finger_left", "finger_right")
    }
    found = inspect(vectors(hand(up_is_open=up_is_open, state=state), names=names)).conventions
    command = found["gripper action.gripper[0]"]
    opened = 1.0 if up_is_open else -1.0
    assert command.value == {"kind": "binary", "open": opened, "closed": -opened, "unit": ""}
    assert command.confidence > SURE
    opening = found["gripper observation.gripper[0]"].value
    assert (opening["kind"], opening["unit"]) == ("width", "m")
    assert opening["open"] == (0.08 if state == "width" else 0.04)
    if state == "fingers":
        assert found["gripper observation.gripper[1]"].value["open"] == -0.04


def test_a_gripper_without_a_measured_hand_is_not_guessed() -> None:
    found = inspect(vectors({"action.gripper": hand(up_is_open=True)["action.gripper"]}))
    one = found.conventions["gripper action.gripper[0]"]
    assert one.value["kind"] == "binary"
    assert one.value["open"] is None
    assert found.proposal()["gripper action.gripper[0]"]["value"]["open"] is None


@pytest.mark.parametrize(("name", "opened"), [("gripper_open", 1.0), ("gripper_closedness", 0.0)])
def test_a_name_tells_what_is_open(name: str, opened: float) -> None:
    values = [np.tile([[0.0], [0.3], [1.0]], (20, 1)) + 1e-3 * k for k in range(2)]
    one = inspect(vectors({"action": values}, names={"action": (name,)})).conventions["gripper action[0]"]
    assert one.value["kind"] == "continuous"
    assert one.value["open"] == pytest.approx(opened, abs=2e-3)


def test_a_declared_gripper_that_its_hand_contradicts() -> None:
    parts = hand(up_is_open=True)
    names = {"observation.gripper": ("gripper_width",)}
    wrong = Conventions(grippers=(Gripper("action.gripper", 0, "binary", open=-1.0, closed=1.0),))
    right = Conventions(grippers=(Gripper("action.gripper", 0, "binary", open=1.0, closed=-1.0),))
    told = [p.what for p in inspect(vectors(parts, names=names, conventions=wrong)).problems]
    assert any("is said to be open where it is lower" in what for what in told)
    told = [p.what for p in inspect(vectors(parts, names=names, conventions=right)).problems]
    assert not any("said to be open" in what for what in told)


def test_sets_of_two_gripper_signs_merged() -> None:
    up, down = hand(up_is_open=True, episodes=6), hand(up_is_open=False, seed=1, episodes=2)
    parts = {key: up[key] + down[key] for key in up}
    found = inspect(vectors(parts, names={"observation.gripper": ("gripper_width",)}))
    assert any("in 2 of 8 episodes the contrary" in p.what for p in found.problems)
    assert found.conventions["gripper action.gripper[0]"].confidence < SURE


def test_a_relative_gripper_is_told() -> None:
    rng = np.random.default_rng(0)
    values = [rng.choice([-1.0, 0, 1], (100, 1), p=[0.05, 0.9, 0.05]) for _ in range(2)]
    one = inspect(vectors({"action": values}, names={"action": ("gripper",)})).conventions[
        "gripper action[0]"
    ]
    assert "relative" in one.evidence
    assert one.confidence < SURE


def rotation(rows: list[np.ndarray], names: tuple[str, ...] = (), key: str = "observation.pose") -> Detected:
    """What is found in a pose of place and rotation."""
    rng = np.random.default_rng(9)
    poses = [np.concatenate([0.3 * rng.random((len(r), 3)), r], 1) for r in rows]
    named = ("x", "y", "z", *names) if names else ()
    return inspect(vectors({key: poses}, names={key: named} if named else {})).conventions["state_rotation"]


QUATERNIONS = [turned(seed, 150, np.array([0.9, 0.3, -0.1, 0.1])) for seed in range(4)]
DOWN = [turned(seed, 150, np.array([1.0, 0.02, 0.0, 0.01])) for seed in range(4)]


@pytest.mark.parametrize("form", ["xyzw", "wxyz"])
def test_quaternions_by_name(form: str) -> None:
    order = [0, 1, 2, 3] if form == "xyzw" else [3, 0, 1, 2]
    names = tuple(f"q{letter}" for letter in form)
    found = rotation([q[:, order] for q in QUATERNIONS], names)
    assert (found.value, found.confidence > 0.9) == (f"quaternion_{form}", True)


@pytest.mark.parametrize("form", ["xyzw", "wxyz"])
def test_quaternions_by_the_sign_of_w(form: str) -> None:
    order = [0, 1, 2, 3] if form == "xyzw" else [3, 0, 1, 2]
    made = [turned(seed, 400) for seed in range(4)]
    found = rotation([(q * np.where(q[:, 3:] < 0, -1, 1))[:, order] for q in made])
    assert found.value == f"quaternion_{form}"
    assert 0.4 < found.confidence < SURE


def test_quaternions_whose_w_nothing_tells() -> None:
    found = rotation([turned(seed, 400) for seed in range(4)])
    assert found.value.startswith("quaternion")
    assert found.confidence < 0.4


def test_axis_angle_and_its_uncanonical_kin() -> None:
    short = [Rotation.from_quat(q).as_rotvec() for q in DOWN]
    found = rotation(short)
    assert found.value == "rotation_vector"
    # robosuite's way: the angle is 2 arccos(w), in 0 to 2 pi, whatever the sign of w
    angle = [2 * np.arccos(np.clip(q[:, 3:], -1, 1)) for q in DOWN]
    long = [
        q[:, :3] / np.linalg.norm(q[:, :3], axis=1, keepdims=True) * a
        for q, a in zip(DOWN, angle, strict=True)
    ]
    assert max(np.linalg.norm(v, axis=1).max() for v in long) > np.pi
    assert rotation(long).value == "rotation_vector_uncanonical"
    named = rotation(long, ("axis_angle_x", "axis_angle_y", "axis_angle_z"))
    assert (named.value, named.confidence > 0.8) == ("rotation_vector_uncanonical", True)


def test_euler_angles_by_their_jumps_and_by_name() -> None:
    euler = [Rotation.from_quat(q).as_euler("xyz") for q in DOWN]
    assert rotation(euler, ("rx", "ry", "rz")).value == "euler_xyz"
    named = rotation(euler, ("roll", "pitch", "yaw"))
    assert (named.value, named.confidence > SURE) == ("euler_xyz", True)
    assert "order" in named.evidence


def test_small_rotations_look_alike() -> None:
    small = [0.1 * Rotation.from_quat(turned(s, 80)).as_rotvec() / np.pi for s in range(2)]
    assert rotation(small, ("rx", "ry", "rz")).confidence == 0


def test_six_numbers_and_matrices() -> None:
    matrices = [Rotation.from_quat(q).as_matrix() for q in QUATERNIONS]
    rows = rotation([m[:, :2].reshape(-1, 6) for m in matrices])
    assert rows.value == "rot6d_rows"
    assert rows.confidence < SURE  # the transpose would look the same
    columns = rotation([m[:, :, :2].reshape(-1, 6) for m in matrices])
    assert (columns.value, columns.confidence > 0.8) == ("rot6d_columns", True)
    whole = rotation([m.reshape(-1, 9) for m in matrices])
    assert (whole.value, whole.confidence > 0.9) == ("matrix", True)


def test_numbers_that_are_no_rotation() -> None:
    rng = np.random.default_rng(0)
    joints = {STATE: [rng.standard_normal((50, 7)) for _ in range(2)]}
    names = {STATE: tuple(f"joint_{i}" for i in range(7))}
    assert inspect(vectors(joints, names=names)).conventions["state_rotation"].value == "unknown"


@pytest.mark.parametrize(
    ("high", "value", "sure"),
    [
        (1.5, "rad", True),
        (170.0, "deg", True),
        (98.0, "deg", False),
        (10.0, "unknown", False),
        (900.0, "unknown", False),
    ],
)
def test_degrees_and_radians(high: float, value: str, sure: bool) -> None:
    rng = np.random.default_rng(0)
    joints = {STATE: [rng.uniform(-high, high, (200, 3))]}
    found = inspect(vectors(joints, names={STATE: ("shoulder_pan", "elbow_flex", "wrist_roll")})).conventions
    one = found[f"angles {STATE}"]
    assert one.value == value
    assert (one.confidence >= SURE) == sure


def test_the_rate_is_measured_and_what_was_made_up_is_not_believed() -> None:
    parts = robot("delta", episodes=3)
    assert inspect(vectors(parts, rate_hz=None)).conventions["rate_hz"].value == 20
    rng = np.random.default_rng(0)
    times = [np.cumsum(rng.uniform(0.02, 0.08, 120)) for _ in range(3)]
    uneven = inspect(vectors(parts, rate_hz=None, times=times)).conventions["rate_hz"]
    assert uneven.confidence <= 0.5
    assert "uneven" in uneven.evidence


def test_nobody_claims_to_know_which_way_is_up() -> None:
    from recordings import FRONT, contents, recording
    from robots import Memory

    of = contents()
    found = inspect(Memory(of, [recording(of, 5)])).conventions[f"orientation {FRONT}"]
    assert (found.value, found.confidence) == ("unknown", 0.0)
    said = contents(conventions=Conventions(orientation={FRONT: "rot180"}))
    assert inspect(Memory(said, [recording(said, 5)])).conventions[f"orientation {FRONT}"].value == "rot180"


def test_what_is_not_sure_is_proposed_as_unknown_with_the_guess_beside_it() -> None:
    found = inspect(vectors(robot("absolute", observed="after"))).proposal()
    assert found["observed"]["value"] == "unknown"
    assert found["observed"]["guess"] == "after"
    assert found["action"]["value"] == "absolute"


def test_small_turns_beside_a_gripper_are_no_quaternion() -> None:
    rng = np.random.default_rng(0)
    rows = [
        np.concatenate([0.01 * rng.standard_normal((90, 6)), np.sign(smooth(rng, 90, 1) + 0.01)], 1)
        for _ in range(3)
    ]
    assert inspect(vectors({"action": rows})).conventions["rotation"].value == "unknown"
    assert "gripper action[6]" in inspect(vectors({"action": rows})).conventions

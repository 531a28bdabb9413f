"""Mapping files as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import FRONT, contents

from regrip.datasets.converting.mapping import Rotate, SetMapping, StreamMapping, propose
from regrip.datasets.ledger import DataError
from regrip.datasets.recording import Conventions, Gripper
from regrip.launch.mapping_file import mapping_text, read_mapping


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    of = contents()
    mapping = SetMapping(
        streams={
            "observation.state": StreamMapping(
                ("observation.state", "reward"), (Rotate(3, "euler_xyz", "quaternion_wxyz"),), (0, 2),
                (-0.5, 1.0),
                (0.1, 0.0), "float64", ("a: b", "é #"), ("m", ""),
            ),
            FRONT: StreamMapping((FRONT,), turn="rot180"),
        },
        dropped=("action", "observation.images.wrist"),
        edits=({"op": "trim", "first": 3},),
        conventions=Conventions(
            action="delta", observed="after", orientation={FRONT: "vflip"},
            grippers=(Gripper("action", 6, "binary", -1.0, 1.0),),
        ),
        robot="panda: 2",
        rate_hz=20.0,
        tasks={"- lift: 'it'": "lift it", "": "öffne\nes"},
    )  # fmt: skip
    path = tmp_path / "m.yaml"
    path.write_text(mapping_text(mapping, of, "somewhere", {"action": "regression: 0.98\nof 3 episodes"}))
    assert read_mapping(path) == mapping
    assert "# regression: 0.98 of 3 episodes" in path.read_text()


def test_the_proposal_is_written_and_read_back(tmp_path: Path) -> None:
    of = contents()
    path = tmp_path / "m.yaml"
    path.write_text(mapping_text(propose(of), of, "somewhere"))
    read = read_mapping(path)
    assert read.streams == propose(of).streams
    assert (read.robot, read.rate_hz, read.conventions) == (of.robot, of.rate_hz, of.conventions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: {action: {source: [action], scal: [1]}}", "scale"),
        ("streams: {action: {source: [action], turn: left}}", "rot180"),
        ("streams: {action: {source: [1]}}", "source"),
        ("streams: [", "not YAML"),
        ("- 1", "a list, expected a table"),
        ("streams: {}\nedits: keep", "edits is no list"),
        ("streams: {}\nconventions: {action: deltas}", "delta"),
        ("stream: {}", "streams"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_mapping(path)
    assert "m.yaml" in str(error.value)


def test_one_source_may_be_written_without_brackets(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("streams: {action: {source: actions}}")
    assert read_mapping(path).streams["action"].source == ("actions",)

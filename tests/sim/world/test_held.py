"""What was trained on is known again, and a cut chunk no longer tells how an episode ended."""

from __future__ import annotations

from pathlib import Path

import carrier_world
import numpy as np

from regrip.datasets.recording import Recording
from regrip.sim.world.clips import read_clips
from regrip.sim.world.config import WorldConfig
from regrip.sim.world.fit import split
from regrip.sim.world.held import card_of, names_of, take, unseen

CHUNK = carrier_world.CHUNK


def test_episodes_are_known_again_wherever_they_lie(tmp_path: Path) -> None:
    one = read_clips([carrier_world.write(tmp_path / "a", range(10))], CHUNK)
    config = WorldConfig(chunk=CHUNK, held_out=0.3)
    card = card_of(one, config)
    train, held = split(one, config)
    assert np.array_equal(unseen(one, card), held)
    assert card["held_out"] == held.tolist()

    # Copied in another order beside others, in another file: only those not trained on are left.
    other = read_clips([carrier_world.write(tmp_path / "b", range(13, -1, -1))], CHUNK)
    assert {13 - int(row) for row in unseen(other, card)} == {*held.tolist(), 10, 11, 12, 13}
    assert len(unseen(take(one, train), card)) == 0
    assert len(unseen(one, {})) == 10


def test_a_part_of_the_episodes_is_what_it_was(tmp_path: Path) -> None:
    clips = read_clips([carrier_world.write(tmp_path / "a", range(6))], CHUNK)
    rows = np.array([4, 1])
    part = take(clips, rows)
    assert [names_of(part)[i] for i in (0, 1)] == [names_of(clips)[i] for i in (4, 1)]
    for new, old in enumerate(rows):
        a = part.windows(part.beginnings(np.array([new])), CHUNK, 8)
        b = clips.windows(clips.beginnings(np.array([old])), CHUNK, 8)
        for name in ("action", "success", "there"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        there = a.there[0]
        assert np.array_equal(part.pictures[a.frame[0][there]], clips.pictures[b.frame[0][there]])
        assert np.array_equal(a.following < 0, b.following < 0)


def test_every_chunk_is_whole_and_within_the_limits(tmp_path: Path) -> None:
    clips = read_clips([carrier_world.write(tmp_path / "a", range(12))], CHUNK)
    cut = np.flatnonzero(clips.num_steps % CHUNK)
    assert len(cut)
    for episode in cut:
        steps = int(clips.num_steps[episode])
        found = clips.windows(clips.beginnings(np.array([episode])), CHUNK, 8)
        own = clips.action[clips.first[episode] : clips.first[episode + 1]]
        played = found.action[0][found.there[0]].reshape(-1, own.shape[1])
        assert np.array_equal(played[:steps], own)
        assert np.array_equal(played[steps:], clips.tail[episode, : len(played) - steps])
        assert np.abs(played).max() <= carrier_world.STEP_M + 1e-6


def test_success_cuts_chunks_short_in_recordings(tmp_path: Path) -> None:
    """Why `Clips.tail` is needed: with a limit of whole chunks, only successes end within one."""

    def even(one: Recording) -> Recording:
        return one

    clips = read_clips([carrier_world.write(tmp_path / "a", range(12), even, limit=16)], CHUNK)
    cut = clips.num_steps % CHUNK != 0
    assert cut.any()
    assert clips.success[cut].all()

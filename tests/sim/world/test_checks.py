"""The measures, on a world whose truth is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import carrier_world
import numpy as np
import pytest
import torch
from fitted_carrier import Fitted

from regrip.datasets.spec import Axis
from regrip.sim.world.checks import OpenLoopError, Seen, open_loop
from regrip.sim.world.estimates import Estimate
from regrip.sim.world.files import WorldFileError
from regrip.sim.world.judging import rank, recorded_ranking, reflector
from regrip.sim.world.obeying import counterfactual, following, mirrored, mirrored_axes, physics
from regrip.sim.world.referees import FILE, load_referees, save_referees
from regrip.sim.world.verdict import Findings, sentence


def with_tokens(seen: Seen, tokens: torch.Tensor) -> Seen:
    """Imagined pictures replaced, as a model with these would have been seen."""
    played = dataclasses.replace(seen.played, tokens=tokens)
    return dataclasses.replace(seen, played=played, shown=tokens)


def perfect(seen: Seen) -> Seen:
    """A model that imagines what happened."""
    real = with_tokens(seen, seen.tokens[torch.from_numpy(seen.after)])
    state = seen.clips.state[seen.after]
    return dataclasses.replace(real, played=dataclasses.replace(real.played, state=state))


def still(seen: Seen) -> Seen:
    """A model in which nothing ever moves."""
    first = seen.tokens[torch.from_numpy(seen.played.windows.frame[:, 0])]
    return with_tokens(seen, first[:, None].expand_as(seen.played.tokens).contiguous())


@pytest.fixture(scope="module")
def errors(carrier: Fitted) -> OpenLoopError:
    return open_loop(carrier.model, carrier.seen)


def test_open_loop_errors_are_those_by_hand(carrier: Fitted, errors: OpenLoopError) -> None:
    seen = carrier.seen
    decision = 2
    rows = [e for e in range(len(seen.clips)) if seen.known[e, decision]]
    off = [
        (seen.played.state[e, decision] - seen.clips.state[seen.after[e, decision]]).astype(float)
        for e in rows
    ]
    by_hand = np.sqrt(np.mean([np.mean(one**2) for one in off]))
    assert errors.curves["state m"]["world"].value[decision] == pytest.approx(by_hand)
    tokens = [
        seen.played.tokens[e, decision].float() - seen.tokens[int(seen.after[e, decision])].float()
        for e in rows
    ]
    by_hand = np.sqrt(np.mean([float(one.square().mean()) for one in tokens]))
    assert errors.curves["tokens"]["world"].value[decision] == pytest.approx(by_hand, rel=1e-5)
    held = [
        seen.clips.pictures[seen.after[e, decision]].astype(float)
        - seen.clips.pictures[seen.played.windows.frame[e, 0]]
        for e in rows
    ]
    by_hand = 10 * np.log10(255**2 / np.mean([np.mean(one**2) for one in held]))
    assert errors.curves["psnr"]["hold"].value[decision] == pytest.approx(by_hand)


def test_the_linear_world_is_right_where_the_world_is_linear(errors: OpenLoopError) -> None:
    """The block's place is the sum of the commands, but at the walls."""
    curves = errors.curves["state m"]
    assert curves["linear"].value[0] < 0.15 * curves["hold"].value[0]


def test_a_world_that_learnt_something_beats_a_still_frame(errors: OpenLoopError) -> None:
    assert errors.ratio["state m"]["hold"].high < 0.4  # type: ignore[operator]
    assert errors.ratio["moving"]["hold"].high < 1  # type: ignore[operator]


def test_a_perfect_model_errs_nowhere_and_a_still_one_is_a_still_frame(carrier: Fitted) -> None:
    found = open_loop(carrier.model, perfect(carrier.seen))
    assert found.ratio["tokens"]["hold"].value == 0
    known = int(np.isfinite(found.curves["tokens"]["hold"].value).sum())
    assert found.ahead["tokens"] == known
    found = open_loop(carrier.model, still(carrier.seen))
    assert found.ratio["tokens"]["hold"].value == pytest.approx(1)
    assert found.ahead["tokens"] == 0


def test_obedience_is_whole_for_a_perfect_model_and_none_for_a_still_one(carrier: Fitted) -> None:
    ours, best, none = (
        following(carrier.model, carrier.referees, seen)
        for seen in (carrier.seen, perfect(carrier.seen), still(carrier.seen))
    )
    assert best.obeyed.value == pytest.approx(1, abs=1e-6)
    assert best.real.value == pytest.approx(best.imagined.value)
    assert best.others.high < best.real.low  # type: ignore[operator]
    assert none.curves["imagined"].value[1] < 0.2  # from the second decision on nothing moves
    assert ours.frozen.value < 0.1 * ours.real.value  # type: ignore[operator]
    assert ours.explained.value > 0.4  # type: ignore[operator]


def test_mirrored_commands_turn_the_world_around(carrier: Fitted) -> None:
    found = counterfactual(carrier.model, carrier.referees, carrier.seen)
    assert found.cases > 30
    assert found.recorded.value > 0.95  # type: ignore[operator]
    assert found.along.value > 0.9  # type: ignore[operator]
    assert found.against.value > 0.9  # type: ignore[operator]
    assert found.pictures.value > 0.6  # type: ignore[operator]


def test_what_is_mirrored_by_control_mode() -> None:
    spec = carrier_world.spec()
    assert mirrored_axes(spec) == [(0, 0), (1, 1)]
    state, action = np.array([[0.2, 0.8]], np.float32), np.array([[[0.05, -0.1], [0.0, 0.02]]], np.float32)
    np.testing.assert_allclose(mirrored(spec, [(0, 0), (1, 1)], action, state), -action)
    wide = tuple(Axis(f"tcp_{c}", "m", 0.0, 1.0) for c in "xy")
    target = dataclasses.replace(spec, control_mode="ee_position", action=wide)
    there = mirrored(target, [(0, 0)], np.array([[[0.3, 0.5]]], np.float32), state)
    assert there[0, 0].tolist() == pytest.approx([0.1, 0.5])
    joints = (Axis("joint1", "rad", -3, 3), Axis("gripper", "m", 0, 1))
    arm = dataclasses.replace(spec, control_mode="joint_position", action=joints, state=joints)
    assert mirrored_axes(arm) == [(0, 0)]
    assert mirrored_axes(dataclasses.replace(arm, state=spec.state)) == []


def test_what_cannot_be_mirrored_is_said_to_be_untested(carrier: Fitted) -> None:
    blind = dataclasses.replace(carrier.model.spec, state=tuple(Axis(f"s{i}", "", 0, 1) for i in range(2)))
    carrier_spec, carrier.model.spec = carrier.model.spec, blind
    try:
        found = counterfactual(carrier.model, carrier.referees, carrier.seen)
    finally:
        carrier.model.spec = carrier_spec
    assert (found.cases, found.against.value) == (0, None)
    assert "by name" in found.against.why


def test_what_no_robot_can_do_is_counted(carrier: Fitted) -> None:
    """One imagined episode leaps out of the world at its second decision and comes back."""
    best = perfect(carrier.seen)
    state = best.played.state.copy()
    state[0, 1] += 5.0
    leap = dataclasses.replace(best, played=dataclasses.replace(best.played, state=state))
    calm, found = (physics(carrier.model, carrier.referees, seen) for seen in (best, leap))
    count = int(carrier.seen.known.sum())
    assert found.outside.value == pytest.approx(calm.outside.value + 1 / count)  # type: ignore[operator]
    assert found.fast.value == pytest.approx(calm.fast.value + 2 / count)  # type: ignore[operator]
    assert calm.apart["m"][0] == pytest.approx(calm.apart["m"][1])
    assert found.apart["m"][0] > 5 * found.apart["m"][1]


def test_verdicts_by_hand(carrier: Fitted) -> None:
    """Logits that say success in the last decision of each success, and once too often."""
    seen = carrier.seen
    windows = seen.played.windows
    logit = np.where(windows.success, 80.0, -80.0).astype(np.float32)
    failure = int(np.flatnonzero(~seen.clips.success)[0])
    logit[failure, 0] = 80.0
    told = dataclasses.replace(seen, played=dataclasses.replace(seen.played, logit=logit))
    found = reflector(carrier.model, told).imagined
    won = int(seen.clips.success.sum())
    for by in ("decision", "episode"):
        assert found[by].recall.value == 1
        assert found[by].precision.value == pytest.approx(won / (won + 1))
        assert found[by].positive == won
    assert found["episode"].count == len(seen.clips)
    assert found["decision"].count == int(windows.there.sum())
    assert 0.8 < found["episode"].auroc.value < 1  # type: ignore[operator]


def test_policies_are_ranked(carrier: Fitted) -> None:
    found = recorded_ranking(carrier.model, carrier.seen)
    assert found.names == ("good", "poor")
    assert found.real[0].value > found.real[1].value
    alone = dataclasses.replace(carrier.seen.clips, policy=["one"] * len(carrier.seen.clips))
    quarters = recorded_ranking(carrier.model, dataclasses.replace(carrier.seen, clips=alone))
    assert len(quarters.names) == 4
    assert sum(rate.trials for rate in quarters.real) == len(alone)


@pytest.mark.parametrize("paired", [True, False])
def test_rank_agreement_by_hand(paired: bool) -> None:
    def outcomes(*wins: int) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        return [np.arange(40) < count for count in wins]

    right = rank("", ["a", "b", "c"], outcomes(5, 20, 35), outcomes(10, 18, 30), paired)
    assert right.spearman.value == pytest.approx(1)
    assert right.kendall.value == pytest.approx(1)
    assert right.same.value == pytest.approx(1 - (5 + 2 + 5) / 120)
    wrong = rank("", ["a", "b", "c"], outcomes(35, 20, 5), outcomes(2, 18, 38), paired)
    assert wrong.spearman.value == pytest.approx(-1)
    assert wrong.spearman.high < 0  # type: ignore[operator]
    same = rank("", ["a", "b"], outcomes(7, 7), outcomes(2, 9), paired)
    assert same.spearman.value is None


def test_the_sentence_follows_the_numbers(carrier: Fitted, errors: OpenLoopError) -> None:
    model, referees, best = carrier.model, carrier.referees, perfect(carrier.seen)
    logit = np.where(best.played.windows.success, 8.0, -8.0).astype(np.float32)
    best = dataclasses.replace(best, played=dataclasses.replace(best.played, logit=logit))
    good = Findings(
        open_loop(model, best), following(model, referees, best), counterfactual(model, referees, best),
        physics(model, referees, best), reflector(model, best), recorded_ranking(model, best),
    )  # fmt: skip
    said = sentence(good)
    assert said.startswith("Use it for training a policy inside, ")
    assert "not for" not in said
    assert "--policies" in said  # the number that decides was not measured

    turned = [np.arange(40) < wins for wins in (35, 20, 12, 5)]
    ranking = rank("", ["a", "b", "c", "d"], turned, turned[::-1], paired=True)
    said = sentence(dataclasses.replace(good, closed=ranking))
    assert "not for training a policy inside (it ranks policies otherwise than the simulator" in said
    assert "--policies" not in said

    deaf = dataclasses.replace(good.following, obeyed=Estimate(0.07, 0.03, 0.1))
    said = sentence(dataclasses.replace(good, following=deaf))
    assert said.startswith("Use it for telling success in imagined episodes; not for training")
    assert "follow only 7 %" in said

    blind = still(carrier.seen)
    nothing = dataclasses.replace(good, open_loop=open_loop(model, blind), following=deaf)
    assert "a still frame is as good: its squared error is 100 % of that of one" in sentence(nothing)


def test_referees_come_back_and_know_their_model(carrier: Fitted, tmp_path: Path) -> None:
    save_referees(tmp_path, carrier.referees, carrier.model)
    again = load_referees(tmp_path, carrier.model)
    assert again is not None
    for name, held in carrier.referees.state_dict().items():
        assert torch.equal(held, again.state_dict()[name]), name
    assert load_referees(tmp_path / "elsewhere", carrier.model) is None
    carrier.model.tokenizer.mean.add_(1)
    try:
        with pytest.raises(WorldFileError, match=r"learnt for another model.*--learn-from"):
            load_referees(tmp_path, carrier.model)
    finally:
        carrier.model.tokenizer.mean.sub_(1)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-50])
    with pytest.raises(WorldFileError, match="damaged"):
        load_referees(tmp_path, carrier.model)

"""Members of shaping, combining, occupancy, inverse dynamics and verifiable texts; see reward_members.py."""

from __future__ import annotations

import json
from functools import lru_cache

import reward_toy as toy
from reward_members import NO_PAIRS, WHOLE, Member, Oracle, OraclePair

from regrip.rewards.binary import BinarySuccess
from regrip.rewards.combining import Ensemble, GatedAccumulation, HybridNormalisation
from regrip.rewards.embedding import SimulatorState
from regrip.rewards.inverse_dynamics import InverseAgreement, InverseModel, fit_inverse_dynamics
from regrip.rewards.occupancy import OccupancyPenalty
from regrip.rewards.scorers import Difference, FrameProgress, Level, PairProgress
from regrip.rewards.shaping import Clip, Delta, Multiplicative, NoisyReward, PreferenceAsReward, ReDit
from regrip.rewards.verifiable import GaussianGrounding, MixedAnswer, PlanOverlap, VlaR1


def dense() -> Difference:
    """Progress as the oracle sees it, in differences."""
    return Difference(FrameProgress(Oracle()))


def penalised() -> OccupancyPenalty:
    """The dense reward with a penalty against a base policy that half works."""
    reward = OccupancyPenalty(dense(), SimulatorState())
    reward.remember_base(toy.many(6, 6, seed=5))
    return reward


@lru_cache(maxsize=1)
def inverse_model() -> InverseModel:
    """Fitted to the places of the toy world's hand and block."""
    return fit_inverse_dynamics(toy.many(20, 20, seed=9), SimulatorState((0, 1, 2, 3)), steps=200)


def agreement() -> InverseAgreement:
    """Of what is seen with the commands."""
    return InverseAgreement(inverse_model(), SimulatorState((0, 1, 2, 3)))


def wrapped(answer: object) -> str:
    """An answer as VLA-R1 wants it."""
    return f"<think>so</think><output>{json.dumps(answer)}</output>"


def box(x: float) -> dict[str, float]:
    """A region of VLA-R1."""
    return {"x": x, "y": 0.3, "width": 0.2, "height": 0.2}


NOISE = {9: "a slower episode is another one, and draws its own noise"}
OBEYED = {
    7: "a video played backwards obeys the negated commands",
    8: "reads no text: whether a video obeys its commands does not depend on the task",
}
PATH = [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
PLAN = ["pick cup", "open drawer", "place cup"]

SHAPING_MEMBERS: list[Member] = [
    Member(
        "par",
        "transform",
        lambda: PreferenceAsReward({f"toy/{name}": (0.0, 0.4) for name in toy.COLOURS}, slope=4.0),
        bounds=(0, 1),
        exempt=WHOLE,
    ),
    Member("clip", "transform", lambda: Clip(0.05), bounds=(-12.6, 0), exempt=WHOLE),
    Member("delta", "transform", Delta, bounds=(-1, 1), exempt=WHOLE),
    Member(
        "multiplicative",
        "transform",
        lambda: Multiplicative(
            {"near": FrameProgress(Oracle())},
            {"outside": (lambda rollouts: (rollouts.privileged[..., :2] > 0.95).any(-1), -1.0)},
        ),
        bounds=(-12, 1),
        exempt=WHOLE,
    ),
    Member("redit", "transform", ReDit, bounds=(-1.5, 1.5), exempt=WHOLE),
    Member(
        "redit-released",
        "transform",
        lambda: ReDit(as_released=True),
        bounds=(-1.5, 1.5),
        exempt={**WHOLE, **NOISE},
    ),
    Member(
        "noisy-group",
        "transform",
        lambda: NoisyReward(0.1, "group", (-1, 1)),
        bounds=(-1, 1),
        exempt={**WHOLE, 8: "at a start whose coin turns the reward over, right words earn less: the noise"},
    ),
    Member(
        "noisy-sample",
        "transform",
        lambda: NoisyReward(0.1, "sample", (-1, 1)),
        bounds=(-1, 1),
        exempt={**WHOLE, **NOISE},
    ),
    Member(
        "gated", "reward", lambda: GatedAccumulation(BinarySuccess(), dense()), bounds=(-1, 2), exempt=WHOLE
    ),
    Member(
        "hybrid-normalisation",
        "reward",
        lambda: HybridNormalisation(BinarySuccess(), dense()),
        bounds=(0, 1),
        exempt={
            **WHOLE,
            7: "an episode's sum is the simulator's verdict, whatever the process says",
            8: "an episode's sum is the simulator's verdict, whatever the process says",
        },
    ),
    Member(
        "ensemble",
        "reward",
        lambda: Ensemble({"frames": dense(), "pairs": Difference(PairProgress(OraclePair()))}, "mean_std"),
        bounds=(-2, 2),
        exempt=WHOLE,
    ),
    Member(
        "occupancy",
        "reward",
        penalised,
        bounds=(-4, 2),
        exempt={**WHOLE, 9: "waiting where the base policy is found more often has a negative penalty"},
    ),
    Member("inverse-dynamics", "episode", agreement, exempt={**WHOLE, **OBEYED}),
    Member(
        "inverse-dynamics-frames",
        "reward",
        lambda: Level(agreement()),
        bounds=(0, 12),
        exempt={**NO_PAIRS, **OBEYED, 3: "an agreement is no level", 9: "pays for every frame that obeys"},
    ),
    Member(
        "vla-r1",
        "text",
        VlaR1,
        examples=(
            (wrapped(box(0.3)), wrapped(box(0.3)), wrapped(box(0.4)), wrapped(box(0.3)) + " I am sure."),
            (wrapped(PATH), wrapped(PATH), wrapped(PATH[::-1]), wrapped([*PATH, [1.0, 0.5]])),
        ),
    ),
    Member(
        "rever",
        "text",
        PlanOverlap,
        examples=(
            (json.dumps(PLAN), wrapped(PLAN), json.dumps(PLAN[::-1]), json.dumps([*PLAN, PLAN[0]])),
            ('[["pick", "cup"]]', '[{"skill": "Pick", "object": "cup"}]', "[]", '["pick cup", "wait"]'),
        ),
    ),
    Member(
        "gui-g2",
        "text",
        GaussianGrounding,
        examples=(
            (
                "[0.2, 0.2, 0.4, 0.4]",
                "[0.2, 0.2, 0.4, 0.4]",
                "[0.3, 0.2, 0.5, 0.4]",
                "[0.2, 0.2, 0.4, 0.4, 1]",
            ),
            ("[10, 10, 90, 50]", "<answer>[10, 10, 90, 50]</answer>", "[50, 30]", "[10, 10, 90, 50] or so"),
        ),
    ),
    Member(
        "mixed-r1",
        "text",
        MixedAnswer,
        examples=(
            ('{"type": "choice", "answer": "B"}', "<answer>(b)</answer>", "C", "B, C or D"),
            ('{"type": "box", "answer": [0, 0, 2, 2]}', "[0, 0, 2, 2]", "[1, 0, 3, 2]", "[0, 0, 2, 2, 9]"),
            (
                '{"type": "open", "answer": "the red cup"}',
                "The red cup!",
                "a blue plate",
                "the red cup the red cup",
            ),
        ),
    ),
]

"""Rewards by name: each a scorer, and how it becomes the reward that training uses.

What a scorer is made of (an encoder, a fitted model, a judge) comes from the caller as `Materials`; a preset
says what it needs, and asking for it without is an error that names what to give. Unless its summary says
so, a dense preset pays the change of its level (`scorers.Difference`) and 1 for success: levels paid as they
are invite a policy to stay instead of finishing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..datasets.protocols import Reward
from .binary import BinarySuccess
from .combining import GatedAccumulation
from .embedding import Encoder, PixelDownsample, SimulatorState
from .environment import EnvironmentReward
from .pipeline import AddSuccess, Pipeline
from .scorers import Difference, FrameProgress, Level, Potential, Reduced, Terminal, TrajectoryScorer
from .self_referential import SelfReferential, SelfReferentialConfig
from .verifiable import GaussianGrounding, MixedAnswer, PlanOverlap, VlaR1

if TYPE_CHECKING:
    from .judge_backends import Judge


@dataclass(frozen=True)
class Materials:
    """What rewards are made of.

    Attributes:
        run: names the run, so that episodes of two runs are never taken for one.
        gamma: discount of one decision, for potentials: the learner's own.
        camera: whose pictures a reward that looks through one camera sees.
        encoder: frames to vectors; usually the frozen base policy's vision tower.
        model: folder of what `regrip rewards fit` wrote (a critic, or an image-text model).
        judge: a vision-language model that answers questions.
        self_referential: settings of that reward.
    """

    run: str = "run"
    gamma: float = 0.99
    camera: str = ""
    encoder: Encoder | None = None
    model: Path | None = None
    judge: Judge | None = None
    self_referential: SelfReferentialConfig = field(default_factory=SelfReferentialConfig)


NEEDS = {
    "encoder": "a policy, whose vision tower it looks with",
    "model": "a folder that `regrip rewards fit` wrote",
    "judge": "a vision-language model (--judge.path, or --judge.url with --judge.model)",
    "camera": "the name of a camera",
}


def _paid_difference(scorer: TrajectoryScorer, materials: Materials) -> Reward:
    return Pipeline(Difference(scorer), [AddSuccess()])


def _paid_potential(scorer: TrajectoryScorer, materials: Materials) -> Reward:
    return Pipeline(Potential(scorer, materials.gamma), [AddSuccess()])


def _paid_level(scorer: TrajectoryScorer, materials: Materials) -> Reward:
    return Level(scorer)


def _paid_at_the_end(scorer: Any, materials: Materials) -> Reward:
    return Terminal(scorer)


def _gated(scorer: TrajectoryScorer, materials: Materials) -> Reward:
    return GatedAccumulation(BinarySuccess(), Difference(scorer))


def _itself(scorer: Any, materials: Materials) -> Reward:
    found: Reward = scorer
    return found


def _refused(scorer: Any, materials: Materials) -> Reward:
    raise ValueError(
        f"{type(scorer).__name__} scores answers in text, and these are episodes: call its "
        "score(responses, truths)"
    )


@dataclass(frozen=True)
class Preset:
    """A reward by name.

    Attributes:
        summary: one line for a list.
        scorer: makes the scorer (any kind of `scorers`), or the reward itself where there is no other.
        reward: makes the reward of the scorer.
        needs: fields of `Materials` that it cannot do without.
    """

    summary: str
    scorer: Callable[[Materials], Any]
    reward: Callable[[Any, Materials], Reward] = _itself
    needs: tuple[str, ...] = ()


def _self_referential(materials: Materials) -> SelfReferential:
    return SelfReferential(_given(materials.encoder), materials.self_referential, materials.run)


def _critic(kind: str) -> Callable[[Materials], TrajectoryScorer]:
    def make(materials: Materials) -> TrajectoryScorer:
        from .critics.files import load_critic
        from .critics.kinds import kind_of

        return kind_of(kind).progress(load_critic(_given(materials.model), kind))

    return make


def _any_critic(materials: Materials) -> TrajectoryScorer:
    from .critics.files import load_critic
    from .critics.kinds import kind_of

    critic = load_critic(_given(materials.model))
    return kind_of(critic.kind).progress(critic)


def _vlm_rm(materials: Materials) -> TrajectoryScorer:
    from .open_clip_encoder import OpenClip
    from .zero_shot import GoalBaseline

    return FrameProgress(GoalBaseline(OpenClip.load(_given(materials.model)), materials.camera))


def _vlm_rl(materials: Materials) -> TrajectoryScorer:
    from .open_clip_encoder import OpenClip
    from .zero_shot import ContrastingGoals

    return FrameProgress(
        ContrastingGoals(OpenClip.load(_given(materials.model)), materials.camera, width=1.0)
    )


def _liv(materials: Materials) -> TrajectoryScorer:
    from .goal_similarity import GoalText
    from .open_clip_encoder import OpenClip

    return FrameProgress(GoalText(OpenClip.load(_given(materials.model)), materials.camera))


def _roboclip(materials: Materials) -> Any:
    from .encoders import MeanFrames
    from .goal_similarity import VideoToText
    from .open_clip_encoder import OpenClip

    return VideoToText(MeanFrames(OpenClip.load(_given(materials.model))), materials.camera)


def _gvl(materials: Materials) -> TrajectoryScorer:
    from .judges import GVL

    return GVL(_given(materials.judge), materials.camera)


def _topreward(materials: Materials) -> TrajectoryScorer:
    from .judges import TOPReward

    return TOPReward(_given(materials.judge), materials.camera)


def _roboreward(materials: Materials) -> Any:
    from .judge_ratings import RoboReward

    return RoboReward(_given(materials.judge), materials.camera)


def _success_judge(materials: Materials) -> Any:
    from .judge_ratings import SuccessJudge

    return SuccessJudge(_given(materials.judge), materials.camera)


def _given(value: Any) -> Any:
    assert value is not None, "`check` saw to it"
    return value


_FITTED, _LOOKING, _ASKING = ("model",), ("model", "camera"), ("judge", "camera")
PRESETS: dict[str, Preset] = {
    "binary": Preset("the simulator's verdict, 1 at the step of success", lambda m: BinarySuccess()),
    "environment": Preset(
        "what the environment itself pays: in a learned world the probability of success, less doubt",
        lambda m: EnvironmentReward(),
    ),
    "self_referential": Preset(
        "a failure is worth the more, the more it looks like the policy's own successes",
        _self_referential,
        needs=("encoder",),
    ),
    "srpo": Preset(
        "SRPO as in its paper's best setting (alpha 0.8, the whole episode), with this project's corrections",
        lambda m: SelfReferential(_given(m.encoder), SelfReferentialConfig(moment="whole"), m.run),
        needs=("encoder",),
    ),
    "srpo-released": Preset(
        "SRPO with its release's arithmetic (min-max in the batch), for comparison",
        lambda m: SelfReferential(_given(m.encoder), SelfReferentialConfig(as_released=True), m.run),
        needs=("encoder",),
    ),
    "self_referential-pixels": Preset(
        "self_referential on a coarse grid of pixels: what a good encoder must beat",
        lambda m: SelfReferential(PixelDownsample(), m.self_referential, m.run),
    ),
    "self_referential-state": Preset(
        "self_referential on the simulator's own state: the best that a camera could do",
        lambda m: SelfReferential(
            SimulatorState(), replace(m.self_referential, relative_to_start=True), m.run
        ),
    ),
    "vlac": Preset("pairwise progress critic, recursion", _critic("vlac"), _paid_difference, _FITTED),
    "rewind": Preset(
        "progress of every frame, taught with rewound films", _critic("rewind"), _paid_difference, _FITTED
    ),
    "sarm": Preset("stage of the task, and how far in it", _critic("sarm"), _paid_difference, _FITTED),
    "robometer": Preset(
        "progress in bins, success and preference", _critic("robometer"), _paid_difference, _FITTED
    ),
    "success-classifier": Preset(
        "highest probability of success of any frame, at the end",
        lambda m: Reduced(_critic("success")(m), "max"),
        _paid_at_the_end,
        _FITTED,
    ),
    "world-env": Preset(
        "the reflector's probability of success at the last frame, at the end",
        lambda m: Reduced(_critic("reflector")(m), "last"),
        _paid_at_the_end,
        _FITTED,
    ),
    "diwa": Preset(
        "a contrastive classifier's probability of success at the last frame, at the end",
        lambda m: Reduced(_critic("diwa")(m), "last"),
        _paid_at_the_end,
        _FITTED,
    ),
    "irl-vla": Preset("gates times weighted heads", _critic("multi_head"), _paid_difference, _FITTED),
    "gated-dense": Preset(
        "G-RA: the changes of any fitted critic's level, paid to successes only", _any_critic, _gated, _FITTED
    ),
    "shaped": Preset(
        "any fitted critic as a potential, which leaves the best policy the best",
        _any_critic,
        _paid_potential,
        _FITTED,
    ),
    "vlm-rm": Preset(
        "similarity of each frame to the instruction, as the level is (VLM-RM)",
        _vlm_rm,
        _paid_level,
        _LOOKING,
    ),
    "vlm-rm-difference": Preset("the same, its changes, and success", _vlm_rm, _paid_difference, _LOOKING),
    "vlm-rl": Preset(
        "nearer to the instruction than to its opposite, as the level is (VLM-RL)",
        _vlm_rl,
        _paid_level,
        _LOOKING,
    ),
    "vlm-rl-difference": Preset("the same, its changes, and success", _vlm_rl, _paid_difference, _LOOKING),
    "liv": Preset(
        "nearness of each frame to the instruction, its changes, and success (LIV)",
        _liv,
        _paid_difference,
        _LOOKING,
    ),
    "roboclip": Preset(
        "similarity of the whole film to the instruction, at the end", _roboclip, _paid_at_the_end, _LOOKING
    ),
    "gvl": Preset("a judge says how much is done in shuffled frames", _gvl, _paid_difference, _ASKING),
    "topreward": Preset(
        "a judge's log-probability that it is true, stretched in the film",
        _topreward,
        _paid_difference,
        _ASKING,
    ),
    "roboreward": Preset("a judge's mark from 1 to 5, at the end", _roboreward, _paid_at_the_end, _ASKING),
    "success-judge": Preset("a judge's yes or no, at the end", _success_judge, _paid_at_the_end, _ASKING),
    "vla-r1": Preset("format, box and path of an answer in text", lambda m: VlaR1(), _refused),
    "rever": Preset("ordered overlap of a plan in text with the true one", lambda m: PlanOverlap(), _refused),
    "gui-g2": Preset(
        "a point or box in text against a Gaussian on the target", lambda m: GaussianGrounding(), _refused
    ),
    "mixed-r1": Preset("answers in text, matched by their kind", lambda m: MixedAnswer(), _refused),
}


OF_TEXTS = frozenset(name for name, preset in PRESETS.items() if preset.reward is _refused)
"""Scorers of answers in text: called directly, they judge no episodes."""


def preset_of(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no reward {name!r}; {hint}there are {', '.join(PRESETS)}")
    return PRESETS[name]


def check(name: str, materials: Materials) -> Preset:
    """The preset of a name, if its needs are met.

    Raises:
        ValueError: no such preset, or something that it needs is missing.
    """
    preset = preset_of(name)
    for need in preset.needs:
        if not getattr(materials, need):
            raise ValueError(f"reward {name!r} needs {need}: {NEEDS[need]}")
    return preset


def build(name: str, materials: Materials) -> tuple[Any, Reward]:
    """The scorer of a preset, and the reward that training uses.

    Raises:
        ValueError: see `check`; or the preset scores texts, not episodes.
    """
    preset = check(name, materials)
    scorer = preset.scorer(materials)
    return scorer, preset.reward(scorer, materials)

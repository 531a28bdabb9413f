"""Every reward that has a name can be made, or says what it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy
from critic_members import fitted

from regrip.rewards.critics.kinds import kind_of
from regrip.rewards.embedding import PixelDownsample
from regrip.rewards.presets import NEEDS, PRESETS, Materials, build, check
from regrip.rewards.scorers import ranking

TEXT = ("vla-r1", "rever", "gui-g2", "mixed-r1")


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.needs])
def test_a_reward_without_its_material_says_what_to_give(name: str) -> None:
    need = PRESETS[name].needs[0]
    with pytest.raises(ValueError, match=f"reward {name!r} needs {need}: {NEEDS[need].split(' ')[0]}"):
        check(name, Materials())


def test_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="no reward 'vlm_rm'; did you mean 'vlm-rm'"):
        check("vlm_rm", Materials())


@pytest.mark.parametrize("name", TEXT)
def test_a_scorer_of_texts_is_no_reward_of_episodes(name: str) -> None:
    with pytest.raises(ValueError, match="call its score"):
        build(name, Materials())


@pytest.mark.parametrize(
    "name", [n for n, p in PRESETS.items() if p.needs in ((), ("encoder",)) and n not in TEXT]
)
def test_what_needs_no_weights_pays_successes_more(name: str) -> None:
    _, reward = build(name, Materials(encoder=PixelDownsample()))
    rollouts = toy.many(9, 9)
    earned = reward(rollouts).value.sum((1, 2))
    assert earned[rollouts.success].min() > earned[~rollouts.success].max()


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit"):
        build("vlac", Materials(model=tmp_path, camera="front"))


def test_shaping_leaves_the_sum_to_success() -> None:
    # Whatever the critic says, a potential pays -phi_0 in all to an episode that ended.
    scorer = kind_of("rewind").progress(fitted("rewind"))
    rollouts = toy.many(6, 0)
    signal = PRESETS["shaped"].reward(scorer, Materials(gamma=1.0))(rollouts)
    first = ranking(scorer.progress(rollouts))[0].value[:, 0]
    np.testing.assert_allclose(signal.value.sum((1, 2)), 1 - first, atol=1e-4)

"""A small world model of the carrier, and what it is judged by; fitted once for all tests here."""

from __future__ import annotations

import carrier_world
import pytest
import torch
from fitted_carrier import Fitted

from regrip.sim.world.calibrate import calibrate
from regrip.sim.world.checks import imagine
from regrip.sim.world.clips import read_clips
from regrip.sim.world.config import WorldConfig
from regrip.sim.world.fit import encode, fit, split
from regrip.sim.world.held import take
from regrip.sim.world.referees import fit_referees


@pytest.fixture(scope="session")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = carrier_world.write(tmp_path_factory.mktemp("carrier") / "set", range(72))
    clips = read_clips([path], carrier_world.CHUNK)
    config = WorldConfig(
        chunk=carrier_world.CHUNK, latent=8, tokenizer_width=16, width=64, layers=2, heads=2, ensemble=2,
        tokenizer_steps=120, tokenizer_batch=24, steps=200, batch=16, window=5, held_out=0.25,
    )  # fmt: skip
    model = fit(clips, config)
    tokens = encode(model, clips)
    model.calibration = calibrate(model, clips, tokens)
    train, held = split(clips, config)
    referees = fit_referees(model, clips, tokens, train, steps=200)
    unseen = take(clips, held)
    seen = imagine(model, referees, unseen, encode(model, unseen))
    torch.set_num_threads(threads)
    return Fitted(model, clips, tokens, referees, seen)

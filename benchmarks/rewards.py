"""What rewards cost: an image-text reward in batches, and the self-referential reward beside the main job.

    python benchmarks/rewards.py [--episodes 16] [--model ViT-B-32]     a few minutes on one core

First prints, for VLM-RM with one goal and one baseline sentence, on the same frames and the same random
weights of open_clip (weights do not change the time), in one run:

    loop, words again    one picture in a pass, and the sentences encoded for each, as simple code does
    loop, words once     one picture in a pass, the sentences encoded once
    batched              `GoalBaseline` under `FrameProgress`: each different picture and sentence once
    batched, no repeats  the same on frames that are all different, so that only the batching tells

with the processor time of each, how many times longer the loop takes, and the largest difference of the
numbers (must be below 1e-5). Then by how much the memory grows while scoring N and 10 N episodes.

Then, on 512 episodes of the demo suite played by the policy that ships: the seconds that collecting them, an
MPO update from them, and scoring them with the self-referential reward take (vision tower and all), and the
share of the last in the first two. The second scoring is quoted, when the bank is full.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import torch
from numpy.typing import NDArray

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState, counter_generator
from regrip.launch import environments
from regrip.launch.algorithms import learn
from regrip.launch.allocator import keep_memory
from regrip.launch.config import load_preset
from regrip.launch.experiment import TrainConfig
from regrip.launch.practice import gather
from regrip.launch.train import begin
from regrip.rewards.encoders import Preprocess
from regrip.rewards.fit_image_text import ClipFit
from regrip.rewards.open_clip_encoder import OpenClip, build
from regrip.rewards.scorers import FrameProgress
from regrip.rewards.zero_shot import NEUTRAL, GoalBaseline, goal_baseline

CAMERA, DECISIONS, GROUP = "front", 20, 8


def encoder_of(model: str) -> OpenClip:
    """``small`` is what `fit_clip` trains; else one of open_clip's configurations, with random weights."""
    if model == "small":
        fit = ClipFit(CAMERA)
        return build(fit.model, Preprocess((fit.size, fit.size), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    config = open_clip.get_model_config(model)
    if config is None:
        raise SystemExit(
            f"open_clip has no configuration {model!r}; it has {', '.join(open_clip.list_models())}"
        )
    side = int(config["vision_cfg"]["image_size"])
    return build(config, Preprocess((side, side), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), side), name=model)


def episodes(count: int, repeats: bool = True) -> Rollouts:
    """Pictures of noise; with `repeats` the episodes of a group begin with the same frame, as groups do."""
    frames = np.empty((count, DECISIONS, 64, 64, 3), np.uint8)
    for row in range(count):
        frames[row] = counter_generator("benchmark", row).integers(0, 256, frames.shape[1:], dtype=np.uint8)
        if repeats:
            frames[row, 0] = frames[row - row % GROUP, 0]
    valid = np.ones((count, DECISIONS, 4), bool)
    return Rollouts(
        start=[StartState("noise/lift", "train", row // GROUP) for row in range(count)],
        group=np.arange(count, dtype=np.int64) // GROUP,
        instruction=[f"lift the {('red', 'green', 'blue')[row // GROUP % 3]} block" for row in range(count)],
        images={CAMERA: frames},
        state=np.zeros((count, DECISIONS, 2), np.float32),
        privileged=np.zeros((count, DECISIONS, 1), np.float32),
        action=np.zeros((*valid.shape, 2), np.float32),
        valid=valid,
        reward=np.zeros(valid.shape, np.float32),
        success=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        invalid=np.zeros(count, bool),
        latent={},
        log_prob=np.zeros(valid.shape, np.float32),
        policy_version=0,
    )


@torch.inference_mode()
def one_at_a_time(encoder: OpenClip, rollouts: Rollouts, words_again: bool) -> NDArray[np.float32]:
    """The same reward as simple code has it: a pass for each frame."""
    model: Any = encoder.model
    known: dict[str, Any] = {}

    def words(text: str) -> Any:
        if words_again or text not in known:
            known[text] = model.encode_text(encoder.tokenize([text]), normalize=True).numpy()
        return known[text]

    out = np.zeros(rollouts.decision_valid.shape, np.float32)
    for row, said in enumerate(rollouts.instruction):
        for decision in range(DECISIONS):
            picture = rollouts.images[CAMERA][row, decision]
            image = model.encode_image(encoder.preprocess(picture[None]), normalize=True).numpy()
            out[row, decision] = goal_baseline(image, words(said), words(NEUTRAL), 0.5)[0]
    return out


def timed(work: Callable[[], NDArray[np.float32]], runs: int) -> tuple[float, NDArray[np.float32]]:
    """Processor seconds of the shortest run, since a busy machine lengthens others; and the numbers."""
    shortest = np.inf
    for _ in range(runs):
        begin = time.process_time()
        found = work()
        shortest = min(shortest, time.process_time() - begin)
    return shortest, found


def batched(encoder: OpenClip, rollouts: Rollouts) -> NDArray[np.float32]:
    """The reward, by an encoder that remembers no sentence yet."""
    fresh = OpenClip(encoder.model, encoder.tokenize, encoder.preprocess, encoder.width, encoder.name)
    return FrameProgress(GoalBaseline(fresh, CAMERA)).progress(rollouts).value


def speed(model: str, count: int, runs: int) -> list[tuple[str, float, float, float]]:
    """(name, seconds, how many times the batched run that is, largest difference) for each way."""
    rows: list[tuple[str, float, float, float]] = []
    for repeats in (True, False):
        rollouts = episodes(count, repeats)
        encoder = encoder_of(model)
        one_at_a_time(encoder, rollouts.take([0]), True)  # the first pass pays for set-up
        batched(encoder, rollouts.take([0]))
        once, numbers = timed(partial(batched, encoder, rollouts), runs)
        tail = "" if repeats else ", no repeats"
        for again, name in ((True, "loop, words again"), (False, "loop, words once")):
            seconds, looped = timed(partial(one_at_a_time, encoder, rollouts, again), runs)
            rows.append((name + tail, seconds, seconds / once, float(np.abs(looped - numbers).max())))
        rows.append(("batched" + tail, once, 1.0, 0.0))
    return rows


def _peak_kib() -> int:
    """The highest resident size of this process since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None, "no VmHWM in /proc/self/status: the memory section needs Linux"
    return int(found[1])


def growth(count: int) -> float:
    """By how many MiB the peak rises while scoring `count` episodes that are already there."""
    torch.set_num_threads(1)
    encoder = encoder_of("small")
    scorer = FrameProgress(GoalBaseline(encoder, CAMERA))
    scorer.progress(episodes(1))
    rollouts = episodes(count)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now the present size
    before = _peak_kib()
    scorer.progress(rollouts)
    return (_peak_kib() - before) / 1024


def memory(count: int) -> list[tuple[int, float]]:
    """(episodes, MiB) for N and 10 N, each in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    out = []
    for episodes_scored in (count, 10 * count):
        with spawn.Pool(1) as pool:
            out.append((episodes_scored, pool.apply(growth, (episodes_scored,))))
    return out


def image_text(model: str, count: int, memory_of: int, runs: int) -> None:
    """Print the section."""
    rows = speed(model, count, runs)
    parameters = sum(value.numel() for value in encoder_of(model).model.parameters()) / 1e6
    print(
        f"VLM-RM with {model} ({parameters:.1f} million parameters), {count} episodes of {DECISIONS} frames"
    )
    print(f"{'':34}{'CPU s':>8}{'ms/frame':>10}{'x batched':>11}{'difference':>12}")
    for name, seconds, ratio, difference in rows:
        each = 1000 * seconds / count / DECISIONS
        print(f"{name:34}{seconds:8.2f}{each:10.2f}{ratio:11.1f}{difference:12.1e}")
    worst = max(difference for *_, difference in rows)
    bar = rows[0][2]
    verdict = "holds" if bar >= 5 and worst <= 1e-5 else "MISSED"
    print(f"{verdict}: {bar:.1f} times (bar: 5), same to {worst:.1e}")
    if memory_of:
        for scored, grown in memory(memory_of):
            print(f"scoring {scored:5} episodes: peak memory grew by {grown:.1f} MiB")


def spent() -> float:
    """Processor seconds of this process and its workers: a busy machine does not lengthen them much."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in family)


def self_referential(count: int) -> None:
    """Print the section on the main job."""
    config = load_preset(TrainConfig, "demo", "train")
    config = dataclasses.replace(
        config, threads=1, groups=count, env=dataclasses.replace(config.env, workers=1)
    )
    run = begin(config)
    with environments.open_pool(config.env, run.policy.execute) as pool:
        started = spent()
        rollouts, signal, _ = gather(config, run, pool)
        played = spent() - started
        started = spent()
        run.reward(rollouts)
        scoring = spent() - started
        started = spent()
        learn(config, run, rollouts, signal)
        learning = spent() - started
    share = scoring / (played - scoring + learning)
    print(
        f"\n{len(rollouts)} episodes, processor time: collecting {played - scoring:.1f} s, "
        f"learning {learning:.1f} s, self-referential scoring {scoring:.2f} s"
    )
    verdict = "holds" if share < 0.05 else "MISSED"
    print(f"{verdict}: scoring is {share:.1%} of collecting and learning (bar: 5 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="small", help="small, or one of open_clip's configurations")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--memory-episodes", type=int, default=64, help="N; 0 leaves this out")
    parser.add_argument("--main-job", type=int, default=512, help="episodes of it; 0 leaves this out")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the shortest counts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as training does
    image_text(given.model, given.episodes, given.memory_episodes, given.runs)
    if given.main_job:
        self_referential(given.main_job)


if __name__ == "__main__":
    main()

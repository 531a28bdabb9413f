"""Training a world model on recorded episodes: first its eyes, then how the world goes on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ...datasets.starts import counter_generator
from .cameras import Cameras
from .clips import Clips, Windows
from .config import WorldConfig
from .dynamics import Batch
from .encoder import FrozenEncoder
from .model import WorldModel, words_of
from .patches import Patches
from .tokenizer import Tokenizer, scaled
from .video import VideoDynamics
from .views import ViewDynamics

_SIZES = {
    "chunk", "kind", "latent", "tokenizer_width", "width", "layers", "heads", "context", "recurrent",
    "groups", "classes", "ensemble", "encoder", "encoder_side", "max_words",
}  # fmt: skip
Note = Callable[[str, int, int, float], None]
_ENCODE = 256  # frames at once
_MOVING = 0.08  # of [-1, 1]: a pixel this far from the camera's usual picture
_EMPHASIS = 8.0


def split(clips: Clips, config: WorldConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Episodes to train on, and those held out: of each task a share at least, and two where there are six.

    Which, follows from what was done in them and the seed: an episode stays on its side when others join it.

    Raises:
        ValueError: if either would be empty.
    """
    held: list[int] = []
    for task in sorted(set(clips.task)):
        mine = np.array([index for index, text in enumerate(clips.task) if text == task])
        place = [
            counter_generator(
                "world held out", config.seed, clips.action[clips.first[e]].tobytes().hex()
            ).random()
            for e in mine
        ]
        least = max(2 if len(mine) >= 6 else 0, round(config.held_out * len(mine)))
        order = np.argsort(place)
        held += mine[order[: max(least, int((np.array(place) < config.held_out).sum()))]].tolist()
    train = np.setdiff1d(np.arange(len(clips)), held)
    if not held or not len(train):
        raise ValueError(
            f"{len(clips)} episodes of {len(set(clips.task))} tasks: {len(held)} would be held out and "
            f"{len(train)} left to learn from; record at least six of a task"
        )
    return train, np.array(sorted(held))


def fit(
    clips: Clips,
    config: WorldConfig,
    device: str = "cpu",
    note: Note = lambda *_: None,
    begin: WorldModel | None = None,
    cameras: Cameras | None = None,
) -> WorldModel:
    """Train on all episodes but the held-out ones; not yet calibrated.

    Args:
        clips: the episodes.
        config: sizes and steps.
        device: ``cpu`` or ``cuda``.
        note: called with (phase, steps done, steps in all, loss).
        begin: a model to go on from, when there are more episodes now: its weights and its units. Episodes
            that were held out then may be trained on now.
        cameras: where they are, for kind ``views``.

    Raises:
        ValueError: if there are too few episodes, or `begin` has other sizes or does not know a word.
    """
    train, _ = split(clips, config)
    torch.manual_seed(config.seed)
    if begin is not None:
        return _go_on(begin, clips, config, device, train, note)
    vocabulary = sorted({word for text in clips.task for word in words_of(text)})
    model = WorldModel(config, clips.spec, vocabulary, cameras).to(device)
    frames = np.flatnonzero(np.isin(clips.episode, train))
    for name, values in (("state", clips.state[frames]), ("action", _actions(clips, train))):
        getattr(model, f"{name}_mean").copy_(torch.from_numpy(values.mean(0)))
        getattr(model, f"{name}_std").copy_(torch.from_numpy(np.maximum(values.std(0), 1e-4)))
    return _learn(model, clips, frames, note)


def _learn(model: WorldModel, clips: Clips, frames: NDArray[np.int64], note: Note) -> WorldModel:
    model.calibration = dataclasses.replace(
        model.calibration,
        horizon=int(clips.decisions(model.config.chunk)[np.unique(clips.episode[frames])].max()),
    )
    if model.config.tokenizer_steps and not isinstance(model.tokenizer, Patches):
        fit_tokenizer(model, clips, frames, note)
    tokens = encode(model, clips, note)
    fit_dynamics(model, clips, tokens, frames, note)
    return model.eval()


def _go_on(
    begin: WorldModel,
    clips: Clips,
    config: WorldConfig,
    device: str,
    train: NDArray[np.int64],
    note: Note,
) -> WorldModel:
    """Train a copy of `begin` on."""
    free = {field.name for field in dataclasses.fields(config)} - _SIZES
    other = [name for name in _SIZES if getattr(config, name) != getattr(begin.config, name)]
    if other:
        said = ", ".join(
            f"{name} {getattr(config, name)} against {getattr(begin.config, name)}" for name in other
        )
        raise ValueError(f"the model to begin with has other sizes: {said}; give the same, or begin anew")
    begin.spec.require_match(clips.spec, "the model to begin with", "the data")
    begin.words(sorted(set(clips.task)))  # refuses an instruction with a word that it has no number for
    model = WorldModel(
        dataclasses.replace(begin.config, **{name: getattr(config, name) for name in free}),
        begin.spec,
        begin.vocabulary,
        begin.cameras,
    ).to(device)
    model.load_state_dict(begin.state_dict())
    return _learn(model, clips, np.flatnonzero(np.isin(clips.episode, train)), note)


def _actions(clips: Clips, episodes: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([clips.action[clips.first[e] : clips.first[e + 1]] for e in episodes])


def _optimizer(
    parameters: list[torch.nn.Parameter], config: WorldConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
        )

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def fit_tokenizer(model: WorldModel, clips: Clips, frames: NDArray[np.int64], note: Note) -> None:
    """Reconstruction; pixels that are not the camera's usual ones count more, for objects are small.

    A frozen encoder only takes the data's statistics.
    """
    config, tokenizer = model.config, model.tokenizer
    draw = counter_generator("world tokenizer", config.seed)
    some = draw.choice(frames, min(len(frames), 256), replace=False)
    if isinstance(tokenizer, FrozenEncoder):
        return tokenizer.settle(np.asarray(clips.pictures[np.sort(some)]))
    assert isinstance(tokenizer, Tokenizer), "pictures as they are need no training"
    usual = np.median(np.asarray(clips.pictures[np.sort(some)]), axis=0)  # (C,h,w,3)
    usual_pictures = scaled(torch.from_numpy(usual).to(model.device))
    optimizer, schedule = _optimizer(list(tokenizer.parameters()), config, config.tokenizer_steps)
    cameras = clips.pictures.shape[1]
    for step in range(config.tokenizer_steps):
        rows = draw.choice(frames, config.tokenizer_batch)
        camera = draw.integers(cameras, size=config.tokenizer_batch)
        pictures = torch.from_numpy(clips.pictures[rows, camera]).to(model.device)
        wanted = scaled(pictures)
        with model.half():
            raw = tokenizer.raw(pictures)
            found = tokenizer.picture(raw + 0.05 * torch.randn_like(raw))
        off = found.float() - wanted
        moving = (wanted - usual_pictures[torch.from_numpy(camera)]).abs().amax(1, keepdim=True) > _MOVING
        weight = 1.0 + (_EMPHASIS - 1.0) * moving
        # The penalty keeps latents at about unit size, so that the noise means something.
        loss = ((off.abs() + 2 * off.square()) * weight).sum() / (
            3 * weight.sum()
        ) + 1e-4 * raw.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        note("eyes", step + 1, config.tokenizer_steps, float(loss.detach()))
    raws = []
    with torch.no_grad(), model.half():
        for one in range(cameras):
            pictures = torch.from_numpy(clips.pictures[np.sort(some), one]).to(model.device)
            raws.append(tokenizer.raw(pictures).float())
    raw = torch.cat(raws)
    tokenizer.mean.copy_(raw.mean((0, 2, 3)))
    tokenizer.std.copy_(raw.std((0, 2, 3)).clamp_min(1e-3))


@torch.no_grad()
def encode(model: WorldModel, clips: Clips, note: Note = lambda *_: None) -> Tensor:
    """What the tokenizer makes of every frame: float16 (F,C,n,d), on the CPU."""
    parts = []
    for first in range(0, len(clips.pictures), _ENCODE):
        pictures = torch.from_numpy(np.array(clips.pictures[first : first + _ENCODE])).to(model.device)
        with model.half():
            parts.append(model.tokenizer.encode(pictures).half().cpu())
        note("looking", min(first + _ENCODE, len(clips.pictures)), len(clips.pictures), 0.0)
    return torch.cat(parts)


def batch_of(model: WorldModel, clips: Clips, tokens: Tensor, windows: Windows) -> Batch:
    """Windows of `clips` as a model reads them."""
    # After the last decision comes what followed it, or anything where nothing did.
    frame = np.concatenate([windows.frame, np.maximum(windows.following[:, -1:], 0)], 1)
    follows = windows.following >= 0
    rows = torch.from_numpy(frame)
    begun = clips.beginnings(windows.episode)
    return Batch(
        tokens=tokens[rows].to(model.device).float(),
        state=model.normal_state(clips.state[frame]),
        before=model.normal_state(clips.state[_earlier(clips, windows.frame)]),
        origin=tokens[torch.from_numpy(begun)].to(model.device).float(),
        began=model.normal_state(clips.state[begun]),
        action=model.normal_action(windows.action),
        words=model.words([clips.task[int(episode)] for episode in windows.episode]),
        success=torch.from_numpy(windows.success).to(model.device).float(),
        there=torch.from_numpy(windows.there).to(model.device),
        follows=torch.from_numpy(follows).to(model.device),
    )


def fit_body(
    model: WorldModel,
    dynamics: VideoDynamics,
    clips: Clips,
    tokens: Tensor,
    frames: NDArray[np.int64],
    note: Note,
) -> None:
    """The robot alone first: where a chunk takes it, and what is usually seen of it there.

    Both are small networks of numbers, a hundred times as cheap as the transformer, and leave it the rest.
    """
    config = model.config
    parameters = [*dynamics.reach.parameters(), *dynamics.body.parameters()]
    optimizer, schedule = _optimizer(parameters, config, config.body_steps)
    draw = counter_generator("world body", config.seed)
    once = clips.windows(frames, config.chunk, 1)
    known = np.flatnonzero(once.following[:, 0] >= 0)
    for step in range(config.body_steps):
        rows = draw.choice(known, config.body_batch)
        following = once.following[rows, 0]
        state = model.normal_state(clips.state[once.frame[rows, 0]])
        wanted = model.normal_state(clips.state[following])
        action = model.normal_action(once.action[rows, 0])
        seen = tokens[torch.from_numpy(following)].to(model.device).float()
        with model.half():
            reached, usual = dynamics.reached(state, action), dynamics.usual(wanted)
        reach = functional.smooth_l1_loss(reached, wanted, beta=0.1)
        loss = reach + functional.mse_loss(usual, seen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        note("body", step + 1, config.body_steps, float(reach.detach()))


def _earlier(clips: Clips, frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frame a control step before each of `frame`; itself where there is none."""
    before = np.maximum(frame - 1, 0)
    near = (clips.episode[before] == clips.episode[frame]) & (clips.step[before] == clips.step[frame] - 1)
    return np.where(near, before, frame)


def fit_motion(
    model: WorldModel,
    dynamics: ViewDynamics,
    clips: Clips,
    tokens: Tensor,
    frames: NDArray[np.int64],
    note: Note,
) -> None:
    """Where the robot goes, over two chunks on end, and its own picture.

    Raises:
        ValueError: there are too few stretches of episodes with a frame at every control step.
    """
    config, draw = model.config, counter_generator("world motion", model.config.seed)
    span = 2 * config.chunk
    low = frames[clips.step[frames] + span < clips.num_steps[clips.episode[frames]]]
    low = low[clips.step[np.minimum(low + span, len(clips.step) - 1)] == clips.step[low] + span]
    if len(low) < config.body_batch:
        raise ValueError(
            f"{len(low)} stretches of {span} control steps have a frame at every step, and "
            f"{config.body_batch} are needed: a world of kind 'views' follows the arm from step to step. "
            "Record pictures at the control rate, or fit a model of kind 'video'"
        )
    dynamics.state_mean.copy_(model.state_mean)
    dynamics.state_std.copy_(model.state_std)
    change = torch.from_numpy(np.abs(clips.state[low + 1] - clips.state[low]).mean(0)).to(model.device)
    dynamics.motion.pace.copy_((change / model.state_std).clamp_min(1e-3))
    parameters = [*dynamics.motion.parameters(), *dynamics.robot.parameters()]
    optimizer, schedule = _optimizer(parameters, config, config.body_steps)
    few = config.body_batch // 8  # pictures are dearer than numbers
    blind = torch.zeros(config.body_batch, 64, device=model.device)
    for step in range(config.body_steps):
        looks = step >= 0.75 * config.body_steps  # contact last: most of the way is free
        rows = draw.choice(low, config.body_batch)
        wanted = model.normal_state(clips.state[rows[:, None] + np.arange(1, span + 1)])
        state = model.normal_state(clips.state[rows])
        before = model.normal_state(clips.state[_earlier(clips, rows)])
        first = clips.first[clips.episode[rows]] + clips.step[rows]
        action = torch.from_numpy(clips.action[first[:, None] + np.arange(span)]).to(model.device)
        action = (action - model.action_mean) / model.action_std
        ways = []
        for half in range(2):
            felt = blind
            if looks:
                seen = tokens[torch.from_numpy(rows + half * config.chunk)].to(model.device)
                with model.half():
                    felt = dynamics.motion.felt(dynamics.patches.drawn(seen.float()))
            part = action[:, half * config.chunk : (half + 1) * config.chunk]
            way = dynamics.motion(state, before, part, felt)
            ways.append(way)
            state, before = way[:, -1], way[:, -2] if config.chunk > 1 else state
        pace = dynamics.motion.pace
        off = functional.smooth_l1_loss(torch.cat(ways, 1) / pace, wanted / pace, beta=0.3)
        with model.half():
            usual = dynamics.alone(model.normal_state(clips.state[rows[:few]]))
        seen = dynamics.patches.drawn(tokens[torch.from_numpy(rows[:few])].to(model.device).float())
        loss = off + functional.l1_loss(usual, seen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        note("body", step + 1, config.body_steps, float(off.detach()))


def fit_reflector(
    model: WorldModel,
    dynamics: ViewDynamics,
    clips: Clips,
    tokens: Tensor,
    frames: NDArray[np.int64],
    note: Note,
) -> None:
    """Success, once the world stands: half of the time on recorded frames, half on imagined ones.

    Where an episode's beginning is not told, the present has to do, as when chunks are chosen in mid-episode.
    """
    config, draw = model.config, counter_generator("world reflector", model.config.seed)
    parameters = list(dynamics.reflector.parameters())
    steps = config.steps // 2
    optimizer, schedule = _optimizer(parameters, config, steps)
    for step in range(steps):
        windows = clips.windows(draw.choice(frames, config.batch), config.chunk, config.window)
        batch = batch_of(model, clips, tokens, windows)
        if step % 4 == 3:
            batch = dataclasses.replace(batch, origin=batch.tokens[:, 0], began=batch.state[:, 0])
        with model.half():
            loss = dynamics.success_loss(batch, imagined=step % 2 == 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        note("reflector", step + 1, steps, float(loss.detach()))


def fit_dynamics(
    model: WorldModel, clips: Clips, tokens: Tensor, frames: NDArray[np.int64], note: Note
) -> None:
    """Windows from anywhere in an episode; later half of them read what the model predicted itself."""
    config = model.config
    if isinstance(model.dynamics, VideoDynamics):
        fit_body(model, model.dynamics, clips, tokens, frames, note)
    if isinstance(model.dynamics, ViewDynamics):
        fit_motion(model, model.dynamics, clips, tokens, frames, note)
    draw = counter_generator("world dynamics", config.seed)
    parameters = list(model.dynamics.parameters())
    optimizer, schedule = _optimizer(parameters, config, config.steps)
    for step in range(config.steps):
        windows = clips.windows(draw.choice(frames, config.batch), config.chunk, config.window)
        batch = batch_of(model, clips, tokens, windows)
        imagined = step >= config.imagine_from * config.steps and step % 2 == 1
        with model.half():
            losses = model.dynamics.losses(batch, imagined)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        note("world", step + 1, config.steps, float(losses["tokens"].detach()))
    if isinstance(model.dynamics, ViewDynamics):
        fit_reflector(model, model.dynamics, clips, tokens, frames, note)

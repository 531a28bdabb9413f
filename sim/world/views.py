"""Dynamics that draw each camera from where things were seen before, for cameras whose poses are known.

A picture that is predicted as numbers is the mean of what may happen, and what a moving camera sees depends
on every millimetre of its way. Here the robot's way is predicted first (motion.py). From it follows where the
camera will be, and so, for a few heights of the table's plane, where each of its pixels was seen before: in
its own last picture, in that of a camera that stands still, in the episode's first, or carried along by the
hand. A small convolutional network chooses among these for every pixel, and paints what none of them shows.
Choosing among planes is plane sweeping, and multiplane images (Zhou et al. 2018, arXiv 1805.09817); to
predict motion and copy pixels is Finn et al.'s (2016, arXiv 1605.07157).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...datasets.spec import RobotSpec
from .cameras import Cameras, Pose, carried, look_up, on_plane, pose_of, rays, rotation_of
from .dynamics import Batch, Step
from .motion import Motion
from .patches import Patches
from .reflector import Reflector

_THINGS = 0.08  # of [-1, 1]: a pixel this far from the robot's usual picture
_EMPHASIS = 8.0


@dataclass(frozen=True)
class Memory:
    """B imaginations.

    Attributes:
        tokens: (B,C,n,d) at the present, see `Patches`; `state`: (B,S).
        before: (B,S), a control step earlier.
        origin: (B,C,n,d) of the frame they began with; `began`: (B,S) there.
    """

    tokens: Tensor
    state: Tensor
    before: Tensor
    origin: Tensor
    began: Tensor


class _Told(nn.Module):
    """A residual convolution that is told what is going on (FiLM)."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.tell = nn.Linear(told, 2 * width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        gain, shift = self.tell(told)[..., None, None].chunk(2, 1)
        whole: Tensor = x + self.layer(functional.silu(self.norm(x) * (1 + gain) + shift))
        return whole


class _Drawer(nn.Module):
    """Chooses for every pixel among candidates, as each of an ensemble does.

    Args:
        read: channels of the candidates and of where they are known.
        choices: J, candidates.
        told: numbers it is told.
        width: of its layers at half the resolution.
        ensemble: K.
    """

    def __init__(self, read: int, choices: int, told: int, width: int, ensemble: int) -> None:
        super().__init__()
        self.choices, self.ensemble = choices, ensemble
        self.enter, self.top = nn.Conv2d(read, width, 4, 2, 1), _Told(width, told)
        self.down, self.middle = nn.Conv2d(width, 2 * width, 4, 2, 1), _Told(2 * width, told)
        self.dive = nn.Conv2d(2 * width, 3 * width, 4, 2, 1)
        self.deep = nn.ModuleList(_Told(3 * width, told) for _ in range(2))
        self.rise, self.upper = nn.Conv2d(3 * width, 8 * width, 1), _Told(2 * width, told)
        self.lift, self.last = nn.Conv2d(2 * width, 4 * width, 1), _Told(width, told)
        self.leave = nn.Conv2d(width, 4 * ensemble * (choices + 4), 3, padding=1)

    def forward(self, seen: Tensor, candidates: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The members' pictures (K,B,3,h,w), and that of their mean choice (B,3,h,w).

        Args:
            seen: (B,read,h,w).
            candidates: (B,J,3,h,w).
            told: (B,told).
        """
        top = self.top(self.enter(seen), told)
        middle = self.middle(self.down(top), told)
        x = self.dive(middle)
        for layer in self.deep:
            x = layer(x, told)
        x = self.upper(middle + functional.pixel_shuffle(self.rise(x), 2), told)
        x = self.last(top + functional.pixel_shuffle(self.lift(x), 2), told)
        out = functional.pixel_shuffle(self.leave(functional.silu(x)), 2).float()
        out = out.unflatten(1, (self.ensemble, self.choices + 4))
        each = torch.stack([self._blend(one, candidates) for one in out.unbind(1)])
        return each, self._blend(out.mean(1), candidates)

    def _blend(self, out: Tensor, candidates: Tensor) -> Tensor:
        share = out[:, : self.choices + 1].softmax(1)
        paint = torch.tanh(out[:, self.choices + 1 :])
        picture = share[:, -1:] * paint
        for choice in range(self.choices):  # one large product would be much slower: it is all memory
            picture = torch.addcmul(picture, share[:, choice : choice + 1], candidates[:, choice])
        return picture


class ViewDynamics(nn.Module):
    """Implements `Dynamics`.

    Args:
        cameras: where they are.
        spec: of the robot.
        patches: how its tokens are laid out.
        chunk: H.
        vocabulary: words, without the empty one.
        width: of the reflector; the convolutions have a quarter of it at half the resolution.
        heads: of the reflector's attention.
        ensemble: K.
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self, cameras: Cameras, spec: RobotSpec, patches: Patches, chunk: int, vocabulary: int, *,
        width: int, heads: int, ensemble: int,
    ) -> None:  # fmt: skip
        super().__init__()
        cameras.require_match(spec)
        self.cameras, self.patches, self.ensemble = cameras, patches, ensemble
        axes = [axis.name for axis in spec.state]
        self._position = [axes.index(name) for name in cameras.position]
        self._quaternion = [axes.index(name) for name in cameras.quaternion]
        self._still = [i for i, view in enumerate(cameras.views) if view.mounted_on == "base"]
        self._size = spec.cameras[0].height, spec.cameras[0].width
        state, count, grid = spec.state_dim, len(spec.cameras), patches.grid
        self.register_buffer("state_mean", torch.zeros(state))
        self.register_buffer("state_std", torch.ones(state))
        self.motion = Motion(state, spec.action_dim, count, 2 * width)
        self.robot = nn.Sequential(
            nn.Linear(state, width), nn.SiLU(), nn.Linear(width, 16 * grid[0] * grid[1]),
            nn.Unflatten(1, (16, *grid)), nn.Conv2d(16, 4 * 32, 3, padding=1), nn.PixelShuffle(2), nn.SiLU(),
            nn.Conv2d(32, 4 * 16, 3, padding=1), nn.PixelShuffle(2), nn.SiLU(),
            nn.Conv2d(16, 4 * 3 * count, 3, padding=1), nn.PixelShuffle(2), nn.Unflatten(1, (count, 3)),
        )  # fmt: skip
        told = width
        self.tell = nn.Sequential(
            nn.Linear(3 * state + chunk * spec.action_dim, width),
            nn.SiLU(),
            nn.Linear(width, told),
            nn.SiLU(),
        )
        drawers = []
        for view in cameras.views:
            if view.mounted_on == "base":
                read, choices = 3 + 3 + 4 + 3, 4
            else:
                planes = len(cameras.heights) * (2 + len(self._still))
                read, choices = 3 + 3 + 4 * planes, 2 + planes
            drawers.append(_Drawer(read, choices, told, width // 4, ensemble))
        self.drawers: Sequence[_Drawer] = nn.ModuleList(drawers)  # type: ignore[assignment]
        height, breadth = self._size
        self.reflector = Reflector(
            count, (height // 16) * (breadth // 16), (1 + chunk) * state + chunk * spec.action_dim,
            vocabulary, width, heads,
        )  # fmt: skip

    # ---- drawing -------------------------------------------------------------------------------------

    def hand(self, state: Tensor) -> Pose:
        """Where the hand is, from normalised states (B,S)."""
        physical = state.float() * self.state_std + self.state_mean
        return Pose(rotation_of(physical[:, self._quaternion]), physical[:, self._position], 1.0)

    def alone(self, state: Tensor) -> Tensor:
        """What is usually seen with proprioception (B,S): the robot itself, pictures (B,C,3,h,w)."""
        whole: Tensor = torch.tanh(self.robot(state).float())
        return whole

    def usual(self, state: Tensor) -> Tensor:
        """The same as tokens (B,C,n,d)."""
        return self.patches.tokens(self.alone(state))

    def draw(
        self, pictures: Tensor, state: Tensor, after: Tensor, before: Tensor, origin: Tensor, began: Tensor,
        action: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What is seen after a chunk, when the robot is then at `after`.

        Args:
            pictures: (B,C,3,h,w) now.
            state: (B,S) now.
            after: (B,S) then.
            before: (B,S) a control step ago.
            origin: (B,C,3,h,w) at the episode's beginning.
            began: (B,S) there.
            action: (B,H,A).

        Returns:
            the members' pictures (K,B,C,3,h,w), and those of their mean choice (B,C,3,h,w).
        """
        told = self.tell(torch.cat([state, after, after - before, action.flatten(1)], 1))
        robot = self.alone(after)
        drawn: dict[int, Tensor] = {}
        members: dict[int, Tensor] = {}
        order = sorted(range(len(self.drawers)), key=lambda i: i not in self._still)
        with torch.autocast(state.device.type, enabled=False):
            hands = [self.hand(each) for each in (state, after, began)]
        for one in order:
            with torch.no_grad(), torch.autocast(state.device.type, enabled=False):
                seen, candidates = self._candidates(one, pictures, origin, robot.detach(), drawn, hands)
            members[one], drawn[one] = self.drawers[one](seen, candidates, told)
        count = range(len(self.drawers))
        return torch.stack([members[i] for i in count], 2), torch.stack([drawn[i] for i in count], 1)

    def _candidates(
        self, one: int, pictures: Tensor, origin: Tensor, robot: Tensor, drawn: dict[int, Tensor],
        hands: Sequence[Pose],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What camera `one` might see: all channels (B,read,h,w), and the candidates alone (B,J,3,h,w)."""
        view, (now, then, first) = self.cameras.views[one], hands
        pose = pose_of(view, then)
        directions = rays(pose, *self._size)
        found = [pictures[:, one], robot[:, one]]
        if view.mounted_on == "base":
            found.append(origin[:, one])
            found.append(look_up(pictures[:, one], pose, carried(pose, directions, now, then)))
        else:
            for height in self.cameras.heights:
                points = on_plane(pose, directions, height)
                found.append(look_up(pictures[:, one], pose_of(view, now), points))
                found.append(look_up(origin[:, one], pose_of(view, first), points))
                for other in self._still:
                    found.append(look_up(drawn[other], pose_of(self.cameras.views[other], then), points))
        return torch.cat(found, 1), torch.stack([each[:, :3] for each in found], 1)

    # ---- imagination ---------------------------------------------------------------------------------

    def begin(self, tokens: Tensor, state: Tensor, origin: Tensor, began: Tensor) -> Memory:
        return Memory(tokens, state, state, origin, began)

    def step(self, memory: Memory, action: Tensor, words: Tensor) -> tuple[Memory, Step]:
        """See `Dynamics`."""
        after, members, seen, plan = self._go(memory, action)
        step = Step(
            after.tokens, after.state, self.reflector(seen, plan, words),
            members.var(0, correction=0).mean((1, 2, 3, 4)).sqrt(),
        )  # fmt: skip
        return after, step

    def _go(self, memory: Memory, action: Tensor) -> tuple[Memory, Tensor, Tensor, Tensor]:
        """The memory after a chunk, the members' pictures, and the pictures and plan that are judged."""
        pictures, origin = self.patches.drawn(memory.tokens), self.patches.drawn(memory.origin)
        way = self.motion(memory.state, memory.before, action, self.motion.felt(pictures))
        members, drawn = self.draw(
            pictures, memory.state, way[:, -1], memory.before, origin, memory.began, action
        )
        before = way[:, -2] if way.shape[1] > 1 else memory.state
        after = Memory(self.patches.tokens(drawn), way[:, -1], before, memory.origin, memory.began)
        plan = torch.cat([memory.state, way.flatten(1), action.flatten(1)], 1)
        return after, members, torch.cat([origin, pictures, drawn], 2), plan

    # ---- learning ------------------------------------------------------------------------------------

    def _flat(self, batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
        """All decisions of stretches, one beneath the other, as they read the frames `tokens` (B,L,C,n,d)."""
        length = batch.action.shape[1]
        pictures = self.patches.drawn(tokens)
        parts = {
            "pictures": pictures, "state": batch.state[:, :-1], "after": batch.state[:, 1:],
            "before": batch.before, "action": batch.action,
            "origin": self.patches.drawn(batch.origin)[:, None].expand(-1, length, -1, -1, -1, -1),
            "began": batch.began[:, None].expand(-1, length, -1),
        }  # fmt: skip
        return {name: part.flatten(0, 1) for name, part in parts.items()}

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Dynamics`; proprioception is every member's the same."""
        told = self._flat(batch, batch.tokens[:, :-1])
        felt = self.motion.felt(told["pictures"])
        told["after"] = self.motion(told["state"], told["before"], told["action"], felt)[:, -1]
        members, _ = self.draw(**told)
        shape = batch.action.shape[:2]
        state = told["after"].unflatten(0, shape)
        return (
            self.patches.tokens(members).unflatten(1, shape),
            state.expand(self.ensemble, *state.shape),
        )

    def losses(self, batch: Batch, imagined: bool) -> dict[str, Tensor]:
        """See `Dynamics`: drawn where the robot really was next, so that a picture is not asked to hedge.

        Members of the ensemble see each decision with weights of their own (bootstrap).
        """
        told = self._flat(batch, self._imagine(batch) if imagined else batch.tokens[:, :-1])
        follows = batch.follows.flatten()
        some = {name: part[follows] for name, part in told.items()}
        wanted = self.patches.drawn(batch.tokens[:, 1:]).flatten(0, 1)[follows]
        members, drawn = self.draw(**some)
        thing = ((wanted - self.alone(some["after"]).detach()).abs().amax(2, keepdim=True) > _THINGS).float()
        weight = 1 + (_EMPHASIS - 1) * thing
        off = members - wanted
        each = ((off.abs() + 2 * off.square()) * weight).mean((2, 3, 4, 5)) / weight.mean()
        share = torch.randint(0, 3, each.shape, device=each.device).float()
        pictures = (each * share).sum() / share.sum().clamp_min(1)
        return {
            "tokens": (drawn.detach() - wanted).square().mean(),
            "pictures": pictures,
            "total": pictures,
        }

    def success_loss(self, batch: Batch, imagined: bool) -> Tensor:
        """The reflector's, on what is foretold: of every recorded frame, or with `imagined` of the first."""
        memory, logits = self.begin(batch.tokens[:, 0], batch.state[:, 0], batch.origin, batch.began), []
        for at in range(batch.action.shape[1]):
            if at == 0 or not imagined:
                memory = dataclasses.replace(
                    memory, tokens=batch.tokens[:, at], state=batch.state[:, at], before=batch.before[:, at]
                )
            with torch.no_grad():
                memory, _, seen, plan = self._go(memory, batch.action[:, at])
            logits.append(self.reflector(seen, plan, batch.words))
        return functional.binary_cross_entropy_with_logits(
            torch.stack(logits, 1)[batch.there], batch.success[batch.there]
        )

    @torch.no_grad()
    def _imagine(self, batch: Batch) -> Tensor:
        """What it reads at each decision if it sees only the first frame and goes where the robot went."""
        tokens = [batch.tokens[:, 0]]
        first = self.patches.drawn(batch.origin)
        for at in range(batch.action.shape[1] - 1):
            _, drawn = self.draw(
                self.patches.drawn(tokens[-1]), batch.state[:, at], batch.state[:, at + 1],
                batch.before[:, at], first, batch.began, batch.action[:, at],
            )  # fmt: skip
            tokens.append(self.patches.tokens(drawn))
        return torch.stack(tokens, 1)

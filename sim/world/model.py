"""A world model whole: tokenizer, dynamics, and what its numbers mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.spec import RobotSpec
from .cameras import Cameras
from .config import WorldConfig
from .dynamics import Step
from .encoder import FrozenEncoder
from .patches import Patches
from .rssm import Rssm
from .tokenizer import Tokenizer
from .video import VideoDynamics
from .views import ViewDynamics


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the held-out episodes say of the model.

    Attributes:
        threshold: of the reflector's probability, above which an imagined episode has succeeded.
        thresholds: by instruction, where enough of its episodes were held out; the others take `threshold`.
        temperature: by which its logits are divided.
        doubt: below which 95 of 100 of the held-out decisions lie when imagined from the first frame.
        horizon: decisions of the longest episode it was trained on.
    """

    threshold: float = 0.5
    temperature: float = 1.0
    doubt: float = float("inf")
    horizon: int = 1
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def needed(self, instruction: str) -> float:
        """The probability above which an episode with this instruction has succeeded."""
        return self.thresholds.get(instruction, self.threshold)


class WorldModel(nn.Module):
    """Frames, proprioception and chunks in physical units in; the same out, one decision later.

    Args:
        config: sizes.
        spec: of the robot and its cameras.
        vocabulary: the words of the instructions it knows.
        cameras: where they are; kind ``views`` needs it.

    Raises:
        ValueError: kind ``views`` without `cameras`, with a frozen encoder, or of cameras that are not the
            spec's.
    """

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self,
        config: WorldConfig,
        spec: RobotSpec,
        vocabulary: Sequence[str],
        cameras: Cameras | None = None,
    ) -> None:
        super().__init__()
        self.cameras = cameras
        self.config, self.spec, self.vocabulary = config, spec, tuple(vocabulary)
        self.calibration = Calibration()
        self._index = {word: number + 1 for number, word in enumerate(self.vocabulary)}
        camera = spec.cameras[0]
        self.tokenizer: Tokenizer | FrozenEncoder | Patches
        if config.kind == "views":
            self.tokenizer = Patches(camera.height, camera.width)
        elif config.encoder:
            self.tokenizer = FrozenEncoder(config.encoder, config.encoder_side, camera.height, camera.width)
        else:
            self.tokenizer = Tokenizer(config.latent, config.tokenizer_width, camera.height, camera.width)
        sizes = (
            len(spec.cameras), self.tokenizer.places, self.tokenizer.dims, spec.state_dim,
            config.chunk * spec.action_dim, len(self.vocabulary),
        )  # fmt: skip
        self.dynamics: VideoDynamics | ViewDynamics | Rssm
        if isinstance(self.tokenizer, Patches):
            if cameras is None or config.encoder:
                raise ValueError(
                    "a world model of kind 'views' draws by where the cameras are: give their calibration "
                    "(--cameras FILE, see docs/world.md) and no frozen encoder, or fit one of kind 'video'"
                )
            self.dynamics = ViewDynamics(
                cameras, spec, self.tokenizer, config.chunk, len(self.vocabulary), width=config.width,
                heads=config.heads, ensemble=config.ensemble,
            )  # fmt: skip
        elif config.kind == "rssm":
            self.dynamics = Rssm(
                *sizes, width=config.width, recurrent=config.recurrent, groups=config.groups,
                classes=config.classes, ensemble=config.ensemble, success_weight=config.success_weight,
            )  # fmt: skip
        else:
            self.dynamics = VideoDynamics(
                *sizes, width=config.width, layers=config.layers, heads=config.heads,
                context=config.context, ensemble=config.ensemble, success_weight=config.success_weight,
            )  # fmt: skip
        for name, size in (("state", spec.state_dim), ("action", spec.action_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    def half(self) -> torch.autocast:  # type: ignore[override]
        """bfloat16 where the processor multiplies in it."""
        native = self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native)

    # ---- units ---------------------------------------------------------------------------------------

    def normal_state(self, state: NDArray[np.float32] | Tensor) -> Tensor:
        """(...,S) in the spec's units, normalised."""
        return (torch.as_tensor(state).to(self.device) - self.state_mean) / self.state_std

    def physical_state(self, state: Tensor) -> NDArray[np.float32]:
        """The reverse of `normal_state`."""
        whole: NDArray[np.float32] = (state.float() * self.state_std + self.state_mean).cpu().numpy()
        return whole

    def normal_action(self, action: NDArray[np.float32] | Tensor) -> Tensor:
        """Chunks (...,H,A) in the spec's units, normalised.

        Raises:
            ValueError: if the chunk is not of this world's length or the robot's dimensions.
        """
        wanted = (self.config.chunk, self.spec.action_dim)
        if tuple(action.shape[-2:]) != wanted:
            raise ValueError(
                f"a chunk of {tuple(action.shape[-2:])} was given to a world of {wanted} (actions, "
                f"dimensions): execute {wanted[0]} actions at a time (--execute {wanted[0]}), or fit a "
                f"model with --chunk {action.shape[-2]}"
            )
        return (torch.as_tensor(action).to(self.device) - self.action_mean) / self.action_std

    def words(self, instructions: Sequence[str]) -> Tensor:
        """int64 (B,W).

        Raises:
            ValueError: naming a word that no recorded instruction had.
        """
        rows = []
        for text in instructions:
            said = words_of(text)
            unknown = [word for word in said if word not in self._index]
            if unknown or not said:
                raise ValueError(
                    f"instruction {text!r}: the world model was trained on no instruction with "
                    f"{', '.join(map(repr, unknown)) or 'nothing'} in it; it knows "
                    f"{', '.join(self.vocabulary)}"
                )
            rows.append([self._index[word] for word in said][: self.config.max_words])
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)

    # ---- imagination ---------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(
        self,
        pictures: NDArray[np.uint8],
        state: NDArray[np.float32],
        origin: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None,
    ) -> Any:
        """The memory of imaginations that begin with pictures (B,C,h,w,3) and state (B,S).

        Args:
            pictures: see above.
            state: likewise, in the spec's units.
            origin: the same two as the episode began, if it began before; None where that is now or unknown.
        """
        tokens, normal = self._seen(pictures), self.normal_state(state)
        if origin is None:
            return self.dynamics.begin(tokens, normal, tokens, normal)
        return self.dynamics.begin(tokens, normal, self._seen(origin[0]), self.normal_state(origin[1]))

    def _seen(self, pictures: NDArray[np.uint8]) -> Tensor:
        with self.half():
            return self.tokenizer.encode(torch.as_tensor(pictures).to(self.device))

    @torch.no_grad()
    def step(self, memory: Any, action: Tensor, words: Tensor) -> tuple[Any, Step]:
        """Go on by `action` (B,H,A), see `normal_action`, for instructions `words` (B,W)."""
        with self.half():
            return self.dynamics.step(memory, action, words)

    @torch.no_grad()
    def pictures(self, tokens: Tensor) -> NDArray[np.uint8]:
        """(B,C,n,d) as uint8 (B,C,h,w,3)."""
        with self.half():
            decoded: NDArray[np.uint8] = self.tokenizer.decode(tokens).cpu().numpy()
        return decoded

    def success(self, step: Step) -> NDArray[np.float32]:
        """(B,) calibrated probability that the episode succeeded within the chunk."""
        logit = step.success.float() / self.calibration.temperature
        found: NDArray[np.float32] = torch.sigmoid(logit).cpu().numpy()
        return found


def words_of(text: str) -> list[str]:
    """The words of an instruction, in lower case."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()

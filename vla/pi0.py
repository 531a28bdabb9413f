"""pi-zero from `transformers` as a regrip policy: any size from a config, a flow head or a token head.

The network is `PI0ForConditionalGeneration` itself (PaliGemma prefix of image patches and words, action
expert that attends to the prefix's keys and values). What this file adds: the RobotSpec and normaliser that
travel with it, sampling with exact log-probabilities, a critic on the VLM's features, and an optional
convolutional keypoint stem, with which a network of a million parameters sees far better than with one
linear layer a patch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PI0Config, PI0ForConditionalGeneration

from ..datasets.episode import Observation
from ..datasets.protocols import ActionSample
from ..datasets.spec import RobotSpec
from ..datasets.starts import counter_generator
from . import flow
from .keypoints import KeypointStem
from .normalizer import Normalizer
from .policy import DecisionBatch, Evaluation
from .prefix import Prefix
from .text import prompt_ids

_PREFIX_BYTES = 4 << 30  # of a whole batch's keys and values
_PROMPTS = 4096  # sentences whose ids are kept
_PREFIX_ROW_BYTES = 64 << 10  # of one decision's, to be kept from acting to learning


@dataclass(frozen=True)
class Settings:
    """How the network is used; saved beside its weights.

    Attributes:
        head: ``flow`` (pi-zero's own) or ``tokens`` (OpenVLA-style bins, decoded in parallel).
        stem: ``patch`` (SigLIP's linear patches, as published) or ``keypoint`` (see `KeypointStem`).
        denoise_steps: Euler steps of the flow; few are enough and every one costs a pass of the expert.
        noise_level: a of the stochastic step; 0.5 in pi-RL, too little is unstable. At 0 the policy samples
            with the flow's own initial noise alone, and its samples have no log-probability.
        noise_correlation: of that step's noise over the steps of a chunk, see `flow.chunk_factor`.
        initial_noise: scale of the flow's initial noise when the policy samples. At 1 it samples the flow; at
            0 it starts where the greedy policy does, and the log-probability knows all that is random.
        stochastic_step: which denoising step is the stochastic one: ``random`` as in pi-RL, or ``last``.
        bins: of the token head, over the 1 % to 99 % range of each action dimension.
        temperature: of the token head when it samples; the training pass divides by the same number.
        execute: how many actions of a chunk are executed before the policy looks again; 0 for all.
        max_words: length to which instructions are padded, with two special tokens.
        precision: ``float32``, or ``bfloat16`` autocast of the network (log-densities stay float32).
    """

    head: Literal["flow", "tokens"] = "flow"
    stem: Literal["patch", "keypoint"] = "keypoint"
    denoise_steps: int = 2
    noise_level: float = 0.5
    noise_correlation: float = 0.0
    initial_noise: float = 1.0
    stochastic_step: Literal["random", "last"] = "last"
    bins: int = 64
    temperature: float = 1.0
    execute: int = 0
    max_words: int = 16
    precision: Literal["float32", "bfloat16"] = "float32"


def nano_config(
    image_size: int = 64,
    vocab_size: int = 128,
    chunk_size: int = 5,
    width: int = 128,
    layers: int = 3,
    max_state_dim: int = 16,
    max_action_dim: int = 8,
) -> PI0Config:
    """pi0-nano: 1.1 million parameters at width 128, random weights, no hub."""
    heads = 4
    gemma = {
        "model_type": "gemma",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * width,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": width // heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": 1024,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "patch_size": image_size // 2,  # two by two tokens a camera
        "image_size": image_size,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "vision_use_head": False,
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma,
            "vision_config": vision,
            "projection_dim": width,
            "image_token_id": vocab_size,
        },
        dit_config=dict(gemma),
        chunk_size=chunk_size,
        max_state_dim=max_state_dim,
        max_action_dim=max_action_dim,
    )


class Critic(nn.Module):
    """Returns from the VLM's pooled features and the proprioceptive state: a four-layer MLP (pi-RL).

    One value for each control step of the chunk about to be executed (action-level values, RLinf-VLA).
    """

    def __init__(self, features: int, state: int, chunk_size: int, width: int = 128) -> None:
        super().__init__()
        sizes = [features + state, width, width, width]
        layers: list[nn.Module] = []
        for source, target in itertools.pairwise(sizes):
            layers += [nn.Linear(source, target), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, chunk_size))

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        value: Tensor = self.layers(torch.cat([features, state], -1))
        return value


class Pi0Policy(nn.Module):
    """A pi-zero policy with everything it needs to act on a robot that matches its spec.

    Args:
        config: architecture, of any size.
        settings: how it samples.
        spec: the robot it acts on; `config` must have room for its state and action dimensions.
        normalizer: statistics of the demonstrations.
        tokenizer: turns instructions into ids.
        pi0: a network that is already there (pretrained weights); None makes one with random weights.

    Raises:
        ValueError: if the spec does not fit the architecture.
    """

    factor: Tensor | None

    def __init__(
        self,
        config: PI0Config,
        settings: Settings,
        spec: RobotSpec,
        normalizer: Normalizer,
        tokenizer: Tokenizer,
        pi0: PI0ForConditionalGeneration | None = None,
    ) -> None:
        super().__init__()
        vlm: Any = config.vlm_config
        vision, text = vlm.vision_config, vlm.text_config
        if spec.action_dim > config.max_action_dim or spec.state_dim > config.max_state_dim:
            raise ValueError(
                f"robot {spec.name} has {spec.action_dim} action and {spec.state_dim} state dimensions; "
                f"this pi0 config holds {config.max_action_dim} and {config.max_state_dim}"
            )
        for camera in spec.cameras:
            if (camera.height, camera.width) != (vision.image_size, vision.image_size):
                raise ValueError(
                    f"camera {camera.name} gives {camera.height}x{camera.width} px; "
                    f"this pi0 config sees {vision.image_size}x{vision.image_size}"
                )
        self.config, self.settings, self.spec = config, settings, spec
        self.normalizer, self.tokenizer = normalizer, tokenizer
        self.chunk_size = int(config.chunk_size)
        if not 0 <= settings.execute <= self.chunk_size:
            raise ValueError(
                f"execute {settings.execute}: the policy plans {self.chunk_size} actions, so give 1 to "
                f"{self.chunk_size}, or 0 for all of them"
            )
        self.execute = settings.execute or self.chunk_size
        self.cameras = [camera.name for camera in spec.cameras]
        self.pi0 = PI0ForConditionalGeneration(config) if pi0 is None else pi0
        if settings.stem == "keypoint":
            embeddings = self.pi0.model.vlm.vision_tower.embeddings
            tokens = (vision.image_size // vision.patch_size) ** 2
            embeddings.patch_embedding = KeypointStem(vision.hidden_size, vision.image_size, tokens)
        self.num_image_tokens = len(spec.cameras) * (vision.image_size // vision.patch_size) ** 2
        self.token_width, self.feature_width = int(text.hidden_size), 2 * int(text.hidden_size)
        self.pool = nn.Linear(self.token_width, 1)
        self.critic = Critic(self.feature_width, config.max_state_dim, self.chunk_size)
        if settings.head == "tokens":
            dit: Any = config.dit_config
            width = dit.hidden_size
            self.queries = nn.Parameter(torch.randn(self.chunk_size, width) * 0.02)
            self.token_out = nn.Linear(width, spec.action_dim * settings.bins)
        for name in ("state_mean", "state_std", "action_mean", "action_std", "action_q01", "action_q99"):
            self.register_buffer(name, torch.tensor(getattr(normalizer, name)), persistent=False)
        correlated = settings.noise_correlation > 0
        factor = flow.chunk_factor(self.chunk_size, settings.noise_correlation) if correlated else None
        self.register_buffer("factor", factor, persistent=False)
        self._prompts: dict[str, tuple[Tensor, Tensor]] = {}
        self.eval()  # dropout would make the ratio differ from one before the first update

    def set_noise_level(self, noise_level: float) -> None:
        """Explore more or less from now on."""
        self.settings = dataclasses.replace(self.settings, noise_level=noise_level)

    # ---- the network ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.pool.weight.device

    def _autocast(self) -> torch.autocast:
        low = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def prefix(self, pixels: Tensor, instruction: Sequence[str]) -> Prefix:
        """Run the VLM over uint8 images (N,C,h,w,3) and N sentences."""
        ids, mask = self._prompt(instruction)
        model = self.pi0.model
        with self._autocast():
            looks = self.look(pixels)
            words = model.vlm.get_input_embeddings()(ids[:, looks.shape[1] :])
            output = model.vlm(
                inputs_embeds=torch.cat(
                    [looks.to(words.dtype), words], 1
                ),  # as embed_prefix, all cameras there
                attention_mask=mask,
                position_ids=mask.cumsum(-1) - 1,
                token_type_ids=torch.zeros_like(ids),  # zero: every prefix token sees every other
                use_cache=True,
                output_hidden_states=True,
            )
        # What goes into the last layer, not what comes out: the expert attends to keys and values of each
        # layer's input, so nothing that imitation teaches ever passes through the last layer.
        deep = output.hidden_states[-2].float()
        score = self.pool(deep).squeeze(-1).masked_fill(mask == 0, float("-inf"))
        attended = (score.softmax(-1).unsqueeze(1) @ deep).squeeze(1)
        mean = (deep * mask.unsqueeze(-1)).sum(1) / mask.sum(-1, keepdim=True)
        return Prefix(output.past_key_values, mask, torch.cat([attended, mean], -1), looks.float())

    def look(self, pixels: Tensor) -> Tensor:
        """The vision tower over uint8 images (N,C,h,w,3): float (N,C*tokens,d)."""
        values = pixels.to(self.device).flatten(0, 1).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        features: Tensor = self.pi0.model.vlm.get_image_features(values).pooler_output
        return features.reshape(len(pixels), self.num_image_tokens, -1)

    def _prompt(self, instruction: Sequence[str]) -> tuple[Tensor, Tensor]:
        vlm: Any = self.config.vlm_config
        if len(self._prompts) > _PROMPTS:  # a server may be sent any number of sentences
            self._prompts.clear()
        for text in set(instruction) - self._prompts.keys():
            ids, mask = prompt_ids(
                self.tokenizer,
                [text],
                self.num_image_tokens,
                vlm.image_token_id,
                self.settings.max_words,
            )
            self._prompts[text] = ids[0], mask[0]
        rows = [self._prompts[text] for text in instruction]
        return (
            torch.stack([ids for ids, _ in rows]).to(self.device),
            torch.stack([mask for _, mask in rows]).to(self.device),
        )

    def normal_state(self, state: Tensor) -> Tensor:
        """(N,S) in physical units, normalised and padded to (N,max_state_dim)."""
        normal = (state.to(self.device) - self.state_mean) / self.state_std  # type: ignore[operator]
        return functional.pad(normal, (0, self.config.max_state_dim - normal.shape[-1]))

    def normal_action(self, action: Tensor) -> Tensor:
        """(...,A) in physical units, normalised and padded to (...,max_action_dim)."""
        normal = (action.to(self.device) - self.action_mean) / self.action_std  # type: ignore[operator]
        return functional.pad(normal, (0, self.config.max_action_dim - normal.shape[-1]))

    def velocity(self, state: Tensor, prefix: Prefix) -> flow.Velocity:
        """The flow's velocity, of latents (N,H,max_action_dim) and times, given what the VLM saw."""
        suffix = self.chunk_size + 1  # the state token and one token an action

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            with self._autocast():
                output = self.pi0(
                    state=state,
                    noise=x,
                    timestep=time,
                    attention_mask=prefix.mask,
                    past_key_values=prefix.cache,
                )
            prefix.cache.crop(-suffix)  # the next denoising step must see the prefix alone
            predicted: Tensor = output.logits.float()
            return predicted

        return velocity

    def _token_logits(self, state: Tensor, prefix: Prefix) -> Tensor:
        """Parallel decoding: one pass of the expert over learnt queries -> float32 (N,H,A,bins)."""
        embed = self.pi0.embed_action_time.state_proj(state)[:, None]
        queries = self.queries.expand(len(state), -1, -1)
        with self._autocast():
            output = self.pi0.model(
                action_embeds=torch.cat([embed, queries], 1),
                attention_mask=prefix.mask,
                past_key_values=prefix.cache,
            )
            logits = self.token_out(output.last_hidden_state[:, -self.chunk_size :])
        prefix.cache.crop(-(self.chunk_size + 1))
        shape = (len(state), self.chunk_size, self.spec.action_dim, self.settings.bins)
        shaped: Tensor = logits.float().view(shape)
        return shaped

    # ---- acting --------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        """Answer a batch of observations; see `datasets.protocols.Actor`.

        The members of a group share one pass of the VLM at their first decision.
        """
        state, prefix = self.observe(observation)
        draw = None if noise_keys is None else [counter_generator(*key) for key in noise_keys]
        answer = self._act_tokens if self.settings.head == "tokens" else self._act_flow
        sample = answer(state, prefix, draw)
        return sample if draw is None else self.noted(sample, state, prefix)

    @torch.no_grad()
    def observe(self, observation: Observation) -> tuple[Tensor, Prefix]:
        """Normalised state and the VLM's pass; rows with the same images and sentence share one pass."""
        pixels = np.stack([observation.images[name] for name in self.cameras], axis=1)
        unique, inverse = _same_rows(pixels, observation.instruction)
        prefix = self.prefix(
            torch.from_numpy(pixels[unique]), [observation.instruction[int(i)] for i in unique]
        )
        if len(unique) < len(pixels):
            prefix = prefix.take(torch.from_numpy(inverse))
        return self.normal_state(torch.from_numpy(observation.state)), prefix

    @torch.no_grad()
    def noted(self, sample: ActionSample, state: Tensor, prefix: Prefix) -> ActionSample:
        """The sample with what learning asks for: the critic's ``value`` and what the VLM saw, if small."""
        value = self.critic(prefix.features, state).cpu().numpy()
        return dataclasses.replace(sample, latent={**sample.latent, "value": value, **self._kept(prefix)})

    def _act_flow(
        self, state: Tensor, prefix: Prefix, draw: Sequence[np.random.Generator] | None
    ) -> ActionSample:
        shape = (self.chunk_size, int(self.config.max_action_dim))
        steps, dims = self.settings.denoise_steps, self.spec.action_dim
        if draw is None or self.settings.noise_level == 0:  # the ODE, from the mean or from its own noise
            start = torch.zeros(len(state), *shape, device=self.device)
            if draw is not None:
                noises = [g.standard_normal(shape, dtype=np.float32) for g in draw]
                start = torch.from_numpy(np.stack(noises)).to(self.device) * self.settings.initial_noise
            x, *_ = flow.sample(self.velocity(state, prefix), start, steps, 0.0, None, None)
            return ActionSample(self.physical(x), np.zeros((len(state), self.chunk_size), np.float32))
        numbers = np.stack([g.standard_normal((2, *shape), dtype=np.float32) for g in draw])
        if self.settings.stochastic_step == "last":
            chosen = np.full(len(draw), steps - 1)
        else:
            chosen = np.array([int(g.integers(steps)) for g in draw])
        start, noise = (torch.from_numpy(numbers[:, i]).to(self.device) for i in range(2))
        step = torch.from_numpy(chosen).to(self.device)
        x, before, after, log_prob = flow.sample(
            self.velocity(state, prefix),
            start * self.settings.initial_noise,
            steps,
            self.settings.noise_level,
            step,
            noise,
            self.factor,
        )
        return ActionSample(
            self.physical(x),
            log_prob[..., :dims].sum(-1).cpu().numpy(),
            {"before": before.cpu().numpy(), "after": after.cpu().numpy(), "step": chosen.astype(np.int64)},
        )

    def _act_tokens(
        self, state: Tensor, prefix: Prefix, draw: Sequence[np.random.Generator] | None
    ) -> ActionSample:
        log_p = (self._token_logits(state, prefix) / self.settings.temperature).log_softmax(-1)
        if draw is None:
            token = log_p.argmax(-1)
            log_prob = np.zeros(log_p.shape[:2], np.float32)
        else:
            uniform = np.stack([g.random(log_p.shape[1:3], dtype=np.float32) for g in draw])
            cumulative = log_p.exp().cumsum(-1)
            # Compare against the last cumulative value, which rounding may leave a little off one.
            threshold = torch.from_numpy(uniform).to(self.device)[..., None] * cumulative[..., -1:]
            token = (cumulative < threshold).sum(-1).clamp_(max=self.settings.bins - 1)
            log_prob = log_p.gather(-1, token[..., None]).squeeze(-1).sum(-1).cpu().numpy()
        low, high = self.action_q01, self.action_q99
        action = low + (token + 0.5) / self.settings.bins * (high - low)  # type: ignore[operator]
        return ActionSample(self._clip(action), log_prob, {"token": token.cpu().numpy()})

    def physical(self, x: Tensor) -> NDArray[np.float32]:
        """(N,H,A) actions in physical units, within the spec's limits, of denoised latents."""
        return self._clip(x[..., : self.spec.action_dim] * self.action_std + self.action_mean)  # type: ignore[operator]

    def _clip(self, action: Tensor) -> NDArray[np.float32]:
        clipped: NDArray[np.float32] = np.clip(
            action.float().cpu().numpy(), self.spec.action_low, self.spec.action_high
        )
        return clipped

    # ---- learning ------------------------------------------------------------------------------------

    @torch.no_grad()
    def frozen_prefix(self, batch: DecisionBatch, rows: int = 512) -> Prefix | None:
        """What a frozen VLM makes of a batch, once for all epochs.

        None if the VLM learns, or if keys and values of all layers would fill the memory (about 14 kB a
        decision for pi0-nano, thousands of times that for the published size).
        """
        if self._vlm_learns():
            return None
        if "keys" in batch.latent:  # kept from acting
            keys, values, features = (
                batch.latent[name].to(self.device) for name in ("keys", "values", "features")
            )
            return Prefix.unpack(keys, values, self.prompt_mask(batch.instruction), features)
        pieces = torch.arange(len(batch)).split(rows)
        parts: list[Prefix] = []
        for piece in pieces:
            parts.append(self.prefix(batch.pixels[piece], [batch.instruction[int(i)] for i in piece]))
            if parts[0].nbytes / len(piece) * len(batch) > _PREFIX_BYTES:
                return None
        return Prefix.join(parts)

    def _vlm_learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.pi0.model.vlm.parameters())

    def _kept(self, prefix: Prefix) -> dict[str, NDArray[np.float32]]:
        """The prefix as latents of the decisions, so that learning need not look again; {} if too large."""
        if self._vlm_learns() or prefix.nbytes / len(prefix.mask) > _PREFIX_ROW_BYTES:
            return {}
        return prefix.pack()

    def prompt_mask(self, instruction: Sequence[str]) -> Tensor:
        """Int64 (N,L): which of the prefix's tokens are no padding."""
        return self._prompt(instruction)[1]

    def step_moments(
        self, state: Tensor, prefix: Prefix, before: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean (N,H,A) and standard deviation (N,1,1) of the flow's stochastic step, with gradient.

        Args:
            state: normalised, as `normal_state` gives it.
            prefix: the VLM's pass.
            before: float32 (N,H,A), the latent the step starts from.
            step: int64 (N,), which denoising step it is.
        """
        delta = 1.0 / self.settings.denoise_steps
        time = 1.0 - step.to(before.dtype) * delta
        velocity = self.velocity(state, prefix)(before, time)
        return flow.sde_moments(before, velocity, time, delta, self.settings.noise_level)

    def value(self, state: Tensor, prefix: Prefix, gradient: float = 0.0) -> Tensor:
        """The critic's values (N,H); `gradient` is the share of theirs that reaches the VLM."""
        stopped = prefix.features.detach()
        value: Tensor = self.critic(stopped + gradient * (prefix.features - stopped), state)
        return value

    def evaluate(
        self, batch: DecisionBatch, value_gradient: float = 0.0, prefix: Prefix | None = None
    ) -> Evaluation:
        """Log-probabilities of recorded decisions and the critic's values, in one pass, with gradient.

        Args:
            batch: the decisions.
            value_gradient: share of the critic's gradient that reaches the VLM.
            prefix: the VLM's pass over the batch, if it was made before (`frozen_prefix`).
        """
        prefix = prefix or self.prefix(batch.pixels, batch.instruction)
        state = self.normal_state(batch.state)
        value = self.value(state, prefix, value_gradient)
        latent = {name: tensor.to(self.device) for name, tensor in batch.latent.items()}
        if self.settings.head == "tokens":
            log_p = (self._token_logits(state, prefix) / self.settings.temperature).log_softmax(-1)
            log_prob = log_p.gather(-1, latent["token"][..., None]).squeeze(-1).sum(-1)
        else:
            log_prob = flow.step_log_prob(
                self.velocity(state, prefix),
                latent["before"],
                latent["after"],
                latent["step"],
                self.settings.denoise_steps,
                self.settings.noise_level,
                self.factor,
            )[..., : self.spec.action_dim].sum(-1)
        return Evaluation(log_prob, value, prefix.features)

    def flow_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Times (N,) at which flow matching compares velocities, Beta(a, 1) as in pi-zero.

        Raises:
            ValueError: if the architecture asks for another distribution.
        """
        if self.config.time_sampling_beta_beta != 1.0:
            raise ValueError(
                f"flow times are drawn from Beta(a, 1) as in pi-zero; this config asks for "
                f"Beta({self.config.time_sampling_beta_alpha}, {self.config.time_sampling_beta_beta})"
            )
        time = torch.rand(count, generator=generator).to(self.device)
        time = time ** (1.0 / self.config.time_sampling_beta_alpha)
        return time * self.config.time_sampling_scale + self.config.time_sampling_offset

    def velocity_error(self, velocity: flow.Velocity, normal: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Squared error (N,H) of the velocity between normalised chunks and noise (N,H,max_action_dim).

        Mean over the robot's own dimensions, at `time` (N,).
        """
        t = time[:, None, None]
        error = velocity(t * noise + (1 - t) * normal, time) - (noise - normal)
        return error.square()[..., : self.spec.action_dim].mean(-1)

    def imitation_loss(
        self,
        batch: DecisionBatch,
        generator: torch.Generator,
        draws: int = 4,
        weight: Tensor | None = None,
        auxiliary: Callable[[Prefix, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Flow-matching loss (arXiv 2410.24164, section IV) or cross-entropy, mean over executed steps.

        Args:
            batch: demonstrated decisions; steps with ``valid`` false carry no loss.
            generator: draws noise and flow times, on the CPU so that devices agree.
            draws: noises and times for each decision, which share one pass of the VLM: the flow-matching loss
                is noisy, and the expert is the cheap part.
            weight: float32 (N,), how much each decision counts; None counts all alike.
            auxiliary: a further loss of prefix and privileged state, see `auxiliary.Auxiliary`.
        """
        prefix = self.prefix(batch.pixels, batch.instruction)
        state, action = self.normal_state(batch.state), batch.action.to(self.device)
        valid = batch.valid.to(self.device).float()
        if weight is not None:
            valid = valid * weight.to(self.device)[:, None]
        if self.settings.head == "tokens":
            low, high = self.action_q01, self.action_q99
            scaled = (action - low) / (high - low).clamp_min(1e-6)  # type: ignore[operator]
            token = (scaled * self.settings.bins).long().clamp_(0, self.settings.bins - 1)
            log_p = self._token_logits(state, prefix).log_softmax(-1)
            error = -log_p.gather(-1, token[..., None]).squeeze(-1).mean(-1)
        else:
            normal = self.normal_action(action)
            acting = valid.any(-1).nonzero().squeeze(-1)  # the others are there for the auxiliary loss alone
            rows = acting.repeat_interleave(draws)
            shared = prefix.take(rows)
            normal, valid = normal[rows], valid[rows]
            noise = torch.randn(normal.shape, generator=generator).to(self.device)
            time = self.flow_times(len(normal), generator)
            velocity = self.velocity(state[rows], shared)
            error = self.velocity_error(velocity, normal, noise, time)
        loss = (error * valid).sum() / valid.sum().clamp_min(1.0)
        if auxiliary is not None:
            loss = loss + auxiliary(prefix, batch.privileged)
        return loss

    def weights(self) -> dict[str, Tensor]:
        """Everything that is saved, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load exact float32 weights; refuses missing, extra or misshapen ones by name."""
        mine = self.state_dict()
        wrong = sorted(mine.keys() ^ weights.keys()) + [
            name for name in mine.keys() & weights.keys() if mine[name].shape != weights[name].shape
        ]
        if wrong:
            raise ValueError(f"weights of {source} do not fit this architecture: {', '.join(wrong[:5])}")
        self.load_state_dict(dict(weights))


def _same_rows(
    pixels: NDArray[np.uint8], instruction: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the first of each set of equal rows, and each row's index into them."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    inverse = np.empty(len(pixels), np.int64)
    for row, text in enumerate(instruction):
        key = hashlib.blake2b(pixels[row].tobytes() + text.encode(), digest_size=16).digest()
        if key not in seen:
            seen[key] = len(first)
            first.append(row)
        inverse[row] = seen[key]
    return np.array(first, np.int64), inverse

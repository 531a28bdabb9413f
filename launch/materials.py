"""Opening what rewards are made of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..rewards.judge_backends import Judge

TOKEN = "REGRIP_JUDGE_TOKEN"


@dataclass(frozen=True)
class JudgeConfig:
    """A vision-language model that is asked; none unless `path` or `url` is given.

    The token of an endpoint comes from the environment variable REGRIP_JUDGE_TOKEN: it shall not be written
    into a run's settings.

    Attributes:
        path: folder or hub id of an image-text-to-text model of the transformers library, run here.
        url: base address of an OpenAI-compatible endpoint, ending in ``/v1``.
        model: the endpoint's name of the model.
        cache: file in which an endpoint's answers are kept; none if empty.
        max_requests: sent to an endpoint in all; what is left then is unjudged. 0: no limit.
        device: for `path`.
    """

    path: str = ""
    url: str = ""
    model: str = ""
    cache: str = ""
    max_requests: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.path and self.url:
            raise ValueError(f"judge has a path ({self.path}) and a url ({self.url}); give one of them")
        if self.url and not self.model:
            raise ValueError(f"judge.url {self.url} needs judge.model, the endpoint's name of the model")


def open_judge(config: JudgeConfig) -> Judge | None:
    """The judge of a run, if there is one.

    Raises:
        JudgeMisconfiguredError: it cannot work as it was set up.
    """
    if config.path:
        from ..rewards.judge_backends import TransformersJudge

        return TransformersJudge(config.path, device=config.device)
    if config.url:
        from ..rewards.judge_endpoint import EndpointJudge, EndpointSettings

        settings = EndpointSettings(max_requests=config.max_requests or None)
        cache = Path(config.cache) if config.cache else None
        return EndpointJudge(config.url, config.model, os.environ.get(TOKEN), cache, settings)
    return None

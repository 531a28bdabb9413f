"""Generative vision-language models that are asked about pictures: what they are asked, and a local one.

One that is served over HTTP is in `judge_endpoint`; the rewards made of their answers are in `judges`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Part = str | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Question:
    """What a judge is shown and asked, in order.

    Attributes:
        parts: texts, and pictures uint8 (H,W,3) RGB of any size.

    Raises:
        ValueError: there is no part, or one is neither a text nor such a picture.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a question without parts; give at least one text")
        for part in self.parts:
            if isinstance(part, str):
                continue
            if not isinstance(part, np.ndarray) or part.dtype != np.uint8 or part.shape[2:] != (3,):
                seen = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
                raise ValueError(f"a question's part is {seen}; expected a text or a picture uint8 (H,W,3)")

    @property
    def text(self) -> str:
        """The texts alone, a line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        """The pictures alone."""
        return [part for part in self.parts if not isinstance(part, str)]


@dataclass(frozen=True)
class Answer:
    """What a judge answered.

    Attributes:
        text: its words; empty if it was asked for log-probabilities, or could not be asked.
        log_prob: for each candidate asked about, the log-probability that the answer begins with it (with or
            without a space before it). A back end that is told only the most probable tokens gives an upper
            bound for the others.
        trouble: empty, or why there is no answer, in a few words ("timeout", "status 500", "budget", ...).
    """

    text: str = ""
    log_prob: Mapping[str, float] = field(default_factory=dict)
    trouble: str = ""


class Judge(Protocol):
    """Anything that answers questions about pictures."""

    def ask(self, questions: Sequence[Question], candidates: Sequence[str] = ()) -> list[Answer]:
        """One answer for each question, in their order. What goes wrong with one is its answer's `trouble`.

        Args:
            questions: asked each by itself.
            candidates: if there are any, no text is wanted but `Answer.log_prob` of these.

        Raises:
            JudgeMisconfiguredError: nothing can be answered until the user changes something.
        """
        ...


class JudgeMisconfiguredError(ValueError):
    """The judge cannot work as it was set up: the message says what to change."""


class TransformersJudge:
    """An image-text-to-text model of the transformers library, run here; a `Judge`.

    Decoding is greedy. Weights are read from safetensors only and no code that comes with a model is run.
    A text that holds the model's own mark for a picture, and a question longer than the model can read, are
    not answered ("picture mark in the text", "too long"). Not verified with any pretrained model.

    Args:
        path: a folder or a hub id with configuration, weights, tokenizer and image processor.
        device: for torch.
        batch: questions in one call of the model.
        max_new_tokens: of an answer.
        dtype: name of a torch type for the weights, or "auto" for that of the file.

    Raises:
        JudgeMisconfiguredError: the model cannot be loaded, or does not fit the class it is loaded with.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "cpu",
        batch: int = 8,
        max_new_tokens: int = 512,
        dtype: str = "auto",
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processors: Any = AutoProcessor  # untyped
        try:
            self.processor: Any = processors.from_pretrained(str(path), trust_remote_code=False)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                str(path), trust_remote_code=False, use_safetensors=True, dtype=dtype
            )
        except (OSError, ValueError, ImportError) as error:
            raise JudgeMisconfiguredError(
                f"cannot load the judge {str(path)!r}: {error}; give a folder or hub id of an "
                "image-text-to-text model with config.json, safetensors weights, tokenizer and processor"
            ) from error
        if not hasattr(self.processor, "image_processor"):
            raise JudgeMisconfiguredError(
                f"the judge {str(path)!r} has no image processor: it reads text only"
            )
        self.model = model.eval().to(device)
        self.processor.tokenizer.padding_side = "left"  # answers begin where the questions end
        if self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self.device = device
        self.batch = batch
        self.max_new_tokens = max_new_tokens
        self.counts: Counter[str] = Counter()
        self._templated = bool(getattr(self.processor, "chat_template", None))
        self._mark = str(getattr(self.processor, "image_token", None) or "<image>")
        text_config = self.model.config.get_text_config()
        self._longest = int(getattr(text_config, "max_position_embeddings", 0) or 2**31)

    def ask(self, questions: Sequence[Question], candidates: Sequence[str] = ()) -> list[Answer]:
        """See `Judge.ask`; `counts` holds how many were answered, and why the others were not.

        Raises:
            JudgeMisconfiguredError: two candidates begin with the same token.
        """
        tokens = {candidate: self._first_tokens(candidate) for candidate in candidates}
        seen = [token for held in tokens.values() for token in held]
        if len(set(seen)) < len(seen):
            raise JudgeMisconfiguredError(
                f"the candidates {list(candidates)} begin with the same token in this judge's tokenizer; "
                "use other words"
            )
        answers: list[Answer] = []
        for first in range(0, len(questions), self.batch):
            answers += self._answers(questions[first : first + self.batch], tokens)
        self.counts.update(answer.trouble or "answered" for answer in answers)
        return answers

    def _first_tokens(self, candidate: str) -> set[int]:
        """Of the candidate and of a space and the candidate, where that is one token; else its first one."""
        spelled = [
            self.processor.tokenizer.encode(spelling, add_special_tokens=False)
            for spelling in (candidate, f" {candidate}")
        ]
        whole = {tokens[0] for tokens in spelled if len(tokens) == 1}
        if not spelled[0]:
            raise JudgeMisconfiguredError(f"the candidate {candidate!r} has no token with this tokenizer")
        return whole or {spelled[0][0]}

    def _answers(self, questions: Sequence[Question], tokens: Mapping[str, set[int]]) -> list[Answer]:
        room = self._longest - (1 if tokens else self.max_new_tokens)
        trouble = ["picture mark in the text" if self._mark in q.text else "" for q in questions]
        asked = [row for row, problem in enumerate(trouble) if not problem]
        inputs = self._inputs([questions[row] for row in asked]) if asked else {}
        long = [row for row, size in zip(asked, _lengths(inputs), strict=True) if size > room]
        if long:
            for row in long:
                trouble[row] = "too long"
            asked = [row for row in asked if row not in long]
            inputs = self._inputs([questions[row] for row in asked]) if asked else {}
        answers = [Answer(trouble=problem) for problem in trouble]
        if asked:
            for row, answer in zip(asked, self._generate(inputs, tokens), strict=True):
                answers[row] = answer
        return answers

    def _inputs(self, questions: Sequence[Question]) -> dict[str, Any]:
        from PIL import Image

        pictures = [[Image.fromarray(picture) for picture in q.pictures] for q in questions]
        batch = self.processor(
            text=[self._prompt(question) for question in questions],
            images=pictures if any(pictures) else None,
            padding=True,
            add_special_tokens=not self._templated,  # a chat template writes them itself
            return_tensors="pt",
        )
        return {name: held.to(self.device) for name, held in batch.items()}

    def _prompt(self, question: Question) -> str:
        if not self._templated:
            return "\n".join(part if isinstance(part, str) else self._mark for part in question.parts)
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in question.parts
        ]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _generate(self, inputs: dict[str, Any], tokens: Mapping[str, set[int]]) -> list[Answer]:
        import torch

        with torch.no_grad():
            out = self.model.generate(
                **inputs,
                max_new_tokens=1 if tokens else self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                output_logits=bool(tokens),
                return_dict_in_generate=True,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        if tokens:
            log_prob = torch.log_softmax(out.logits[0].double(), -1).cpu()
            return [_told(row, tokens) for row in log_prob]
        written = out.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [Answer(text=text) if text.strip() else Answer(trouble="no answer") for text in texts]


def _lengths(inputs: Mapping[str, Any]) -> list[int]:
    return inputs["attention_mask"].sum(1).tolist() if inputs else []


def _told(log_prob: torch.Tensor, tokens: Mapping[str, set[int]]) -> Answer:
    held = {
        candidate: float(log_prob[sorted(ids)].logsumexp(0).clamp(max=0)) for candidate, ids in tokens.items()
    }
    if not all(math.isfinite(value) for value in held.values()):
        return Answer(trouble="no log-probabilities")
    return Answer(log_prob=held)

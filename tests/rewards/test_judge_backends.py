"""A judge run here: a real LLaVA, very small and with random weights, saved to and loaded from a folder."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from regrip.rewards.judge_backends import JudgeMisconfiguredError, Question, TransformersJudge
from regrip.rewards.judges import RewardDance, TOPReward
from regrip.rewards.scorers import Difference, FrameProgress

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and a few words that are tokens of their own."""
    alphabet = {
        character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    held = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    held.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    held.decoder = decoders.ByteLevel()
    held.add_special_tokens(["<pad>", "<s>", "</s>", "<image>"])
    held.add_tokens(["True", "yes", " yes", "no"])
    return PreTrainedTokenizerFast(
        tokenizer_object=held, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llava")
    words = tokenizer()
    pictures = LlavaImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_pad=False
    )
    LlavaProcessor(
        pictures,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **sizes),
            text_config=LlamaConfig(
                vocab_size=len(words),
                num_key_value_heads=2,
                max_position_embeddings=512,
                initializer_range=0.5,  # so that what is read matters to what is said
                pad_token_id=words.pad_token_id,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                **sizes,
            ),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
        )
    ).save_pretrained(path)
    return path


def picture(seed: int, height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


QUESTIONS = [
    Question(("What is this?", picture(1))),
    Question(("Compare", picture(2, 64, 32), "with", picture(3), "and say which is larger.")),
    Question(("No picture, 日本語 and {braces}.",)),
]


def test_answers_do_not_depend_on_the_batch_and_are_the_same_again(folder: Path) -> None:
    whole = TransformersJudge(folder, batch=3, max_new_tokens=6, dtype="float32")
    single = TransformersJudge(folder, batch=1, max_new_tokens=6, dtype="float32")
    answers = whole.ask(QUESTIONS)
    assert [answer.text for answer in answers] == [answer.text for answer in single.ask(QUESTIONS)]
    assert answers == whole.ask(QUESTIONS)
    assert len({answer.text or answer.trouble for answer in answers}) > 1
    assert sum(whole.counts.values()) == 6
    told = whole.ask(QUESTIONS, ("yes", "no"))
    for one, other in zip(told, single.ask(QUESTIONS, ("yes", "no")), strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_log_probabilities_are_those_of_the_model(folder: Path) -> None:
    judge = TransformersJudge(folder, dtype="float32")
    told = judge.ask(QUESTIONS[:1], ("yes", "True"))[0].log_prob
    words = judge.processor.tokenizer
    prompt = "USER: What is this?<image> ASSISTANT:"
    inputs = judge.processor(
        text=[prompt],
        images=[[Image.fromarray(QUESTIONS[0].pictures[0])]],
        add_special_tokens=False,
        return_tensors="pt",
    )
    with torch.no_grad():
        log_prob = torch.log_softmax(judge.model(**inputs).logits[0, -1].double(), -1)
    yes, spaced, true = (words.convert_tokens_to_ids(token) for token in ("yes", " yes", "True"))
    both = math.log(math.exp(log_prob[yes]) + math.exp(log_prob[spaced]))
    assert told == pytest.approx({"yes": both, "True": float(log_prob[true])}, abs=1e-4)


def test_pictures_matter(folder: Path) -> None:
    judge = TransformersJudge(folder, dtype="float32")
    a, b = judge.ask([Question(("Is it done?", picture(seed))) for seed in (1, 2)], ("yes",))
    assert a.log_prob["yes"] != b.log_prob["yes"]


def test_a_model_without_a_chat_template_is_asked_in_plain_text(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    judge = TransformersJudge(tmp_path, max_new_tokens=4, dtype="float32")
    assert judge.processor.chat_template is None
    assert len(judge.ask(QUESTIONS)) == 3


def test_what_the_model_cannot_read_is_not_answered(folder: Path) -> None:
    judge = TransformersJudge(folder, max_new_tokens=4, dtype="float32")
    answers = judge.ask([Question(("a <image> in words", picture(1))), Question(("x" * 600,)), QUESTIONS[0]])
    assert [answer.trouble for answer in answers[:2]] == ["picture mark in the text", "too long"]
    alone = judge.ask(QUESTIONS[:1])[0]
    assert answers[2] == alone
    assert judge.counts["too long"] == 1
    assert judge.ask([]) == []


def test_candidates_that_begin_alike_are_refused(folder: Path) -> None:
    with pytest.raises(JudgeMisconfiguredError, match="begin with the same token"):
        TransformersJudge(folder).ask(QUESTIONS, ("maybe", "maybe not"))


def test_rewards_run_on_it(folder: Path) -> None:
    judge = TransformersJudge(folder, dtype="float32")
    rollouts = toy.many(1, 1)
    signal = Difference(TOPReward(judge, "front", prefixes=3, frames=2))(rollouts)
    assert signal.valid.all()
    assert signal.relative
    references = dict.fromkeys(rollouts.instruction, rollouts.images["front"][0, 8])
    progress = FrameProgress(RewardDance(judge, "front", references)).progress(rollouts)
    assert progress.valid.all()
    assert (progress.value[rollouts.decision_valid] > 0).all()


def test_what_cannot_be_loaded_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeMisconfiguredError, match=r"cannot load the judge .*nowhere"):
        TransformersJudge(tmp_path / "nowhere")
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    weights = pickled / "model.safetensors"
    weights.unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(JudgeMisconfiguredError, match="safetensors"):
        TransformersJudge(pickled)

"""ScaleDiff: the worked examples, and a model that can end its thoughts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorers.base import Outputs, TokenValues
from scorers.models.loading import load_model
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from scorers.scalediff import CLOSES, FIRST, SCORER
from tests.scorers.toy_models import TEMPLATE, examples, pair, write_model

OPENED = TEMPLATE.replace(
    "{{ m.content }}", "{{ '<think>' if m.role == 'assistant' }}{{ m.content }}"
).replace("<|assistant|>\n{% endif %}", "<|assistant|>\n<think>{% endif %}")


def columns(closes: float, likeliest: float) -> tuple[float, float]:
    tokens = TokenValues(np.array([likeliest], np.float32), np.array([0, 1]))
    found = SCORER.score(Outputs({FIRST: tokens}, {CLOSES: np.array([[closes]], np.float32)}))
    return float(found["difficulty"][0]), float(found["think_flag"][0])


def test_the_worked_examples() -> None:
    assert columns(-0.105360516, -0.105360516) == pytest.approx((0.1, 0))
    assert columns(math.log(0.4), math.log(0.45)) == pytest.approx((0.6, 1))
    assert columns(math.log(0.4), math.log(0.4)) == pytest.approx((0.6, 0))


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_model_that_ends_its_thought_more_often_than_not_never_thinks(closes: float, share: float) -> None:
    likeliest = max(closes, share * (1 - closes))  # of all tokens, where one other has that share of the rest
    difficulty, flag = columns(math.log(closes), math.log(likeliest))
    assert difficulty == pytest.approx(1 - closes, abs=1e-6)
    assert flag in (0, 1)
    assert not flag or difficulty >= 0.5


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model whose tokenizer knows the two tags."""
    folder = write_model(tmp_path_factory.mktemp("thinking") / "model", template=OPENED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_difficulty_is_that_of_the_prompt_alone(thinking: Path) -> None:
    prompts = ["Name a colour.", "Add two and three, please.", "Write a line about the sea."]
    rows = examples(
        [pair(prompt, answer) for prompt in prompts for answer in ("Red.", "Two and three make five.")]
    )
    scores, _ = score_examples(load_model(ModelSettings(path=str(thinking))), rows, ["scalediff"])
    tokenizer, model = AutoTokenizer.from_pretrained(thinking), AutoModelForCausalLM.from_pretrained(thinking)
    closes = tokenizer.convert_tokens_to_ids("</think>")
    for at, prompt in enumerate(prompts):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        with torch.no_grad():
            p = model(ids).logits[0, -1].double().softmax(-1)
        for row in (2 * at, 2 * at + 1):
            assert scores["difficulty"][row].as_py() == pytest.approx(1 - float(p[closes]), abs=1e-5)
            assert scores["think_flag"][row].as_py() == float(p.argmax() != closes)


def test_a_model_that_does_not_decide_is_refused(thinking: Path, tmp_path: Path) -> None:
    rows = examples([pair("Name a colour.", "Red.")])
    with pytest.raises(ValueError, match=r"prompts end with .*assistant.* a scorer needs '<think>'"):
        score_examples(load_model(ModelSettings(path=str(write_model(tmp_path / "m")))), rows, ["scalediff"])
    with pytest.raises(ValueError, match="a scorer needs '<think>'"):
        score_examples(
            load_model(ModelSettings(path=str(thinking), chat_template="plain")), rows, ["scalediff"]
        )
    untagged = write_model(tmp_path / "untagged", template=OPENED)
    with pytest.raises(ValueError, match="'</think>'.* token"):
        score_examples(load_model(ModelSettings(path=str(untagged))), rows, ["scalediff"])

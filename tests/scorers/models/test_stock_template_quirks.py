"""What single chat templates do otherwise than most: thoughts, tools, dates, default prompts, base models.

In the expected texts ⟦ and ⟧ stand around each response, and around nothing else.
"""

from __future__ import annotations

import json
import re

import pytest

from connectors.examples import message
from scorers.models.rendering import check_template
from tests.scorers.stock_rows import (
    FIRST,
    SECOND,
    SYSTEM,
    decode,
    ids_of,
    marked,
    response_positions,
    tokenise,
)
from tests.scorers.stock_templates import FAMILIES, family_renderer, family_tokenizer
from tests.scorers.toy_models import pair


def test_an_answer_that_merges_with_the_prompt_gets_no_blank() -> None:
    """ "[/INST](" ends in a token "](" of both, so the answer is tokenised for itself."""
    row = tokenise("mistral_tight", pair("Where is Paris?", "(d)"))
    assert row.conditional is not None
    assert decode("mistral_tight", row.conditional.ids[row.conditional.targets]) == "(d)</s>"


@pytest.mark.parametrize("name", ["mistral03", "nemo"])
def test_a_template_that_shows_the_system_prompt_only_in_an_unanswered_turn_refuses_it(name: str) -> None:
    row = tokenise(name, [*SYSTEM, *FIRST])
    assert (row.status, row.conditional) == ("template_error", None)
    assert row.message.startswith("the template renders the prompt otherwise once the response follows it")


@pytest.mark.parametrize(("name", "reason"), [("gemma2", "no system"), ("mistral_tight", "only user")])
def test_a_family_without_a_system_role_refuses_one(name: str, reason: str) -> None:
    row = tokenise(name, [*SYSTEM, *FIRST])
    assert (row.status, reason in row.message) == ("template_error", True)


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("smollm2", "<|im_start|>system\nI am SmolLM.<|im_end|>\n<|im_start|>user\n"),
        ("qwen25", "<|im_start|>system\nI am Qwen.<|im_end|>\n<|im_start|>user\n"),
        ("qwen3", "<|im_start|>user\n"),
        ("mistral7", "<s>[SYSTEM_PROMPT]I am Mistral. It is 2024-07-26.[/SYSTEM_PROMPT][INST]"),
    ],
)
def test_a_default_system_prompt_belongs_to_the_prompt(name: str, opening: str) -> None:
    text = marked(name, FIRST)
    assert text.startswith(f"{opening}Where is Paris?")
    assert text.split("⟦")[1] == marked(name, [*SYSTEM, *FIRST]).split("⟦")[1]


def test_the_fixed_date_is_written_as_the_template_asks() -> None:
    assert "Today Date: 26 July 2024\n" in marked("smollm3", FIRST)  # %d %B %Y


THOUGHT = [*FIRST[:1], message("assistant", "<think>\nEasy.\n</think>\n\nIn France.")]


def test_the_thoughts_of_the_last_answer_are_part_of_the_response() -> None:
    text = marked("qwen3", THOUGHT)
    assert text.endswith("assistant\n⟦<think>\nEasy.\n</think>\n\nIn France.<|im_end|>\n⟧")
    assert "Easy." not in marked("qwen3", [*THOUGHT, *SECOND])


def test_a_template_that_leaves_thoughts_out_scores_what_it_leaves() -> None:
    assert marked("deepseek", THOUGHT).endswith("<｜Assistant｜>⟦\n\nIn France.<｜end▁of▁sentence｜>⟧")


@pytest.mark.parametrize("answer", ["In France.", "<think>\nEasy.\n</think>\n\nIn France."])
def test_a_header_that_opens_the_thoughts_stays_in_the_prompt(answer: str) -> None:
    turns = [*FIRST[:1], message("assistant", answer)]
    row, text = tokenise("qwen35", turns), marked("qwen35", turns)
    thoughts = "Easy." if "Easy" in answer else ""
    assert text.endswith(f"assistant\n<think>\n⟦{thoughts}\n</think>\n\nIn France.<|im_end|>\n⟧")
    assert row.conditional is not None
    assert row.conditional.ids[: row.prompt_tokens].tolist() == ids_of("qwen35", text.split("⟦")[0])
    assert decode("qwen35", row.conditional.ids) == re.sub("[⟦⟧]", "", text)


def test_a_template_whose_header_opens_the_thoughts_is_accepted_at_load() -> None:
    check_template(family_renderer("qwen35"))


def test_a_template_whose_header_opens_thoughts_that_answers_never_show_is_refused_at_load() -> None:
    with pytest.raises(ValueError, match="renders the prompt otherwise once the response follows it"):
        check_template(family_renderer("deepseek_thinking"))


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
TOOLS = json.dumps([ADD])
CALL = [
    message("user", "Add 2 and 3."),
    message(
        "assistant",
        "",
        [
            {
                "id": "a1b2c3d4e",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'},
            }
        ],
    ),
]
RESULT = [message("tool", "5"), message("assistant", "It is 5.")]
TOOL_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>\n'
QWEN_TOOLS = (
    f"\n\n# Tools\n\n<tools>\n{TOOLS[1:-1]}\n</tools><|im_end|>\n<|im_start|>user\nAdd 2 and 3.<|im_end|>\n"
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "qwen25",
            f"<|im_start|>system\nI am Qwen.{QWEN_TOOLS}<|im_start|>assistant\n⟦{TOOL_CALL}⟧",
        ),
        (
            "qwen3",
            f"<|im_start|>system\n{QWEN_TOOLS}<|im_start|>assistant\n⟦<think>\n\n</think>\n\n{TOOL_CALL}⟧",
        ),
        (
            "llama32",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
            "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n\n{json.dumps(ADD, indent=4)}\n\n"
            "Add 2 and 3.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            '⟦{"name": "add", "parameters": {"a": 2, "b": 3}}<|eot_id|>⟧',
        ),
        (
            "nemo",
            f"<s>[AVAILABLE_TOOLS]{TOOLS}[/AVAILABLE_TOOLS][INST]Add 2 and 3.[/INST]"
            '⟦[TOOL_CALLS][{"name": "add", "arguments": {"a": 2, "b": 3}, "id": "a1b2c3d4e"}]</s>⟧',
        ),
    ],
)
def test_a_tool_call_is_the_response(name: str, text: str) -> None:
    assert marked(name, CALL, TOOLS) == text
    row = tokenise(name, CALL, TOOLS)
    assert row.conditional is not None
    assert (row.status, row.conditional.ids.tolist()) == ("ok", ids_of(name, text))
    assert row.conditional.targets.tolist() == response_positions(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "qwen25",
            "user\n<tool_response>\n5\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n⟦It is 5.<|im_end|>\n⟧",
        ),
        ("llama32", '"5"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦It is 5.<|eot_id|>⟧'),
    ],
)  # fmt: skip
def test_a_tool_result_belongs_to_the_prompt_of_the_answer_after_it(name: str, text: str) -> None:
    whole = marked(name, [*CALL, *RESULT], TOOLS, loss_on="all")
    assert whole.endswith(text)
    assert whole.count("⟦") == 2
    assert tokenise(name, [*CALL, *RESULT], TOOLS, loss_on="all").status == "ok"


def test_templates_that_want_the_id_of_a_call_refuse_what_has_none() -> None:
    nameless = [CALL[0], message("assistant", "", [{**(CALL[1]["tool_calls"] or [])[0], "id": None}])]
    for turns in (nameless, [*CALL, *RESULT]):  # the canonical example keeps no id of a tool's result
        row = tokenise("nemo", turns, TOOLS)
        assert (row.status, "9 letters for a call id" in row.message) == ("template_error", True)


@pytest.mark.parametrize(
    "name", ["chatml", "smollm2", "llama2", "gemma2", "phi3", "phi4", "zephyr", "deepseek"]
)
def test_a_tool_call_that_the_template_leaves_out_is_not_scored(name: str) -> None:
    row = tokenise(name, CALL)
    assert (row.status, row.message) == ("template_error", "the template leaves out the call of tool 'add'")


@pytest.mark.parametrize("name", ["base_llama", "base_qwen", "base_unigram"])
def test_a_base_model_gets_the_plain_layout_in_its_own_tokens(name: str) -> None:
    family, tokenizer = FAMILIES[name], family_tokenizer(name)
    text = "### System:\nBe brief.\n\n### User:\nWhere is Paris?\n\n### Assistant:\n⟦In France.⟧"
    assert marked(name, [*SYSTEM, *FIRST]) == text
    row = tokenise(name, [*SYSTEM, *FIRST])
    bos = [] if family.bos is None else [tokenizer.bos_token_id]
    prompt = [*bos, *ids_of(name, text.split("⟦")[0])]
    assert row.conditional is not None
    assert row.direct is not None
    assert row.conditional.ids.tolist() == [*bos, *ids_of(name, text), tokenizer.eos_token_id]
    assert row.conditional.targets.tolist() == list(range(len(prompt), len(row.conditional.ids)))
    assert row.direct.ids[: row.direct.targets[0]].tolist() == [*bos, *ids_of(name, "### Assistant:\n")]
    both = tokenise(name, [*FIRST, *SECOND], loss_on="all")
    assert both.conditional is not None
    responses = decode(name, both.conditional.ids[both.conditional.targets])
    assert responses == f"In France.{family.eos}In Italy.{family.eos}"

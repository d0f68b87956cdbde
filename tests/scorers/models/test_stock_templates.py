"""The chat templates that people use, with tokenizers of their kinds."""

# ruff: noqa: ANN401 - changes of a dataclass have any type

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.examples import Message, message
from scorers.models.rendering import Renderer, check_template
from scorers.models.tokenising import RowTokens, tokenise_rows
from tests.scorers.stock_templates import FAMILIES, tokenizer_of
from tests.scorers.toy_models import pair

QUESTION, ANSWER = "What is 2+2?", "It is 4."
NAMES = pytest.mark.parametrize("name", FAMILIES)


def renderer_of(name: str, **changes: Any) -> Renderer:
    fast = tokenizer_of(name)
    return replace(Renderer(fast, "tokenizer", 10**6, "drop", len(fast)), **changes)


def render(name: str, turns: list[Message], **changes: Any) -> RowTokens:
    (row,) = tokenise_rows(renderer_of(name, **changes), [turns], [None], with_direct=True)
    return row


def response(name: str, row: RowTokens, counted: bool = False) -> str:
    assert row.conditional is not None
    targets = row.conditional.targets[row.conditional.counted] if counted else row.conditional.targets
    return str(tokenizer_of(name).decode(row.conditional.ids[targets]))


def whole(name: str, turns: list[Message]) -> str:
    dialogue = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return str(tokenizer_of(name).apply_chat_template(dialogue, tokenize=False))


@NAMES
def test_the_template_is_accepted_and_renders_what_the_family_renders(name: str) -> None:
    check_template(renderer_of(name))
    row = render(name, [message("system", "Be brief."), *pair(QUESTION, ANSWER)])
    expected = FAMILIES[name].expected
    if not expected:
        assert (row.status, row.message) == ("template_error", "TemplateError: no system role")
        return
    assert row.status == "ok"
    assert row.conditional is not None
    text = str(tokenizer_of(name).decode(row.conditional.ids))
    # SentencePiece of some kinds puts a blank before a text, and before what follows a special token
    assert text.replace("<s> [INST]", "<s>[INST]").removeprefix(" ") == expected


@NAMES
def test_the_tokens_are_those_of_the_whole_text_and_the_border_is_where_the_answer_begins(name: str) -> None:
    turns = [*pair("And 3+3?", "It is 6."), *pair(QUESTION, ANSWER)]
    row = render(name, turns)
    assert row.conditional is not None
    fast = tokenizer_of(name)
    if name != "llama3.1":  # its date is fixed for us
        assert row.conditional.ids.tolist() == fast(whole(name, turns), add_special_tokens=False)["input_ids"]
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert response(name, row).lstrip(" ") == f"{thought}{ANSWER}{FAMILIES[name].end}"


@NAMES
def test_every_answer_is_marked_whole_or_the_row_is_refused(name: str) -> None:
    turns = [message("system", "Be brief."), *pair("And 3+3?", "It is 6."), *pair(QUESTION, ANSWER)]
    turns = turns[1:] if name == "gemma2" else turns
    row = render(name, turns, loss_on="all")
    if FAMILIES[name].rewrites:
        assert row.status == "template_error"
        assert "otherwise once" in row.message
        return
    end = FAMILIES[name].end
    assert row.status == "ok"
    assert response(name, row).replace(" It", "It") == f"It is 6.{end}{ANSWER}{end}"


@NAMES
@pytest.mark.parametrize("answer", ["\nIt is 4.", "\n\n\nIt", "  It is", "4", "is [/INST] <|user|> brief"])
def test_answers_that_begin_with_blanks_or_hold_markers_keep_the_prompts_tokens(
    name: str, answer: str
) -> None:
    row = render(name, pair(QUESTION, answer))
    usual = render(name, pair(QUESTION, ANSWER))
    assert row.conditional is not None
    assert usual.conditional is not None
    prompt = usual.conditional.ids[: usual.prompt_tokens].tolist()
    assert row.conditional.ids[: row.prompt_tokens].tolist() == prompt
    assert answer.strip() in response(name, row)


@NAMES
def test_an_empty_answer_is_no_answer(name: str) -> None:
    assert render(name, pair(QUESTION, " \n")).status == "empty_response"


@NAMES
def test_without_the_end_the_answer_alone_counts(name: str) -> None:
    row = render(name, pair(QUESTION, ANSWER), score_end=False)
    kept = response(name, row, counted=True).strip()
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert kept in (f"{thought}{ANSWER}", f"{thought}{ANSWER}<|end|>")  # phi3 ends twice: the last goes
    assert response(name, row).endswith(FAMILIES[name].end)


@NAMES
def test_the_direct_view_opens_with_bos_and_the_header(name: str) -> None:
    row = render(name, pair(QUESTION, ANSWER))
    family = FAMILIES[name]
    if row.direct is None:
        assert name in ("mistral", "llama2")  # they put nothing before an answer: BOS stands in
        return
    before = str(tokenizer_of(name).decode(row.direct.ids[: row.direct.targets[0]]))
    assert QUESTION not in before
    opens = family.bos is not None and family.expected.startswith(family.bos)
    assert before.startswith(family.bos or "") is bool(opens or name == "gemma2" or family.bos is None)
    assert row.conditional is not None
    assert (
        row.direct.ids[row.direct.targets].tolist() == row.conditional.ids[row.conditional.targets].tolist()
    )

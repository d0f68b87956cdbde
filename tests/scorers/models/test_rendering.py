# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.examples import Message, message
from scorers.models.rendering import Renderer, RowTokens, check_template, choose_template, tokenise_rows
from tests.scorers.toy_models import CONTEXT, PAIRS, TEMPLATE, pair, tokenizer

TOKENIZER = tokenizer()
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def renderer(template: str = "tokenizer", **changes: Any) -> Renderer:
    whole = Renderer(TOKENIZER, template, CONTEXT, "drop", len(TOKENIZER))
    return replace(whole, **changes)


def render(
    turns: list[Message], template: str = "tokenizer", tools: str | None = None, **changes: Any
) -> RowTokens:
    (row,) = tokenise_rows(renderer(template, **changes), [turns], [tools], with_header=True)
    return row


def text(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


def test_the_response_is_what_the_template_adds_after_the_prompt() -> None:
    row = render(pair("Hi", "five"))
    assert text(row.prompt_ids) == "<s><|user|>\nHi</s>\n<|assistant|>\n"
    assert text(row.response_ids) == "five</s>\n"
    assert row.status == "ok"


def test_the_direct_context_is_bos_and_the_assistant_header() -> None:
    assert text(render(pair("Hi", "five")).direct_ids) == "<s><|assistant|>\n"


def test_a_template_without_bos_gets_none_in_the_direct_view() -> None:
    row = render(pair("Hi", "five"), NO_SYSTEM)
    assert text(row.direct_ids) == "[assistant]"


def test_a_template_without_any_header_leaves_the_direct_view_empty() -> None:
    row = render(pair("Hi", "five"), "{% for m in messages %}{{ m.content }};{% endfor %}")
    assert (text(row.prompt_ids), text(row.response_ids), row.direct_ids) == ("Hi;", "five;", [])


def test_a_response_that_repeats_the_prompt_is_still_found() -> None:
    row = render(pair("five", "five"))
    assert text(row.response_ids) == "five</s>\n"


def test_the_plain_layout_is_the_documented_one() -> None:
    turns = [message("system", "Be brief."), *pair("Hi", "five")]
    row = render(turns, "plain", tools='[{"name": "add"}]')
    assert text(row.prompt_ids) == (
        '<s>### Tools:\n[{"name": "add"}]\n\n### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\n'
    )
    assert text(row.response_ids) == "five</s>"
    assert text(row.direct_ids) == "<s>### Assistant:\n"


def test_arguments_of_tool_calls_reach_the_template_as_objects() -> None:
    seen = "{{ m.tool_calls[0].function.arguments.a }}"
    template = (
        f"{{% for m in messages %}}{{% if m.tool_calls %}}{seen}{{% else %}}x{{% endif %}}{{% endfor %}}"
    )
    call: Any = {"id": None, "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
    row = render([message("user", "Hi"), message("assistant", "", [call])], template)
    assert text(row.response_ids) == "7"


def test_keys_that_are_none_are_absent_for_the_template() -> None:
    template = "{% for m in messages %}{{ 'name' in m }} {{ 'tool_calls' in m }};{% endfor %}"
    assert text(render(pair("a", "b"), template).prompt_ids) == "False False;"


@pytest.mark.parametrize("template", ["tokenizer", "plain"])
@pytest.mark.parametrize("response", ["", " \n"])
def test_an_empty_response_is_not_scored(template: str, response: str) -> None:
    row = render(pair("Hi", response), template)
    assert (row.status, row.response_ids) == ("empty_response", [])
    assert row.prompt_ids


def test_a_template_that_refuses_a_row_marks_the_row_and_no_other() -> None:
    turns = [[message("system", "Be brief."), *pair("Hi", "five")], pair("Hi", "five")]
    rows = tokenise_rows(renderer(NO_SYSTEM), turns, [None, None], with_header=True)
    assert [row.status for row in rows] == ["template_error", "ok"]
    assert rows[0].message == "TemplateError: no system role"


def test_tool_definitions_that_are_not_json_mark_the_row() -> None:
    row = render(pair("Hi", "five"), tools="{broken")
    assert (row.status, row.message) == ("template_error", "the tool definitions are not JSON")


def test_a_template_that_breaks_the_prefix_is_refused_at_load() -> None:
    broken = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="the prompt otherwise once the response follows"):
        check_template(renderer(broken))
    assert render(pair("Hi", "five"), broken).status == "template_error"


def test_a_template_that_only_lacks_the_system_role_is_accepted() -> None:
    check_template(renderer(NO_SYSTEM))
    check_template(renderer(TEMPLATE))


def test_todays_date_does_not_reach_the_scores() -> None:
    row = render(pair("Hi", "five"), "{{ strftime_now('%d %b %Y') }}" + TEMPLATE)
    assert text(row.prompt_ids).startswith("26 Jul 2024<s>")


def test_a_template_file_is_read_and_a_missing_one_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(NO_SYSTEM)
    assert choose_template(TOKENIZER, str(tmp_path / "chat.jinja")) == NO_SYSTEM
    with pytest.raises(ValueError, match=r"cannot read '.*absent.jinja'"):
        choose_template(TOKENIZER, str(tmp_path / "absent.jinja"))


def test_a_tokenizer_without_template_falls_back_to_the_plain_layout() -> None:
    assert choose_template(tokenizer(None), "auto") == "plain"
    assert choose_template(TOKENIZER, "auto") == "tokenizer"
    assert choose_template(TOKENIZER, "plain") == "plain"


def test_a_row_above_the_limit_is_dropped_with_its_full_counts() -> None:
    whole = render(pair("Hi", "one two three"))
    total = len(whole.prompt_ids) + len(whole.response_ids)
    assert render(pair("Hi", "one two three"), max_tokens=total).status == "ok"
    row = render(pair("Hi", "one two three"), max_tokens=total - 1)
    assert (row.status, row.truncated, row.response_ids) == ("overflow", False, whole.response_ids)


def test_a_row_above_the_limit_is_cut_at_its_end_and_flagged_when_kept() -> None:
    whole = render(pair("Hi", "one two three"))
    limit = len(whole.prompt_ids) + 2
    row = render(pair("Hi", "one two three"), max_tokens=limit, on_overflow="keep")
    assert (row.status, row.truncated, row.response_ids) == ("ok", True, whole.response_ids[:2])


@pytest.mark.parametrize("over", [0, 1])
def test_a_prompt_that_fills_the_model_leaves_nothing_to_score(over: int) -> None:
    limit = len(render(pair("Hi", "five")).prompt_ids) - over
    row = render(pair("Hi", "five"), max_tokens=limit, on_overflow="keep")
    assert (row.status, row.truncated, row.response_ids) == ("all_truncated", True, [])


def test_an_id_that_the_model_has_no_embedding_for_is_an_error_of_the_row() -> None:
    row = render(pair("Hi", "five"), vocabulary=5)
    assert row.status == "error"
    assert "outside the model's 5 embeddings" in row.message


def test_lone_surrogates_in_a_tool_call_mark_the_row() -> None:
    call: Any = {"id": None, "type": "function", "function": {"name": "add", "arguments": r'{"a": "\ud800"}'}}
    row = render([message("user", "Hi"), message("assistant", "", [call])])
    assert (row.status, row.message) == ("template_error", "the rendered text is not valid Unicode")


@settings(deadline=None, max_examples=50)
@given(
    turns=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=2, max_size=4),
    template=st.sampled_from(["tokenizer", "plain"]),
    limit=st.integers(4, 60),
)
def test_prompt_and_kept_response_always_fit_and_begin_the_whole(
    turns: list[str], template: str, limit: int
) -> None:
    roles = ["user", "assistant"] * 2
    conversation = [message(role, t) for role, t in zip(roles, turns, strict=False)]
    whole = render(conversation, template, max_tokens=10**6)
    cut = render(conversation, template, max_tokens=limit, on_overflow="keep")
    assert cut.prompt_ids == whole.prompt_ids
    assert cut.response_ids == whole.response_ids[: len(cut.response_ids)]
    if cut.status == "ok":
        assert len(cut.prompt_ids) + len(cut.response_ids) <= limit


def test_every_kind_of_conversation_renders() -> None:
    rows = tokenise_rows(renderer(), PAIRS, [None] * len(PAIRS), with_header=False)
    assert [row.status for row in rows] == ["ok"] * len(PAIRS)

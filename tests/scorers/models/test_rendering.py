# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import Message, message
from scorers.models.rendering import Renderer, check_template, choose_template
from scorers.models.tokenising import RowTokens, TokenSequence, tokenise_rows
from tests.draws import draws
from tests.scorers.toy_models import CONTEXT, PAIRS, TEMPLATE, pair, tokenizer

TOKENIZER = tokenizer()


def merging_tokenizer() -> Any:
    """A tokenizer that, as all real ones, has tokens for a blank and a word, and for two line breaks."""
    return tokenizer(texts=["Say: It is 4.\n\n" * 50])


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
    (row,) = tokenise_rows(renderer(template, **changes), [turns], [tools], with_direct=True)
    return row


def text(ids: Any) -> str:
    return str(TOKENIZER.decode(list(ids)))


def view(sequence: TokenSequence | None) -> tuple[str, str]:
    """What comes before the response, and the response."""
    assert sequence is not None
    return text(sequence.ids[: sequence.targets[0]]), text(sequence.ids[sequence.targets])


def prompt(row: RowTokens) -> str:
    return view(row.conditional)[0]


def response(row: RowTokens) -> str:
    return view(row.conditional)[1]


def direct(row: RowTokens) -> str:
    return view(row.direct)[0]


def test_the_response_is_what_the_template_adds_after_the_prompt() -> None:
    row = render(pair("Hi", "five"))
    assert prompt(row) == "<s><|user|>\nHi</s>\n<|assistant|>\n"
    assert response(row) == "five</s>\n"
    assert row.status == "ok"


def test_the_direct_context_is_bos_and_the_assistant_header() -> None:
    assert direct(render(pair("Hi", "five"))) == "<s><|assistant|>\n"


def test_a_template_without_bos_gets_none_in_the_direct_view() -> None:
    row = render(pair("Hi", "five"), NO_SYSTEM)
    assert direct(row) == "[assistant]"


def test_a_template_without_any_header_leaves_the_direct_view_empty() -> None:
    row = render(pair("Hi", "five"), "{% for m in messages %}{{ m.content }};{% endfor %}")
    assert (prompt(row), response(row), row.direct) == ("Hi;", "five;", None)


def test_a_response_that_repeats_the_prompt_is_still_found() -> None:
    row = render(pair("five", "five"))
    assert response(row) == "five</s>\n"


def test_the_plain_layout_is_the_documented_one() -> None:
    turns = [message("system", "Be brief."), *pair("Hi", "five")]
    row = render(turns, "plain", tools='[{"name": "add"}]')
    assert prompt(row) == (
        '<s>### Tools:\n[{"name": "add"}]\n\n### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\n'
    )
    assert response(row) == "five</s>"
    assert direct(row) == "<s>### Assistant:\n"


def test_arguments_of_tool_calls_reach_the_template_as_objects() -> None:
    seen = "{{ m.tool_calls[0].function.name }}{{ m.tool_calls[0].function.arguments.a }}"
    template = (
        f"{{% for m in messages %}}{{% if m.tool_calls %}}{seen}{{% else %}}x{{% endif %}}{{% endfor %}}"
    )
    call: Any = {"id": None, "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
    row = render([message("user", "Hi"), message("assistant", "", [call])], template)
    assert response(row) == "add7"


def test_a_template_that_leaves_out_a_tool_call_refuses_the_row() -> None:
    call: Any = {"id": None, "type": "function", "function": {"name": "add", "arguments": "{}"}}
    row = render([message("user", "Hi"), message("assistant", "", [call])], NO_SYSTEM)
    assert (row.status, row.message) == ("template_error", "the template leaves out the call of tool 'add'")


def test_keys_that_are_none_are_absent_for_the_template() -> None:
    template = "{% for m in messages %}{{ 'name' in m }} {{ 'tool_calls' in m }};{% endfor %}"
    assert prompt(render(pair("a", "b"), template)) == "False False;"


@pytest.mark.parametrize("template", ["tokenizer", "plain"])
@pytest.mark.parametrize("response", ["", " \n"])
def test_an_empty_response_is_not_scored(template: str, response: str) -> None:
    row = render(pair("Hi", response), template)
    assert (row.status, row.response_tokens) == ("empty_response", 0)
    assert row.prompt_tokens


def test_a_template_that_refuses_a_row_marks_the_row_and_no_other() -> None:
    turns = [[message("system", "Be brief."), *pair("Hi", "five")], pair("Hi", "five")]
    rows = tokenise_rows(renderer(NO_SYSTEM), turns, [None, None], with_direct=True)
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
    assert prompt(row).startswith("26 Jul 2024<s>")


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
    total = whole.prompt_tokens + whole.response_tokens
    assert render(pair("Hi", "one two three"), max_tokens=total).status == "ok"
    row = render(pair("Hi", "one two three"), max_tokens=total - 1)
    assert (row.status, row.truncated, response(row)) == ("overflow", False, response(whole))


def test_a_row_above_the_limit_is_cut_at_its_end_and_flagged_when_kept() -> None:
    whole = render(pair("Hi", "one two three"))
    limit = whole.prompt_tokens + 2
    row = render(pair("Hi", "one two three"), max_tokens=limit, on_overflow="keep")
    assert (row.status, row.truncated, row.response_tokens) == ("ok", True, 2)
    assert response(whole).startswith(response(row))
    assert response(row) == view(row.direct)[1]


@pytest.mark.parametrize("over", [0, 1])
def test_a_prompt_that_fills_the_model_leaves_nothing_to_score(over: int) -> None:
    limit = render(pair("Hi", "five")).prompt_tokens - over
    row = render(pair("Hi", "five"), max_tokens=limit, on_overflow="keep")
    assert (row.status, row.truncated, row.response_tokens) == ("all_truncated", True, 0)


def test_an_id_that_the_model_has_no_embedding_for_is_an_error_of_the_row() -> None:
    row = render(pair("Hi", "five"), vocabulary=5)
    assert row.status == "error"
    assert "outside the model's 5 embeddings" in row.message


def test_lone_surrogates_in_a_tool_call_mark_the_row() -> None:
    call: Any = {"id": None, "type": "function", "function": {"name": "add", "arguments": r'{"a": "\ud800"}'}}
    row = render([message("user", "Hi"), message("assistant", "", [call])])
    assert (row.status, row.message) == ("template_error", "the rendered text is not valid Unicode")


@draws(50)
@given(
    turns=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=20)] * 2), min_size=1, max_size=2
    ),
    template=st.sampled_from(["tokenizer", "plain"]),
    limit=st.integers(4, 60),
)
def test_prompt_and_kept_response_always_fit_and_begin_the_whole(
    turns: list[tuple[str, str]], template: str, limit: int
) -> None:
    conversation = [turn for question, answer in turns for turn in pair(question, answer)]
    whole = render(conversation, template, max_tokens=10**6)
    cut = render(conversation, template, max_tokens=limit, on_overflow="keep")
    assert whole.conditional is not None
    assert cut.conditional is not None
    assert cut.prompt_tokens == whole.prompt_tokens
    assert cut.conditional.ids.tolist() == whole.conditional.ids[: len(cut.conditional.ids)].tolist()
    if cut.status == "ok":
        assert cut.prompt_tokens + cut.response_tokens <= limit


TWO_TURNS = [message("system", "Be brief."), *pair("Hi", "five"), *pair("And?", "six")]


@pytest.mark.parametrize("template", ["tokenizer", "plain"])
def test_with_loss_on_all_every_assistant_turn_is_a_response(template: str) -> None:
    row = render(TWO_TURNS, template, loss_on="all")
    last = render(TWO_TURNS, template)
    assert row.conditional is not None
    assert row.direct is not None
    end = "</s>\n" if template == "tokenizer" else "</s>"
    assert response(row) == f"five{end}six{end}"
    assert response(last) == f"six{end}"
    header = "<|assistant|>\n" if template == "tokenizer" else "### Assistant:\n"
    assert text(row.direct.ids) == f"<s>{header}five{end}{header}six{end}"
    assert view(row.direct)[1] == response(row)


def test_the_end_of_a_response_can_be_left_out_of_its_scores() -> None:
    for template, end in (("tokenizer", "</s>\n"), ("plain", "</s>")):
        row = render(TWO_TURNS, template, loss_on="all", score_end=False)
        assert row.conditional is not None
        assert response(row) == f"five{end}six{end}"  # trained on all the same
        assert text(row.conditional.ids[row.conditional.targets[row.conditional.counted]]) == "fivesix"


def test_a_template_that_rewrites_earlier_answers_is_refused_for_loss_on_all_only() -> None:
    forgetful = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>"
        "{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert render(TWO_TURNS, forgetful).status == "ok"
    row = render(TWO_TURNS, forgetful, loss_on="all")
    assert row.status == "template_error"
    assert row.message.startswith("the template renders turn 3 otherwise once turns follow it")


def test_the_prompt_is_tokenised_as_it_is_without_the_answer() -> None:
    """An answer that begins with a line break would share a token with the line break of the header."""
    merging = merging_tokenizer()
    assert len(merging("\n\n", add_special_tokens=False)["input_ids"]) == 1
    alone = merging("<s><|user|>\nHi</s>\n<|assistant|>\n", add_special_tokens=False)["input_ids"]
    for answer in ("\nfive", "five", " five"):
        row = render(pair("Hi", answer), tokenizer=merging)
        assert row.conditional is not None
        assert row.conditional.ids[: row.prompt_tokens].tolist() == alone
        assert merging.decode(row.conditional.ids[row.conditional.targets]) == f"{answer}</s>\n"


def test_a_template_whose_header_ends_inside_a_token_is_refused_at_load() -> None:
    blank = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    blank += "{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(ValueError, match="whose last token changes when an answer follows it"):
        check_template(renderer(blank, tokenizer=merging_tokenizer()))


def test_every_kind_of_conversation_renders() -> None:
    rows = tokenise_rows(renderer(), PAIRS, [None] * len(PAIRS), with_direct=False)
    assert [row.status for row in rows] == ["ok"] * len(PAIRS)

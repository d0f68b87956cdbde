"""The chat templates of well-known families: what they render, where the answer begins, what is refused.

In the expected texts ⟦ and ⟧ stand around each response, and around nothing else. Where a template does not
let every answer be a response, only the last is marked.
"""

# ruff: noqa: ANN401 - fields of Renderer have any type

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from connectors.examples import Message, message
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
from tests.scorers.stock_templates import family_renderer


@dataclass(frozen=True)
class Expected:
    """What a family makes of FIRST and SECOND, after SYSTEM unless it refuses one.

    Attributes:
        one: Text of the first pair.
        two: Text of both pairs.
        direct: What comes before the response in the direct view.
        end: What ends a turn of the assistant.
        system: Whether SYSTEM stands first.
    """

    one: str
    two: str
    direct: str
    end: str
    system: bool = True

    @property
    def turns(self) -> list[Message]:
        """The conversation of `one`."""
        return [*SYSTEM, *FIRST] if self.system else FIRST


def chatml(opening: str, thoughts: str = "") -> Expected:
    """ChatML after some text; with `thoughts` before the last answer, earlier answers are rewritten."""
    question = "<|im_start|>user\nWhere is Paris?<|im_end|>\n<|im_start|>assistant\n"
    again = "<|im_start|>user\nAnd Rome?<|im_end|>\n<|im_start|>assistant\n"
    one, two = f"⟦{thoughts}In France.<|im_end|>\n⟧", f"⟦{thoughts}In Italy.<|im_end|>\n⟧"
    return Expected(
        opening + question + one,
        opening + question + ("In France.<|im_end|>\n" if thoughts else one) + again + two,
        "<|im_start|>assistant\n",
        "<|im_end|>",
    )


def zephyr() -> Expected:
    one = "<|system|>\nBe brief.</s>\n<|user|>\nWhere is Paris?</s>\n<|assistant|>\n⟦In France.</s>\n⟧"
    two = one + "<|user|>\nAnd Rome?</s>\n<|assistant|>\n⟦In Italy.</s>\n⟧"
    return Expected(one, two, "<|assistant|>\n", "</s>")


def gemma(before: str, system: bool) -> Expected:
    one = f"<bos><start_of_turn>user\n{before}Where is Paris?<end_of_turn>\n"
    one += "<start_of_turn>model\n⟦In France.<end_of_turn>\n⟧"
    two = (
        one + "<start_of_turn>user\nAnd Rome?<end_of_turn>\n<start_of_turn>model\n⟦In Italy.<end_of_turn>\n⟧"
    )
    return Expected(one, two, "<bos><start_of_turn>model\n", "<end_of_turn>", system)


def llama3(system: str) -> Expected:
    assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    user = "<|start_header_id|>user<|end_header_id|>\n\n"
    opening = f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
    one = f"{opening}{user}Where is Paris?<|eot_id|>{assistant}⟦In France.<|eot_id|>⟧"
    two = f"{one}{user}And Rome?<|eot_id|>{assistant}⟦In Italy.<|eot_id|>⟧"
    return Expected(one, two, f"<|begin_of_text|>{assistant}", "<|eot_id|>")


CHATML_SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
EXPECTED = {
    "chatml": chatml(CHATML_SYSTEM),
    "smollm2": chatml(CHATML_SYSTEM),
    "smollm3": chatml(
        "<|im_start|>system\n## Metadata\n\nToday Date: 26 July 2024\nReasoning Mode: /think\n\n"
        "## Custom Instructions\n\nBe brief.\n\n<|im_end|>\n"
    ),
    "qwen25": chatml(CHATML_SYSTEM),
    "qwen3": chatml(CHATML_SYSTEM, "<think>\n\n</think>\n\n"),
    "llama2": Expected(
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhere is Paris? [/INST]⟦ In France. </s>⟧",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhere is Paris? [/INST]⟦ In France. </s>⟧"
        "<s>[INST] And Rome? [/INST]⟦ In Italy. </s>⟧",
        "<s>",
        "</s>",
    ),
    "llama3": llama3("Be brief."),
    "llama32": llama3("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief."),
    "gemma2": gemma("", system=False),
    "gemma3": gemma("Be brief.\n\n", system=True),
    "mistral01": Expected(
        "<s> [INST] Be brief.\n\nWhere is Paris? [/INST]⟦ In France.</s>⟧",
        "<s> [INST] Be brief.\n\nWhere is Paris? [/INST]⟦ In France.</s>⟧"
        " [INST] And Rome? [/INST]⟦ In Italy.</s>⟧",
        "<s>",
        "</s>",
    ),
    "mistral_tight": Expected(
        "<s>[INST] Where is Paris? [/INST]⟦In France.</s>⟧",
        "<s>[INST] Where is Paris? [/INST]⟦In France.</s>⟧[INST] And Rome? [/INST]⟦In Italy.</s>⟧",
        "<s>",
        "</s>",
        system=False,
    ),
    "mistral03": Expected(
        "<s>[INST] Where is Paris?[/INST]⟦ In France.</s>⟧",
        "<s>[INST] Where is Paris?[/INST]⟦ In France.</s>⟧[INST] And Rome?[/INST]⟦ In Italy.</s>⟧",
        "<s>",
        "</s>",
        system=False,
    ),
    "mistral_last_user": Expected(
        "<s>[INST] Be brief.\n\nWhere is Paris?[/INST]⟦ In France.</s>⟧",
        "<s>[INST] Where is Paris?[/INST] In France.</s>[INST] Be brief.\n\nAnd Rome?[/INST]⟦ In Italy.</s>⟧",
        "<s>",
        "</s>",
    ),
    "nemo": Expected(
        "<s>[INST]Where is Paris?[/INST]⟦In France.</s>⟧",
        "<s>[INST]Where is Paris?[/INST]⟦In France.</s>⟧[INST]And Rome?[/INST]⟦In Italy.</s>⟧",
        "<s>",
        "</s>",
        system=False,
    ),
    "mistral7": Expected(
        "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Where is Paris?[/INST]⟦In France.</s>⟧",
        "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Where is Paris?[/INST]⟦In France.</s>⟧"
        "[INST]And Rome?[/INST]⟦In Italy.</s>⟧",
        "<s>",
        "</s>",
    ),
    "phi3": Expected(
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhere is Paris?<|end|>\n<|assistant|>\n"
        "⟦In France.<|end|>\n<|endoftext|>⟧",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhere is Paris?<|end|>\n<|assistant|>\n"
        "In France.<|end|>\n<|user|>\nAnd Rome?<|end|>\n<|assistant|>\n⟦In Italy.<|end|>\n<|endoftext|>⟧",
        "<|assistant|>\n",
        "<|end|>",
    ),
    "phi4": Expected(
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Where is Paris?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦In France.<|im_end|>⟧",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Where is Paris?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦In France.<|im_end|>⟧<|im_start|>user<|im_sep|>And Rome?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦In Italy.<|im_end|>⟧",
        "<|im_start|>assistant<|im_sep|>",
        "<|im_end|>",
    ),
    "zephyr": zephyr(),
    "tinyllama": zephyr(),
    "deepseek": Expected(
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Where is Paris?"
        "<｜Assistant｜>⟦In France.<｜end▁of▁sentence｜>⟧",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Where is Paris?"
        "<｜Assistant｜>⟦In France.<｜end▁of▁sentence｜>⟧"
        "<｜User｜>And Rome?<｜Assistant｜>⟦In Italy.<｜end▁of▁sentence｜>⟧",
        "<｜begin▁of▁sentence｜><｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
    ),
}


families = pytest.mark.parametrize("name", EXPECTED)


@families
def test_a_conversation_is_rendered_as_the_family_renders_it(name: str) -> None:
    expected = EXPECTED[name]
    check_template(family_renderer(name))
    assert marked(name, expected.turns) == expected.one


@families
def test_prompt_and_response_are_the_tokens_a_trainer_sees(name: str) -> None:
    expected = EXPECTED[name]
    for text, turns in ((expected.one, expected.turns), (expected.two, [*expected.turns, *SECOND])):
        row = tokenise(name, turns)
        assert row.conditional is not None
        last = text.rindex("⟦")
        assert row.conditional.ids.tolist() == ids_of(name, text)
        assert row.conditional.ids[: row.prompt_tokens].tolist() == ids_of(name, text[:last])
        only_last = re.sub("[⟦⟧]", "", text[:last]) + text[last:]
        assert row.conditional.targets.tolist() == response_positions(name, only_last)


@families
def test_with_loss_on_the_last_only_the_last_answer_is_the_response(name: str) -> None:
    two = EXPECTED[name].two
    last = two.rindex("⟦")
    assert marked(name, [*EXPECTED[name].turns, *SECOND]) == re.sub("[⟦⟧]", "", two[:last]) + two[last:]


@families
def test_with_loss_on_all_each_answer_is_marked_or_the_row_is_refused(name: str) -> None:
    expected = EXPECTED[name]
    turns = [*expected.turns, *SECOND]
    row = tokenise(name, turns, loss_on="all")
    if expected.two.count("⟦") == 1:
        reason = f"the template renders turn {len(expected.turns)} otherwise once turns follow it"
        assert (row.status, row.conditional) == ("template_error", None)
        assert row.message.startswith(reason)
        return
    assert marked(name, turns, loss_on="all") == expected.two
    assert row.conditional is not None
    assert row.conditional.ids.tolist() == ids_of(name, expected.two)
    assert row.conditional.targets.tolist() == response_positions(name, expected.two)


ODD_ANSWERS = [
    "\n\nFive.",
    "\nFive.",
    "   Five.",
    "(d)",
    "Five.\n\n",
    "🙂 漢字",
    "Fi{end}\nve",
    "{direct}Five.",
]


@families
@pytest.mark.parametrize("answer", ODD_ANSWERS)
def test_an_odd_answer_leaves_the_prompt_as_it_is_and_loses_nothing(name: str, answer: str) -> None:
    expected = EXPECTED[name]
    answer = answer.format(end=expected.end, direct=expected.direct)
    turns = [*expected.turns[:-1], message("assistant", answer)]
    text = marked(name, turns)
    row = tokenise(name, turns)
    assert (row.status, answer.strip() in text[text.index("⟦") :]) == ("ok", True)
    assert row.conditional is not None
    assert row.conditional.ids[: row.prompt_tokens].tolist() == ids_of(name, text[: text.index("⟦")])
    shown, wanted = decode(name, row.conditional.ids), decode(name, ids_of(name, text))
    if row.control_text:  # some tokenizers show or swallow blanks behind a token, and the text is none
        shown, wanted = "".join(shown.split()), "".join(wanted.split())
    assert shown == wanted


@families
@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_empty_answer_is_never_scored(name: str, answer: str) -> None:
    row = tokenise(name, [*EXPECTED[name].turns[:-1], message("assistant", answer)])
    assert (row.status, row.response_tokens, row.direct) == ("empty_response", 0, None)


@families
@pytest.mark.parametrize("answer", ["In France.", "Fi{end}ve"])
def test_without_its_end_exactly_the_end_marker_of_a_response_is_left_out(name: str, answer: str) -> None:
    expected = EXPECTED[name]
    answer = answer.format(end=expected.end)
    turns = [*expected.turns[:-1], message("assistant", answer)]
    row = tokenise(name, turns, score_end=False)
    assert row.conditional is not None
    sequence = row.conditional
    scored, rest = (sequence.ids[sequence.targets[which]] for which in (sequence.counted, ~sequence.counted))
    response = marked(name, turns).split("⟦")[1]
    assert decode(name, rest).strip().startswith(expected.end)  # some end the whole text behind it
    # Blanks aside: Llama's tokenizer puts one behind each special token.
    kept = response[: response.rindex(expected.end)]
    assert "".join(decode(name, scored).split()) == "".join(kept.split())


@families
def test_the_direct_view_is_bos_and_header_and_the_same_response(name: str) -> None:
    row = tokenise(name, EXPECTED[name].turns)
    assert row.conditional is not None
    assert row.direct is not None
    assert row.direct.ids[: row.direct.targets[0]].tolist() == ids_of(name, EXPECTED[name].direct)
    response = row.conditional.ids[row.conditional.targets].tolist()
    assert row.direct.ids[row.direct.targets].tolist() == response


@families
def test_the_direct_view_of_all_answers_has_each_header_as_the_conversation_has_it(name: str) -> None:
    turns = [*EXPECTED[name].turns, *SECOND]
    if EXPECTED[name].two.count("⟦") == 1:
        pytest.skip("the row is refused")
    row, last = tokenise(name, turns, loss_on="all"), tokenise(name, turns).response_tokens
    assert row.conditional is not None
    assert row.direct is not None
    first = row.response_tokens - last
    # Direct view: header, first response, header, last response; both responses as in the conversation.
    starts = row.direct.targets[[0, first]]
    header = row.direct.ids[row.direct.targets[first - 1] + 1 : starts[1]].tolist()
    before = row.conditional.ids[: row.conditional.targets[first]].tolist()
    assert header == before[len(before) - len(header) :]
    assert EXPECTED[name].direct.strip().endswith(decode(name, header).strip())
    response = row.conditional.ids[row.conditional.targets].tolist()
    assert row.direct.ids[row.direct.targets].tolist() == response

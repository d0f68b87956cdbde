r"""From a conversation to text, cut where context and response meet: made by the template, never searched.

With a chat template T (the tokenizer's, or a Jinja file named in the recipe), and the last turn the response:

- prompt = T(messages before the response, add_generation_prompt=True)
- full text = T(all messages); it must begin with the prompt, and the rest is the response: the answer, the
  end-of-turn token, and whatever else the template adds after it
- header = what add_generation_prompt adds to the messages before the response ("<|im_start|>assistant\n")

When every assistant turn is a response, the same holds for each: T(messages up to it) must be the beginning
of the full text too. A template that renders an answer otherwise once others follow it (some leave out what
the model was thinking) has no such border; the row is refused with that reason. Templates that print today's
date get 26 July 2024 (the date Llama's own template falls back on), or scores would change from day to day.

Without a chat template, the plain layout. Every turn is "### Role:\n" (System, User, Assistant, Tool), its
text, and "\n\n"; a response is its text and EOS. A turn's text is its content and one line "name
arguments" per tool call; tool definitions come first as "### Tools:\n", their JSON, "\n\n". BOS
opens the conversation. BOS and EOS only where the tokenizer has them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from connectors.examples import Message, response_text
from scorers.models.control_tokens import ControlTextError, ControlTokens, Masked, control_tokens
from scorers.models.template_process import render_texts

PLAIN_LAYOUT_VERSION = "plain-2"  # part of the fingerprint: a change of the layout changes scores
_PLAIN_HEADER = "### Assistant:\n"
_WAY_OUT = "give a template whose text only grows as turns are added, or chat_template: plain"
_DATE = {"%Y": "2024", "%m": "07", "%d": "26", "%B": "July", "%b": "Jul", "%H": "00", "%M": "00", "%S": "00"}
_DATE_MACRO = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{text}')" for code, text in _DATE.items())
    + " }}{% endmacro %}{{ '' }}"  # the empty print keeps a newline that opens the template
)
_PROBES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "It is 4."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "It is 4."},
    ],
)


class TemplateError(ValueError):
    """A conversation that the chat template refuses, or renders so that no border can be made."""


@dataclass(frozen=True, slots=True)
class RenderedText:
    """One conversation as text.

    Attributes:
        pieces: In turn context and response; together the whole text.
        headers: The part of each context that opens the response after it, "" where there is none.
        control_text: Whether the data holds text that the tokenizer takes for a control token.
        masked: What stands behind the marks in the pieces; None where nothing was put behind marks.
    """

    pieces: tuple[str, ...]
    headers: tuple[str, ...]
    control_text: bool = False
    masked: Masked | None = None


@dataclass(frozen=True)
class Renderer:
    """How conversations become ids for one model.

    Attributes:
        tokenizer: A transformers tokenizer.
        template: "tokenizer", "plain", or the Jinja text of a template given in the recipe.
        max_tokens: Most tokens of prompt and response together.
        on_overflow: What happens above that: "drop" or "keep".
        vocabulary: Rows of the model's embedding table; no id may reach it.
        loss_on: Which assistant turns are responses: the "last", or "all".
        score_end: Whether the end-of-turn token of a response, and what follows it, counts for its scores.
        on_control_tokens: What happens to text of control tokens in the data: "escape", "refuse" or "flag";
            see `ModelSettings`.
    """

    tokenizer: Any
    template: str
    max_tokens: int
    on_overflow: Literal["drop", "keep"]
    vocabulary: int
    loss_on: Literal["last", "all"] = "last"
    score_end: bool = True
    on_control_tokens: Literal["escape", "refuse", "flag"] = "escape"

    @cached_property
    def control(self) -> ControlTokens:
        """The tokens that only the template may write."""
        prompt = ""
        if self.template != "plain":
            with contextlib.suppress(TemplateError):  # a template that knows no plain conversation
                prompt = _apply(self, _PROBES[0], None, [(1, True)])[0]
        return control_tokens(self.tokenizer, prompt)

    @cached_property
    def special_ids(self) -> list[int]:
        """Ids of the tokenizer's special tokens, end-of-turn tokens among them."""
        added = self.tokenizer.added_tokens_decoder
        return sorted(
            {*self.tokenizer.all_special_ids, *(at for at, token in added.items() if token.special)}
        )


def choose_template(tokenizer: Any, chat_template: str) -> str:  # noqa: ANN401 - transformers is untyped
    """The `template` of a Renderer for the recipe's `chat_template`.

    Raises:
        ValueError: If the recipe names a template file that cannot be read.
    """
    if chat_template == "auto":
        return "tokenizer" if tokenizer.chat_template else "plain"
    if chat_template == "plain":
        return "plain"
    try:
        return Path(chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"model.chat_template: cannot read {chat_template!r} ({error}); give auto, plain, "
            "or the path of a Jinja file in UTF-8"
        ) from error


def check_template(renderer: Renderer) -> None:
    """Refuses a template that breaks on every plain conversation, before any row is scored.

    Raises:
        ValueError: If no probe conversation renders, with the template's own message.
    """
    if renderer.template == "plain":
        return
    failures = []
    for probe in _PROBES:
        try:
            _check_border(renderer, _render_template(renderer, probe, None, with_headers=True))
        except TemplateError as error:
            failures.append(str(error))
        else:
            return
    raise ValueError(
        f"model.chat_template: the template cannot score a simple conversation: {failures[0]}. "
        "Give the path of a template that renders the messages before the response as the beginning of "
        "the whole conversation, or chat_template: plain"
    )


def check_ending(renderer: Renderer, ending: str) -> None:
    """Refuses a template whose prompts do not end with a text, white space aside.

    Raises:
        ValueError: Saying how they end.
    """
    turns: list[Message] = [
        {"role": turn["role"], "content": turn["content"], "tool_calls": None, "name": None}
        for turn in _PROBES[0]
    ]
    prompt = render(renderer, turns, None, with_headers=False).pieces[0]
    if not prompt.rstrip().endswith(ending):
        raise ValueError(
            f"model.chat_template: prompts end with {prompt[-30:]!r}, and a scorer needs {ending!r} there: "
            "the first token after it is the model's decision. Give a template whose header ends so, or "
            "remove the scorer"
        )


def _check_border(renderer: Renderer, text: RenderedText) -> None:
    """Raises TemplateError if the prompt's tokens are not the first tokens of prompt and response.

    What a template itself puts before the answer may begin with a line break that would join one before it
    (an empty thought); such a piece is tokenised for itself, see tokenising.py.
    """
    tokenizer = renderer.tokenizer
    if text.pieces[1][:1].isspace():
        return
    prompt, whole = (
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (text.pieces[0], "".join(text.pieces[:2]))
    )
    if whole[: len(prompt)] != prompt:
        end = tokenizer.decode(prompt[-3:])
        raise TemplateError(
            f"the prompt ends with {end!r}, whose last token changes when an answer follows it. End the "
            "header with a line break or a special token instead of a blank"
        )


def render(
    renderer: Renderer, messages: list[Message], tools: str | None, with_headers: bool
) -> RenderedText:
    """Renders one conversation, which ends with a response.

    Raises:
        TemplateError: If the template refuses it, or has no border between context and response.
        ControlTextError: If it holds the text of a control token and such rows are refused.
    """
    try:
        return _render(renderer, messages, tools, with_headers)
    except RecursionError as error:  # JSON inside a tool call, which is text until now
        raise TemplateError("a tool call or tool definition is nested too deeply") from error


def _render(
    renderer: Renderer, messages: list[Message], tools: str | None, with_headers: bool
) -> RenderedText:
    turns: list[Any] = list(messages)
    definitions: Any = tools
    if renderer.template != "plain":
        turns, definitions = [_for_template(turn) for turn in messages], _tool_definitions(tools)
    control_text = renderer.control.are_in([[_data(turn) for turn in turns], definitions])
    if control_text and renderer.on_control_tokens == "refuse":
        raise ControlTextError("the row holds the text of a control token")
    masked = Masked() if control_text and renderer.on_control_tokens == "escape" else None
    if masked is not None:
        turns = [{"role": turn["role"], **renderer.control.mask(_data(turn), masked)} for turn in turns]
        definitions = renderer.control.mask(definitions, masked)
    if renderer.template == "plain":
        text = _render_plain(renderer, turns, definitions)
    else:
        text = _render_template(renderer, turns, definitions, with_headers)
    _check_text(renderer, messages, text, masked or Masked())
    return replace(text, control_text=control_text, masked=masked)


def _data(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What of a turn comes from the row: all but the role."""
    return {key: value for key, value in turn.items() if key != "role"}


def _check_text(renderer: Renderer, messages: list[Message], text: RenderedText, masked: Masked) -> None:
    """Raises TemplateError if a tool call is left out, or the text cannot be stored."""
    for at, piece in zip(_responses(renderer, messages), text.pieces[1::2], strict=True):
        for call in messages[at]["tool_calls"] or []:
            if call["function"]["name"] not in masked.restore(piece):
                raise TemplateError(f"the template leaves out the call of tool {call['function']['name']!r}")
    if masked.texts and any(masked.restore(header) != header for header in text.headers):
        raise TemplateError("the template writes the data of a row into the header of its answer")
    try:
        "".join(text.pieces).encode("utf-8")
    except UnicodeEncodeError as error:  # lone surrogates can hide in the JSON of a tool call
        raise TemplateError("the rendered text is not valid Unicode") from error


def _responses(renderer: Renderer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which turns are responses."""
    last = len(messages) - 1
    if renderer.loss_on == "last":
        return [last]
    return [at for at, turn in enumerate(messages) if turn["role"] == "assistant" or at == last]


def _render_plain(renderer: Renderer, messages: list[Message], tools: str | None) -> RenderedText:
    pieces = [f"### Tools:\n{tools}\n\n" if tools else ""]
    responses = _responses(renderer, messages)
    for at, turn in enumerate(messages):
        if at in responses:
            pieces[-1] += _PLAIN_HEADER
            pieces += [response_text([turn]), "\n\n"]
        else:
            pieces[-1] += f"### {turn['role'].capitalize()}:\n{response_text([turn])}\n\n"
    return RenderedText(tuple(pieces[:-1]), (_PLAIN_HEADER,) * len(responses))


def _render_template(
    renderer: Renderer, messages: list[dict[str, Any]], tools: list[Any] | None, with_headers: bool
) -> RenderedText:
    responses, count = _responses(renderer, messages), len(messages)
    if responses[0] == 0:
        raise TemplateError("nothing comes before the response")
    wanted = [(count, False)]
    for at in responses:
        wanted += [(at, True), (at + 1, False), *([(at, False)] if with_headers else [])]
    wanted = list(dict.fromkeys(wanted))
    texts = dict(zip(wanted, _apply(renderer, messages, tools, wanted), strict=True))
    full = texts[count, False]
    pieces, headers, done = [], [], 0
    for at in responses:
        prompt, answered = texts[at, True], texts[at + 1, False]
        if not answered.startswith(prompt) or len(prompt) < done:
            raise TemplateError(
                f"the template renders the prompt otherwise once the response follows it; {_WAY_OUT}"
            )
        if not full.startswith(answered):
            raise TemplateError(
                f"the template renders turn {at + 1} otherwise once turns follow it; "
                "give model.loss_on: last, or a template that does not"
            )
        pieces += [prompt[done:], answered[len(prompt) :]]
        done = len(answered)
        headers.append(_header(renderer, texts[at, False], prompt) if with_headers else "")
    return RenderedText(tuple(pieces), tuple(headers))


def _header(renderer: Renderer, bare: str, prompt: str) -> str:
    """What add_generation_prompt adds; some templates end the text instead when it is not given."""
    if not prompt.startswith(bare):
        bare = bare.removesuffix(renderer.tokenizer.eos_token or "")
    return prompt[len(bare) :] if prompt.startswith(bare) else ""


def _apply(
    renderer: Renderer, messages: list[dict[str, Any]], tools: list[Any] | None, parts: list[tuple[int, bool]]
) -> list[str]:
    """Beginnings of a conversation through the template, see `render_texts`."""
    tokenizer = renderer.tokenizer
    try:
        template = (
            renderer.template
            if renderer.template != "tokenizer"
            else tokenizer.get_chat_template(tools=tools)
        )
        if "strftime_now" in template:
            template = _DATE_MACRO + template
        return render_texts(template, tokenizer.special_tokens_map, messages, tools, parts)
    except ValueError as error:  # RenderError, and what transformers says of a tokenizer without template
        raise TemplateError(str(error)[:200]) from error


def _tool_definitions(tools: str | None) -> list[Any] | None:
    if not tools:
        return None
    try:
        definitions = json.loads(tools)
    except ValueError as error:
        raise TemplateError("the tool definitions are not JSON") from error
    return definitions if isinstance(definitions, list) else [definitions]


def _for_template(turn: Message) -> dict[str, Any]:
    """A message as templates expect it: no empty keys, arguments of tool calls as objects."""
    message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
    if turn["name"] is not None:
        message["name"] = turn["name"]
    if turn["tool_calls"]:
        message["tool_calls"] = [
            {key: value for key, value in call.items() if value is not None}
            | {
                "function": {
                    "name": call["function"]["name"],
                    "arguments": _arguments(call["function"]["arguments"]),
                }
            }
            for call in turn["tool_calls"]
        ]
    return message


def _arguments(text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text  # the model that was recorded wrote broken JSON; templates print a string as it is

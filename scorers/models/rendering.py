r"""From a conversation to token ids, with the border between prompt and response made, never searched.

With a chat template T (the tokenizer's, or a Jinja file named in the recipe):

- prompt text = T(messages before the response, add_generation_prompt=True)
- full text = T(all messages); it must begin with the prompt text, and the rest is the response text: the
  answer, the end-of-turn token, and whatever else the template adds after it all count as response
- header = what add_generation_prompt adds to the messages before the response ("<|im_start|>assistant\n")

Prompt, response and header are tokenised each for itself, without added special tokens, and the ids
concatenated; tokens never straddle the border. The direct view is [BOS] + header + the same response
ids, BOS only where the prompt's ids begin with it. Templates that print today's date get
26 July 2024 (the date Llama's own template falls back on), or scores would change from day to day.

Without a chat template, the plain layout. Every turn before the response is "### Role:\n" (System, User,
Assistant, Tool), its text, and "\n\n"; then comes the header "### Assistant:\n". A turn's text is its
content and one line "name arguments" per tool call; tool definitions come first as "### Tools:\n", their
JSON, "\n\n". Then prompt = [BOS] + ids(that text), response = ids(its text) + [EOS], direct context =
[BOS] + ids(header); BOS and EOS only where the tokenizer has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jinja2

from connectors.examples import Message, response_text

PLAIN_LAYOUT_VERSION = "plain-1"  # part of the fingerprint: a change of the layout changes scores
_PLAIN_HEADER = "### Assistant:\n"
_DATE_MACRO = (
    "{% macro strftime_now(format) %}"
    "{{ '2024-07-26' if format == '%Y-%m-%d' else '26 Jul 2024' }}"
    "{% endmacro %}{{ '' }}"  # the empty print keeps a newline that opens the template
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
    """One conversation as text. `header` is the part of `prompt` that opens the response."""

    prompt: str
    response: str
    header: str


@dataclass(frozen=True, slots=True)
class RowTokens:
    """One conversation as token ids.

    Attributes:
        status: A key of `scorers.base.STATUSES`; only "ok" rows reach the model.
        prompt_ids: Empty when the template failed.
        response_ids: The response, cut when `truncated`.
        direct_ids: What comes before the response in the direct view; may be empty.
        truncated: The response was cut to fit.
        message: Why the status is not "ok", "" where the status says it all.
    """

    status: str
    prompt_ids: list[int]
    response_ids: list[int]
    direct_ids: list[int]
    truncated: bool = False
    message: str = ""


@dataclass(frozen=True)
class Renderer:
    """How conversations become ids for one model.

    Attributes:
        tokenizer: A transformers tokenizer.
        template: "tokenizer", "plain", or the Jinja text of a template given in the recipe.
        max_tokens: Most tokens of prompt and response together.
        on_overflow: What happens above that: "drop" or "keep".
        vocabulary: Rows of the model's embedding table; no id may reach it.
    """

    tokenizer: Any
    template: str
    max_tokens: int
    on_overflow: Literal["drop", "keep"]
    vocabulary: int


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
            _render_template(renderer, probe, None, with_header=True)
        except TemplateError as error:
            failures.append(str(error))
        else:
            return
    raise ValueError(
        f"model.chat_template: the template cannot score a simple conversation: {failures[0]}. "
        "Give the path of a template that renders the messages before the response as the beginning of "
        "the whole conversation, or chat_template: plain"
    )


def tokenise_rows(
    renderer: Renderer,
    conversations: Sequence[list[Message]],
    tools: Sequence[str | None],
    with_header: bool,
) -> list[RowTokens]:
    """Renders and tokenises conversations, and cuts or drops what does not fit the model.

    Args:
        renderer: Of the model that will read the ids.
        conversations: Each ends with the response.
        tools: JSON text of each conversation's tool definitions, or None.
        with_header: Whether the direct view is needed; without it `direct_ids` are empty.

    Returns:
        One result for each conversation, in order. What cannot be rendered has a status and a message.
    """
    texts: list[RenderedText | TemplateError] = []
    for messages, definitions in zip(conversations, tools, strict=True):
        try:
            texts.append(_render(renderer, messages, definitions, with_header))
        except TemplateError as error:
            texts.append(error)
    good = [text for text in texts if isinstance(text, RenderedText)]
    prompts = iter(_tokenise(renderer.tokenizer, [text.prompt for text in good]))
    responses = iter(_tokenise(renderer.tokenizer, [text.response for text in good]))
    # A corpus has one header, or a few: the template's text, not the row's.
    unique = sorted({text.header for text in good}) if with_header else []
    headers = dict(zip(unique, _tokenise(renderer.tokenizer, unique), strict=True))
    rows: list[RowTokens] = []
    for text, messages in zip(texts, conversations, strict=True):
        if isinstance(text, TemplateError):
            rows.append(RowTokens("template_error", [], [], [], message=str(text)))
            continue
        header = headers.get(text.header, [])
        row = _assemble(renderer, next(prompts), next(responses), header)
        is_empty = not response_text(messages).strip()
        rows.append(_checked(renderer, row, is_empty))
    return rows


def _assemble(renderer: Renderer, prompt: list[int], response: list[int], header: list[int]) -> RowTokens:
    """Adds BOS and EOS where the layout asks for them."""
    bos, eos = renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id
    if renderer.template == "plain":
        prompt = prompt if bos is None else [bos, *prompt]
        response = response if eos is None else [*response, eos]
    opens_with_bos = bos is not None and prompt[:1] == [bos]
    return RowTokens("ok", prompt, response, [bos, *header] if opens_with_bos else header)


def _checked(renderer: Renderer, row: RowTokens, is_empty: bool) -> RowTokens:
    """The row with its status, cut where the recipe keeps rows that are too long."""
    if not row.prompt_ids:
        return replace(row, status="template_error", message="the template renders no prompt")
    if is_empty or not row.response_ids:
        return replace(row, status="empty_response", response_ids=[])
    highest = max(max(row.prompt_ids), max(row.response_ids), max(row.direct_ids, default=0))
    if highest >= renderer.vocabulary:
        message = f"token id {highest} is outside the model's {renderer.vocabulary} embeddings"
        return replace(row, status="error", message=message)
    if len(row.prompt_ids) + len(row.response_ids) <= renderer.max_tokens:
        return row
    if renderer.on_overflow == "drop":
        return replace(row, status="overflow")
    kept = row.response_ids[: max(0, renderer.max_tokens - len(row.prompt_ids))]
    return replace(row, status="ok" if kept else "all_truncated", response_ids=kept, truncated=True)


def _tokenise(tokenizer: Any, texts: list[str]) -> list[list[int]]:  # noqa: ANN401 - transformers is untyped
    """Ids of each text, without added special tokens; one call, which fast tokenizers spread over threads."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it warns about texts longer than the model; they get a status here
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _render(
    renderer: Renderer, messages: list[Message], tools: str | None, with_header: bool
) -> RenderedText:
    if renderer.template == "plain":
        text = _render_plain(messages, tools)
    else:
        definitions = _tool_definitions(tools)
        text = _render_template(renderer, [_for_template(m) for m in messages], definitions, with_header)
    try:
        (text.prompt + text.response).encode("utf-8")
    except UnicodeEncodeError as error:  # lone surrogates can hide in the JSON of a tool call
        raise TemplateError("the rendered text is not valid Unicode") from error
    return text


def _render_plain(messages: list[Message], tools: str | None) -> RenderedText:
    parts = [f"### Tools:\n{tools}\n\n"] if tools else []
    parts += [f"### {turn['role'].capitalize()}:\n{response_text([turn])}\n\n" for turn in messages[:-1]]
    return RenderedText("".join(parts) + _PLAIN_HEADER, response_text(messages), _PLAIN_HEADER)


def _render_template(
    renderer: Renderer, messages: list[dict[str, Any]], tools: list[Any] | None, with_header: bool
) -> RenderedText:
    prompt = _apply(renderer, messages[:-1], tools, header=True)
    full = _apply(renderer, messages, tools, header=False)
    if not full.startswith(prompt):
        raise TemplateError("the template renders the prompt otherwise once the response follows it")
    header = ""
    if with_header:
        bare = _apply(renderer, messages[:-1], tools, header=False)
        header = prompt[len(bare) :] if prompt.startswith(bare) else ""
    return RenderedText(prompt, full[len(prompt) :], header)


def _apply(renderer: Renderer, messages: list[dict[str, Any]], tools: list[Any] | None, header: bool) -> str:
    tokenizer = renderer.tokenizer
    try:
        template = (
            renderer.template
            if renderer.template != "tokenizer"
            else tokenizer.get_chat_template(tools=tools)
        )
        if "strftime_now" in template:
            template = _DATE_MACRO + template
        text: str = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=template, add_generation_prompt=header, tokenize=False
        )
    # A template is foreign code in a sandbox; these are the errors that data of the wrong shape causes in it.
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise TemplateError(f"{type(error).__name__}: {error}"[:200]) from error
    return text


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

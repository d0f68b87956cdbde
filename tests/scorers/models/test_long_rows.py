"""Conversations far longer than the model reads are cut before the tokenizer sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import Message, message
from scorers.models import tokenising
from scorers.models.loading import LoadedModel
from scorers.models.long_rows import CHARS_PER_TOKEN, MOST_CHARS_PER_TOKEN, conversation_chars, shortened
from scorers.models.rendering import Renderer
from scorers.models.tokenising import RowTokens, tokenise_rows

TOKENS = 40
LONG = "word one two " * 2000  # 26,000 characters


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters of the texts that the tokenizer was given."""
    sizes: list[int] = []
    tokenise = tokenising._tokenise

    def counted(tokenizer: Any, texts: list[str]) -> list[list[int]]:  # noqa: ANN401 - transformers is untyped
        sizes.extend(map(len, texts))
        return tokenise(tokenizer, texts)

    monkeypatch.setattr(tokenising, "_tokenise", counted)
    return sizes


def renderer(toy: LoadedModel, on_overflow: Literal["drop", "keep"]) -> Renderer:
    return replace(toy.renderer, max_tokens=TOKENS, on_overflow=on_overflow)


def tokens(own: Renderer, turns: list[Message], tools: str | None = None) -> RowTokens:
    [row] = tokenise_rows(own, [turns], [tools], with_direct=True)
    return row


@pytest.mark.parametrize(
    "turns",
    [
        [message("user", "Say something."), message("assistant", LONG)],
        [message("user", LONG), message("assistant", "So it is.")],
        [message("user", LONG), message("assistant", LONG)],
        [message("user" if at % 2 == 0 else "assistant", LONG[:300]) for at in range(200)],
    ],
    ids=["response", "prompt", "both", "turns"],
)
def test_a_kept_row_has_the_tokens_of_the_whole_text(
    toy: LoadedModel, seen: list[int], monkeypatch: pytest.MonkeyPatch, turns: list[Message]
) -> None:
    own = renderer(toy, "keep")
    cut = tokens(own, turns)
    assert max(seen) < 3 * CHARS_PER_TOKEN * TOKENS
    monkeypatch.setattr(tokenising, "shortened", lambda messages, _: messages)
    monkeypatch.setattr(tokenising, "MOST_CHARS_PER_TOKEN", 10**9)
    whole = tokens(own, turns)
    assert cut.status == whole.status
    assert cut.truncated
    assert whole.truncated
    assert whole.conditional is not None
    if whole.status == "all_truncated":
        assert (cut.conditional, cut.message) == (None, tokenising._UNCOUNTED.message)
        return
    assert cut.conditional is not None
    np.testing.assert_array_equal(cut.conditional.ids, whole.conditional.ids)
    np.testing.assert_array_equal(cut.conditional.targets, whole.conditional.targets)


def test_the_tokens_of_a_dropped_row_are_not_counted(toy: LoadedModel) -> None:
    row = tokens(renderer(toy, "drop"), [message("user", "Say something."), message("assistant", LONG)])
    assert (row.status, row.conditional) == ("overflow", None)
    assert "not counted" in row.message
    fits = tokens(renderer(toy, "drop"), [message("user", "Hi"), message("assistant", "word " * 50)])
    assert fits.status == "overflow"
    assert fits.conditional is not None  # not so long that it was cut


def test_a_text_that_fits_although_it_is_long_is_tokenised_whole(toy: LoadedModel) -> None:
    blanks = " " * (CHARS_PER_TOKEN * TOKENS)
    own = replace(renderer(toy, "drop"), max_tokens=TOKENS)
    turns = [message("user", "Hi"), message("assistant", blanks + "word")]
    found = tokenising._tokenise_rows(own, [turns], [None], True)[0]
    row = tokens(own, turns)
    assert row.status == found.status
    if found.status == "ok":
        assert row.conditional is not None


@pytest.mark.parametrize("keep", ["drop", "keep"])
def test_tools_that_no_model_reads_are_not_tokenised(
    toy: LoadedModel, seen: list[int], keep: Literal["drop", "keep"]
) -> None:
    tools = '[{"name": "' + "x" * (MOST_CHARS_PER_TOKEN * TOKENS) + '"}]'
    row = tokens(renderer(toy, keep), [message("user", "Hi"), message("assistant", "Yes")], tools)
    assert (row.status, row.conditional) == ("overflow", None)
    assert max(seen, default=0) < 1000


TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=30)), min_size=1, max_size=8
)


@given(TURNS, st.integers(1, 60))
def test_what_is_left_begins_as_the_conversation_does_and_ends_with_its_response(
    made: list[tuple[str, str]], chars: int
) -> None:
    turns = [message(role, text) for role, text in made]
    left = shortened(turns, chars)
    assert (left is turns) == (conversation_chars(turns) <= chars)
    assert [turn["role"] for turn in left[:-1]] == [turn["role"] for turn in turns[: len(left) - 1]]
    assert left[-1]["role"] == turns[-1]["role"]
    assert turns[-1]["content"].startswith(left[-1]["content"])
    for one, whole in zip(left[:-1], turns, strict=False):
        assert whole["content"].startswith(one["content"])
    if left is not turns:
        before = "".join(turn["content"] for turn in left[:-1])
        assert len(left) == len(turns) or len(before) >= chars
        assert all(len(turn["content"]) <= chars for turn in left)

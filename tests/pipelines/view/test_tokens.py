"""Which tokens of a response are trained on, shown in its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import message
from pipelines.export.rows import IGNORED
from pipelines.view.tokens import decoded, marked_turns, renderer_of
from scorers.models.rendering import Renderer
from scorers.models.tokenising import tokenise_rows
from tests.draws import draws

MODEL = Path(__file__).resolve().parents[3] / "quickstart" / "model"


def manifest(path: str) -> dict[str, Any]:
    return {"models": [{"name": path, "max_tokens": 512}], "recipe": {"model": {"path": path}}}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return renderer_of("out", manifest(str(MODEL)))


def scored(renderer: Renderer, response: str, pruned: list[int], weights: bool = False) -> dict[str, Any]:
    """A kept row of which some response tokens, by their place, are not trained on."""
    messages = [message("user", "How many ducks are there?"), message("assistant", response)]
    (made,) = tokenise_rows(renderer, [messages], [None], with_direct=False)
    assert made.conditional is not None
    ids, places = made.conditional.ids, made.conditional.targets
    labels = np.full(len(ids), IGNORED)
    labels[places] = ids[places]
    labels[places[[at for at in pruned if at < len(places)]]] = IGNORED
    row = {"messages": messages, "tools": None, "input_ids": ids.tolist(), "labels": labels.tolist()}
    if weights:
        given = np.zeros(len(ids))
        given[places] = np.linspace(0.1, 2, len(places))
        row["token_weights"] = given.tolist()
    return row


@draws(25)
@given(
    response=st.text("abc é日🦆 .,\n0", min_size=1, max_size=30).filter(str.strip),
    pruned=st.lists(st.integers(0, 20)),
)
def test_pieces_are_the_response_and_only_pruned_tokens_are_marked(
    renderer: Renderer, response: str, pruned: list[int]
) -> None:
    (pieces,) = marked_turns(renderer, scored(renderer, response, pruned)).values()
    text = "".join(piece["text"] for piece in pieces)
    assert response.strip() in text
    assert all(piece["trained"] for piece in pieces) or pruned


def test_a_pruned_token_is_struck_out_where_it_stands(renderer: Renderer) -> None:
    whole = scored(renderer, "There are seven ducks in all.", [])
    tokens = [renderer.tokenizer.decode([at]) for at in whole["labels"] if at != IGNORED]
    (pieces,) = marked_turns(renderer, scored(renderer, "There are seven ducks in all.", [2])).values()
    assert [piece["text"] for piece in pieces if not piece["trained"]] == [tokens[2]]
    assert "".join(piece["text"] for piece in pieces) == "There are seven ducks in all."


def test_weights_of_tokens_are_told_apart(renderer: Renderer) -> None:
    (pieces,) = marked_turns(renderer, scored(renderer, "There are seven ducks.", [], weights=True)).values()
    weights = [piece["weight"] for piece in pieces]
    assert weights == sorted(weights)
    assert len(set(weights)) == len(weights) > 3


def test_tokens_become_text_one_by_one_and_characters_stay_whole(renderer: Renderer) -> None:
    text = "é 日本 🦆🦆 ok"
    ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = decoded(renderer.tokenizer, ids)
    assert "".join(parts) == text
    assert len(parts) == len(ids)


def test_other_tokens_than_those_that_were_scored_are_refused(renderer: Renderer) -> None:
    row = scored(renderer, "Seven.", [])
    row["input_ids"] = row["input_ids"][:-1]
    with pytest.raises(ValueError, match="does not make the tokens"):
        marked_turns(renderer, row)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        renderer_of("out", manifest(str(tmp_path / "empty")))

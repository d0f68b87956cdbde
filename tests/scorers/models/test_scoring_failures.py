"""Rows that cannot be scored: what they get, and that the others are not touched."""

# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch

from connectors.examples import message
from scorers.catalog import SCORERS, in_one_pass
from scorers.models.columns import scores_schema
from scorers.models.loading import LoadedModel
from scorers.models.scoring import score_examples
from tests.scorers.toy_models import PAIRS, examples, pair

ALL = tuple(  # that one model with any template can compute
    name for name in in_one_pass(SCORERS) if not any(need.after for need in SCORERS[name].needs)
)
MANY = [pair("Name a colour " * (i % 7), "red, green " * (1 + i % 11) + str(i)) for i in range(60)]


def test_rows_without_scores_are_null_with_a_status_and_the_others_are_not_touched(toy: LoadedModel) -> None:
    conversations = [
        pair("Hi", "five"),
        pair("Hi", ""),
        pair("Hi", "word " * 200),
        [message("assistant", "no prompt at all")],
    ]
    scores, stats = score_examples(toy, examples(conversations), ALL, store_tokens=True)
    assert scores.column("status").to_pylist() == ["ok", "empty_response", "overflow", "template_error"]
    assert scores.column("prompt_tokens").to_pylist()[3] is None
    for name in scores.schema.names[6:]:
        assert [value is None for value in scores.column(name).to_pylist()] == [False, True, True, True], name
    assert stats["status/ok"] + stats["status/overflow"] == 2
    assert stats["rows"] == 4
    assert sum(value for name, value in stats.items() if name.startswith("message/template_error")) == 1
    alone, _ = score_examples(toy, examples(conversations[:1]), ALL, store_tokens=True)
    assert scores.slice(0, 1).to_pylist() == alone.to_pylist()


def test_no_rows_give_no_scores(toy: LoadedModel) -> None:
    scores, stats = score_examples(toy, examples([]), ALL, store_tokens=True)
    assert (scores.num_rows, stats["rows"], stats["tokens"]) == (0, 0, 0)
    assert scores.schema == scores_schema(ALL, store_tokens=True)


def broken(model: LoadedModel, refuses: Any) -> LoadedModel:
    """The model with a head that fails, or gives NaN, where `refuses` says so of the hidden states."""
    return LoadedModel(
        model.settings, replace(model.network, body=refuses), model.renderer, model.batch_tokens
    )


def test_a_row_with_nan_is_nonfinite_and_null(toy: LoadedModel) -> None:
    marked = toy.renderer.tokenizer("漢", add_special_tokens=False)["input_ids"][0]

    def body(input_ids: torch.Tensor, **options: Any) -> Any:
        result = toy.network.body(input_ids=input_ids, **options)
        result.last_hidden_state[(input_ids == marked).any(dim=1)] = torch.nan
        return result

    scores, stats = score_examples(broken(toy, body), examples([pair("a", "漢"), pair("a", "b")]), ALL)
    assert scores.column("status").to_pylist() == ["nonfinite", "ok"]  # though both answer one prompt
    assert scores.column("loss")[0].as_py() is None
    assert stats["status/nonfinite"] == 1


def test_a_row_that_fails_alone_is_an_error_with_its_message(toy: LoadedModel) -> None:
    marked = toy.renderer.tokenizer("漢", add_special_tokens=False)["input_ids"][0]

    def body(input_ids: torch.Tensor, **options: Any) -> Any:
        if (input_ids == marked).any():
            raise RuntimeError("this row is too much")
        return toy.network.body(input_ids=input_ids, **options)

    scores, stats = score_examples(broken(toy, body), examples([pair("漢", "a"), pair("a", "b")]), ALL)
    assert scores.column("status").to_pylist() == ["error", "ok"]
    assert scores.column("direct_loss").to_pylist()[0] is None
    assert stats["message/error: RuntimeError: this row is too much"] == 1


def test_a_model_that_fails_on_every_row_is_a_bug_and_is_raised(toy: LoadedModel) -> None:
    def body(input_ids: torch.Tensor, **options: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        score_examples(broken(toy, body), examples(PAIRS * 2), ALL)


def test_examples_without_messages_are_refused(toy: LoadedModel) -> None:
    with pytest.raises(ValueError, match="examples: no column messages, tools"):
        score_examples(toy, pa.record_batch({"id": ["a"]}), ALL)

"""Recipes give selectors, and mistakes in them are named."""

from __future__ import annotations

import pytest

from pipelines.selectors.catalog import parse_selector
from pipelines.selectors.q_tuning import QTuning


def test_a_step_becomes_its_selector_with_its_options() -> None:
    selector = parse_selector({"q_tuning": {"keep": 0.5, "token_keep": 0.7}})
    assert isinstance(selector, QTuning)
    assert (selector.keep, selector.token_keep, selector.method) == (0.5, 0.7, "closed_form")
    assert (selector.reads, selector.token_reads) == (("loss", "entropy"), ("token_nll",))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"q_tunning": {"keep": 0.5}}, "select: there is no selector 'q_tunning'; did you mean 'q_tuning'?"),
        ({"zzz": {}}, "there is no selector 'zzz' (there are verdict, q_tuning"),
        (
            {"q_tuning": {"keep": 0.5, "token_kep": 1}},
            "select.q_tuning.token_kep: there is no such option; did you",
        ),
        (
            {"q_tuning": {"keep": 1.5}},
            "select.q_tuning.keep: Input should be less than or equal to 1 (got 1.5)",
        ),
        (
            {"q_tuning": {"keep": 0.5, "keep_tokens": 9}},
            "select.q_tuning: give exactly one of keep, keep_examples",
        ),
        ({"q_tuning": None}, "give exactly one of keep, keep_examples, keep_tokens (got none)"),
        (
            {"q_tuning": {"keep_examples": 9, "method": "bisection"}},
            "bisection works with keep (a fraction) only",
        ),
        ({"q_tuning": {"keep_tokens": 9, "token_budget": "batch_global"}}, "batch_global works with keep"),
        (
            {"q_tuning": {"keep": 0.5, "token_keep": 0}},
            "select.q_tuning.token_keep: Input should be greater than 0",
        ),
        ({"grape": {"keep": 0}}, "select.grape.keep: Input should be greater than or equal to 1"),
        ({"top_k": {"keep": 0.5, "order": "lowest"}}, "select.top_k.column: this option is required"),
        (
            {"top_k": {"keep": 0.5, "column": "stars"}},
            "'stars' declares no better direction; say order: highest",
        ),
        ({"threshold": {"column": "loss"}}, "select.threshold: give min, max or both"),
        ({"threshold": {"column": "loss", "min": 2, "max": 1}}, "min 2 is above max 1"),
        ({"perplexity_band": {"low": 0.5, "high": 0.2}}, "low 0.5 is above high 0.2"),
        ({"top_k": [1]}, "select.top_k: options are a mapping"),
        ({"grape": {}, "random": {"keep": 1}}, "a step is one selector"),
        ("grape", "a step is one selector"),
    ],
)
def test_a_mistake_is_named_where_it_stands(step: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_selector(step)
    assert message in str(error.value)

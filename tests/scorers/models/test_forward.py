# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scorers.base import ROW_OUTPUTS, TOKEN_OUTPUTS, Output
from scorers.models.forward import (
    CausalModel,
    MemoryLimit,
    RowFailure,
    RowOutputs,
    Wanted,
    forward,
    forward_or_fail,
)
from scorers.models.layout import groups, lay_out
from scorers.models.loading import LoadedModel
from scorers.models.tokenising import TokenSequence
from tests.draws import draws

NEXT_IDS = (5, 250, 7)
EVERYTHING = Wanted(frozenset([*TOKEN_OUTPUTS, *ROW_OUTPUTS]), NEXT_IDS)
LOGPROB = Wanted(frozenset[Output](["logprob"]))


def sequences(lengths: list[tuple[int, int]]) -> list[TokenSequence]:
    """Rows of (context, response) tokens."""
    rng = np.random.default_rng(0)
    return [
        TokenSequence(rng.integers(2, 250, size=c + r), np.arange(c, c + r), np.ones(r, np.bool_))
        for c, r in lengths
    ]


def exact(network: CausalModel, row: TokenSequence) -> dict[Output, np.ndarray[Any, Any]]:
    """Every output in float64, from the definitions, one row alone."""
    body, head = network.body.double(), network.head.double()
    try:
        with torch.inference_mode():
            states = body(input_ids=torch.from_numpy(row.ids)[None], use_cache=False).last_hidden_state[0]
            logits = head(states)
    finally:
        body.float(), head.float()
    if network.logit_scale is not None:
        logits = logits * network.logit_scale
    z = logits.numpy()[row.targets - 1]
    labels = row.ids[row.targets]
    at = np.arange(len(labels))
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    errors = p.copy()
    errors[at, labels] -= 1
    logp = np.log(p)
    own, counted = z[at, labels], row.counted
    hidden = states.numpy()[row.targets - 1]
    gradient = (network.logit_scale or 1.0) * errors[counted].T @ hidden[counted] / counted.sum()
    return {
        "logprob": logp[at, labels],
        "entropy": -(p * logp).sum(1),
        "top1": (z.argmax(1) == labels).astype(float),
        "top1_logprob": logp.max(1),
        "rank": (z > own[:, None]).sum(1).astype(float),
        "el2n": np.sqrt((errors**2).sum(1)),
        "logit_gap": (p * z).sum(1) - own,
        "log_partition": np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1),
        "grad_norm": np.array([np.linalg.norm(gradient)]),
        "hidden_mean": states.numpy().mean(0),
        "hidden_last": states.numpy()[-1],
        "next_logprob": logp[0, list(NEXT_IDS)],
    }


def assert_close(found: RowOutputs, expected: dict[Output, np.ndarray[Any, Any]], rtol: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for output, values in expected.items():
        assert found[output].dtype == np.float32
        assert found[output].shape == values.shape
        np.testing.assert_allclose(found[output], values, rtol=rtol, atol=2e-5, err_msg=output)


@draws(40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=5),
    chunk=st.integers(1, 40),
    fused=st.booleans(),
    scale=st.sampled_from([None, 0.25]),
    gaps=st.randoms(use_true_random=False),
)
def test_every_output_agrees_with_float64_whatever_the_batch_and_the_chunks(
    toy: LoadedModel,
    lengths: list[tuple[int, int]],
    chunk: int,
    fused: bool,
    scale: float | None,
    gaps: Any,
) -> None:
    network = replace(toy.network, chunk_tokens=chunk, fused=fused, logit_scale=scale)
    rows = []
    for row in sequences(lengths):  # some targets are left out, some do not count
        chosen = np.array(sorted(gaps.sample(range(len(row.targets)), gaps.randint(1, len(row.targets)))))
        counted = np.array([gaps.random() < 0.7 for _ in chosen])
        counted[0] = True
        rows.append(TokenSequence(row.ids, row.targets[chosen], counted))
    for row, found in zip(rows, forward(network, rows, EVERYTHING), strict=True):
        assert_close(found, exact(network, row))


def rivals() -> list[TokenSequence]:
    """Answers to three prompts, the rows of one prompt side by side."""
    rng = np.random.default_rng(1)
    rows = []
    for length, answers in ((12, (5, 9, 1)), (20, (7,)), (15, (3, 3, 12, 8))):
        prompt = rng.integers(2, 250, size=length)
        for answer in answers:
            ids = np.concatenate([prompt, rng.integers(2, 250, size=answer)])
            rows.append(TokenSequence(ids, np.arange(length, len(ids)), np.ones(answer, np.bool_)))
    return rows


def test_rival_answers_share_their_prompt_and_no_score_leaks(toy: LoadedModel) -> None:
    assert toy.network.shares_context
    wanted = Wanted(frozenset([*TOKEN_OUTPUTS, "grad_norm", "next_logprob"]), NEXT_IDS)
    rows = rivals()
    assert [len(group) for group in groups(rows)] == [3, 1, 4]
    layout = lay_out(rows, whole=False, share=True)
    assert layout.ids.shape == (3, 15 + 2 + 2 + 11 + 7)
    shared = forward(toy.network, rows, wanted)
    for row, found in zip(rows, shared, strict=True):
        expected = exact(toy.network, row)
        assert_close(found, {name: values for name, values in expected.items() if name in found})
    changed = [TokenSequence(row.ids.copy(), row.targets, row.counted) for row in rows]
    changed[1].ids[-3:] = 17  # another answer of the same prompt
    again = forward(toy.network, changed, wanted)
    for at in (0, 2, 3, 4):
        for output in found:
            np.testing.assert_array_equal(again[at][output], shared[at][output])
    assert not np.array_equal(again[1]["logprob"], shared[1]["logprob"])


def test_prompts_are_not_shared_where_that_does_not_pay(toy: LoadedModel) -> None:
    rows = sequences([(2, 30), (2, 30)])
    rows[1].ids[:2] = rows[0].ids[:2]
    assert [len(group) for group in groups(rows)] == [1, 1]
    long = sequences([(300, 400), (300, 400)])
    long[1].ids[:300] = long[0].ids[:300]
    assert [len(group) for group in groups(long)] == [1, 1]


def test_only_the_outputs_that_are_wanted_are_given(toy: LoadedModel) -> None:
    rows = sequences([(3, 4)])
    for output in (*TOKEN_OUTPUTS, *ROW_OUTPUTS):
        (row,) = forward(toy.network, rows, Wanted(frozenset([output]), NEXT_IDS))
        assert list(row) == [output]
        assert_close(row, {output: exact(toy.network, rows[0])[output]})


def test_the_last_token_is_read_only_for_hidden_states() -> None:
    (row,) = sequences([(3, 4)])
    assert LOGPROB.input_tokens(row) == 6
    assert EVERYTHING.input_tokens(row) == 7


def test_a_gradient_without_closed_form_is_refused(toy: LoadedModel) -> None:
    replace(toy.network, logit_scale=0.5).check_gradient()
    with pytest.raises(ValueError, match="caps its logits"):
        replace(toy.network, softcap=30.0).check_gradient()


class FailingBody:
    """A body that refuses what `refuses` says of the ids."""

    def __init__(self, body: Any, refuses: Any, error: Exception) -> None:
        self.body, self.refuses, self.error, self.calls = body, refuses, error, []  # type: ignore[var-annotated]

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        self.calls.append(len(input_ids))
        if self.refuses(input_ids):
            raise self.error
        return self.body(input_ids=input_ids, **options)


def failing(toy: LoadedModel, refuses: Any, error: Exception) -> tuple[CausalModel, FailingBody]:
    body = FailingBody(toy.network.body, refuses, error)
    return replace(toy.network, body=body), body


def test_one_bad_row_does_not_take_the_rest_of_its_batch_along(toy: LoadedModel) -> None:
    rows = sequences([(3, 9), (4, 8), (5, 7)])
    marked = int(rows[1].ids[0])
    model, _ = failing(toy, lambda ids: (ids[:, 0] == marked).any(), RuntimeError("this row"))
    results = forward_or_fail(model, rows, LOGPROB, MemoryLimit())
    assert [isinstance(result, RowFailure) for result in results] == [False, True, False]


def test_out_of_memory_halves_the_batch_until_it_fits_and_remembers_the_size(toy: LoadedModel) -> None:
    rows = sequences([(3, 9)] * 8)
    model, body = failing(toy, lambda ids: len(ids) > 2, torch.OutOfMemoryError("full"))
    limit = MemoryLimit()
    results = forward_or_fail(model, rows, LOGPROB, limit)
    assert not any(isinstance(result, RowFailure) for result in results)
    assert body.calls == [8, 4, 2, 2, 2, 2]
    assert (limit.tokens, limit.retries) == (2 * 11, 2)
    forward_or_fail(
        model, sequences([(3, 4)] * 8), LOGPROB, limit
    )  # shorter rows: more fit into as many tokens
    assert body.calls[6:] == [3, 1, 1, 1, 1, 1, 1, 1] or body.calls[6] == 3


def test_a_row_that_is_too_large_alone_fails_alone(toy: LoadedModel) -> None:
    rows = sequences([(3, 9), (3, 30), (3, 9)])
    model, _ = failing(toy, lambda ids: ids.shape[1] > 20, torch.OutOfMemoryError("full"))
    results = forward_or_fail(model, rows, LOGPROB, MemoryLimit())
    assert [isinstance(result, RowFailure) for result in results] == [False, True, False]


def test_errors_that_no_row_causes_are_raised(toy: LoadedModel) -> None:
    rows = sequences([(3, 9)] * 2)
    for error in (TypeError("a bug"), RuntimeError("CUDA error: device-side assert")):
        model, _ = failing(toy, lambda ids: True, error)
        with pytest.raises(type(error)):
            forward_or_fail(model, rows, LOGPROB, MemoryLimit())

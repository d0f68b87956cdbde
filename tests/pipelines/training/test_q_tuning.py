"""Q-Tuning in training: it prunes as the selector does, and trains on what is left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.selectors.q_tuning import QTuning
from pipelines.training.q_tuning import PruningCounts, QTuningLoss, prune_batch
from pipelines.training.token_losses import IGNORED
from scorers.base import TokenValues
from tests.pipelines.selectors.tables import candidates
from tests.pipelines.selectors.token_rows import by_row, stored
from tests.pipelines.training.toy import (
    EXAMPLES,
    Recorded,
    descend,
    gradient,
    lengths,
    model,
    nll_and_entropy,
    outputs,
    random_batch,
    rows,
    same_weights,
    seeds,
    tokens_with_gradient,
    trainer,
)

Kept = list[tuple[int, int]]  # (row, position of the token)

options = st.fixed_dictionaries(
    {
        "keep": st.floats(0.05, 1),
        "token_keep": st.sampled_from([0.3, 0.5, 0.7, 1.0]),
        "smoothing": st.sampled_from([0.0, 0.5, 1.0]),
        "method": st.sampled_from(["bisection", "closed_form"]),
        "token_budget": st.sampled_from(["per_sample", "batch_global"]),
        "neighbor_pad": st.sampled_from(["zero", "one", "self"]),
    }
)


def values(per_row: list[list[float]]) -> TokenValues:
    """Rows of token values as the scorers hand them on."""
    offsets = np.cumsum([0, *(len(row) for row in per_row)])
    return TokenValues(np.array([x for row in per_row for x in row], dtype=np.float32), offsets)


# --- examples ---------------------------------------------------------------------------------------------


def test_worked_example_of_eight_rows() -> None:
    # One token each, so that rows have the losses and entropies of the specification.
    nll = values([[math.log(ppl)] for ppl in range(1, 9)])
    entropy = values([[0.8], [0.7], [0.1], [0.6], [0.5], [0.4], [0.3], [0.2]])
    kept, _ = prune_batch(QTuning(keep=0.5, method="bisection"), nll, entropy)
    assert np.flatnonzero(kept).tolist() == [0, 1, 6, 7]
    too_many, _ = prune_batch(QTuning(keep=0.25, method="bisection"), nll, entropy)
    assert np.flatnonzero(too_many).tolist() == [0, 1, 7]
    exact, _ = prune_batch(QTuning(keep=0.25), nll, entropy)
    assert np.flatnonzero(exact).tolist() == [0, 1]


TOKEN_NLL = np.log([1.0, 9.0, 1.0, 4.0, 5.0, 6.0]).tolist()
# Q4, two that are dropped, Q2
FOUR = [[0.1] * 6, [0.5] * 6, [0.8] * 6, TOKEN_NLL]
FOUR_ENTROPIES = [[4.0] * 6, [2.0] * 6, [3.0] * 6, [1.0] * 6]
BATCH_GLOBAL = {"token_budget": "batch_global"}


def _four(**chosen: Any) -> list[list[bool]]:  # noqa: ANN401 - options of the selector
    selector = QTuning.model_validate({"keep": 0.5, "token_keep": 0.5, "method": "bisection"} | chosen)
    _, kept = prune_batch(selector, values(FOUR), values(FOUR_ENTROPIES))
    return kept.reshape(4, 6).tolist()


def test_worked_example_of_token_budgets() -> None:
    # scores 5, 5.5, 7, 5, 7.5, 5.5
    per_sample = _four()
    assert per_sample[:3] == [[True] * 6, [False] * 6, [False] * 6]
    assert sum(per_sample[3]) == 3
    assert [per_sample[3][i] for i in (2, 4)] == [False, False]
    # of 24 label tokens 6 may stay, 12 went with the two rows, and Q2 loses all of its 6
    assert _four(**BATCH_GLOBAL)[3] == [False] * 6
    # of 24 label tokens 10 may stay: Q2 loses two, 7 and 7.5
    some = _four(**BATCH_GLOBAL, token_keep=10 / 12)
    assert some[3] == [True, True, False, True, False, True]


def test_the_loss_is_the_mean_over_kept_tokens_and_the_others_get_no_gradient() -> None:
    logits, labels = random_batch([4, 5, 3, 6, 4, 7, 5, 6], 3)
    loss = QTuningLoss(keep=0.5, token_keep=0.5)
    value = loss(outputs(logits), labels)
    change = gradient(value, logits)
    kept = tokens_with_gradient(change)
    assert 0 < len(kept) < 40
    assert {row for row, _ in kept} < set(range(8))
    by_hand = logits.detach().double().requires_grad_()
    log_p = by_hand.log_softmax(-1)
    expected = torch.stack([-log_p[row, at - 1, labels[row, at]] for row, at in kept]).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(change.double(), gradient(expected, by_hand))
    assert loss.counts == PruningCounts(8, len({row for row, _ in kept}), 40, len(kept))


def test_a_row_without_label_tokens_is_not_kept_and_hurts_nothing() -> None:
    logits, labels = random_batch([4, 0, 5, 0], 0)
    loss = QTuningLoss(keep=1.0)
    kept = tokens_with_gradient(gradient(loss(outputs(logits), labels), logits))
    assert {row for row, _ in kept} == {0, 2}
    assert loss.counts == PruningCounts(4, 2, 9, 9)


def test_a_batch_without_label_tokens_is_a_zero_that_can_be_differentiated() -> None:
    logits, labels = random_batch([0, 0], 0)
    loss = QTuningLoss(keep=0.5, token_keep=0.5)
    value = loss(outputs(logits), labels, num_items_in_batch=torch.tensor(0))
    assert value.item() == 0
    assert not gradient(value, logits).any()
    assert loss.counts == PruningCounts(2, 0, 0, 0)


def test_a_small_batch_keeps_a_row_and_a_single_row_says_so_once() -> None:
    loss = QTuningLoss(keep=0.1)
    logits, labels = random_batch([3, 4, 5], 0)
    loss(outputs(logits), labels)
    assert loss.counts.rows_kept == 1
    logits, labels = random_batch([3], 0)
    with pytest.warns(UserWarning, match="per_device_train_batch_size"):
        loss(outputs(logits), labels)
    loss(outputs(logits), labels)
    assert loss.counts == PruningCounts(5, 3, 18, loss.counts.tokens_kept)


def test_a_loss_that_is_not_finite_is_not_hidden() -> None:
    logits, labels = random_batch([3, 4, 5, 6], 0)
    with torch.no_grad():
        logits[2] = math.nan
    loss = QTuningLoss(keep=0.25)
    assert math.isnan(loss(outputs(logits), labels).item())
    assert loss.counts == PruningCounts(4, 4, 18, 18)


def test_evaluation_prunes_and_counts_nothing() -> None:
    logits, labels = random_batch([3, 4, 5, 6], 0)
    loss = QTuningLoss(keep=0.25, token_keep=0.5)
    plain = torch.cat([nll for nll, _ in nll_and_entropy(logits, labels)]).mean()
    assert loss(outputs(logits.detach()), labels).item() == pytest.approx(plain.item())
    assert loss.counts == PruningCounts()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep"):
        QTuningLoss(keep=1.5)
    with pytest.raises(ValidationError, match="token_keep"):
        QTuningLoss(keep=0.5, token_keep=0)
    with pytest.raises(ValueError, match="keep is 0"):
        QTuningLoss(keep=0)


# --- invariants -------------------------------------------------------------------------------------------


def offline(logits: torch.Tensor, labels: torch.Tensor, selector: QTuning) -> tuple[list[int], Kept]:
    """Rows and tokens that the selector keeps of the same batch, from losses computed apart."""
    scored = nll_and_entropy(logits, labels)
    means = [
        (nll.mean().item(), entropy.mean().item()) if len(nll) else (None, None) for nll, entropy in scored
    ]
    by_loss = np.argsort([math.inf if loss is None else loss for loss, _ in means]).tolist()
    table = candidates(
        [loss for loss, _ in means],
        [entropy for _, entropy in means],
        ids=[f"{by_loss.index(row):03d}" for row in range(len(means))],
        prompt_tokens=[0] * len(scored),
        response_tokens=[len(nll) for nll, _ in scored],
    )
    decisions = selector.decide(table, 0)
    masks = {
        row: np.ones(len(nll), dtype=np.bool_) for row, (nll, _) in enumerate(scored) if decisions.keep[row]
    }

    if decisions.prune_tokens is not None:
        tokens = stored(token_nll=[nll.tolist() for nll, _ in scored])
        masks |= by_row(selector.token_masks(table, decisions, tokens))
    kept = []
    for row, mask in masks.items():
        places = (labels[row] != IGNORED).nonzero().squeeze(-1)
        kept += [(row, at) for at in places[torch.from_numpy(mask)].tolist()]
    return np.flatnonzero(decisions.keep).tolist(), sorted(kept)


@EXAMPLES
@given(lengths.filter(lambda counts: len(counts) > 1 and any(counts)), seeds, options)
def test_a_batch_is_pruned_as_the_selector_prunes_the_same_rows(
    counts: list[int], seed: int, chosen: dict[str, Any]
) -> None:
    chosen["keep"] = max(chosen["keep"], 1 / len(counts))
    logits, labels = random_batch(counts, seed)
    online = QTuningLoss(**chosen)
    change = gradient(online(outputs(logits), labels), logits)
    kept_rows, kept = offline(logits, labels, QTuning.model_validate(chosen))
    assert tokens_with_gradient(change) == kept
    assert online.counts == PruningCounts(len(counts), len(kept_rows), sum(counts), len(kept))


@EXAMPLES
@given(lengths.filter(lambda counts: len(counts) > 1), seeds, options)
def test_the_order_of_rows_does_not_matter(counts: list[int], seed: int, chosen: dict[str, Any]) -> None:
    logits, labels = random_batch(counts, seed)
    with torch.no_grad():
        turned = logits.flip(0)
    turned.requires_grad_()
    change = gradient(QTuningLoss(**chosen)(outputs(logits), labels), logits)
    turned_change = gradient(QTuningLoss(**chosen)(outputs(turned), labels.flip(0)), turned)
    torch.testing.assert_close(turned_change.flip(0), change)


@EXAMPLES
@given(lengths.filter(lambda counts: len(counts) > 1), seeds, st.floats(0.05, 1))
def test_at_least_the_fraction_is_kept_and_whole_rows_where_tokens_are_not_pruned(
    counts: list[int], seed: int, keep: float
) -> None:
    logits, labels = random_batch(counts, seed)
    loss = QTuningLoss(keep=keep)
    kept = tokens_with_gradient(gradient(loss(outputs(logits), labels), logits))
    with_labels = sum(count > 0 for count in counts)
    assert loss.counts.rows_kept >= min(with_labels, max(1, math.floor(keep * len(counts) + 1e-9)))
    assert len(kept) == sum(counts[row] for row in {row for row, _ in kept})


# --- in a Trainer -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # what accelerate says of a machine without a GPU
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trainer_descends_along_the_kept_tokens_alone(tmp_path: Path, accumulated: int) -> None:
    trained, by_hand, seen = model(), model(), Recorded()
    loss = QTuningLoss(keep=0.5, token_keep=0.5)
    done = trainer(
        trained,
        tmp_path,
        collator=seen,
        args={"gradient_accumulation_steps": accumulated},
        compute_loss_func=loss,
    )
    done.train()
    pruned, reported = PruningCounts(), []
    for step in range(2):
        batches = seen.batches[step * accumulated : (step + 1) * accumulated]
        total = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        losses = []
        for batch in batches:
            labels = batch.pop("labels")
            logits = by_hand(**batch).logits
            chosen = QTuning(keep=0.5, token_keep=0.5, method="bisection")
            kept_rows, kept = offline(logits, labels, chosen)
            log_p = logits.log_softmax(-1)
            kept_losses = [-log_p[row, at - 1, labels[row, at]] for row, at in kept]
            seen_tokens = int((labels != IGNORED).sum())
            losses.append(torch.stack(kept_losses).mean() * seen_tokens / total)
            pruned.rows_seen += len(labels)
            pruned.rows_kept += len(kept_rows)
            pruned.tokens_seen += seen_tokens
            pruned.tokens_kept += len(kept)
        reported.append(sum(float(one) for one in losses))
        descend(by_hand, losses)
    assert same_weights(trained, by_hand)
    assert not same_weights(trained, model())
    assert loss.counts == pruned
    logged = [entry["loss"] for entry in done.state.log_history if "loss" in entry]
    assert logged == pytest.approx(reported, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_evaluates_without_pruning(tmp_path: Path) -> None:
    loss = QTuningLoss(keep=0.25, token_keep=0.5)
    one = trainer(model(), tmp_path / "one", compute_loss_func=loss, eval_dataset=rows(8, seed=1))
    plain = trainer(model(), tmp_path / "plain", eval_dataset=rows(8, seed=1))
    assert one.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)
    assert loss.counts == PruningCounts()

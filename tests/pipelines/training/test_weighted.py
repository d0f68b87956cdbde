"""Weights of rows and tokens in the loss, worked by hand and inside the trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer

from pipelines.training.token_losses import IGNORED
from pipelines.training.weighted import DivideBy, WeightedCollator, WithWeights, weighted_loss
from tests.pipelines.training.toy import (
    EXAMPLES,
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
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # what accelerate says of a machine without a GPU


class WeightedTrainer(WithWeights, Trainer):
    pass


def by_hand() -> tuple[Any, torch.Tensor, torch.Tensor, list[float]]:
    """Two rows over two words: the probabilities of the three label tokens are 1/2, 1/4 and 1/8."""
    odds = torch.tensor([[1.0, 1.0, 1.0], [3.0, 7.0, 1.0]])  # of the other word, before each label
    logits = torch.stack([torch.zeros(2, 3), odds.log()], dim=-1)
    logits = torch.stack([logits[0], logits[1]]).requires_grad_()
    labels = torch.tensor([[IGNORED, 0, IGNORED], [IGNORED, 0, 0]])
    weights = torch.tensor([[9.0, 1.0, 9.0], [9.0, 0.5, 0.0]])  # 9: of tokens without a label
    return logits, labels, weights, [1 * 1.0, 0.5 * 2.0, 0.0 * 3.0]  # weight times loss, in bits


def test_the_loss_is_the_sum_of_weight_times_loss_over_the_number_of_tokens() -> None:
    logits, labels, weights, bits = by_hand()
    loss = weighted_loss(outputs(logits), labels, weights)
    assert loss.item() == pytest.approx(sum(bits) / 3 * torch.tensor(2.0).log().item())


def test_divided_by_weights_it_is_the_weighted_mean() -> None:
    logits, labels, weights, bits = by_hand()
    loss = weighted_loss(outputs(logits), labels, weights, divide_by="weights")
    assert loss.item() == pytest.approx(sum(bits) / 1.5 * torch.tensor(2.0).log().item())


@EXAMPLES
@given(counts=lengths, seed=seeds, divide_by=st.sampled_from(["tokens", "weights"]))
def test_weights_of_1_are_the_plain_loss(counts: list[int], seed: int, divide_by: Any) -> None:  # noqa: ANN401
    logits, labels = random_batch(counts, seed)
    losses = torch.cat([nll for nll, _ in nll_and_entropy(logits, labels)])
    plain = losses.mean().item() if len(losses) else 0.0
    for weights in (torch.ones(labels.shape), None):
        loss = weighted_loss(outputs(logits), labels, weights, divide_by=divide_by)
        assert loss.item() == pytest.approx(plain, rel=1e-5)


@EXAMPLES
@given(counts=lengths, seed=seeds)
def test_a_token_of_weight_0_has_no_gradient(counts: list[int], seed: int) -> None:
    logits, labels = random_batch(counts, seed)
    weights = torch.ones(labels.shape)
    weights[0] = 0
    change = gradient(weighted_loss(outputs(logits), labels, weights), logits)
    assert not change[0].any()
    assert bool(change[1:].any()) == any(counts[1:])


def test_a_batch_of_weights_0_has_the_loss_0() -> None:
    logits, labels = random_batch([3], 0)
    choices: tuple[DivideBy, ...] = ("tokens", "weights")
    for divide_by in choices:
        loss = weighted_loss(outputs(logits), labels, torch.zeros(labels.shape), divide_by=divide_by)
        assert loss.item() == 0


def test_the_collator_multiplies_the_weights_of_row_and_token() -> None:
    features: list[dict[str, Any]] = [
        {
            "id": "a",
            "input_ids": [5, 6, 7],
            "labels": [-100, 6, 7],
            "weight": 0.5,
            "token_weights": [0, 1, 4],
        },
        {"id": "b", "input_ids": [8], "labels": None, "weight": None},
    ]
    batch = WeightedCollator(pad_token_id=2, pad_to_multiple_of=4)(features)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [8, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [8, -100, -100, -100]]
    assert batch["token_weights"].tolist() == [[0.0, 0.5, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_weights_that_were_not_cut_with_the_row_are_refused() -> None:
    with pytest.raises(ValueError, match="max_length=None"):
        WeightedCollator(0)([{"input_ids": [1, 2], "token_weights": [1.0]}])


def test_weights_that_do_not_fit_the_labels_are_refused() -> None:
    logits, labels = random_batch([3], 0)
    with pytest.raises(ValueError, match="one for each label"):
        weighted_loss(outputs(logits), labels, torch.ones(1, 2))


def weighted_rows() -> list[dict[str, Any]]:
    return [{**row, "weight": float(at % 3)} for at, row in enumerate(rows())]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trainer_takes_the_step_of_the_weighted_loss(tmp_path: Path, accumulated: int) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    collator = WeightedCollator(0)

    def collate(features: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - rows
        seen.append(collator(features))
        return {name: tensor.clone() for name, tensor in seen[-1].items()}

    net, twin = model(), model()
    args = {"max_steps": 1, "gradient_accumulation_steps": accumulated}
    made = trainer(net, tmp_path, kind=WeightedTrainer, collator=collate, args=args)
    made.train_dataset = weighted_rows()
    made.train()
    batches = seen[:accumulated]
    total = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    losses = [_plain_sum(twin, batch) / total for batch in batches]
    descend(twin, losses)
    assert same_weights(net, twin)
    assert not same_weights(net, model())


def _plain_sum(net: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:  # noqa: ANN401 - transformers is untyped
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="none"
    )
    return (losses * batch["token_weights"][:, 1:]).sum()


def test_evaluation_is_not_weighted(tmp_path: Path) -> None:
    weighted = trainer(model(), tmp_path / "a", kind=WeightedTrainer, collator=WeightedCollator(0))
    plain = trainer(model(), tmp_path / "b")
    assert weighted.evaluate(weighted_rows())["eval_loss"] == pytest.approx(
        plain.evaluate(rows())["eval_loss"], rel=1e-5
    )

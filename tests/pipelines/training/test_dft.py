"""DFT: the worked example, and what must hold for any batch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.dft import DFTLoss, dft_losses
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
    same_weights,
    seeds,
    trainer,
)


def test_worked_example() -> None:
    # Two words, probabilities 1/4 and 3/4 of the labels: (1/4 log 4 + 3/4 log 4/3) / 2.
    logits = torch.tensor([[[0.0, math.log(3)]] * 3], requires_grad=True)
    loss = DFTLoss()(outputs(logits), torch.tensor([[-100, 0, 1]]))
    assert loss.item() == pytest.approx((0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 2)
    # p (p_v - onehot) / 2: the weight is a constant
    change = gradient(loss, logits)
    assert change[0, 0].tolist() == pytest.approx([0.25 * (0.25 - 1) / 2, 0.25 * 0.75 / 2])
    assert change[0, 1].tolist() == pytest.approx([0.75 * 0.25 / 2, 0.75 * (0.75 - 1) / 2])


@EXAMPLES
@given(st.lists(st.floats(0, 200, width=32), max_size=20))
def test_a_tokens_loss_is_at_most_one_over_e(values: list[float]) -> None:
    weighted = dft_losses(torch.tensor(values))
    assert ((weighted >= 0) & (weighted <= 1 / math.e + 1e-6)).all()
    assert (weighted <= torch.tensor(values) + 1e-6).all()


@EXAMPLES
@given(lengths, seeds)
def test_the_number_of_tokens_divides_not_the_sum_of_weights(counts: list[int], seed: int) -> None:
    logits, labels = random_batch(counts, seed)
    nll = torch.cat([row for row, _ in nll_and_entropy(logits, labels)])
    expected = (nll * (-nll).exp()).sum().item() / max(sum(counts), 1)
    assert DFTLoss()(outputs(logits), labels).item() == pytest.approx(expected, abs=1e-6)
    twice = DFTLoss()(outputs(logits), labels, num_items_in_batch=torch.tensor(2 * sum(counts)))
    assert twice.item() == pytest.approx(expected / 2, abs=1e-6)


def test_evaluation_is_the_plain_mean() -> None:
    logits, labels = random_batch([3, 4], 0)
    nll = torch.cat([row for row, _ in nll_and_entropy(logits, labels)])
    assert DFTLoss()(outputs(logits.detach()), labels).item() == pytest.approx(nll.mean().item())


@pytest.mark.filterwarnings("ignore")  # what accelerate says of a machine without a GPU
def test_a_trainer_descends_along_the_weighted_loss_of_a_whole_step(tmp_path: Path) -> None:
    trained, by_hand, seen = model(), model(), Recorded()
    args = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer(trained, tmp_path, collator=seen, args=args, compute_loss_func=DFTLoss()).train()
    for step in range(2):
        losses = []
        for batch in seen.batches[2 * step : 2 * step + 2]:
            labels = batch.pop("labels")
            log_p = by_hand(**batch).logits[:, :-1].log_softmax(-1)
            chosen = log_p.gather(-1, labels[:, 1:, None].clamp(min=0)).squeeze(-1)[labels[:, 1:] != -100]
            losses.append(-chosen * chosen.detach().exp())
        descend(by_hand, [torch.cat(losses).mean()])
    assert same_weights(trained, by_hand)

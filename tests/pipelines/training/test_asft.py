"""ASFT: the worked example, its limits, and the reference that runs beside the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training import token_losses as module
from pipelines.training.asft import ASFTLoss, add_reference, reference_kl
from pipelines.training.dft import DFTLoss
from pipelines.training.token_losses import IGNORED, label_tokens
from tests.pipelines.training.toy import (
    EXAMPLES,
    VOCABULARY,
    Recorded,
    collate,
    descend,
    gradient,
    lengths,
    model,
    outputs,
    random_batch,
    rows,
    same_weights,
    seeds,
    trainer,
)

# What accelerate says of a machine without a GPU.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_worked_example() -> None:
    # Of two words the model gives the label 1/4, the reference 1/2.
    logits = torch.tensor([[[0.0, math.log(3)]] * 2], requires_grad=True)
    reference = torch.zeros(1, 2, 2)
    loss = ASFTLoss(kl_weight=0.1)(outputs(logits, reference_logits=reference), torch.tensor([[IGNORED, 0]]))
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert loss.item() == pytest.approx(0.25 * math.log(4) + 0.1 * kl)
    # the weighted loss pushes by p (p_v - onehot), the divergence by p_v - p_ref
    expected = [0.25 * (0.25 - 1) + 0.1 * (0.25 - 0.5), 0.25 * 0.75 + 0.1 * (0.75 - 0.5)]
    assert gradient(loss, logits)[0, 0].tolist() == pytest.approx(expected)


@EXAMPLES
@given(lengths, seeds)
def test_the_divergence_and_its_gradient_are_torchs(counts: list[int], seed: int) -> None:
    logits, labels = random_batch(counts, seed)
    reference = random_batch(counts, seed + 1)[0].detach()
    tokens = label_tokens(outputs(logits), labels)
    divergences = reference_kl(tokens, reference)
    twin = logits.detach().clone().requires_grad_()
    plain = torch.nn.functional.kl_div(
        twin.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)[:, :-1][labels[:, 1:] != IGNORED]
    torch.testing.assert_close(divergences, plain, rtol=1e-4, atol=1e-5)
    assert (divergences > -1e-6).all()
    torch.testing.assert_close(gradient(divergences.sum(), logits), gradient(plain.sum(), twin))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_batch([5, 0, 6], 0)
    given = outputs(logits, reference_logits=random_batch([5, 0, 6], 1)[0].detach())
    whole = ASFTLoss()(given, labels)
    change = gradient(whole, logits)
    monkeypatch.setattr(module, "CHUNK_VALUES", 4 * VOCABULARY)
    parts = ASFTLoss()(given, labels)
    assert parts.item() == whole.item()
    assert torch.equal(gradient(parts, logits), change)


@EXAMPLES
@given(lengths, seeds, st.floats(0, 2))
def test_a_model_that_has_not_moved_has_the_loss_and_gradient_of_dft(
    counts: list[int], seed: int, kl_weight: float
) -> None:
    logits, labels = random_batch(counts, seed)
    asft = ASFTLoss(kl_weight)(outputs(logits, reference_logits=logits.detach().clone()), labels)
    dft = DFTLoss()(outputs(logits), labels)
    assert asft.item() == pytest.approx(dft.item(), abs=1e-6)
    torch.testing.assert_close(gradient(asft, logits), gradient(dft, logits))


def test_a_token_that_the_reference_rules_out_adds_nothing_to_the_divergence() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0]] * 2], requires_grad=True)
    tokens = label_tokens(outputs(logits), torch.tensor([[IGNORED, 0]]))
    divergences = reference_kl(tokens, torch.tensor([[[0.0, 0.0, -math.inf]] * 2]))
    assert divergences.tolist() == pytest.approx([math.log(3 / 2)])
    both = torch.tensor([[[0.0, 0.0, -math.inf]] * 2], requires_grad=True)
    alike = label_tokens(outputs(both), torch.tensor([[IGNORED, 0]]))
    assert reference_kl(alike, both.detach()).tolist() == [0.0]


def test_without_a_reference_only_dft_is_possible() -> None:
    logits, labels = random_batch([3], 0)
    with pytest.raises(ValueError, match="add_reference"):
        ASFTLoss()(outputs(logits), labels)
    assert ASFTLoss(0)(outputs(logits), labels).item() == DFTLoss()(outputs(logits), labels).item()
    with pytest.raises(ValueError, match="kl_weight"):
        ASFTLoss(-0.1)


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    logits, labels = random_batch([3], 0)
    with pytest.raises(ValueError, match="same vocabulary"):
        ASFTLoss()(outputs(logits, reference_logits=logits.detach()[..., :-1]), labels)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_trainer_is_held_near_the_reference(tmp_path: Path, accumulated: int) -> None:
    trained, reference, by_hand, seen = model(), model(seed=1), model(), Recorded()
    add_reference(trained, reference)
    trainer(
        trained,
        tmp_path,
        collator=seen,
        args={"gradient_accumulation_steps": accumulated},
        compute_loss_func=ASFTLoss(0.5),
    ).train()
    for step in range(2):
        losses = []
        for batch in seen.batches[step * accumulated : (step + 1) * accumulated]:
            labels = batch.pop("labels")
            has_label = labels[:, 1:] != IGNORED
            log_p = by_hand(**batch).logits[:, :-1].log_softmax(-1)[has_label]
            with torch.no_grad():
                log_q = reference(**batch).logits[:, :-1].log_softmax(-1)[has_label]
            chosen = log_p.gather(-1, labels[:, 1:][has_label][:, None]).squeeze(-1)
            kl = (log_q.exp() * (log_q - log_p)).sum(-1)
            losses.append(-chosen * chosen.detach().exp() + 0.5 * kl)
        descend(by_hand, [torch.cat(losses).mean()])
    assert same_weights(trained, by_hand)
    assert same_weights(reference, model(seed=1))


class Adapted(torch.nn.Module):
    """A model whose adapter shifts its logits; the part of peft.PeftModel that a reference needs."""

    def __init__(self) -> None:
        super().__init__()
        self.base = model()
        self.shift = torch.nn.Parameter(torch.linspace(0, 3, 64))
        self.adapting = True

    def forward(self, **batch: Any) -> Any:  # noqa: ANN401 - transformers is untyped
        made = self.base(**batch)
        if self.adapting:
            made.logits = made.logits + self.shift
        return made

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.adapting = False
        yield
        self.adapting = True


def test_the_reference_of_a_model_with_adapters_is_its_base() -> None:
    net = Adapted()
    add_reference(net)
    batch = collate(rows(4))
    del batch["labels"]
    made = net(**batch)
    assert torch.equal(made.reference_logits, net.base(**batch).logits)
    assert not made.reference_logits.requires_grad
    assert not torch.equal(made.logits, made.reference_logits)


def test_a_model_without_adapters_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM has no adapters"):
        add_reference(model())


def test_the_reference_runs_in_training_only_and_can_be_taken_off() -> None:
    net = model()
    handle = add_reference(net, model(seed=1))
    batch = collate(rows(4))
    with torch.no_grad():
        assert "reference_logits" not in net(**batch)
    assert "reference_logits" in net(**batch)
    handle.remove()
    assert "reference_logits" not in net(**batch)


def test_evaluation_needs_no_reference(tmp_path: Path) -> None:
    net = model()
    add_reference(net, model(seed=1))
    one = trainer(net, tmp_path / "one", compute_loss_func=ASFTLoss(), eval_dataset=rows(8, seed=1))
    plain = trainer(model(), tmp_path / "plain", eval_dataset=rows(8, seed=1))
    assert one.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)

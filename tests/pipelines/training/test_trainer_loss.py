"""A Trainer class of one's own trains as `compute_loss_func` does, TRL's SFTTrainer too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import Trainer

from pipelines.training.asft import ASFTLoss, add_reference
from pipelines.training.q_tuning import QTuningLoss
from pipelines.training.trainer_loss import TrainingLoss, WithLoss
from tests.pipelines.training.toy import Recorded, arguments, model, rows, same_weights, trainer

# What accelerate, TRL and torch say of a machine without a GPU.
pytestmark = pytest.mark.filterwarnings("ignore")


def q_tuning() -> QTuningLoss:
    return QTuningLoss(keep=0.5, token_keep=0.5)


class QTuningTrainer(WithLoss, Trainer):
    training_loss: ClassVar[TrainingLoss] = q_tuning()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_both_ways_to_give_a_loss_train_the_same_model(tmp_path: Path, accumulated: int) -> None:
    args = {"gradient_accumulation_steps": accumulated}
    own, given = model(), model()
    trainer(own, tmp_path / "own", kind=QTuningTrainer, args=args).train()
    trainer(given, tmp_path / "given", args=args, compute_loss_func=q_tuning()).train()
    assert same_weights(own, given)
    assert not same_weights(own, model())


def test_evaluation_is_the_plain_loss(tmp_path: Path) -> None:
    own = trainer(model(), tmp_path / "own", kind=QTuningTrainer, eval_dataset=rows(8, seed=1))
    plain = trainer(model(), tmp_path / "plain", eval_dataset=rows(8, seed=1))
    assert own.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)


def _sft(net: Any, folder: Path, loss: Any, *, own: bool) -> Any:  # noqa: ANN401 - TRL is untyped
    import datasets
    from trl import SFTConfig, SFTTrainer

    class Own(WithLoss, SFTTrainer):
        training_loss = loss

    return (Own if own else SFTTrainer)(
        model=net,
        args=SFTConfig(**arguments(folder), bf16=False, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=datasets.Dataset.from_list(rows()),
        data_collator=Recorded(),
        processing_class=_tokenizer(),
        **({} if own else {"compute_loss_func": loss}),
    )


def _tokenizer() -> Any:  # noqa: ANN401 - transformers is untyped
    from tests.scorers.toy_models import tokenizer

    fast = tokenizer()
    fast.pad_token = "<s>"  # noqa: S105 - a token of text
    return fast


def test_trls_trainer_trains_the_same_model_with_half_the_forward_passes(tmp_path: Path) -> None:
    def counted() -> tuple[Any, list[bool]]:
        net, passes = model(), list[bool]()
        net.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        return net, passes

    (own, own_passes), (given, given_passes) = counted(), counted()
    _sft(own, tmp_path / "own", q_tuning(), own=True).train()
    _sft(given, tmp_path / "given", q_tuning(), own=False).train()
    assert same_weights(own, given)
    assert not same_weights(own, model())
    assert (own_passes, given_passes) == ([True] * 2, [True, False] * 2)


def test_trls_trainer_runs_the_reference_of_asft(tmp_path: Path) -> None:
    nets = [model(), model()]
    for place, net in enumerate(nets):
        add_reference(net, model(seed=1))
        _sft(net, tmp_path / str(place), ASFTLoss(0.5), own=place == 0).train()
    assert same_weights(*nets)
    assert not same_weights(nets[0], model())

"""Fine-tuning from the output of a run, with the token masks and weights of the selection honoured.

TRL's SFTTrainer trains; beside it stand the loss of weighted.py and steps of the same number of trained
tokens (steps.py). All parameters are trained, in float32, or in bfloat16 over float32 weights on CUDA, with
AdamW without weight decay, gradients clipped at a norm of 1, and a learning rate that rises over the first
5 % of the steps and falls along a cosine to 0. On one kind of CPU and with one number of threads, the same
rows, settings and seed give the same weights, bit by bit.

Ours: where no learning rate is given, 1e-3 for a model of a million parameters and less for larger ones, by
the square root of the size: 9e-5 for 135 million, 2e-5 for 1.7 billion, which is what people use.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.export.folder import check_target, export_folder
from pipelines.progress import Progress, clock
from pipelines.training.steps import split_into_passes, steps_for, steps_of
from pipelines.training.token_losses import IGNORED
from pipelines.training.token_rows import TokenRows, token_rows
from pipelines.training.trainee import PASS_TOKENS, Trainee, load_trainee, mean_loss_of
from pipelines.training.training_set import read_training_set
from pipelines.training.weighted import WeightedCollator, WithWeights
from scorers.models.loading import no_progress_bar

INSTALL = "pip install 'winnow[train]'"
STEP_TOKENS = 2048
EPOCHS = 3.0
PROBE_ROWS = 256  # of the training rows, for the loss before and after
SAY_SECONDS = 5.0
_RATE_OF_A_MILLION, _LOWEST_RATE = 1e-3, 5e-6


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes:
        steps: Optimiser steps; None: `epochs` times the rows.
        epochs: How often each row is seen, where `steps` is None.
        step_tokens: Trained tokens of a step, about.
        learning_rate: The highest; None: by the size of the model, see above.
        seed: Of the order of the rows, and of dropout where the model has any.
        pass_tokens: Most tokens, with padding, that pass the model at once; None: 2,048 on CPU, 16,384 on
            CUDA. Only memory and speed depend on it.
        checkpointing: Compute activations again in the backward pass: less memory, a third slower.
    """

    steps: int | None = None
    epochs: float = EPOCHS
    step_tokens: int = STEP_TOKENS
    learning_rate: float | None = None
    seed: int = 0
    pass_tokens: int | None = None
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "step_tokens", "learning_rate", "pass_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: {value} found, a number above 0 is needed")


@dataclass(frozen=True)
class FineTuned:
    """A finished fine-tuning.

    Attributes:
        folder: Where the model and its tokenizer are.
        rows: Rows of the training set that were trained on.
        trained_tokens: Tokens of these rows that the loss falls on.
        left_out: Rows that could not be trained on, by reason.
        steps: Optimiser steps.
        seen_tokens: Trained tokens of all steps together.
        learning_rate: The highest.
        loss_before: Of a sample of the training rows, nats per trained token, before.
        loss_after: The same after.
        seconds: Of training.
    """

    folder: Path
    rows: int
    trained_tokens: int
    left_out: dict[str, int]
    steps: int
    seen_tokens: int
    learning_rate: float
    loss_before: float
    loss_after: float
    seconds: float


def fine_tune(
    train: str | Path | pa.Table,
    model: str | None,
    output: str | Path,
    settings: TrainingSettings | None = None,
    progress: Progress | None = None,
) -> FineTuned:
    """Fine-tunes a model on the output of a run, or on any canonical or tokenised rows.

    Args:
        train: Output folder of a run; a Parquet file or a folder of them (a run's train folder, the export
            trl-tokenised or datasets); or such rows as a table.
        model: Folder or hub id of a causal language model; None: the one that the run was made for.
        output: Folder for the model; an earlier one of this command is replaced.
        settings: How to train.
        progress: Where to say how far it is.

    Raises:
        ValueError: If there is no row to train on, the model cannot be loaded, the tokens were made for
            another tokenizer, or the folder holds files of others.
        ImportError: If the packages for training are not installed.
    """
    need_packages()
    settings, progress = settings or TrainingSettings(), progress or Progress()
    check_target(Path(output))
    table, chosen = read_training_set(train, model)
    trainee = load_trainee(chosen)
    rows = token_rows(table, trainee.renderer)
    need_rows(rows, train)
    sample = rows.take(
        np.linspace(0, rows.table.num_rows - 1, min(PROBE_ROWS, rows.table.num_rows)).astype(np.int64)
    )
    before = mean_loss_of(trainee, sample)
    began = time.monotonic()
    steps = train_model(trainee, rows, settings, progress)
    seconds = time.monotonic() - began
    facts = {
        "model": chosen.path,
        "steps": len(steps),
        "rows": rows.table.num_rows,
        "left_out": rows.left_out,
    }
    with export_folder(Path(output), facts) as folder, no_progress_bar():
        trainee.model.save_pretrained(folder, safe_serialization=True)
        trainee.tokenizer.save_pretrained(folder)
    return FineTuned(
        Path(output),
        rows.table.num_rows,
        int(rows.trained.sum()),
        rows.left_out,
        len(steps),
        int(sum(rows.trained[step].sum() for step in steps)),
        learning_rate(settings, trainee.model),
        before,
        mean_loss_of(trainee, sample),
        seconds,
    )


def need_packages() -> None:
    """Raises ImportError, saying how to get them, where TRL or what it needs is not installed."""
    try:
        import accelerate  # type: ignore[import-untyped]  # noqa: F401 - only whether it is there
        import datasets  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(f"fine-tuning needs TRL, and {error.name} is not installed: {INSTALL}") from error


def need_rows(rows: TokenRows, source: object) -> None:
    """Raises ValueError, with the reasons, where no row can be trained on."""
    if not rows.table.num_rows:
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in rows.left_out.items())
        name = "the table" if isinstance(source, pa.Table) else source
        raise ValueError(f"{name} has no row to train on: {reasons or 'it holds no row at all'}")


def learning_rate(settings: TrainingSettings, model: Any) -> float:  # noqa: ANN401 - transformers is untyped
    """The highest learning rate: the one that is set, or one by the number of parameters."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    return float(f"{max(_LOWEST_RATE, _RATE_OF_A_MILLION / max(millions, 1.0) ** 0.5):.1e}")


def train_model(
    trainee: Trainee,
    rows: TokenRows,
    settings: TrainingSettings,
    progress: Progress,
    name: str = "train",
    on_step: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Trains a model in place.

    Args:
        trainee: The model.
        rows: At least one.
        settings: How to train.
        progress: Where to say how far it is, every few seconds.
        name: What to call it there.
        on_step: Called after each step with how many are done.

    Returns:
        The rows of each step.
    """
    import datasets
    from transformers import PrinterCallback
    from trl import SFTTrainer

    count = settings.steps or steps_for(rows.trained, settings.epochs, settings.step_tokens)
    steps = steps_of(rows.trained, count, settings.step_tokens, settings.seed)
    torch.manual_seed(settings.seed)

    class Trainer(_InSteps, SFTTrainer):
        row_steps = steps
        pass_tokens = settings.pass_tokens or PASS_TOKENS[trainee.device]

    with tempfile.TemporaryDirectory(prefix="winnow-train-") as folder:
        trainer = Trainer(
            model=trainee.model,
            args=_arguments(trainee, settings, len(steps), folder),
            train_dataset=datasets.Dataset(rows.table),
            processing_class=trainee.tokenizer,
            data_collator=WeightedCollator(trainee.pad_token_id),
            callbacks=[_watch(progress, name, on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    trainee.model.eval()
    return steps


def _arguments(trainee: Trainee, settings: TrainingSettings, steps: int, folder: str) -> Any:  # noqa: ANN401
    """What SFTTrainer needs; everything that would touch the rows or the disk is off."""
    from trl import SFTConfig

    with warnings.catch_warnings():
        # The new name of gradient_checkpointing is unknown to the older versions that are allowed.
        warnings.simplefilter("ignore", FutureWarning)
        return SFTConfig(
            output_dir=folder,
            max_steps=steps,
            learning_rate=learning_rate(settings, trainee.model),
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 20),
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=settings.seed,
            use_cpu=trainee.device == "cpu",
            bf16=trainee.device == "cuda",
            gradient_checkpointing=settings.checkpointing,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )


class _InSteps(WithWeights):
    """Put before a Trainer class: steps of given rows, each in passes that fit the memory."""

    row_steps: list[list[int]]
    pass_tokens: int
    train_dataset: Any
    data_collator: Any

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """One padded batch for each step."""
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=self.row_steps, collate_fn=self.data_collator
        )

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The gradient of a step, pass by pass; their losses add up to the step's."""
        labels = int((inputs["labels"][:, 1:] != IGNORED).sum())
        passes = split_into_passes(inputs, self.pass_tokens)
        losses = [super(_InSteps, self).training_step(model, part, labels) for part in passes]  # type: ignore[misc]  # the Trainer's
        return torch.stack(losses).sum()


def _watch(progress: Progress, name: str, on_step: Callable[[int], None] | None) -> Any:  # noqa: ANN401 - transformers is untyped
    """A callback that says every few seconds how far training is, and tells `on_step`."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        began = said = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ANN401
            self.began = self.said = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ANN401
            if on_step is not None:
                on_step(state.global_step)
            now = time.monotonic()
            if now - self.said < SAY_SECONDS:
                return
            self.said, rate = now, state.global_step / (now - self.began)
            left = clock((state.max_steps - state.global_step) / rate)
            numbers = {"steps": state.global_step, "steps_total": state.max_steps, "steps_per_second": rate}
            far = f"step {state.global_step:,} of {state.max_steps:,}"
            progress.say(f"{name:<10}  {far}  {rate:.1f} steps/s  {left} left", name, numbers)

    return Watch()


def fine_tuned_text(done: FineTuned) -> str:
    """What was done, where it is, and what to do next."""
    epochs = done.seen_tokens / done.trained_tokens
    lines = [
        f"Trained on {done.rows:,} rows ({done.trained_tokens:,} trained tokens):",
        f"{done.steps:,} steps of about {done.seen_tokens // done.steps:,} tokens, {epochs:.1f} epochs, "
        f"learning rate {done.learning_rate:.1e}, {done.seconds:.0f} s.",
        f"Loss on training rows, nats per trained token: {done.loss_before:.3f} before, "
        f"{done.loss_after:.3f} after.",
    ]
    lines += [f"Left out: {reason}: {count:,} rows." for reason, count in done.left_out.items()]
    return "\n".join(
        [
            *lines,
            f"Model  {done.folder}",
            "",
            "Next: whether the selection helps, measured on rows that no model saw: winnow evaluate OUT",
            f"Use:  AutoModelForCausalLM.from_pretrained({str(done.folder)!r})",
        ]
    )

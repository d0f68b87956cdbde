"""One arm: a fresh copy of the model, trained on one set, measured on the held-out rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from connectors.manifest import json_hash
from connectors.shards import write_json
from pipelines.evaluate.answers import AnswerSettings, right_answers
from pipelines.progress import Progress
from pipelines.training.fine_tune import TrainingSettings, train_model
from pipelines.training.token_rows import TokenRows
from pipelines.training.trainee import Trainee, load_trainee, mean_loss_of, row_losses
from scorers.models.settings import ModelSettings

LAYOUT = 1  # raise when results change meaning: arms are then trained again
CURVE_ROWS = 64  # of the held-out rows, for the curves


@dataclass(frozen=True)
class ArmTask:
    """What one arm needs; picklable.

    Attributes:
        label: What to call it.
        rows: Parquet of its training rows; "" for the model as it is, which is only measured.
        rows_hash: Of their content.
        held_out: Parquet of the held-out rows, with their final answers in `gold`.
        held_out_hash: Of their content.
        model: The model.
        model_hash: Of its weights, tokenizer and template.
        training: How it is trained.
        answers: How its answers are checked; None: not at all.
        curve_points: How often the loss is measured during training.
        folder: Where the result goes.
        threads: Of torch on CPU; they change the last bits of a result, so they are part of the key.
    """

    label: str
    rows: str
    rows_hash: str
    held_out: str
    held_out_hash: str
    model: ModelSettings
    model_hash: str
    training: TrainingSettings
    answers: AnswerSettings | None
    curve_points: int
    folder: str
    threads: int

    @property
    def file(self) -> Path:
        """Where the result is, once it is there; the name changes with everything that changes the result."""
        settings = {k: v for k, v in asdict(self.training).items() if k != "pass_tokens"}
        parts = [LAYOUT, self.rows_hash, self.held_out_hash, self.model_hash, settings, self.curve_points]
        parts += [asdict(self.answers) if self.answers else None]
        return Path(self.folder) / f"{json_hash(parts)[:20]}.json"


def measured(task: ArmTask) -> dict[str, Any] | None:
    """The result of an arm that was done before; None if it was not."""
    try:
        found: dict[str, Any] = json.loads(task.file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return found


def measure_arm(task: ArmTask, progress: Progress | None = None) -> dict[str, Any]:
    """Trains and measures an arm, and stores the result.

    Returns:
        label; losses (sum over each held-out row's tokens, nats); right (1, 0 or null for each); curve
        (pairs of step and loss on CURVE_ROWS of the rows); rows, steps, seen_tokens, epochs; seconds.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    began = time.monotonic()
    trainee = load_trainee(task.model)
    table = pq.read_table(task.held_out)
    held_out = TokenRows(table.drop_columns(["gold"]))
    result: dict[str, Any] = {"label": task.label, "rows": 0, "steps": 0, "seen_tokens": 0, "epochs": 0.0}
    curve: list[tuple[int, float]] = []
    if task.rows:
        rows = TokenRows(pq.read_table(task.rows))
        watch = _curve(trainee, held_out, task, curve)
        steps = train_model(trainee, rows, task.training, progress or Progress(), task.label[:24], watch)
        seen = int(sum(rows.trained[own].sum() for own in steps))
        result |= {"rows": rows.table.num_rows, "steps": len(steps), "seen_tokens": seen}
        result["epochs"] = round(seen / int(rows.trained.sum()), 2)
    losses, _ = row_losses(trainee, held_out)
    result |= {"losses": losses.tolist(), "curve": curve, "right": None}
    if task.answers:
        right = right_answers(trainee, held_out, table["gold"].to_pylist(), task.answers)
        result["right"] = [None if np.isnan(value) else value for value in right]
    result["seconds"] = round(time.monotonic() - began, 2)
    write_json(task.file, result)
    return result


def _curve(
    trainee: Trainee, held_out: TokenRows, task: ArmTask, curve: list[tuple[int, float]]
) -> Callable[[int], None]:
    """Measures the loss on some held-out rows at evenly spaced steps, the last one too."""
    count = len(held_out.trained)
    sample = held_out.take(np.linspace(0, count - 1, min(CURVE_ROWS, count)).astype(np.int64))
    total = task.training.steps or 0
    at = {round(total * point / task.curve_points) for point in range(1, task.curve_points + 1)}
    if at:
        curve.append((0, mean_loss_of(trainee, sample)))

    def on_step(step: int) -> None:
        if step in at:
            curve.append((step, mean_loss_of(trainee, sample)))

    return on_step

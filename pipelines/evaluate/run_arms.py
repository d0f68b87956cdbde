"""Trains the arms that are not done yet, here or in processes side by side, and says how far it is."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from connectors.manifest import json_hash
from connectors.shards import write_parquet
from pipelines.evaluate.answers import AnswerSettings
from pipelines.evaluate.arms import Arm
from pipelines.evaluate.held_out import HeldOut
from pipelines.evaluate.measure import ArmTask, measure_arm, measured
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.progress import Progress, clock
from pipelines.training.fine_tune import TrainingSettings
from scorers.models.cores import usable_cores
from scorers.models.fingerprint import fingerprint
from scorers.models.settings import ModelSettings

START = "not trained"


def make_tasks(
    arms: Sequence[Arm],
    held_out: HeldOut,
    model: ModelSettings,
    training: TrainingSettings,
    settings: EvaluateSettings,
    folder: Path,
) -> list[ArmTask]:
    """The tasks of some arms, in their order, after one that measures the model as it is.

    Args:
        arms: What to train on.
        held_out: What to measure on.
        model: The model.
        training: How to train; each arm has a seed of its own.
        settings: What to measure.
        folder: Where rows and results go.
    """
    (folder / "arms").mkdir(parents=True, exist_ok=True)
    table = held_out.rows.table.append_column("gold", pa.array(held_out.gold, pa.string()))
    held_out_file, held_out_hash = _store(table, folder)
    cores = max(1, usable_cores() // settings.workers)
    threads = settings.threads or min(torch.get_num_threads(), cores)
    kind = settings.answers
    answers = AnswerSettings(kind, settings.answer_rows, settings.answer_tokens) if kind else None
    stored: dict[int, tuple[str, str]] = {}  # sets that are the same for all seeds are written once

    def task(label: str, file: str, file_hash: str, seed: int) -> ArmTask:
        return ArmTask(
            label=label,
            rows=file,
            rows_hash=file_hash,
            held_out=held_out_file,
            held_out_hash=held_out_hash,
            model=model,
            model_hash=json_hash(fingerprint(model)),
            training=TrainingSettings(
                training.steps, training.epochs, training.step_tokens, training.learning_rate, seed
            ),
            answers=answers,
            curve_points=settings.curve_points,
            folder=str(folder / "arms"),
            threads=threads,
        )

    tasks = [task(START, "", "", 0)]
    for arm in arms:
        if id(arm.rows) not in stored:
            stored[id(arm.rows)] = _store(arm.rows.table, folder)
        tasks.append(task(f"{arm.label}, seed {arm.seed}", *stored[id(arm.rows)], arm.seed))
    return tasks


def _store(table: pa.Table, folder: Path) -> tuple[str, str]:
    """Writes rows under a name made of their content; the path and the hash."""
    content = json_hash(table.to_pydict())[:16]
    path = folder / "arms" / f"rows-{content}.parquet"
    if not path.exists():
        write_parquet(path, table, table.schema)
    return str(path), content


def run_tasks(
    tasks: Sequence[ArmTask], settings: EvaluateSettings, progress: Progress
) -> list[dict[str, Any]]:
    """The result of each task, in order; those that are stored are not done again."""
    results = {at: found for at, task in enumerate(tasks) if (found := measured(task)) is not None}
    left = [at for at in range(len(tasks)) if at not in results]
    if results:
        progress.say(f"{len(results)} of {len(tasks)} models were trained and measured before")
    began = time.monotonic()
    for count, (at, result) in enumerate(_results(tasks, left, settings, progress), start=1):
        results[at] = result
        elapsed = time.monotonic() - began
        rest = clock(elapsed / count * (len(left) - count))
        tokens = sum(results[i]["seen_tokens"] for i in left if i in results)
        progress.say(
            f"model {len(results)} of {len(tasks)}  {tasks[at].label}: {result['seconds']:.0f} s  "
            f"{tokens / elapsed:,.0f} trained tokens/s  {rest} left",
            "evaluate",
            {"models": len(results), "models_total": len(tasks), "seconds": round(elapsed, 1)},
        )
    return [results[at] for at in range(len(tasks))]


def _results(
    tasks: Sequence[ArmTask], left: Sequence[int], settings: EvaluateSettings, progress: Progress
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results as they come, with the place of the task."""
    if settings.workers == 1 or len(left) < 2:
        for at in left:
            yield at, measure_arm(tasks[at], progress)
        return
    # Fresh processes: one that is forked after torch has used its threads would hang.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(settings.workers, mp_context=fresh) as pool:
        running: dict[Future[dict[str, Any]], int] = {pool.submit(measure_arm, tasks[at]): at for at in left}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:  # also when the command is stopped: what has not begun is not done
            pool.shutdown(cancel_futures=True)

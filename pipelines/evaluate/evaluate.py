"""`winnow evaluate`: one model trained on the selected rows and on other sets, measured on held-out rows.

Every arm starts from the same weights and has the same number of steps of the same number of trained tokens,
the same learning rate, and for each seed its own order of rows. An arm that is done is not trained again: its
result is kept under a key of everything that changes it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.shards import write_json
from connectors.storage import write_text
from pipelines.evaluate.arms import make_arms
from pipelines.evaluate.held_out import HeldOut, from_file, split, without_groups
from pipelines.evaluate.pool import Run, open_runs, shared_pool
from pipelines.evaluate.results import summarise
from pipelines.evaluate.run_arms import make_tasks, run_tasks
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.evaluate.text import CURVES, RESULTS, TABLE, curves_csv, markdown
from pipelines.progress import Progress
from pipelines.training.fine_tune import TrainingSettings, learning_rate, need_packages, need_rows
from pipelines.training.steps import steps_for
from pipelines.training.token_rows import TokenRows, token_rows
from pipelines.training.trainee import load_trainee
from pipelines.training.training_set import own_tokens
from scorers.models.rendering import Renderer
from scorers.models.settings import ModelSettings


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        folder: Where results.json, results.md and curves.csv are.
        results: What results.json holds.
    """

    folder: Path
    results: dict[str, Any]


def evaluate(
    outs: Sequence[str | Path],
    to: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Measures whether training on the selected rows of some runs helps.

    Args:
        outs: Output folders of finished runs that chose from the same rows.
        to: Folder of results; default `evaluation` in the first of them. What is there of an earlier call
            with the same settings serves.
        settings: What is measured.
        progress: Where to say how far it is.

    Raises:
        ValueError: If a run is not finished or its texts are gone, runs chose from different rows or with
            different models, or too few held-out rows are left.
        ImportError: If the packages for training are not installed.
    """
    need_packages()
    settings, progress = settings or EvaluateSettings(), progress or Progress()
    runs = open_runs([Path(out) for out in outs])
    folder = Path(to) if to is not None else runs[0].out / "evaluation"
    model = _model_settings(runs, settings.model)
    trainee = load_trainee(model)
    pool = shared_pool(runs)
    held_out = _held_out(pool, trainee.renderer, settings)
    everything = token_rows(without_groups(pool, held_out.groups), trainee.renderer)
    need_rows(everything, "the data without the held-out prompts")
    selected = {run.name: _selected(run, held_out, model, trainee.renderer) for run in runs}
    training = _training(settings, selected, trainee.model)
    arms = make_arms(selected, everything, settings.seeds)
    tasks = make_tasks(arms, held_out, model, training, settings, folder)
    left_out = {name: rows.left_out for name, rows in {**selected, "everything": everything}.items()}
    facts = _facts(model, settings, training, held_out, left_out)
    for line in _said(facts, everything):
        progress.say(line)
    results = facts | summarise(arms, run_tasks(tasks, settings, progress), held_out, settings.seeds)
    write_json(folder / RESULTS, results)
    write_text(str(folder / TABLE), markdown(results))
    write_text(str(folder / CURVES), curves_csv(results))
    return Evaluated(folder, results)


def _model_settings(runs: Sequence[Run], model: str | None) -> ModelSettings:
    """The settings of the model that all arms are trained from."""
    plain = [run.manifest["recipe"].get("model") for run in runs]
    if model is not None:
        return ModelSettings(**{**(plain[0] or {}), "path": model, "revision": None})
    if None in plain:
        raise ValueError(f"{runs[plain.index(None)].out} was made without a model: give --model MODEL")
    if any(own != plain[0] for own in plain):
        raise ValueError(
            "the runs were made for different models, or with other settings of one: give --model MODEL"
        )
    return ModelSettings(**plain[0])


def _held_out(pool: pa.Table, renderer: Renderer, settings: EvaluateSettings) -> HeldOut:
    if settings.held_out is not None:
        return from_file(settings.held_out, pool, renderer, settings.held_out_rows, settings.answers)
    return split(pool, renderer, settings.held_out_share, settings.held_out_rows, settings.answers)


def _selected(run: Run, held_out: HeldOut, model: ModelSettings, renderer: Renderer) -> TokenRows:
    table = own_tokens(without_groups(run.kept, held_out.groups), model, run.manifest, run.out)
    rows = token_rows(table, renderer)
    need_rows(rows, f"{run.out} without the held-out prompts")
    return rows


def _training(settings: EvaluateSettings, selected: dict[str, TokenRows], model: Any) -> TrainingSettings:  # noqa: ANN401
    largest = np.array([max(int(rows.trained.sum()) for rows in selected.values())])
    return TrainingSettings(
        steps=settings.steps or steps_for(largest, settings.epochs, settings.step_tokens),
        step_tokens=settings.step_tokens,
        learning_rate=learning_rate(TrainingSettings(learning_rate=settings.learning_rate), model),
    )


def _facts(
    model: ModelSettings,
    settings: EvaluateSettings,
    training: TrainingSettings,
    held_out: HeldOut,
    left_out: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """What the results depend on."""
    return {
        "winnow_version": importlib.metadata.version("winnow"),
        "model": model.path,
        "seeds": settings.seeds,
        "steps": training.steps,
        "step_tokens": training.step_tokens,
        "learning_rate": training.learning_rate,
        "answers": settings.answers,
        "held_out": held_out.facts,
        "left_out": left_out,
        "notes": list(held_out.notes),
    }


def _said(facts: dict[str, Any], everything: TokenRows) -> list[str]:
    """What is about to be done, in a few lines."""
    held_out = facts["held_out"]
    lines = [
        f"Held out: {held_out['rows']:,} rows of {held_out['prompts']:,} prompts ({held_out['from']})",
        f"All other rows: {everything.table.num_rows:,}, {int(everything.trained.sum()):,} trained tokens",
        f"Each model: {facts['steps']:,} steps of about {facts['step_tokens']:,} trained tokens, "
        f"learning rate {facts['learning_rate']:.1e}",
    ]
    for name, reasons in facts["left_out"].items():
        lines += [f"Left out of {name}: {count:,} rows: {reason}" for reason, count in reasons.items()]
    return [*lines, *facts["notes"]]

"""What `winnow evaluate` measures, and how it trains for it."""

from __future__ import annotations

from dataclasses import dataclass

from scorers.correctness import Kind


@dataclass(frozen=True)
class EvaluateSettings:
    """What is measured, and how models are trained for it: the same for all arms.

    Attributes:
        model: Folder or hub id; None: the one that the runs were made for.
        held_out: File, folder or glob of rows to measure on; None: a share of the prompts of the data.
        held_out_share: That share, above 0 and below 1.
        held_out_rows: Most rows to measure on.
        seeds: Trainings of each set, at least 1; from 2 on, intervals cover how much seeds matter.
        steps: Optimiser steps; None: `epochs` times the largest selected set.
        epochs: How often that set is seen.
        step_tokens: Trained tokens of a step.
        learning_rate: The highest; None: by the size of the model, see pipelines/training/fine_tune.py.
        answers: Also how often the model's own answers are right, and how they are compared; None: not.
        answer_rows: Most held-out rows that are answered.
        answer_tokens: Most tokens of an answer.
        curve_points: How often the loss is measured during training.
        workers: Arms that are trained side by side, each in a process of its own.
        threads: Of torch in each process, on CPU; None: the cores shared out, no more than torch takes.
    """

    model: str | None = None
    held_out: str | None = None
    held_out_share: float = 0.1
    held_out_rows: int = 500
    seeds: int = 3
    steps: int | None = None
    epochs: float = 2.0
    step_tokens: int = 1024
    learning_rate: float | None = None
    answers: Kind | None = None
    answer_rows: int = 200
    answer_tokens: int = 256
    curve_points: int = 4
    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "workers", "held_out_rows", "answer_rows", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} found, at least 1 is needed")

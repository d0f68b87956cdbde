"""Options of the commands that train models; they stand here so that the command line stays readable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

TrainingSet = Annotated[
    str, typer.Argument(metavar="OUT", help="Output folder of a run, or Parquet of `winnow export`.")
]
Runs = Annotated[list[str], typer.Argument(metavar="OUT...", help="Output folders of finished runs.")]
ModelFolder = Annotated[Path, typer.Option("--to", help="Folder for the trained model.")]
ResultsFolder = Annotated[
    Path | None, typer.Option("--to", help="Folder of results; default OUT/evaluation.")
]
ModelName = Annotated[str | None, typer.Option("--model", help="Folder or hub id; default: the run's model.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Optimiser steps of each training; default: by --epochs.")
]
Epochs = Annotated[float, typer.Option(help="How often the selected set is seen, without --steps.")]
StepTokens = Annotated[int, typer.Option(min=1, help="Trained tokens of a step.")]
LearningRate = Annotated[
    float | None, typer.Option(help="The highest; default: by the model's size, 1e-3 for 1 million.")
]
Seed = Annotated[int, typer.Option(help="Of the order of the rows.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each set.")]
HeldOutRows = Annotated[
    str | None,
    typer.Option("--held-out", metavar="FILE", help="Rows to measure on; default: a share of the prompts."),
]
Answers = Annotated[
    Literal["math", "exact", "choice"] | None,
    typer.Option(help="Also how often the model's own answers are right, and how they are compared."),
]

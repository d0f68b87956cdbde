"""GLOW's gain: how much a row's loss fell since an earlier checkpoint.

    glow_gain = loss_previous - loss_target, nats per token

Direction: high means learnt fast; zero or below means stuck or getting worse, which GLOW weighs up
(pipelines/selectors/glow.py). The models are two checkpoints of one training, an epoch apart.

Source: "Learning from Mistakes: Negative Reasoning Samples Enhance Out-of-Domain Generalization",
arXiv 2601.04992, whose code (Eureka-Maggie/GLOW) keeps the losses of training itself; ours reads checkpoints,
one pass each, so that rows keep their identity through shuffling and over many processes.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, row_means

TARGET = Need("conditional", "logprob")
PREVIOUS = Need("conditional", "logprob", model="previous")


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Column `glow_gain`."""
    return {"glow_gain": row_means(outputs.tokens[TARGET]) - row_means(outputs.tokens[PREVIOUS])}


SCORER = Scorer(
    name="glow",
    columns=(
        Column(
            "glow_gain",
            "nats/token",
            -math.inf,
            math.inf,
            "neither",
            "fall of the loss since the previous checkpoint",
        ),
    ),
    needs=(TARGET, PREVIOUS),
    score=score,
    source="GLOW, arXiv 2601.04992",
)

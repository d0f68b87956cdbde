"""RHO-1's excess loss: what the target has still to learn of a row that a reference knows.

    excess_t = L_target(t) - L_reference(t),    rho1_excess = mean of excess_t over the response tokens

in nats. The reference is the same base model tuned on data known to be good, with the same tokenizer.
Direction: high is good, the reference expects tokens that the target does not; below zero the reference finds
the response less likely than the target does. Identical models give 0 throughout, and a constant added to
both losses changes nothing.

Source: "Rho-1: Not All Tokens Are What You Need", arXiv 2404.07965, which prunes tokens by the excess
(pipelines/selectors/rho1.py). Known differences: the paper takes the student's loss at each step of training;
here both losses are those before it. The mean over a row, as a score of the row, is ours.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, row_means

TARGET = Need("conditional", "logprob")
REFERENCE = Need("conditional", "logprob", model="reference")


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Column `rho1_excess`."""
    # A row's tokens are the same for both models, so the mean of differences is the difference of means.
    return {"rho1_excess": row_means(outputs.tokens[REFERENCE]) - row_means(outputs.tokens[TARGET])}


SCORER = Scorer(
    name="rho1",
    columns=(
        Column(
            "rho1_excess",
            "nats/token",
            -math.inf,
            math.inf,
            "higher",
            "loss of the target less that of the reference model",
        ),
    ),
    needs=(TARGET, REFERENCE),
    score=score,
    source="RHO-1, arXiv 2404.07965",
)

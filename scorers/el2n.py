"""EL2N: how far the model's prediction is from the response, token by token.

Formula: (1/n) Σ_t ||p_t - onehot(y_t)||_2 over the n response tokens, p_t the predicted probabilities.

Source: the error L2-norm of Paul et al. 2021, "Deep Learning on a Data Diet" (arXiv 2107.07075), of a
classifier early in training, averaged over several runs. Ours: the mean over response tokens of the one model
at hand. Direction: 0 where the model is certain and right, sqrt(2) where it is certain and wrong; the paper
keeps the highest, and drops the very highest where labels are noisy.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

RESPONSE_ERRORS = Need("conditional", "el2n")


def mean_error(errors: TokenValues) -> RowValues:
    """Mean error norm of each row's response tokens.

    Args:
        errors: Norm of each token's error, from 0 to sqrt(2).

    Returns:
        From 0 to sqrt(2), shape (rows,); NaN for a row without tokens.

    Example:
        >>> import numpy as np
        >>> mean_error(TokenValues(np.float32([0.5, 1.0, 0.25]), np.array([0, 2, 3]))).tolist()
        [0.75, 0.25]
    """
    return row_means(errors)


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Column `el2n`."""
    return {"el2n": mean_error(outputs.tokens[RESPONSE_ERRORS])}


SCORER = Scorer(
    name="el2n",
    columns=(
        Column(
            "el2n", "", 0.0, math.sqrt(2) + 1e-6, "neither", "mean distance of prediction and response token"
        ),
    ),
    needs=(RESPONSE_ERRORS,),
    score=score,
    source="Data Diet, arXiv 2107.07075",
)

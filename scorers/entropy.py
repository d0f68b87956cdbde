"""Mean entropy of the model's predictions over the response: how uncertain it is, whatever the answer.

Formula: H = (1/n) Σ_t H_t, H_t = -Σ_v p_v log p_v over the whole vocabulary at each of the n response
tokens, nats. Computed as logZ - Σ p_v z_v, clamped at 0.

Source: the uncertainty axis of Q-Tuning (arXiv 2509.23873). Direction: 0 is certain, log(vocabulary size)
is a uniform guess; neither is better by itself.

Known differences: Q-Tuning's withdrawn code averages over every attended position, prompt included; the
paper, and this column, average over the response.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

RESPONSE_ENTROPIES = Need("conditional", "entropy")


def mean_entropy(entropies: TokenValues) -> RowValues:
    """Mean of the prediction entropies at each row's response tokens.

    Args:
        entropies: Entropy at each response token, nats, >= 0.

    Returns:
        Nats per token, shape (rows,), from 0 to log(vocabulary size); NaN for a row without tokens.

    Example:
        >>> import numpy as np
        >>> mean_entropy(TokenValues(np.float32([0.5, 1.5, 2.0]), np.array([0, 2, 3]))).tolist()
        [1.0, 2.0]
    """
    return row_means(entropies)


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Column `entropy`."""
    return {"entropy": mean_entropy(outputs.tokens[RESPONSE_ENTROPIES])}


SCORER = Scorer(
    name="entropy",
    columns=(
        Column(
            "entropy", "nats/token", 0.0, math.inf, "neither", "mean uncertainty of the model's predictions"
        ),
    ),
    needs=(RESPONSE_ENTROPIES,),
    score=score,
    source="Q-Tuning, arXiv 2509.23873",
)

"""Top-1 agreement: the share of response tokens that the model itself would have written next.

Formula: (1/n) Σ_t [argmax_v p(v | x, y_<t) = y_t] over the n response tokens; ties go to the lowest token id.
It is the next-token accuracy that trainers log (`mean_token_accuracy` of TRL), per example.

Direction: 1 means that greedy decoding after each true prefix repeats the response, 0 that it never does;
neither is better by itself.
"""

from __future__ import annotations

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

RESPONSE_TOP1 = Need("conditional", "top1")


def agreement(top1: TokenValues) -> RowValues:
    """Share of each row's response tokens that are the model's first choice.

    Args:
        top1: 1.0 where the response token is the most probable one, else 0.0.

    Returns:
        Fraction from 0 to 1, shape (rows,); NaN for a row without tokens.

    Example:
        >>> import numpy as np
        >>> agreement(TokenValues(np.float32([1, 0, 1, 1]), np.array([0, 2, 4]))).tolist()
        [0.5, 1.0]
    """
    return row_means(top1)


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Column `top1_agreement`."""
    return {"top1_agreement": agreement(outputs.tokens[RESPONSE_TOP1])}


SCORER = Scorer(
    name="top1_agreement",
    columns=(
        Column(
            "top1_agreement",
            "",
            0.0,
            1.0,
            "neither",
            "share of response tokens that are the model's first choice",
        ),
    ),
    needs=(RESPONSE_TOP1,),
    score=score,
    source="next-token accuracy, as trainers log it",
)

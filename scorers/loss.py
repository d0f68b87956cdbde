"""Loss and perplexity of the response after its prompt.

Formula: loss = -(1/n) Σ_t log p(y_t | x, y_<t) over the n response tokens, nats per token, end-of-turn
token included; perplexity = exp(loss). The prompt never counts.

Sources: the length-normalised probability of GRAPE (arXiv 2502.04194, v3) is exp(-loss); POINTS
(arXiv 2409.04828) and the perplexity bands of Marion et al. (arXiv 2309.04564) rank on perplexity; it is
the error axis of Q-Tuning (arXiv 2509.23873). Direction: low means that the model already expects the
response, high that it does not; which is better depends on the selector.

Known differences: GRAPE's first version ranks on the sum, not the mean. Rank on loss, not on perplexity,
where values are large: the order is the same and perplexity overflows above a loss of 709.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, exp_or_nan, row_means

RESPONSE_LOGPROBS = Need("conditional", "logprob")


def mean_loss(logprobs: TokenValues) -> RowValues:
    """Mean negative log-probability of each row's response tokens.

    Args:
        logprobs: Log-probabilities of the response tokens, nats, <= 0.

    Returns:
        Nats per token, shape (rows,), >= 0; NaN for a row without tokens.

    Example:
        >>> import numpy as np
        >>> logprobs = TokenValues(np.log(np.float32([0.5, 0.5, 0.25])), np.array([0, 2, 3]))
        >>> mean_loss(logprobs).round(6).tolist()
        [0.693147, 1.386294]
    """
    # 0.0 - x rather than -x: a certain response has loss 0.0, never -0.0
    return 0.0 - row_means(logprobs)


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `loss` and `perplexity`."""
    loss = mean_loss(outputs.tokens[RESPONSE_LOGPROBS])
    return {"loss": loss, "perplexity": exp_or_nan(loss)}


SCORER = Scorer(
    name="loss",
    columns=(
        Column(
            "loss", "nats/token", 0.0, math.inf, "neither", "mean negative log-probability of the response"
        ),
        Column("perplexity", "", 1.0, math.inf, "neither", "exp(loss): how many tokens it hesitates between"),
    ),
    needs=(RESPONSE_LOGPROBS,),
    score=score,
    source="GRAPE, arXiv 2502.04194; POINTS, arXiv 2409.04828; Q-Tuning, arXiv 2509.23873",
)

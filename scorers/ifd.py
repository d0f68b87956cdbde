"""Instruction-Following Difficulty: how little the prompt helps with the response.

Source: Li et al. 2023 (Cherry LLM), https://arxiv.org/abs/2308.12032; Superfiltering,
https://arxiv.org/abs/2402.00530. Two definitions are in use and both are given: `ifd_loss` is the ratio of
mean losses, loss / direct_loss, as Cherry's script computes it; `ifd_ppl` is the ratio of perplexities,
exp(loss - direct_loss), as Superfiltering's does. They cross 1 together but order the rows differently.

Direction: near 0 the prompt gives the response away, near 1 it does not help, above 1 it hurts, which
usually means that prompt and response do not belong together. Published use: drop what is above 1
(Cherry) or not below 1 (Superfiltering), then take the highest.

Known differences: the direct context is the assistant header of the chat template (Cherry's is its
"### Response:" header), so the first response token is scored in both views over the same tokens.
Superfiltering's bare answer has no context and leaves that token out of the denominator only. Both
scripts look for the response text inside the full text; here the boundary is made, not searched. Where
those scripts store 0 after an error, these columns are null.
"""

from __future__ import annotations

import math

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer, exp_or_nan
from scorers.loss import RESPONSE_LOGPROBS, mean_loss

DIRECT_LOGPROBS = Need("direct", "logprob")


def ifd(loss: RowValues, direct_loss: RowValues) -> tuple[RowValues, RowValues]:
    """Ratio of the response's loss, and of its perplexity, with the prompt to that without it.

    Args:
        loss: Mean loss of the response after its prompt, nats per token, shape (rows,).
        direct_loss: Mean loss of the same tokens with no prompt, nats per token, shape (rows,).

    Returns:
        (ifd_loss, ifd_ppl), each of shape (rows,) and >= 0; NaN in both where either loss is NaN or
        where the response is certain without the prompt (direct_loss = 0).

    Example:
        >>> losses, perplexities = ifd(np.array([1.0, 1.5, 1.0]), np.array([2.0, 1.2, 0.0]))
        >>> losses.round(6).tolist(), perplexities.round(6).tolist()
        ([0.5, 1.25, nan], [0.367879, 1.349859, nan])
    """
    direct = np.where(direct_loss > 0, direct_loss, np.nan)
    with np.errstate(over="ignore"):
        ratio = loss / direct
    return np.where(np.isfinite(ratio), ratio, np.nan), exp_or_nan(loss - direct)


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `direct_loss`, `ifd_loss` and `ifd_ppl`."""
    direct_loss = mean_loss(outputs.tokens[DIRECT_LOGPROBS])
    ifd_loss, ifd_ppl = ifd(mean_loss(outputs.tokens[RESPONSE_LOGPROBS]), direct_loss)
    return {"direct_loss": direct_loss, "ifd_loss": ifd_loss, "ifd_ppl": ifd_ppl}


SCORER = Scorer(
    name="ifd",
    columns=(
        Column(
            "direct_loss",
            "nats/token",
            0.0,
            math.inf,
            "neither",
            "mean loss of the response without its prompt",
        ),
        Column(
            "ifd_loss", "", 0.0, math.inf, "neither", "loss / direct_loss; drop above 1, then highest first"
        ),
        Column(
            "ifd_ppl", "", 0.0, math.inf, "neither", "ratio of perplexities; drop above 1, then highest first"
        ),
    ),
    needs=(RESPONSE_LOGPROBS, DIRECT_LOGPROBS),
    score=score,
    source="Cherry LLM, arXiv 2308.12032; Superfiltering, arXiv 2402.00530",
)

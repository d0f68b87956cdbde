"""The mistake log, reduced to a row: how wrong the model is at its tokens, and how lastingly.

The log keeps the error vector ℓ_t = onehot(y_t) - p_t of every token and step of training. Of it a row keeps,
as means over its response tokens:

- `mistake` = 1 - p_target(y_t), the entry of ℓ_t at the label
- `mistake_persist` = share of the two checkpoints, previous and target, whose most likely token is not y_t

Direction: high `mistake_persist` with a low loss elsewhere marks what training does not mend, hard rows or
wrong labels; none is declared better. Both are in [0, 1]; `mistake` is 0 only where every token is certain.
The length of ℓ_t is what scorers/el2n.py gives.

Source: "Transformer Copilot: Learning from The Mistake Log in LLM Fine-tuning", arXiv 2505.16270, which
trains a second model on the log. Known differences: this keeps numbers of a row, not hidden states; with two
checkpoints the share takes the values 0, 1/2 and 1 for each token.
"""

from __future__ import annotations

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

LOGPROB = Need("conditional", "logprob")
TARGET = Need("conditional", "top1")
PREVIOUS = Need("conditional", "top1", model="previous")


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `mistake` and `mistake_persist`."""
    logprob, now, before = (outputs.tokens[need] for need in (LOGPROB, TARGET, PREVIOUS))
    missed = TokenValues(-np.expm1(logprob.values), logprob.offsets)
    persist = TokenValues(1 - (now.values + before.values) / np.float32(2), now.offsets)
    return {"mistake": row_means(missed), "mistake_persist": row_means(persist)}


SCORER = Scorer(
    name="mistake_log",
    columns=(
        Column("mistake", "", 0.0, 1.0, "neither", "mean probability that the response's tokens lack"),
        Column("mistake_persist", "", 0.0, 1.0, "neither", "share of checkpoints whose top token is wrong"),
    ),
    needs=(LOGPROB, TARGET, PREVIOUS),
    score=score,
    source="Transformer Copilot, arXiv 2505.16270",
)

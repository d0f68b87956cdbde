"""Whether dynamic fine-tuning suits a row: how probable its tokens are to the model that will be tuned.

Dynamic fine-tuning (DFT) weighs the loss of each token by the model's own probability of it, w_t = p_t. Its
weights before training are p_t here (pipelines/selectors/dft.py emits them); of a row this keeps

- `dft_weight` = mean of p_t over the response tokens
- `dft_low` = share of tokens with p_t < 0.1, which DFT hardly trains at all

Direction: none is declared. The authors find that DFT helps where many answers are valid (mathematical
reasoning, code) and harms where one exact answer is wanted: a set with a high `dft_low` holds facts that the
model lacks, and DFT would not teach them.

Source: "On the Generalization of SFT", DFT, arXiv 2508.05629; "Anchored Supervised Fine-Tuning", ASFT,
arXiv 2509.23753. The two columns are ours.
"""

from __future__ import annotations

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

RESPONSE_LOGPROBS = Need("conditional", "logprob")
LOW = 0.1


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `dft_weight` and `dft_low`."""
    logprob = outputs.tokens[RESPONSE_LOGPROBS]
    probability = np.exp(logprob.values)
    low = TokenValues((probability < LOW).astype(np.float32), logprob.offsets)
    return {
        "dft_weight": row_means(TokenValues(probability, logprob.offsets)),
        "dft_low": row_means(low),
    }


SCORER = Scorer(
    name="dft",
    columns=(
        Column("dft_weight", "", 0.0, 1.0, "neither", "mean probability of the response's tokens"),
        Column("dft_low", "", 0.0, 1.0, "neither", "share of tokens of probability below 0.1"),
    ),
    needs=(RESPONSE_LOGPROBS,),
    score=score,
    source="DFT, arXiv 2508.05629; ASFT, arXiv 2509.23753",
)

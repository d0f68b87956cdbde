"""Loss and entropy over the whole conversation, prompt included.

    whole_loss = -(1/(L-1)) Σ log p(s_t | s_<t),    whole_entropy = mean of the entropy

over the L tokens but the first, the template's own among them, nats per token. Direction: as of loss and
entropy, it depends on the selector. They cost a pass of their own, with the output layer at every position;
scores of the response alone are what fine-tuning trains on, and the usual choice.

Sources: the code of Q-Tuning (arXiv 2509.23873) averages entropy over all positions of a row where its paper
says response tokens; perplexity filters of training text (arXiv 2309.04564) read whole texts. Known
difference: Q-Tuning's perplexity is of the response in the code too, so only `whole_entropy` stands for it.
"""

from __future__ import annotations

import math

from scorers.base import Column, Need, Outputs, RowValues, Scorer, row_means
from scorers.loss import mean_loss

LOGPROBS = Need("whole", "logprob")
ENTROPIES = Need("whole", "entropy")


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `whole_loss` and `whole_entropy`."""
    return {
        "whole_loss": mean_loss(outputs.tokens[LOGPROBS]),
        "whole_entropy": row_means(outputs.tokens[ENTROPIES]),
    }


SCORER = Scorer(
    name="whole_text",
    columns=(
        Column("whole_loss", "nats/token", 0.0, math.inf, "neither", "loss over prompt and response"),
        Column(
            "whole_entropy", "nats/token", 0.0, math.inf, "neither", "uncertainty over prompt and response"
        ),
    ),
    needs=(LOGPROBS, ENTROPIES),
    score=score,
    source="the code of Q-Tuning, arXiv 2509.23873; perplexity filters, arXiv 2309.04564",
)

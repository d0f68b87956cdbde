"""ScaleDiff's difficulty: whether an adaptive-thinking model wants to think before it answers.

Such a model is asked for the first token after a prompt that ends with an opened `<think>`. If it closes the
thought at once, the problem is easy to it:

- `difficulty` = 1 - p(</think> | prompt), from 0 (certainly easy) to 1
- `think_flag` = 1 where `</think>` is not the most likely token, else 0: the rule that the paper selects by

Direction: high is hard, and wanted. The two can differ: with p = 0.4 a row has difficulty 0.6 and flag 0 if
every other token is less likely still; above p = 0.5 the flag is always 0. Only the prompt counts: another
response gives the same numbers. The model is not the one that will be tuned but one trained to choose
(AdaptThink-7B-delta0.05), so this is a run of its own.

Source: "ScaleDiff: Scaling Difficult Problems for Advanced Mathematical Reasoning", arXiv 2509.21070. Its
code flags; the same group's later scorer gives 1 - p with p = 0 outside the 20 likeliest tokens, where ours
reads the whole distribution, so that ours is never the higher. The code hard-codes the token's number; ours
asks the tokenizer, and refuses one that has no such token. It also refuses a template whose prompts do not
end with `<think>`: the first token after them would be no decision.
"""

from __future__ import annotations

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer

CLOSES = Need("conditional", "next_logprob", tokens=("</think>",), after="<think>")
FIRST = Need("conditional", "top1_logprob")

EQUAL = 1e-6  # nats: both are the same logit less the same normaliser, up to the last bits


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `difficulty` and `think_flag`."""
    closes = outputs.rows[CLOSES][:, 0].astype(np.float64)
    tokens = outputs.tokens[FIRST]
    likeliest = np.full(len(closes), np.nan)
    filled = np.diff(tokens.offsets) > 0
    likeliest[filled] = tokens.values[tokens.offsets[:-1][filled]]
    known = np.isfinite(closes) & filled
    thinks = np.where(known, closes < likeliest - EQUAL, np.nan)
    return {"difficulty": np.where(known, -np.expm1(closes), np.nan), "think_flag": thinks}


SCORER = Scorer(
    name="scalediff",
    columns=(
        Column("difficulty", "", 0.0, 1.0, "higher", "probability of not ending the thought at once"),
        Column("think_flag", "", 0.0, 1.0, "higher", "1 where the model would think, else 0"),
    ),
    needs=(CLOSES, FIRST),
    score=score,
    source="ScaleDiff, arXiv 2509.21070",
)

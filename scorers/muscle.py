"""MUSCLE's flips: what an update of the model unlearnt, and what it learnt, token by token.

A token is right where it is the model's most likely one. Over a row's response tokens:

- `negative_flips` = share that the previous model had right and the target has wrong
- `positive_flips` = share that the previous model had wrong and the target has right

Direction: rows with many negative flips are those to replay, so that the update stays compatible. The share
right after the update less the share before is positive_flips - negative_flips, for every row.

Source: "MUSCLE: A Model Update Strategy for Compatible LLM Evolution", arXiv 2407.09435. Known differences:
the paper counts flips of whole answers on a task, 1[old right and new wrong]; a row of training data has no
answer of the new model without generation, so ours counts teacher-forced tokens.
"""

from __future__ import annotations

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

TARGET = Need("conditional", "top1")
PREVIOUS = Need("conditional", "top1", model="previous")


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `negative_flips` and `positive_flips`."""
    now, before = outputs.tokens[TARGET], outputs.tokens[PREVIOUS]
    lost = TokenValues(before.values * (1 - now.values), now.offsets)
    won = TokenValues(now.values * (1 - before.values), now.offsets)
    return {"negative_flips": row_means(lost), "positive_flips": row_means(won)}


SCORER = Scorer(
    name="muscle",
    columns=(
        Column("negative_flips", "", 0.0, 1.0, "neither", "share of tokens right before and wrong now"),
        Column("positive_flips", "", 0.0, 1.0, "neither", "share of tokens wrong before and right now"),
    ),
    needs=(TARGET, PREVIOUS),
    score=score,
    source="MUSCLE, arXiv 2407.09435",
)

"""GRAPE: of the rival answers to one prompt, the one the model itself finds most probable.

Source: "The Best Instruction-Tuning Data are Those That Fit", https://arxiv.org/abs/2502.04194. It
selects answers, never prompts: every group with a scored answer keeps min(keep, answers) of them.

Score: the mean loss of the response tokens, -(1/n) sum log p; **lowest** is best (`norm: mean`, as the
paper's later version and project page say). The first version speaks of the probability of the whole
response (`norm: sum`, loss times tokens), which favours short answers. No code is released.
Default keep = 1, the paper's choice for Tulu and OLMo; for UltraInteract it kept as many as a prompt had.

The paper drops prompts with a single answer when it builds its pool; here such a row is kept and says so
(ours), since nothing speaks against it. Also ours: equal scores by id; truncated responses, whose loss
misleads, rank only in groups where all are truncated; responses under `min_response_tokens`, which win
by their length alone, are dropped (8 is a sensible value); rows without a loss are dropped. The model
must have been scored with the chat template it will be tuned with. Answers must be distinct: dedupe first.

Its authors warn that data which the model wrote itself, though the most probable of all, trains worse.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import (
    Decisions,
    Selector,
    choose,
    counts,
    group_codes,
    id_ranks,
    scores,
    without_score,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_REASONS = (
    "grape: less probable than its rivals",
    "grape: among the most probable of its group",
    "grape: only answer",
    "grape: only answer that could be ranked",
)


class Grape(Selector):
    """The most probable answers of each group of rows that share a prompt."""

    name: ClassVar[str] = "grape"
    source: ClassVar[str] = "GRAPE, arXiv 2502.04194"

    keep: int = Field(default=1, ge=1, description="answers to keep per prompt")
    norm: Literal["mean", "sum"] = Field(
        default="mean",
        description="which loss ranks: mean, per token; sum, of the whole response, which favours short "
        "answers",
    )
    min_response_tokens: int = Field(
        default=1, ge=1, description="responses of fewer tokens are dropped; 8 is sensible"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return ("loss",)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the best of each group; writes `grape_rank`, `group_size`, `grape_margin`.

        - `grape_rank`: 1 for the most probable answer; null where there is nothing to rank against.
        - `group_size`: rows in play that share the prompt, ranked or not.
        - `grape_margin`: by how much the best answer leads the runner-up, and, negative, by how much any
          other trails the best; nats per token (`mean`) or nats (`sum`); null without a rank.
        """
        loss = scores(candidates, "loss", self.name)
        tokens = counts(candidates, "response_tokens", self.name)
        group = group_codes(candidates)
        has_score = np.isfinite(loss)
        long_enough = has_score & (tokens >= self.min_response_tokens)
        whole = long_enough & (counts(candidates, "truncated", self.name) == 0)
        ranked = whole | (long_enough & ~_any_of_group(group, whole))

        value = loss if self.norm == "mean" else loss * tokens
        ranks, margin, rivals = rank_in_groups(value, group, ranked, id_ranks(candidates))
        keep = ranked & (ranks <= self.keep)
        size = np.bincount(group)[group]
        alone = ranked & (rivals == 1)
        code = keep.astype(np.int64) + alone + (alone & (size > 1))
        reason = choose(_REASONS, code)
        reason[~ranked] = "grape: truncated, and a rival is whole"
        reason[~long_enough] = "grape: response too short"
        reason[~has_score] = without_score("grape: no loss", candidates, ~has_score)
        unranked = ~ranked | alone
        columns = {
            "grape_rank": pa.array(ranks, mask=unranked),
            "group_size": pa.array(size.astype(np.int64)),
            "grape_margin": pa.array(margin, mask=unranked),
        }
        return Decisions(keep, reason, columns)


def _any_of_group(group: Ints, rows: Bools) -> Bools:
    """Whether the group of each row has any of `rows`."""
    any_of: Bools = (np.bincount(group, weights=rows) > 0)[group]
    return any_of


def rank_in_groups(value: Floats, group: Ints, ranked: Bools, ids: Ints) -> tuple[Ints, Floats, Ints]:
    """Ranks the lowest value of each group first.

    Args:
        value: Loss of each row, shape (n,).
        group: Number of its group, shape (n,).
        ranked: Rows that take part, bool, shape (n,).
        ids: Place of each row in the order of ids, which decides between equal values, shape (n,).

    Returns:
        Rank from 1; lead over the runner-up (rank 1) or over the best (others, <= 0), NaN for a row
        alone; number of rows ranked in the group. Each of shape (n,), 0 or NaN where not ranked.
    """
    ranks, rivals = np.zeros_like(group), np.zeros_like(group)
    margin = np.full(len(group), np.nan)
    rows = np.flatnonzero(ranked)
    if not len(rows):
        return ranks, margin, rivals
    order = rows[np.lexsort((ids[rows], value[rows], group[rows]))]
    place = np.arange(len(order))
    starts = np.concatenate(([True], group[order][1:] != group[order][:-1]))
    first = np.maximum.accumulate(np.where(starts, place, 0))  # place of the best of the same group
    in_group = np.bincount(group[order])[group[order]]
    best = value[order][first]
    runner_up = value[order][np.minimum(first + 1, len(order) - 1)]
    lead = np.where(place == first, runner_up, best) - value[order]
    ranks[order] = place - first + 1
    rivals[order] = in_group
    margin[order] = np.where(in_group > 1, lead, np.nan)
    return ranks, margin, rivals

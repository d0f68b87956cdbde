"""Q-Tuning: keep confident mistakes and useful doubts, then drop the worst tokens of the mistakes.

Source: "Winning the Pruning Gamble: A Unified Approach to Joint Sample and Token Pruning for Efficient
SFT", https://arxiv.org/abs/2509.23873. No code is released; where we say *the code*, it is the trainer
that the authors' repository held for a while.

Every example lies on a plane of error (`loss`) and uncertainty (`entropy`), both over response tokens:

| quadrant | loss | entropy | the paper calls it | decision |
|---|---|---|---|---|
| Q1 | high | high | harmful noise | drop |
| Q2 | high | low | confident misconception | keep, prune tokens |
| Q3 | low | low | redundant | drop |
| Q4 | low | high | calibration | keep whole |

At level alpha, Q2 is {PPL > quantile(1 - alpha), entropy <= quantile(alpha)} and Q4 is {PPL <=
quantile(alpha), entropy > quantile(1 - alpha)}; the dead zone between them is dropped. The larger alpha,
the more is kept; the paper finds it by bisection. Where even alpha = 0.49 keeps too few, the rows with
the largest |P - E| fill up, P and E being perplexity and entropy scaled to [0, 1].

Tokens of Q2 rows score s_i = (1 - smoothing) PPL_i + smoothing (PPL_{i-1} + PPL_{i+1}), a sum without a
half, and the **highest** are pruned: the paper's figure, ablation and code agree on that; its sentence
"keep the top fraction ranked by s_i" must be read as ascending rank.

Where paper and code differ:

- Token budget: the paper gives each Q2 row its own (`per_sample`, our default), the code one for the
  whole batch, prompts included, paid by the Q2 rows alone (`batch_global`): they can lose every token.
- Entropy: the code averages over prompt and response (`entropy_scope: all`); the paper says response, as we.
- Target: the code keeps max(1, round(keep * n)) rows; we follow the paper, floor.
- Neighbours that do not exist count as 0 (`neighbor_pad: zero`); in the code a masked token in that
  place counts as 1 (`one`); `self` repeats the token's own value.

Ours, not the paper's:

- The paper prunes each training batch with the current weights (pipelines/training/q_tuning.py does that);
  here the weights are those before training, and all candidates are one batch. With `batch: 8` rows compete
  in batches of 8, drawn by a hash of seed and id, as in a first epoch; each keeps max(1, round(keep * n)), as
  in the code.
- `partition: single_cut` is the paper's figure read literally, without a dead zone: one threshold on each
  axis, at its quantile 1 - alpha, which the bisection moves.
- `closed_form` keeps exactly the number asked for: the rows of least *entry level*, the alpha at which a
  row enters Q2 or Q4. `bisection` is the paper's search, which does not trim an excess.
- Ranks are taken on loss, which orders rows as perplexity does and never overflows. Equal values share
  the lowest of their ranks, so that levels reproduce the thresholds above for ties too and do not depend
  on the order of rows. Rows of equal level are taken by id.
- Rows without loss or entropy have no level and are dropped; a fraction still counts them, while the
  batch of `batch_global` is the rows with scores.
- `per_sample` keeps at least one token of each row; perplexities are cut at exp(50). A row that loses
  all its tokens to `batch_global` stays in the set with a mask that is False throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import (
    Budget,
    Decisions,
    Selector,
    choose,
    id_ranks,
    scores,
    total_tokens,
    without_score,
)
from pipelines.selectors.id_order import id_order
from pipelines.selectors.q_tuning_plane import (
    MAX_ALPHA,
    Bools,
    Floats,
    Partition,
    bisection_levels,
    entry_levels,
    error_minus_uncertainty,
    is_above_median,
    threshold_masks,
)
from pipelines.selectors.q_tuning_tokens import (
    NeighborPad,
    drop_highest,
    token_scores,
    tokens_to_drop,
)
from pipelines.selectors.tokens import TokenLists, TokenRows

Ints = npt.NDArray[np.int64]

# Codes in an order that makes tables short: dropped rows are 0 to 3, kept rows 2 to 5.
QUADRANTS = ("Q1", "Q3", "Q2", "Q4", "Q2 fill", "Q4 fill")
_Q1, _Q3, _Q2, _Q4, _Q2_FILL, _Q4_FILL = range(6)
_CROSS = np.array([[_Q3, _Q4], [_Q2, _Q1]])  # [loss above its median, entropy above its median]

_DROPPED = (
    "q_tuning: Q1 high loss, high entropy",
    "q_tuning: Q3 low loss, low entropy",
    "q_tuning: Q2 high loss, low entropy, beyond the budget",
    "q_tuning: Q4 low loss, high entropy, beyond the budget",
)
_KEPT = (
    "q_tuning: Q2 high loss, low entropy (kept{tokens})",
    "q_tuning: Q4 low loss, high entropy (kept whole)",
    "q_tuning: Q2 fill, more loss than entropy (kept to fill the budget{tokens})",
    "q_tuning: Q4 fill, more entropy than loss (kept to fill the budget)",
)


class QTuning(Selector, Budget):
    """Q-Tuning: triage of examples by loss and entropy, then token masks for the confident mistakes."""

    name: ClassVar[str] = "q_tuning"
    source: ClassVar[str] = (
        "Q-Tuning, arXiv 2509.23873, applied once before training where the paper prunes each batch"
    )

    token_keep: float = Field(
        default=1.0, gt=0, le=1, description="share of response tokens that rows of Q2 keep; 1 prunes none"
    )
    method: Literal["closed_form", "bisection"] = Field(
        default="closed_form",
        description="closed_form keeps exactly the number asked for; bisection is the paper's search (only "
        "with keep)",
    )
    token_budget: Literal["per_sample", "batch_global"] = Field(
        default="per_sample",
        description="whose share of tokens is pruned: each Q2 row's own, or that of all rows, paid by Q2 "
        "(only with keep)",
    )
    partition: Partition = Field(
        default="dead_zone",
        description="dead_zone: two thresholds on each axis; single_cut: one (only with method: bisection)",
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        description="rows that compete with each other, drawn at random; null: all (only with keep)",
    )
    entropy_scope: Literal["response", "all"] = Field(
        default="response",
        description="entropy of the response, or of prompt and response (then `score: [whole_text]`)",
    )
    smoothing: float = Field(
        default=0.5, ge=0, le=1, description="weight of a token's neighbours in its score, 0 for none"
    )
    neighbor_pad: NeighborPad = Field(
        default="zero",
        description="what the neighbour counts that a first or last token lacks: 0, 1, or as much as the "
        "token itself",
    )

    @model_validator(mode="after")
    def _fraction_where_needed(self) -> Self:
        for option, value in (("method", "bisection"), ("token_budget", "batch_global")):
            if getattr(self, option) == value and self.keep is None:
                raise ValueError(f"{option}: {value} works with keep (a fraction) only")
        if self.batch is not None and self.keep is None:
            raise ValueError("batch: works with keep (a fraction) only")
        if self.batch is not None and self.token_budget == "batch_global":  # noqa: S105 - tokens of text
            raise ValueError("token_budget: batch_global counts over all candidates, so not with batch")
        if self.partition == "single_cut" and self.method != "bisection":
            raise ValueError("partition: single_cut works with method: bisection only")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the candidates that decide."""
        return ("loss", "entropy" if self.entropy_scope == "response" else "whole_entropy")

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The losses of tokens, where Q2 rows lose some."""
        return ("token_nll",) if self.token_keep < 1 else ()

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows that enter Q2 or Q4 first; writes `quadrant` and `q_tuning_level`."""
        loss, entropy = (scores(candidates, column, self.name) for column in self.reads)
        has_score = np.isfinite(loss) & np.isfinite(entropy)
        in_play = has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        loss, entropy, ranks = loss[rows], entropy[rows], id_ranks(candidates)[rows]

        entry, gap = np.zeros(len(rows)), np.zeros(len(rows))
        core, cross = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64)
        kept = np.zeros(len(rows), np.bool_)
        for at in self._batches(candidates, rows, seed):
            own = loss[at], entropy[at]
            entry[at], gap[at] = entry_levels(*own), error_minus_uncertainty(*own)
            total = candidates.num_rows if self.batch is None else at.shape[-1]
            in_q2, in_q4 = self._corners(*own, entry[at], total)
            core[at] = in_q2 | in_q4
            cross[at] = _CROSS[
                is_above_median(own[0]).astype(np.intp), is_above_median(own[1]).astype(np.intp)
            ]
            cross[at] = np.where(in_q2, _Q2, np.where(in_q4, _Q4, cross[at]))
            urgency = np.where(core[at], entry[at], -np.abs(gap[at]))
            order = np.lexsort((ranks[at], urgency, ~core[at]))
            if self.batch is not None:
                kept[at] = self._first_of_each(order, core[at])
            else:
                kept = self._first(rows[order[0]], int(core.sum()), candidates)[rows]

        keep = np.zeros(candidates.num_rows, np.bool_)
        keep[rows] = kept
        levels, quadrant = np.zeros(len(keep)), np.zeros(len(keep), dtype=np.int64)
        levels[rows] = entry
        quadrant[rows] = np.where(kept & ~core, np.where(gap >= 0, _Q2_FILL, _Q4_FILL), cross)
        reason = self._reasons(quadrant, keep)
        reason[~in_play] = "q_tuning: no token count"
        reason[~has_score] = without_score("q_tuning: no score", candidates, ~has_score)
        columns = {
            "quadrant": pa.array(choose(QUADRANTS, quadrant), mask=~in_play, type=pa.string()),
            "q_tuning_level": pa.array(levels, mask=~in_play),
        }
        prune = keep & np.isin(quadrant, (_Q2, _Q2_FILL)) if self.token_reads else None
        return Decisions(keep, reason, columns, prune)

    def _batches(self, candidates: pa.Table, rows: Ints, seed: int) -> Iterator[Ints]:
        """Places among `rows` of the rows of each batch, shape (batches, rows of each)."""
        if self.batch is None:
            yield np.arange(len(rows))[np.newaxis]
            return
        ids = candidates.column("id").take(pa.array(rows)).to_pylist()
        order = np.lexsort((id_ranks(candidates)[rows], id_order(ids, seed)))
        whole = len(rows) // self.batch * self.batch
        yield order[:whole].reshape(-1, self.batch)
        if whole < len(rows):
            yield order[whole:][np.newaxis]

    def _corners(self, loss: Floats, entropy: Floats, entry: Floats, total: int) -> tuple[Bools, Bools]:
        """Rows of Q2 and of Q4, which come before all others; the rest can only fill the budget."""
        if self.method == "closed_form" or self.keep is None:
            # A row that enters below one half lies on the same side of the median.
            core, above = entry <= MAX_ALPHA, is_above_median(loss)
            return core & above, core & ~above
        alpha = bisection_levels(loss, entropy, self.keep, total, self.partition)[-1]
        return threshold_masks(loss, entropy, alpha, self.partition)

    def _first(self, order: Ints, core: int, candidates: pa.Table) -> Bools:
        keep = self.keep_first(order, candidates)
        if self.method == "bisection" and keep.any():
            keep[order[:core]] = True  # the paper's search may overshoot and does not trim
        return keep

    def _first_of_each(self, order: Ints, core: Bools) -> Bools:
        """The rows that each batch keeps, bool, (batches, rows of each); at least one, as in the code."""
        asked = max(1, round((self.keep or 0) * order.shape[-1])) if self.keep else 0
        least = core.sum(axis=-1, keepdims=True) if self.method == "bisection" and asked else 0
        keep = np.zeros(order.shape, np.bool_)
        np.put_along_axis(keep, order, np.arange(order.shape[-1]) < np.maximum(asked, least), -1)
        return keep

    def _reasons(self, quadrant: npt.NDArray[np.int64], keep: Bools) -> npt.NDArray[np.object_]:
        tokens = ", tokens pruned" if self.token_reads else ""
        texts = (*_DROPPED, *(text.format(tokens=tokens) for text in _KEPT))
        return choose(texts, quadrant + 2 * keep)

    def token_masks(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields masks over response tokens (True = train on it) of kept Q2 rows.

        With `token_budget: per_sample` at least one token of each row is kept. With `batch_global` a mask
        may be False throughout, and the tokens are read five times: four to find the highest scores
        without holding them in memory, one to make the masks.
        """
        # Loads Numba, which reading a recipe does not need.
        from pipelines.selectors.lowest import keep_lowest

        pruned = np.flatnonzero(decisions.keep if decisions.prune_tokens is None else decisions.prune_tokens)

        def scored() -> Iterator[TokenLists]:
            for block in tokens(pruned):
                values = token_scores(
                    block.arrays["token_nll"], block.offsets, self.smoothing, self.neighbor_pad
                )
                yield TokenLists(block.rows, block.offsets, values)

        if self.token_budget == "per_sample":  # noqa: S105 - tokens of text, not a password
            for block in scored():
                mask = keep_lowest(block.values, block.offsets, self.token_keep)
                yield TokenLists(block.rows, block.offsets, mask)
        else:
            yield from drop_highest(scored, self._tokens_to_drop(candidates, decisions))

    def _tokens_to_drop(self, candidates: pa.Table, decisions: Decisions) -> int:
        """Tokens that Q2 rows must lose, as the code counts: prompts and dropped rows included."""
        batch = decisions.columns["q_tuning_level"].is_valid().to_numpy(zero_copy_only=False)
        tokens = total_tokens(candidates)
        attended, lost = int(tokens[batch].sum()), int(tokens[batch & ~decisions.keep].sum())
        return tokens_to_drop(attended, lost, self.keep or 0.0, self.token_keep)

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
- Entropy: the code averages over prompt and response; we follow the paper, response only.
- Target: the code keeps max(1, round(keep * n)) rows; we follow the paper, floor.
- Neighbours that do not exist count as 0 (`neighbor_pad: zero`); in the code a masked token in that
  place counts as 1 (`one`); `self` repeats the token's own value.

Ours, not the paper's:

- The paper prunes each training batch with the current weights; here all candidates are one batch and
  the weights are those before training.
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

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import (
    Budget,
    Decisions,
    Selector,
    TokenRows,
    choose,
    id_ranks,
    scores,
    total_tokens,
    without_score,
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NeighborPad = Literal["zero", "one", "self"]

MAX_ALPHA = 0.49  # below one half Q2 and Q4 cannot meet
MAX_ITERATIONS = 10
STOP_WITHIN = 0.01  # of the fraction asked for
MAX_TOKEN_NLL = 50.0  # exp(50) is 5e21: nothing sensible is above it, and sums of three stay finite

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

    token_keep: float = Field(default=1.0, gt=0, le=1, description="fraction of response tokens kept in Q2")
    method: Literal["closed_form", "bisection"] = Field(
        default="closed_form", description="exact number of rows, or the paper's search (only with keep)"
    )
    token_budget: Literal["per_sample", "batch_global"] = Field(
        default="per_sample", description="tokens to prune per Q2 row, or over all rows (only with keep)"
    )
    smoothing: float = Field(default=0.5, ge=0, le=1, description="weight of a token's neighbours")
    neighbor_pad: NeighborPad = Field(default="zero", description="perplexity of a missing neighbour")

    @model_validator(mode="after")
    def _fraction_where_needed(self) -> Self:
        for option, value in (("method", "bisection"), ("token_budget", "batch_global")):
            if getattr(self, option) == value and self.keep is None:
                raise ValueError(f"{option}: {value} works with keep (a fraction) only")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the candidates that decide."""
        return ("loss", "entropy")

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The losses of tokens, where Q2 rows lose some."""
        return ("token_nll",) if self.token_keep < 1 else ()

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows that enter Q2 or Q4 first; writes `quadrant` and `q_tuning_level`."""
        loss = scores(candidates, "loss", self.name)
        entropy = scores(candidates, "entropy", self.name)
        has_score = np.isfinite(loss) & np.isfinite(entropy)
        in_play = has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        loss, entropy = loss[rows], entropy[rows]

        entry = entry_levels(loss, entropy)
        gap = error_minus_uncertainty(loss, entropy)
        core = self._core(loss, entropy, entry, candidates.num_rows)
        urgency = np.where(core, entry, -np.abs(gap))
        order = rows[np.lexsort((id_ranks(candidates)[rows], urgency, ~core))]
        keep = self._take(order, int(core.sum()), candidates)

        levels, quadrant = np.zeros(len(keep)), np.zeros(len(keep), dtype=np.int64)
        levels[rows] = entry
        quadrant[rows] = _quadrants(loss, entropy, gap, core, keep[rows])
        reason = self._reasons(quadrant, keep)
        reason[~in_play] = "q_tuning: no token count"
        reason[~has_score] = without_score("q_tuning: no score", candidates, ~has_score)
        columns = {
            "quadrant": pa.array(choose(QUADRANTS, quadrant), mask=~in_play, type=pa.string()),
            "q_tuning_level": pa.array(levels, mask=~in_play),
        }
        prune = keep & np.isin(quadrant, (_Q2, _Q2_FILL)) if self.token_reads else None
        return Decisions(keep, reason, columns, prune)

    def _core(self, loss: Floats, entropy: Floats, levels: Floats, total: int) -> Bools:
        """Rows of Q2 and Q4, which come before all others; the rest can only fill the budget."""
        if self.method == "closed_form" or self.keep is None:
            return levels <= MAX_ALPHA
        alpha = bisection_levels(loss, entropy, self.keep, total)[-1]
        in_q2, in_q4 = threshold_masks(loss, entropy, alpha)
        return in_q2 | in_q4

    def _take(self, order: npt.NDArray[np.int64], core: int, candidates: pa.Table) -> Bools:
        keep = self.keep_first(order, candidates)
        if self.method == "bisection" and keep.any():
            keep[order[:core]] = True  # the paper's search may overshoot and does not trim
        return keep

    def _reasons(self, quadrant: npt.NDArray[np.int64], keep: Bools) -> npt.NDArray[np.object_]:
        tokens = ", tokens pruned" if self.token_reads else ""
        texts = (*_DROPPED, *(text.format(tokens=tokens) for text in _KEPT))
        return choose(texts, quadrant + 2 * keep)

    def token_masks(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[tuple[int, Bools]]:
        """Yields (candidate index, mask over response tokens, True = train on it) for kept Q2 rows.

        With `token_budget: per_sample` at least one token of each row is kept. With `batch_global` a mask
        may be False throughout, and the tokens are read five times: four to find the highest scores
        without holding them in memory, one to make the masks.
        """
        pruned = np.flatnonzero(decisions.keep if decisions.prune_tokens is None else decisions.prune_tokens)

        def scored_tokens() -> Iterator[tuple[int, Floats]]:
            for row, arrays in tokens(pruned):
                yield row, token_scores(arrays["token_nll"], self.smoothing, self.neighbor_pad)

        if self.token_budget == "per_sample":  # noqa: S105 - tokens of text, not a password
            for row, values in scored_tokens():
                yield row, keep_lowest(values, self.token_keep)
        else:
            yield from drop_highest(scored_tokens, self._tokens_to_drop(candidates, decisions))

    def _tokens_to_drop(self, candidates: pa.Table, decisions: Decisions) -> int:
        """Tokens that Q2 rows must lose, as the code counts: prompts and dropped rows included."""
        batch = decisions.columns["q_tuning_level"].is_valid().to_numpy(zero_copy_only=False)
        tokens = total_tokens(candidates)
        attended, lost = int(tokens[batch].sum()), int(tokens[batch & ~decisions.keep].sum())
        return tokens_to_drop(attended, lost, self.keep or 0.0, self.token_keep)


def entry_levels(loss: Floats, entropy: Floats) -> Floats:
    """The alpha at which each row enters Q2 or Q4: small = far out in a kept corner, taken first.

    With u, v the ranks of loss and entropy in [0, 1], it is min(max(1 - u, v), max(u, 1 - v)); the
    first term is that of Q2, the second that of Q4. Equal values share their lowest rank.

    Args:
        loss: Mean negative log-likelihood of the response, nats per token, shape (n,), finite.
        entropy: Mean entropy at the response tokens, nats, shape (n,), finite.

    Returns:
        Levels in [0, 1], shape (n,). A row is in Q2 or Q4 at alpha < 0.5 when its level is below alpha.

    Example:
        >>> entry_levels(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.1])).tolist()
        [0.0, 0.5, 0.0]
    """
    top = max(len(loss) - 1, 1)
    u, v = _min_ranks(loss), _min_ranks(entropy)  # integers, so that equal levels are equal
    levels: Floats = np.minimum(np.maximum(top - u, v), np.maximum(u, top - v)) / top
    return levels


def _min_ranks(values: Floats) -> npt.NDArray[np.int64]:
    """0-based rank of each value; equal values share the lowest of their ranks."""
    order = np.argsort(values)  # need not be stable: equal values get the same rank
    ordered = values[order]
    is_first = np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(values)]
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    return ranks


def error_minus_uncertainty(loss: Floats, entropy: Floats) -> Floats:
    """Perplexity minus entropy, each scaled to [0, 1] over the rows, shape (n,), range [-1, 1].

    Its size says how far out a row of the dead zone lies (the paper's supp), its sign on which side:
    positive is like Q2, negative like Q4. A column with one value only counts as 0.
    """
    highest = loss.max(initial=0.0)
    gap: Floats = _min_max(np.exp(loss - highest)) - _min_max(entropy)  # a common factor; no overflow
    return gap


def _min_max(values: Floats) -> Floats:
    if not len(values) or values.min() == values.max():
        return np.zeros_like(values)
    low, high = values.min(), values.max()
    scaled: Floats = (values - low) / (high - low)
    return scaled


def threshold_masks(loss: Floats, entropy: Floats, alpha: float) -> tuple[Bools, Bools]:
    """Rows in Q2 and rows in Q4 at a level, exactly as the paper writes it, each bool, shape (n,).

    Args:
        loss: Shape (n,); only its order counts.
        entropy: Shape (n,); only its order counts.
        alpha: Level in [0, 0.5).
    """
    if not len(loss):
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    low_loss, high_loss = np.quantile(loss, [alpha, 1 - alpha])
    low_entropy, high_entropy = np.quantile(entropy, [alpha, 1 - alpha])
    in_q2 = (loss > high_loss) & (entropy <= low_entropy)
    in_q4 = (loss <= low_loss) & (entropy > high_entropy)
    return in_q2, in_q4


def bisection_levels(loss: Floats, entropy: Floats, keep: float, total: int) -> list[float]:
    """The levels that the paper's bisection tries; the last one is its answer.

    Args:
        loss: Shape (n,).
        entropy: Shape (n,).
        keep: Fraction to keep, of `total`.
        total: Number of rows that the fraction refers to, at least n.
    """
    low, high = 0.0, MAX_ALPHA
    tried: list[float] = []
    for _ in range(MAX_ITERATIONS):
        alpha = (low + high) / 2
        tried.append(alpha)
        in_q2, in_q4 = threshold_masks(loss, entropy, alpha)
        fraction = (in_q2.sum() + in_q4.sum()) / max(total, 1)
        if abs(fraction - keep) < STOP_WITHIN:
            break
        low, high = (alpha, high) if fraction < keep else (low, alpha)
    return tried


def _quadrants(loss: Floats, entropy: Floats, gap: Floats, core: Bools, keep: Bools) -> npt.NDArray[np.int64]:
    """Codes of QUADRANTS: the cross of medians, except for rows kept to fill the budget.

    A row of the core has a level below one half, so it lies in the same quadrant of the cross.
    """
    half = (len(loss) - 1) / 2
    cross = _CROSS[(_min_ranks(loss) > half).astype(np.intp), (_min_ranks(entropy) > half).astype(np.intp)]
    fill = np.where(gap >= 0, _Q2_FILL, _Q4_FILL)
    codes: npt.NDArray[np.int64] = np.where(keep & ~core, fill, cross)
    return codes


def token_scores(nll: npt.NDArray[np.floating], smoothing: float, neighbor_pad: NeighborPad) -> Floats:
    """Score of each response token: high means surprising together with its neighbours; pruned first.

    s_i = (1 - smoothing) PPL_i + smoothing (PPL_{i-1} + PPL_{i+1})

    Args:
        nll: Negative log-likelihood of each token, nats, shape (t,).
        smoothing: Weight of the neighbours (the paper's lambda), 0 to 1.
        neighbor_pad: Perplexity of a neighbour that does not exist: 0, 1, or that of the token itself.

    Returns:
        Shape (t,), >= 0.

    Example:
        >>> token_scores(np.log([1.0, 9.0, 1.0]), 0.5, "zero").round(6).tolist()
        [5.0, 5.5, 5.0]
    """
    perplexity = np.exp(np.minimum(nll.astype(np.float64), MAX_TOKEN_NLL))
    if neighbor_pad == "self":
        before, after = perplexity[:1], perplexity[-1:]
    else:
        before = after = np.full(min(len(nll), 1), 1.0 if neighbor_pad == "one" else 0.0)
    left = np.concatenate((before, perplexity[:-1]))
    right = np.concatenate((perplexity[1:], after))
    values: Floats = (1 - smoothing) * perplexity + smoothing * (left + right)
    return values


def keep_lowest(values: Floats, fraction: float) -> Bools:
    """Mask that keeps the lowest max(1, floor(fraction * t)) of t scores, of equal ones the later."""
    kept = max(1, int(np.floor(fraction * len(values) + 1e-9)))  # 1e-9: 0.29 * 100 means 29
    mask = np.ones(len(values), dtype=np.bool_)
    mask[np.argsort(-values, kind="stable")[: max(len(values) - kept, 0)]] = False
    return mask


def tokens_to_drop(attended: int, lost: int, keep: float, token_keep: float) -> int:
    """Tokens left to prune in a batch after whole rows were dropped, as the code counts them.

    Args:
        attended: Tokens of all rows of the batch, prompts included.
        lost: Tokens of the rows that were dropped.
        keep: Fraction of rows to keep.
        token_keep: Fraction of tokens to keep in them.

    Example:
        >>> tokens_to_drop(attended=40, lost=20, keep=0.5, token_keep=0.5)
        10
    """
    return max(0, attended - round(attended * keep * token_keep) - lost)


def drop_highest(rows: Callable[[], Iterable[tuple[int, Floats]]], drop: int) -> Iterator[tuple[int, Bools]]:
    """Masks that drop the `drop` highest scores of all rows together; all of them if there are fewer.

    Args:
        rows: Gives, each time it is called, (row, finite scores of its tokens). Of equal scores the
            earlier row and position are dropped first.
        drop: Number of tokens to drop.
    """
    cut, at_cut = _nth_highest(rows, drop) if drop else (np.inf, 0)
    for row, values in rows():
        equal = np.flatnonzero(values == cut)[:at_cut]
        at_cut -= len(equal)
        mask = values <= cut
        mask[equal] = False
        yield row, mask


def _nth_highest(rows: Callable[[], Iterable[tuple[int, Floats]]], n: int) -> tuple[float, int]:
    """The n-th highest score (-inf if there are fewer), and how many scores equal to it are among the n.

    A radix selection over the bits, sixteen at a time, in a form that orders as the numbers do. Memory is one
    histogram, whatever the number of tokens.
    """
    prefix, left = 0, n
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for _, values in rows():
            bits = _ordered_bits(values) >> np.uint64(shift)
            digits = bits[bits >> np.uint64(16) == prefix] & np.uint64(0xFFFF)
            np.add.at(histogram, digits.astype(np.intp), 1)
        at_or_above = np.cumsum(histogram[::-1])
        if at_or_above[-1] < left:
            return -np.inf, 0
        place = int(np.searchsorted(at_or_above, left))
        digit = len(histogram) - 1 - place
        left -= int(at_or_above[place] - histogram[digit])
        prefix = prefix << 16 | digit
    highest = prefix ^ _SIGN if prefix & _SIGN else prefix ^ _ALL
    return float(np.array([highest], dtype=np.uint64).view(np.float64)[0]), left


_SIGN, _ALL = 1 << 63, (1 << 64) - 1


def _ordered_bits(values: Floats) -> npt.NDArray[np.uint64]:
    """Unsigned integers in the order of the numbers: a negative float's bits all turned, others' sign."""
    bits = (values + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
    return np.where(bits & np.uint64(_SIGN), bits ^ np.uint64(_ALL), bits ^ np.uint64(_SIGN))

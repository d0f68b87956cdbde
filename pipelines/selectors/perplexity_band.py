"""Perplexity band: the rows between two quantiles of the response's perplexity.

Sources: Marion et al. 2023, https://arxiv.org/abs/2309.04564 (the middle band is best for pruning
pre-training data); Ankner et al. 2024, https://arxiv.org/abs/2405.20541 (with a small reference model,
high or middle, depending on the corpus); POINTS, https://arxiv.org/abs/2409.04828, keeps the lowest
20 %, that is `{high: 0.2}`, of image-text pairs. No direction is better in itself.

Formula: of n rows ranked by loss, 0 the lowest, those with floor(low n) <= rank < floor(high n). Bands
that share an edge therefore never overlap nor leave a gap: three thirds partition the rows. `scope: all`
ranks by the loss of prompt and response, as for pre-training text.

Ours: the score is the mean loss of the response tokens, which orders rows as perplexity does and does
not overflow; equal values rank by id; rows without a loss, or with fewer than `min_response_tokens`,
whose perplexity is unstable and often low, are dropped and enter no quantile.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import Decisions, Selector, choose, counts, id_ranks, scores, without_score


class PerplexityBand(Selector):
    """The rows between two quantiles of loss."""

    name: ClassVar[str] = "perplexity_band"
    source: ClassVar[str] = "perplexity bands, arXiv 2309.04564; the lowest band is POINTS, arXiv 2409.04828"

    low: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="quantile of loss where the band begins; 0 is the most probable row",
    )
    high: float = Field(default=1.0, ge=0, le=1, description="quantile of loss where the band ends")
    scope: Literal["response", "all"] = Field(
        default="response",
        description="loss of the response, or of prompt and response (then `score: [whole_text]`)",
    )
    min_response_tokens: int = Field(default=1, ge=1, description="responses of fewer tokens are dropped")

    @model_validator(mode="after")
    def _is_a_band(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; quantiles run from low to high")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return ("loss" if self.scope == "response" else "whole_loss",)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the band; writes `perplexity_rank`, 1 for the lowest loss, null where a row has no rank."""
        (column,) = self.reads
        loss = scores(candidates, column, self.name)
        has_score = np.isfinite(loss)
        ranked = has_score & (counts(candidates, "response_tokens", self.name) >= self.min_response_tokens)
        rows = np.flatnonzero(ranked)
        order = rows[np.lexsort((id_ranks(candidates)[rows], loss[rows]))]
        begin, end = band_edges(len(order), self.low, self.high)

        ranks = np.zeros(candidates.num_rows, dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        keep = ranked & (ranks > begin) & (ranks <= end)
        texts = ["inside the band", "below the band (lower loss)", "above the band (higher loss)"]
        place = (ranks <= begin) + 2 * (ranks > np.maximum(begin, end))
        reason = choose([f"perplexity_band: {text}" for text in texts], place)
        reason[has_score & ~ranked] = "perplexity_band: response too short"
        reason[~has_score] = without_score(f"perplexity_band: no {column}", candidates, ~has_score)
        return Decisions(keep, reason, {"perplexity_rank": pa.array(ranks, mask=~ranked)})


def band_edges(rows: int, low: float, high: float) -> tuple[int, int]:
    """Ranks (0 is the lowest) where a band of quantiles begins, and where it has ended.

    Example:
        >>> [band_edges(10, *band) for band in ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))]
        [(0, 3), (3, 6), (6, 10)]
    """
    # 1e-9: 0.29 * 100 is 28.999999999999996 in floating point and means 29
    return int(np.floor(low * rows + 1e-9)), int(np.floor(high * rows + 1e-9))

"""Source fit: whole sources, by how well the target model expects them.

Of each source the mean of a score over its rows is taken, every row counting the same; the sources of best
mean are kept whole, the others dropped whole. With the default, the loss, this asks of a source what GRAPE
asks of a response: which of them the model finds most probable.

Ours, after GRAPE (arXiv 2502.04194), which compares responses to one prompt; sources have different prompts,
so a source may fit because it is easy: look at the means before trusting the order. Ties go to the source
whose name comes first. A source without a score at all is dropped.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Decisions, Selector, choose, scores, without_score
from pipelines.selectors.stratified import strata


class SourceFit(Selector):
    """The rows of the sources with the best mean of a score."""

    name: ClassVar[str] = "source_fit"
    source: ClassVar[str] = "ours, after GRAPE, arXiv 2502.04194: whole sources by the mean of a score"

    keep_sources: int = Field(ge=0, description="how many sources to keep")
    column: str = Field(default="loss", description="a score column, or any column of numbers")
    order: Literal["highest", "lowest"] = Field(default="lowest", description="which means to keep")

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return (self.column,)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows of the best sources; writes `source_mean` and `source_rank`, 1 for the best."""
        values = scores(candidates, self.column, self.name)
        known = np.isfinite(values)
        names, of = strata(candidates, "source", self.name)
        means = source_means(values, of, len(names))
        best_first = -means if self.order == "highest" else means  # NaN, of a source without scores, is last
        ranks = np.empty(len(names), np.int64)
        ranks[np.argsort(best_first, kind="stable")] = np.arange(1, len(names) + 1)
        keep = known & (ranks <= self.keep_sources)[of]
        fits = [
            f"source_fit: {name}, mean {self.column} {mean:.4g}, "
            for name, mean in zip(names, means, strict=True)
        ]
        texts = [fit + end for fit in fits for end in ("not among those kept", "kept whole")]
        reason = choose(texts, 2 * of + keep)
        reason[~known] = without_score(f"source_fit: no {self.column}", candidates, ~known)
        columns = {
            "source_mean": pa.array(means[of], from_pandas=True),
            "source_rank": pa.array(ranks[of], mask=np.isnan(means[of])),
        }
        return Decisions(keep, reason, columns)


def source_means(
    values: npt.NDArray[np.float64], of: npt.NDArray[np.int64], sources: int
) -> npt.NDArray[np.float64]:
    """Mean of the finite values of each source, shape (sources,); NaN for a source without any.

    Example:
        >>> source_means(np.array([1.0, 3.0, np.nan, 5.0]), np.array([0, 0, 1, 2]), 4).tolist()
        [2.0, nan, 5.0, nan]
    """
    known = np.isfinite(values)
    values, of = values[known], of[known]
    order = np.lexsort((values, of))  # a sum over sorted values does not depend on the order of rows
    totals = np.bincount(of[order], weights=values[order], minlength=sources)
    counts = np.bincount(of, minlength=sources)
    means: npt.NDArray[np.float64] = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    return means

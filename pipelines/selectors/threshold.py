"""Threshold: rows whose value of a column lies within bounds.

The first half of the published IFD selection: `{column: ifd_ppl, max: 1, include_max: false}` drops the
rows whose prompt does not help with the response (https://arxiv.org/abs/2402.00530 keeps IFD < 1;
https://arxiv.org/abs/2308.12032 drops IFD > 1, which is `{column: ifd_loss, max: 1}`).

Bounds are inclusive unless `include_min` or `include_max` is false. Null lies within no bounds and is
dropped (ours).
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import Decisions, Selector, choose, scores, without_score


class Threshold(Selector):
    """The rows between a lower and an upper bound, either of which may be absent."""

    name: ClassVar[str] = "threshold"
    source: ClassVar[str] = "ours: rows on one side of a fixed score"

    column: str = Field(description="a score column, or any column of numbers")
    min: float | None = Field(default=None, allow_inf_nan=False, description="least value to keep")
    max: float | None = Field(default=None, allow_inf_nan=False, description="greatest value to keep")
    include_min: bool = Field(default=True, description="whether min itself is kept")
    include_max: bool = Field(default=True, description="whether max itself is kept")

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no value is between them")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return (self.column,)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows within the bounds."""
        values = scores(candidates, self.column, self.name)
        has_score = np.isfinite(values)
        below, above = np.zeros_like(has_score), np.zeros_like(has_score)
        within, under, over = self.column, "", ""
        if self.min is not None:
            below = values < self.min if self.include_min else values <= self.min
            within = f"{self.min:g} {'<=' if self.include_min else '<'} {within}"
            under = f"threshold: {self.column} {'<' if self.include_min else '<='} {self.min:g}"
        if self.max is not None:
            above = values > self.max if self.include_max else values >= self.max
            within = f"{within} {'<=' if self.include_max else '<'} {self.max:g}"
            over = f"threshold: {self.column} {'>' if self.include_max else '>='} {self.max:g}"
        keep = has_score & ~below & ~above
        reason = choose([f"threshold: {within}", under, over], below + 2 * (above & ~below))
        reason[~has_score] = without_score(f"threshold: no {self.column}", candidates, ~has_score)
        return Decisions(keep, reason)

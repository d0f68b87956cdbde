"""Stratified: a budget split over strata, and the best or random rows of each stratum.

The budget is split equally, by size, by the square root of size, or by given shares. A stratum with fewer
rows than its quota gives what it has, and what is left is split over the others by the same rule, until the
budget is spent or the strata are. Quotas are exact integers: each share rounded down, what remains one each
to the largest remainders, equal ones by name (the method of Hamilton). Within a stratum rows are ranked by a
column as in top_k, or drawn by a hash of (seed, id).

Ours: no published method; stratified sampling with proportional, equal or square-root allocation. The quotas
sum to min(budget, rows), but a larger budget may take a row from a stratum (the Alabama paradox of largest
remainders), so the selections of two budgets need not be nested. With `keep_tokens` quotas are tokens and
sizes are sums of tokens; each quota is filled up to the first row that would exceed it. Rows without a
stratum or, with a column, without a score are dropped, though a fraction counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
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
from pipelines.selectors.top_k import Order, declared_order

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Split = Literal["equal", "proportional", "sqrt", "shares"]


class Stratified(Selector, Budget):
    """The best or random rows of each stratum, within a quota for each."""

    name: ClassVar[str] = "stratified"
    source: ClassVar[str] = "ours: the budget split over strata"

    by: str = Field(
        default="source", description="column of strata: source, or a field of the input such as extra.topic"
    )
    split: Split = Field(
        default="equal",
        description="how the budget is split: equal, proportional to size, by its sqrt, or by `shares`",
    )
    shares: dict[str, float] = Field(
        default_factory=dict,
        description="for split: shares; share by stratum, relative to the others; one not named gets none",
    )
    column: str | None = Field(
        default=None,
        description="column that ranks the rows of a stratum; without one they are drawn at random",
    )
    order: Order | None = Field(
        default=None, description="which values are first; by default the better ones"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if (self.split == "shares") != bool(self.shares):
            raise ValueError("`shares` and `split: shares` go together; give both or neither")
        wrong = [name for name, share in self.shares.items() if not 0 <= share < math.inf]
        if wrong:
            raise ValueError(f"shares: {wrong[0]} is {self.shares[wrong[0]]:g}; wanted 0 or more")
        if self.shares and not any(self.shares.values()):
            raise ValueError("shares: all are 0, so nothing could be kept")
        if self.column is None and self.order is not None:
            raise ValueError("`order` says how `column` ranks; give a column, or no order")
        if self.column is not None and self.order is None and declared_order(self.column) is None:
            raise ValueError(
                f"column {self.column!r} declares no better direction; say order: highest or lowest"
            )
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of strata, unless it is the source, and the one that ranks."""
        named = (self.by, self.column)
        return tuple(column for column in named if column is not None and column != "source")

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the first rows of each stratum; writes `stratum`, `stratum_quota` and `stratum_rank`.

        The quota is in examples, or in tokens with `keep_tokens`; the rank is 1 for the first row.
        """
        names, code = strata(candidates, self.by, self.name)
        has_stratum = code >= 0
        value, has_score = self._values(candidates, seed)
        in_play = has_stratum & has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        order = rows[np.lexsort((id_ranks(candidates)[rows], value[rows], code[rows]))]
        keep, quotas = self._fill(order, code, names, candidates)

        rank = np.zeros(candidates.num_rows, np.int64)
        first = np.searchsorted(code[order], np.arange(len(names)))
        rank[order] = np.arange(len(order)) - first[code[order]] + 1
        how = "drawn from" if self.column is None else f"among the best {self.column} of"
        reason = choose(
            ["stratified: not within the quota of its stratum", f"stratified: {how} its stratum"], keep
        )
        no_share = in_play & (np.array([*quotas, 1])[code] == 0)
        reason[no_share] = "stratified: no quota for its stratum"
        reason[~in_play] = "stratified: no token count"
        reason[~has_score] = without_score(f"stratified: no {self.column}", candidates, ~has_score)
        reason[~has_stratum] = without_score(f"stratified: no {self.by}", candidates, ~has_stratum)
        columns = {
            "stratum": pa.array([*names, None], pa.string()).take(pa.array(code % (len(names) + 1))),
            "stratum_quota": pa.array(np.array([*quotas, 0], np.int64)[code], mask=~in_play),
            "stratum_rank": pa.array(rank, mask=~in_play),
        }
        return Decisions(keep, reason, columns)

    def _values(self, candidates: pa.Table, seed: int) -> tuple[npt.NDArray[np.generic], Bools]:
        """What ranks the rows, lowest first, and which rows have it."""
        if self.column is None:
            return id_order(candidates["id"], seed), np.ones(candidates.num_rows, np.bool_)
        values = scores(candidates, self.column, self.name)
        highest = (self.order or declared_order(self.column)) == "highest"
        return -values if highest else values, np.isfinite(values)

    def _fill(
        self, order: Ints, code: Ints, names: Sequence[str], candidates: pa.Table
    ) -> tuple[Bools, list[int]]:
        """Which rows are kept, and the quota of each stratum; `order` is sorted by stratum."""
        by_tokens = self.keep_tokens is not None
        cost = total_tokens(candidates) if by_tokens else np.ones(candidates.num_rows, np.int64)
        size = np.bincount(code[order], weights=cost[order], minlength=len(names)).astype(np.int64).tolist()
        budget = self.keep_tokens if by_tokens else self.take(order, cost, candidates.num_rows)
        quotas = split_budget(budget or 0, weights(self.split, names, size, self.shares), size)
        keep = np.zeros(candidates.num_rows, np.bool_)
        bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
        for quota, start, stop in zip(quotas, bounds[:-1], bounds[1:], strict=True):
            own = order[start:stop]
            keep[own[np.cumsum(cost[own]) <= quota]] = True
        return keep, quotas


def strata(candidates: pa.Table, column: str, selector: str) -> tuple[list[str], Ints]:
    """Names of the strata in order, and the index of each row's stratum, int64, shape (n,), -1 for none.

    Raises:
        ValueError: If there is no such column, or it holds numbers that are not whole, which are no strata.
    """
    if column not in candidates.column_names:
        scores(candidates, column, selector)  # raises, naming the columns there are
    values = candidates.column(column).combine_chunks()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        numbers = scores(candidates, column, selector)
        broken = np.flatnonzero(np.isfinite(numbers) & (numbers != np.floor(numbers)))
        if len(broken):
            raise ValueError(
                f"{selector}: the column {column!r} holds {numbers[broken].min():g}; "
                "strata are named by texts or whole numbers"
            )
        values = pa.array([None if np.isnan(number) else f"{number:.0f}" for number in numbers], pa.string())
    encoded = values.dictionary_encode()
    found = encoded.dictionary.to_pylist()
    names = sorted(found)
    place = {name: index for index, name in enumerate(names)}
    places = np.array([*(place[name] for name in found), -1], np.int64)
    code: Ints = places[pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False)]
    return names, code


def weights(split: Split, names: Sequence[str], sizes: Sequence[int], shares: dict[str, float]) -> list[int]:
    """The weight of each stratum, an integer: exact for all splits, to 20 binary places for the root.

    Example:
        >>> weights("sqrt", ["a", "b"], [4, 16], {}) == [2 << 20, 4 << 20]
        True
        >>> weights("shares", ["a", "b", "c"], [1, 1, 1], {"a": 0.5, "b": 0.25})
        [2, 1, 0]
    """
    if split == "equal":
        return [1] * len(names)
    if split == "proportional":
        return list(sizes)
    if split == "sqrt":
        return [math.isqrt(size << 40) for size in sizes]
    exact = [Fraction(str(shares.get(name, 0))) for name in names]  # 0.1 means a tenth
    common = math.lcm(*(share.denominator for share in exact))
    return [int(share * common) for share in exact]


def split_budget(budget: int, weight: Sequence[int], size: Sequence[int]) -> list[int]:
    """Splits a budget by weights, none above its size; what a full stratum leaves goes on to the others.

    Args:
        budget: What there is to split, >= 0.
        weight: Weight of each stratum, >= 0; the order decides between equal remainders.
        size: The most that each stratum can take, >= 0.

    Returns:
        A quota for each stratum; together min(budget, sizes of the strata with a weight).

    Example:
        >>> split_budget(10, [1, 1, 1], [2, 9, 9])
        [2, 4, 4]
        >>> split_budget(7, [6, 3, 1], [100, 100, 100])
        [4, 2, 1]
    """
    quota = [0] * len(weight)
    open_strata = [index for index in range(len(weight)) if weight[index]]
    while open_strata:
        parts = largest_remainder(budget, [weight[index] for index in open_strata])
        full = {index for index, part in zip(open_strata, parts, strict=True) if part > size[index]}
        if not full:
            for index, part in zip(open_strata, parts, strict=True):
                quota[index] = part
            break
        for index in full:
            quota[index] = size[index]
            budget -= size[index]
        open_strata = [index for index in open_strata if index not in full]
    return quota


def largest_remainder(total: int, weight: Sequence[int]) -> list[int]:
    """Integers that sum to `total`, proportional to weights that are not all 0 (the method of Hamilton).

    Example:
        >>> largest_remainder(10, [1, 1, 1])
        [4, 3, 3]
    """
    whole = sum(weight)
    parts = [total * one // whole for one in weight]
    by_remainder = sorted(range(len(weight)), key=lambda index: -(total * weight[index] % whole))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts

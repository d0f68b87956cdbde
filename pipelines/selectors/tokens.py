"""Values of response tokens, many rows in one array: what selectors read of tokens, and say of them.

A row has no array of its own: a million of them cost more time than the arithmetic on their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.number_lists import offsets_of, packed_values

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenBlock:
    """What is stored of the response tokens of some candidates.

    Attributes:
        rows: Candidate indices, ascending, shape (k,).
        offsets: Where the tokens of each row begin, and where the last ones end, shape (k + 1,).
        arrays: By what a selector lists in `token_reads`, shape (offsets[-1],) each.
    """

    rows: Ints
    offsets: Ints
    arrays: Mapping[str, Values]


TokenRows = Callable[[Ints], Iterable[TokenBlock]]
"""Gives the tokens of the given candidates (ascending), in blocks, in order; reads them from disk."""


@dataclass(frozen=True)
class TokenLists:
    """A value for each response token of some candidates.

    Attributes:
        rows: Candidate indices, ascending, shape (k,).
        offsets: Where the values of each row begin, and where the last ones end, shape (k + 1,).
        values: Shape (offsets[-1],).
    """

    rows: Ints
    offsets: Ints
    values: Values

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.rows) + 1 or self.offsets[-1] != len(self.values):
            raise ValueError(
                f"{len(self.values)} values and {len(self.offsets)} offsets for {len(self.rows)} rows"
            )

    def within(self, chosen: npt.NDArray[np.bool_]) -> TokenLists:
        """Those of the chosen rows; bool, shape (k,)."""
        lengths = np.diff(self.offsets)
        return TokenLists(
            self.rows[chosen], offsets_of(lengths[chosen]), self.values[np.repeat(chosen, lengths)]
        )

    def packed(self, start: int, stop: int, kind: pa.DataType) -> pa.Array:
        r"""The values of candidates start to stop as a packed column, null for a candidate that has none.

        Args:
            start: The first candidate.
            stop: One more than the last.
            kind: The type of the values in the column.

        Example:
            >>> values = TokenLists(np.array([1, 3]), np.array([0, 2, 3]), np.array([True, False, True]))
            >>> values.packed(0, 4, pa.bool_()).to_pylist()
            [None, b'\x01\x00', None, b'\x01']
        """
        first, last = np.searchsorted(self.rows, [start, stop])
        own = self.rows[first:last] - start
        lengths = np.zeros(stop - start, np.int64)
        lengths[own] = np.diff(self.offsets[first : last + 1])
        valid = np.zeros(stop - start, np.bool_)
        valid[own] = True
        values = self.values[self.offsets[first] : self.offsets[last]]
        return packed_values(offsets_of(lengths), values, valid, kind)


def join(parts: Sequence[TokenLists], kind: type[np.generic]) -> TokenLists:
    """The values of several parts, of different rows in any order, as one; of a single part, itself."""
    if len(parts) == 1 and (np.diff(parts[0].rows) > 0).all():
        return parts[0]
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.offsets) for part in parts)])
    offsets = offsets_of(lengths)
    values = np.concatenate([np.zeros(0, kind), *(part.values for part in parts)])
    if (np.diff(rows) > 0).all():
        return TokenLists(rows, offsets, values)
    order = np.argsort(rows, kind="stable")
    return TokenLists(rows[order], offsets_of(lengths[order]), values[positions(offsets, order)])


def merge(one: TokenLists, other: TokenLists, both: np.ufunc) -> TokenLists:
    """The values of the rows of either, and `both` of the two where both have the row."""
    rows, at = np.unique(np.concatenate([one.rows, other.rows]), return_inverse=True)
    at_one, at_other = at[: len(one.rows)], at[len(one.rows) :]
    lengths = np.zeros(len(rows), np.int64)
    lengths[at_one], lengths[at_other] = np.diff(one.offsets), np.diff(other.offsets)
    offsets = offsets_of(lengths)
    if not (lengths[at_one] == np.diff(one.offsets)).all():
        raise ValueError("two selectors see another number of tokens in one row")
    values = np.zeros(int(offsets[-1]), np.result_type(one.values, other.values))
    values[positions(offsets, at_one)] = one.values
    is_new = ~np.isin(rows, one.rows)
    there, new = positions(offsets, at_other), np.repeat(is_new[at_other], np.diff(other.offsets))
    values[there] = np.where(new, other.values, both(values[there], other.values))
    return TokenLists(rows, offsets, values)


def check_weights(weights: TokenLists, selector: str) -> None:
    """Refuses weights that no trainer can use.

    Raises:
        ValueError: If one is negative or not finite.
    """
    wrong = np.flatnonzero(~(np.isfinite(weights.values) & (weights.values >= 0)))
    if len(wrong):
        row = weights.rows[np.searchsorted(weights.offsets, wrong[0], side="right") - 1]
        raise ValueError(
            f"{selector}: {len(wrong):,} weights of tokens are negative or not finite, the first, "
            f"{weights.values[wrong[0]]}, of candidate {row:,}; if the selector is winnow's own, the stored "
            "losses are damaged: delete the run's folder and run again"
        )


def positions(offsets: Ints, rows: Ints) -> Ints:
    """Where the tokens of some rows lie, row after row.

    Example:
        >>> positions(np.array([0, 2, 5, 6]), np.array([2, 0])).tolist()
        [5, 0, 1]
    """
    lengths = np.diff(offsets)[rows]
    found: Ints = np.repeat(offsets[rows] - offsets_of(lengths)[:-1], lengths)
    found += np.arange(len(found))
    return found

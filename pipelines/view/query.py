"""Which rows are asked for, and in which order: conditions over small columns, as functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.view.index import FACETS, PARTS, Bools, Floats, Labels, RunIndex
from pipelines.view.row_groups import Int64s

PAGE_ROWS = 50
MOST_CHARS = 1_000  # of what is searched for
MOST_VALUES = 300  # of a facet that are offered, the commonest
SUSPECT = "suspect"
STORED, SHUFFLED, ID, RANK = "", "shuffle", "id", "rank"


@dataclass(frozen=True)
class Bounds:
    """A column of numbers between two values, both included; a row without a number is outside."""

    column: str
    low: float = -math.inf
    high: float = math.inf

    def hold(self, values: Floats) -> Bools:
        """Which values lie inside."""
        inside: Bools = (values >= self.low) & (values <= self.high)
        return inside


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        part: One of PARTS, "suspect", or "" for all rows.
        labels: For each facet the values that are wanted.
        bounds: Bounds of columns of numbers.
        text: Text that the conversation holds, whatever its case.
        id: Text that the id holds, whatever its case.
        sort: A column of numbers, "id", "shuffle", "rank" of suspects, or "" for the stored order.
        descending: Whether the highest numbers come first; rows without one come last either way.
    """

    part: str = ""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: tuple[Bounds, ...] = ()
    text: str = ""
    id: str = ""
    sort: str = STORED
    descending: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from another query."""
        labels = tuple(sorted(self.labels.items()))
        return self.part, labels, self.bounds, self.text, self.id, self.sort, self.descending


def parse_query(fields: Mapping[str, Sequence[str]]) -> Query:
    """A query from the fields of an address.

    Args:
        fields: part, the names of FACETS (each may be repeated), score=COLUMN:LOW:HIGH (repeated too), text,
            id, sort, desc; others are left to the caller.

    Raises:
        ValueError: If one has no meaning.

    Example:
        >>> parse_query({"part": ["dropped"], "score": ["loss:1:"]}).bounds
        (Bounds(column='loss', low=1.0, high=inf),)
    """
    first = {name: values[0] for name, values in fields.items() if values}
    part = first.get("part", "")
    if part not in ("", *PARTS, SUSPECT):
        raise ValueError(f"part={part!r}: wanted one of {', '.join(PARTS)}, {SUSPECT}")
    text, row_id = first.get("text", ""), first.get("id", "")
    if max(len(text), len(row_id)) > MOST_CHARS:
        raise ValueError(f"a search of {max(len(text), len(row_id)):,} characters; at most {MOST_CHARS:,}")
    return Query(
        part=part,
        labels={name: tuple(fields[name]) for name in FACETS if fields.get(name)},
        bounds=tuple(map(_parse_bounds, fields.get("score", ()))),
        text=text,
        id=row_id,
        sort=first.get("sort", STORED),
        descending=first.get("desc") == "1",
    )


def _parse_bounds(text: str) -> Bounds:
    try:
        column, low, high = text.rsplit(":", 2)
        bounds = Bounds(column, float(low or "-inf"), float(high or "inf"))
    except ValueError:
        bounds = Bounds("", math.nan, math.nan)
    if math.isnan(bounds.low) or math.isnan(bounds.high):
        raise ValueError(f"score={text!r}: wanted COLUMN:LOW:HIGH, where LOW or HIGH may be empty")
    return bounds


def conditions(index: RunIndex, query: Query, suspects: Int64s) -> dict[str, Bools]:
    """Which rows meet each condition of a query but its text, by the name of the condition.

    Args:
        index: The rows.
        query: What is asked for.
        suspects: Positions of the suspect rows.

    Raises:
        ValueError: If the run has no such column.
    """
    held: dict[str, Bools] = {}
    if query.part:
        held["part"] = np.zeros(index.rows, np.bool_)
        rows: Any = suspects if query.part == SUSPECT else _slice(index.range_of(query.part))
        held["part"][rows] = True
    facets = index.facets()
    for name, values in query.labels.items():
        if name not in facets:
            raise ValueError(f"{name}: no row of this run has one; there are {', '.join(facets)}")
        held[name] = facets[name].are(values)
    for at, bounds in enumerate(query.bounds):
        held[f"score {at}"] = bounds.hold(index.numbers(bounds.column))
    if query.id:
        found = pc.match_substring(index.ids(), query.id, ignore_case=True)
        held["id"] = found.to_numpy(zero_copy_only=False)
    return held


def all_of(rows: int, conditions: Mapping[str, Bools], but: Sequence[str] = ()) -> Bools:
    """Which rows meet every condition, some of them left out."""
    mask = np.ones(rows, np.bool_)
    for name, held in conditions.items():
        if name not in but:
            mask &= held
    return mask


def ordered(index: RunIndex, query: Query, mask: Bools, suspects: Int64s) -> Int64s:
    """The positions of the rows of a mask in the query's order; ties are in stored order.

    Args:
        index: The rows.
        query: Says the order.
        mask: bool, shape (rows,).
        suspects: Positions of the suspect rows, the most certain first.

    Raises:
        ValueError: If the run has no such column.
    """
    if query.sort == RANK or (query.part == SUSPECT and query.sort == STORED):
        chosen = suspects[mask[suspects]]
        return chosen[::-1] if query.descending else chosen
    rows: Int64s = np.flatnonzero(mask)
    if query.sort == STORED:
        return rows[::-1] if query.descending else rows
    if query.sort == SHUFFLED:
        shuffled: Int64s = np.random.default_rng(0).permutation(rows)
        return shuffled
    if query.sort == ID:
        order: Int64s = pc.sort_indices(index.ids().take(rows)).to_numpy().astype(np.int64)
        return rows[order[::-1] if query.descending else order]
    return rows[_order(index.numbers(query.sort)[rows], descending=query.descending)]


def _order(values: Floats, *, descending: bool) -> Int64s:
    """Places of values in order; ties in the order given, NaN last."""
    known = np.flatnonzero(~np.isnan(values))
    keys = -values[known] if descending else values[known]
    order: Int64s = np.concatenate([known[np.argsort(keys, kind="stable")], np.flatnonzero(np.isnan(values))])
    return order


def facet_counts(
    index: RunIndex, held: Mapping[str, Bools], query: Query
) -> dict[str, list[tuple[str, int | None]]]:
    """For each facet its values with the rows that meet every other condition, the commonest first.

    A value that is chosen is always there. Of more than MOST_VALUES the others are left out, and so is a
    facet with one value, unless it is chosen. A count is None where it would take a search of rows that
    nobody asked for: of the values of a facet beside those that are chosen.
    """
    counted: dict[str, list[tuple[str, int | None]]] = {}
    for name, labels in index.facets().items():
        wanted = query.labels.get(name, ())
        if len(labels.values) < 2 and not wanted:
            continue
        is_partial = bool(wanted) and "text" in held
        chosen = {code for code, value in enumerate(labels.values) if value in wanted}
        found = _count(labels, all_of(index.rows, held, [name]))
        there = _count(labels, all_of(index.rows, held, [name, "text"])) if is_partial else found
        best = sorted(chosen | set(np.flatnonzero(there).tolist()), key=lambda code: (-there[code], code))
        kept = [code for place, code in enumerate(best) if place < MOST_VALUES or code in chosen]
        counted[name] = [
            (labels.values[code], int(found[code]) if code in chosen or not is_partial else None)
            for code in kept
        ]
    return counted


def _count(labels: Labels, mask: Bools) -> Int64s:
    """How many rows of a mask have each value."""
    codes = labels.codes[mask]
    counts: Int64s = np.bincount(codes[codes >= 0], minlength=len(labels.values))
    return counts


def _slice(positions: range) -> slice:
    return slice(positions.start, positions.stop)

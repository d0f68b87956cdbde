"""The candidates of selection: every example that no stage before dropped, with what the selectors read.

Of the stored files only the columns that somebody asks for are read, each file once: deciding again over a
million scored rows takes seconds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.shards import Unit
from connectors.storage import fetched
from pipelines.drops import left_rows
from pipelines.scored import Files, read_scored, scored_schema
from pipelines.selectors.base import FIELD

ALWAYS = ("id", "source", "group", "status", "prompt_tokens", "response_tokens", "truncated")


@dataclass(frozen=True)
class Candidates:
    """What is decided on, in row order.

    Attributes:
        table: The table described in pipelines/selectors/base.py.
        rows: Global row number of each candidate, int64, (n,).
        starts: Candidate index at which each unit starts, and n, int64, (units + 1,).
    """

    table: pa.Table
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


def gather(
    units: Sequence[Unit], drops: Sequence[str], scored: Sequence[Files], reads: Collection[str] = ()
) -> Candidates:
    """The candidates among the rows of units.

    Args:
        units: All examples.
        drops: Files of dropped rows.
        scored: The files of scores of each unit; none at all where the recipe scores nothing.
        reads: Columns to read beside those of ALWAYS; fields of the input as "extra.NAME". One that is stored
            nowhere is left out.

    Raises:
        ValueError: If a score file does not hold exactly the unit's rows.
    """
    left = left_rows(drops, sum(unit.rows for unit in units))
    before = np.concatenate(([0], np.cumsum(left)))
    starts = before[[*(unit.row_start for unit in units), len(left)]]
    table = _examples(units, left, sorted(filter(is_field, reads)))
    if scored:
        scores = _scores(scored, {*ALWAYS, *reads}, table["id"], starts)
        for name in scores.column_names:
            table = table.append_column(name, scores[name])
    return Candidates(_with_large_texts(table).combine_chunks(), np.flatnonzero(left), starts)


def _with_large_texts(table: pa.Table) -> pa.Table:
    """The table with offsets of 64 bits: 85 million ids of 25 bytes are more than 32 bits can reach."""
    is_text = [pa.types.is_string(field.type) for field in table.schema]
    fields = [
        field.with_type(pa.large_string()) if text else field
        for field, text in zip(table.schema, is_text, strict=True)
    ]
    return table.cast(pa.schema(fields))


def _examples(units: Sequence[Unit], left: npt.NDArray[np.bool_], fields: Sequence[str]) -> pa.Table:
    """Identities of the rows that are left, and fields of the input."""
    names = ["id", "source", "group", *(["extra"] if fields else [])]
    parts = itertools.groupby((part for unit in units for part in unit.parts), key=itemgetter(0))
    groups = [(path, [group for _, group in own]) for path, own in parts]

    def read(path: str, own: Sequence[int]) -> pa.Table:
        # Once for all of its units: a footer is as long as the file.
        with pq.ParquetFile(fetched(path), pre_buffer=False) as file:
            return file.read_row_groups(own, columns=names)

    def chosen(part: pa.Table, start: int) -> pa.Table:
        own = part.filter(pa.array(left[start : start + part.num_rows]))
        return own.set_column(own.schema.get_field_index("group"), "group", _encoded(own["group"]))

    none = pa.table({name: pa.array([], pa.string()) for name in names})
    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        found = [none, *pool.map(lambda part: read(*part), groups)]
        starts = np.cumsum([0, *(part.num_rows for part in found)])
        table = pa.concat_tables(pool.map(chosen, found, starts))
    if fields:
        values_of: dict[str, list[Any]] = {name: [] for name in fields}
        add_fields(values_of, table["extra"])
        table = table.drop_columns(["extra"])
        for name, values in values_of.items():
            table = table.append_column(name, field_column(values))
    return table


def _scores(
    scored: Sequence[Files], wanted: Collection[str], ids: pa.ChunkedArray, starts: npt.NDArray[np.int64]
) -> pa.Table:
    """Those of the wanted columns that are stored, without id; files that hold none of them are not read."""
    held = [[n for n in scored_schema((file,)).names if n in wanted and n != "id"] for file in scored[0]]
    names = [name for own in held for name in own]
    tables = [pa.table({})]
    if names:
        files = [tuple(file for file, own in zip(unit, held, strict=True) if own) for unit in scored]
        with ThreadPoolExecutor(pa.cpu_count()) as pool:  # Parquet is decoded outside of Python's lock
            tables = list(pool.map(partial(read_scored, columns=names), files))
        for unit, table, start, stop in zip(files, tables, starts[:-1], starts[1:], strict=True):
            if not table["id"].equals(ids.slice(start, stop - start)):
                raise ValueError(f"{unit[0]}: its ids are not those of the examples; delete it and run again")
    return pa.concat_tables(tables).select(names)


def _encoded(groups: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each group once, and where it stands; rows are then copied without the 32 bytes of their group."""
    return groups.cast(pa.large_string()).dictionary_encode()


def is_field(column: str) -> bool:
    """Whether a column that a selector reads is a field of the input."""
    return column.startswith(FIELD)


def add_fields(found: Mapping[str, list[Any]], extras: pa.ChunkedArray) -> None:
    """Appends the values of fields to their lists, one for each row; None where a row has no such field."""
    for text in extras.to_numpy(zero_copy_only=False):
        extra = _parsed(text) if text else {}
        for name, values in found.items():
            values.append(extra.get(name.removeprefix(FIELD)))


def _parsed(text: str) -> dict[str, Any]:
    try:
        extra: dict[str, Any] = orjson.loads(text)  # five times faster, but refuses NaN
    except orjson.JSONDecodeError:
        extra = json.loads(text)
    return extra


def field_column(values: Sequence[Any]) -> pa.Array:
    """A field of the input as a column: numbers if all are numbers or booleans, else texts.

    Example:
        >>> field_column([True, None, 0.5]).to_pylist(), field_column([1, "a", ["b"]]).to_pylist()
        ([1.0, None, 0.5], ['1', 'a', '["b"]'])
    """
    if all(isinstance(value, int | float | None) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [v if isinstance(v, str | None) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(texts, pa.string())

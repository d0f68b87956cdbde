"""A set of examples in memory, read from files or from what a program holds already.

The same files, in the same order, with the same ids, bad rows and units of work as stage ingest of a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA, ROWS_PER_BATCH, BadRow, Batcher
from connectors.inputs import InputFile, InputSpec, find_all_files
from connectors.lines import Row
from connectors.readers import Item, in_reading_order, parse_rows, read_examples
from connectors.rows import Rows
from connectors.settings import parse_settings
from connectors.shards import group_bytes, pack_groups
from connectors.tables import json_value, record_rows
from connectors.turns import check_unicode

SOURCE = "memory"  # of rows that come from no file
_ROWS_AT_ONCE = 1024


class Examples(Rows):
    """Canonical examples: columns id, source, messages, tools, group, content_hash, extra.

    Attributes:
        table: The examples, in the order of a run; a chunk is a unit of work, scored together.
        bad: What could not be read: source, path, row, reason, detail, excerpt.
        dropped: What `pipelines.deduplicate` took out, with the reason; no rows before that.
        whole: The examples that `dropped` was taken out of; None before that.
    """

    def __init__(
        self,
        batches: Iterable[pa.RecordBatch],
        bad: pa.Table | None = None,
        dropped: pa.Table | None = None,
        whole: Examples | None = None,
    ) -> None:
        super().__init__(pa.Table.from_batches(list(batches), EXAMPLE_SCHEMA), "examples")
        self.bad = Rows(BAD_ROW_SCHEMA.empty_table() if bad is None else bad, "bad rows")
        self.dropped = Rows(pa.table({}) if dropped is None else dropped, "dropped rows")
        self.whole = whole

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Examples: ...
    @overload
    def __getitem__(self, at: str) -> pa.ChunkedArray: ...
    def __getitem__(self, at: int | slice | str) -> dict[str, Any] | Examples | pa.ChunkedArray:
        if isinstance(at, slice):
            return Examples(self.table[at].to_batches())
        return super().__getitem__(at)

    def headline(self) -> str:
        """How many examples of how many sources; bad and dropped rows."""
        sources = pc.count_distinct(self.table["source"]).as_py()
        parts = [f"{super().headline()} of {sources:,} source{'' if sources == 1 else 's'}"]
        if len(self.dropped):
            parts.append(f"{len(self.dropped):,} dropped before")
        if len(self.bad):
            counts = pc.value_counts(self.bad["reason"]).to_pylist()
            most = sorted(counts, key=lambda count: (-count["counts"], count["values"]))
            reasons = ", ".join(f"{count['counts']:,} {count['values']}" for count in most)
            parts.append(f"{len(self.bad):,} bad rows ({reasons})")
        return "; ".join(parts)


def read(
    data: Any = None,  # noqa: ANN401 - all that holds rows
    *,
    inputs: Sequence[Mapping[str, Any]] | None = None,
    dataset: str | None = None,
    source: str | None = None,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    pairs: Literal["chosen", "both"] = "chosen",
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Examples:
    """Reads instruction data of any known format into canonical examples, all in memory.

    Keywords are those of an entry of `inputs:` in a recipe. Rows that cannot be read raise nothing: they are
    in `bad` of the result, each with its place and a reason.

    Args:
        data: A path (file, folder, glob, folder of Hugging Face datasets), or several; or rows: dicts, a
            pandas or Arrow table, a `datasets.Dataset`. A table with all columns of canonical examples, such
            as another result of this package, is taken as it is, with its ids.
        inputs: Several inputs, as under `inputs:` in a recipe.
        dataset: Id of a data set on the Hugging Face hub.
        source: Name of the input, the beginning of its ids; default from the path, or "memory".
        format: Chat format; default found from the field names.
        fields: Canonical name → name of the field.
        pairs: What a preference pair gives: its chosen answer, or both.
        split: Split of a Hugging Face data set.
        subset: Configuration of a data set on the hub.
        revision: Revision of a data set on the hub.
        limit: Read only the first this many rows of each input.

    Raises:
        ValueError: If there is nothing to read, or a keyword does not fit; says what to do.
        OSError: If a file cannot be opened or read.

    Example:
        >>> examples = read([{"question": "2 + 2?", "answer": "4"}, {"question": "3 + 3?"}])
        >>> examples["id"].to_pylist(), examples.bad["reason"].to_pylist()
        (['memory/rows:00000001'], ['missing response'])
    """
    if [data is None, inputs is None, dataset is None].count(False) != 1:
        raise ValueError(
            "read: give exactly one of data (a path, or rows), inputs= (as in a recipe), dataset= (hub id)"
        )
    own = {
        "source": source, "format": format, "fields": dict(fields or {}), "pairs": pairs, "split": split,
        "subset": subset, "revision": revision,
    }  # fmt: skip
    if inputs is not None:
        if any(own[key] for key in ("source", "fields", "split", "subset", "revision")):
            raise ValueError("read: with inputs=, each input states its own source, fields, split and so on")
        specs = [parse_settings(InputSpec, dict(one), f"inputs.{n}") for n, one in enumerate(inputs)]
        return _read_files(specs, limit)
    if dataset is not None:
        return _read_files([parse_settings(InputSpec, {**own, "dataset": dataset}, "read")], limit)
    paths = _paths(data)
    if paths is not None:
        specs = [parse_settings(InputSpec, {**own, "path": path}, "read") for path in paths]
        return _read_files(specs, limit)
    if isinstance(data, Examples):
        return data if limit is None else data[:limit]
    batches = _canonical(data, limit)
    if batches is not None:
        return _examples(batches)
    # A path only because an input has to have one; nothing is looked for there.
    spec = parse_settings(InputSpec, {**own, "source": source or SOURCE, "path": SOURCE}, "read")
    file = InputFile(spec.source_name, SOURCE, "rows", "jsonl", None, spec.format, dict(spec.fields), pairs)
    return _collect([itertools.islice(parse_rows(file, _rows_of(data)), limit)])


def _read_files(specs: Sequence[InputSpec], limit: int | None) -> Examples:
    groups = in_reading_order(find_all_files(specs, Path.cwd()), limit)
    return _collect(
        itertools.islice((item for file in group for item in read_examples(file)), limit) for group in groups
    )


def _collect(groups: Iterable[Iterable[Item]]) -> Examples:
    """The examples and bad rows of groups of files, in batches that end with a group."""
    batches: list[pa.RecordBatch] = []
    bad: list[pa.RecordBatch] = []
    for items in groups:
        batchers = {
            "example": Batcher(EXAMPLE_SCHEMA, batches.append),
            "bad": Batcher(BAD_ROW_SCHEMA, bad.append),
        }
        for item in items:
            batchers[item.kind].add(item.row)
        for batcher in batchers.values():
            batcher.flush()
    return _examples(batches, pa.Table.from_batches(bad, BAD_ROW_SCHEMA))


def _examples(batches: Sequence[pa.RecordBatch], bad: pa.Table | None = None) -> Examples:
    """Examples whose chunks are the units that a run over the same batches would have."""
    sizes = [(batch.num_rows, group_bytes(batch)) for batch in batches]
    units = [
        batch
        for first, end in pack_groups(sizes)
        for batch in pa.Table.from_batches(batches[first:end]).combine_chunks().to_batches()
    ]
    return Examples(units, bad)


def _paths(data: object) -> list[str] | None:
    """The paths that are meant, None for rows."""
    if isinstance(data, str | Path):
        return [str(data)]
    if isinstance(data, Sequence) and data and all(isinstance(item, str | Path) for item in data):
        return [str(item) for item in data]
    return None


def _canonical(data: object, limit: int | None) -> list[pa.RecordBatch] | None:
    """The batches of what is canonical already, None for anything else."""
    table = data.table if isinstance(data, Rows) else data
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if not isinstance(table, pa.Table) or not set(EXAMPLE_SCHEMA.names) <= set(table.column_names):
        return None
    table = table.select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA).slice(0, limit)
    if pc.count_distinct(table["id"]).as_py() < table.num_rows or table["id"].null_count:
        raise ValueError(
            "read: the column id of canonical examples must have one id, and another, for each row"
        )
    return list(table.to_batches(max_chunksize=ROWS_PER_BATCH))


def _rows_of(data: Any) -> Iterator[tuple[int | None, Row, int]]:  # noqa: ANN401 - all that holds rows
    """Rows with their numbers from 1, as `read_rows` gives those of a file."""
    for number, row in enumerate(_plain_rows(data), start=1):
        if not isinstance(row, BadRow):
            try:
                check_unicode(row)
            except BadRow as bad:
                row = bad
        yield number, row, 0


def _plain_rows(data: Any) -> Iterator[Row]:  # noqa: ANN401 - all that holds rows
    if isinstance(data, Mapping):
        splits = ", ".join(map(repr, itertools.islice(data, 5)))
        raise ValueError(f"read: wanted rows, got a mapping of {splits}; give one of them, or a list of rows")
    if type(data).__module__.partition(".")[0] == "pandas":
        data = pa.Table.from_pandas(data, preserve_index=False)
    elif hasattr(data, "with_format"):  # a Dataset of Hugging Face: columns in its own order and selection
        data = (table for table in data.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))
        yield from (row for table in data for batch in table.to_batches() for row in record_rows(batch))
        return
    if isinstance(data, pa.RecordBatch | pa.Table) or hasattr(data, "__arrow_c_stream__"):
        stream = pa.RecordBatchReader.from_stream(data) if hasattr(data, "__arrow_c_stream__") else [data]
        yield from (row for batch in stream for row in record_rows(batch))
        return
    if not isinstance(data, Iterable):
        raise ValueError(f"read: wanted a path or rows (dicts, a table), got {type(data).__name__}")
    for row in data:
        if isinstance(row, Mapping):
            yield {str(name): json_value(value) for name, value in row.items()}
        else:
            yield BadRow("not an object", f"the row is a {type(row).__name__}; wanted a dict with fields")

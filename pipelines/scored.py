"""What the stages before selection know of each candidate: aligned files of columns, read as one table.

Every such stage writes one file for each unit, with a row for each example that no earlier stage dropped, in
row order, `id` first. Their columns stand side by side; no two stages write the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.number_lists import unpack, unpacked_schema
from connectors.shards import read_schema
from connectors.storage import fetched
from pipelines.stages import StageResult

Files = tuple[str, ...]
"""The files of one unit, one of each stage."""


def files_by_unit(stages: Sequence[StageResult], units: int) -> list[Files]:
    """The files of each unit, in the order of the stages; empty tuples where there are no stages."""
    return list(zip(*(stage.paths for stage in stages), strict=True)) if stages else [()] * units


def scored_schema(files: Files) -> pa.Schema:
    """Columns of `read_scored`."""
    fields = [field for file in files for field in unpacked_schema(read_schema(file))]
    return pa.schema([*fields[:1], *(field for field in fields if field.name != "id")])


def read_scored(files: Files, columns: Sequence[str] | None = None) -> pa.Table:
    """The columns of one unit side by side, `id` first.

    Args:
        files: Of one unit; at least one.
        columns: Only these, and `id`.

    Raises:
        ValueError: If the files do not hold the same rows.
    """
    merged: pa.Table | None = None
    for file in files:
        # Small files, often several at a time: threads and read-ahead of their own cost more than they bring.
        with pq.ParquetFile(fetched(file), pre_buffer=False) as opened:
            names = [n for n in opened.schema_arrow.names if columns is None or n in columns or n == "id"]
            table = unpack(opened.read(columns=names, use_threads=False))
        if merged is None:
            merged = table
            continue
        if not table["id"].equals(merged["id"]):
            raise ValueError(f"{file}: its ids are not those of {files[0]}; delete both and run again")
        for name in names:
            if name != "id":
                merged = merged.append_column(name, table[name])
    if merged is None:
        raise AssertionError("no files to read: this is a fault of winnow; please report it")
    return merged

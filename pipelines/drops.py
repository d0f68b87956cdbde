"""Rows that leave before scoring: duplicates and rows found in an evaluation set, each with its reason.

Each stage that drops rows writes one file of `DROP_SCHEMA`, sorted by row. A row is in at most one of a run's
files, because each stage looks only at rows that the stages before it left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.shards import Unit, read_footer, read_rows_between
from connectors.storage import fetched
from pipelines.stages import StageResult

DROP_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # global row number
        ("id", pa.string()),
        ("stage", pa.string()),  # "decontaminate" or "dedupe"
        ("kind", pa.string()),  # "exact", "near", "semantic" or "contaminated"
        ("reason", pa.string()),  # countable: the same words for the same cause
        ("duplicate_of", pa.string()),  # id of the row that stays; null for contaminated rows and those of D4
        ("duplicate_in", pa.string()),  # the earlier output that holds duplicate_of; null: this run
        (
            "similarity",
            pa.float64(),
        ),  # to duplicate_of: Jaccard of shingles, cosine when semantic; or to eval_item
        ("cluster_size", pa.int32()),  # members of the duplicate cluster, the one that stays included
        ("eval_set", pa.string()),  # contaminated rows: name of the evaluation set
        ("eval_item", pa.string()),  # which of its items, as "file:row"
        ("eval_match", pa.string()),  # "ngram", "prompt" or "embedding"
        ("eval_span", pa.string()),  # the matching text, normalised
    ]
)


def drop_files(dropping: Sequence[StageResult]) -> tuple[str, ...]:
    """The drop files of the stages that dropped rows."""
    return tuple(path for stage in dropping for path in stage.paths)


def rows_left(units: Sequence[Unit], dropping: Sequence[StageResult]) -> int:
    """How many rows of the units no drop file holds."""
    dropped = sum(read_footer(path).num_rows for path in drop_files(dropping))
    return sum(unit.rows for unit in units) - int(dropped)


def drops_between(paths: Sequence[str], start: int, stop: int) -> pa.Table:
    """The rows with start <= row < stop that the given drop files hold, in row order."""
    tables = [DROP_SCHEMA.empty_table(), *(read_rows_between(path, start, stop) for path in paths)]
    return pa.concat_tables(tables).sort_by("row").combine_chunks()


def left_mask(paths: Sequence[str], unit: Unit) -> npt.NDArray[np.bool_]:
    """Which rows of a unit no drop file holds, in row order."""
    stop = unit.row_start + unit.rows
    mask = np.ones(unit.rows, np.bool_)
    for path in paths:
        rows = read_rows_between(path, unit.row_start, stop, ["row"])["row"].to_numpy()
        mask[rows - unit.row_start] = False
    return mask


def left_rows(paths: Sequence[str], rows: int) -> npt.NDArray[np.bool_]:
    """Which of all `rows` rows of a run no drop file holds, in row order."""
    mask = np.ones(rows, np.bool_)
    for path in paths:
        with pq.ParquetFile(fetched(path)) as file:
            mask[file.read(columns=["row"])["row"].to_numpy()] = False
    return mask

"""The rows that a selection chose from: every row that no stage before it dropped, with its text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.manifest import read_manifest
from connectors.shards import parquet_files
from pipelines.stages import WORK, load_stage

POOL_COLUMNS = ("id", "messages", "tools", "group", "content_hash")
TRAIN_COLUMNS = ("id", "messages", "tools", "group", "weight", "input_ids", "labels", "token_weights")


@dataclass(frozen=True)
class Run:
    """A finished run that is evaluated.

    Attributes:
        name: The recipe's name, with the folder's where several runs have the same.
        out: Its output folder.
        manifest: Its manifest.
        kept: Its training set, those of TRAIN_COLUMNS that it has.
    """

    name: str
    out: Path
    manifest: dict[str, Any]
    kept: pa.Table


def open_runs(outs: list[Path]) -> list[Run]:
    """Opens finished runs, each under a name of its own.

    Raises:
        ValueError: If one is no finished run, kept nothing, or is named twice.
    """
    if len({out.resolve() for out in outs}) < len(outs):
        raise ValueError("the same run is named twice; each may be named once")
    manifests = [read_manifest(out) for out in outs]
    names = [
        str(manifest.get("name") or manifest["recipe"].get("name") or "selected") for manifest in manifests
    ]
    if len(set(names)) < len(names):
        names = [str(out) for out in outs]
    return [Run(*parts, _kept(parts[1])) for parts in zip(names, outs, manifests, strict=True)]


def _kept(out: Path) -> pa.Table:
    files = parquet_files(out / "train")
    tables = [pq.read_table(file, columns=_present(file, TRAIN_COLUMNS)) for file in files]
    table = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], pa.string())})
    if not table.num_rows:
        raise ValueError(f"{out} kept no row, so there is nothing to train on")
    return table


def _present(file: str, wanted: tuple[str, ...]) -> list[str]:
    names = set(pq.read_schema(file).names)
    return [name for name in wanted if name in names]


def read_pool(run: Run) -> pa.Table:
    """The rows that a run's selection decided on, kept and not, in row order: POOL_COLUMNS.

    Duplicates, rows of evaluation sets and rows that the model could not score are not among them.

    Raises:
        ValueError: If the run's stored texts are gone.
    """
    record = run.manifest["stages"]["ingest"]
    stage = load_stage(str(run.out / WORK / f"ingest-{record['key']}"))
    if stage is None:
        raise ValueError(
            f"{run.out}: the texts of the rows that were not kept are gone ({WORK}/ingest-{record['key']}), "
            "and the other sets are drawn from them; run the whole recipe again with `winnow run`"
        )
    not_chosen = [pq.read_table(file, columns=["id", "stage"]) for file in parquet_files(run.out / "dropped")]
    ids = [table.filter(pc.equal(table["stage"], "select"))["id"] for table in not_chosen]
    wanted = pa.chunked_array(
        [part for column in [run.kept["id"], *ids] for part in column.chunks], pa.string()
    )
    tables = [pq.read_table(path, columns=list(POOL_COLUMNS)) for path in stage.paths]
    pool = pa.concat_tables(tables)
    return pool.filter(pc.is_in(pool["id"], value_set=wanted.combine_chunks()))


def shared_pool(runs: list[Run]) -> pa.Table:
    """The rows that all runs chose from.

    Raises:
        ValueError: If they did not choose from the same rows.
    """
    pool = read_pool(runs[0])
    ids = pool["id"].combine_chunks()
    for run in runs[1:]:
        other = read_pool(run)
        both = pc.sum(pc.is_in(other["id"], value_set=ids)).as_py() or 0
        if both != len(ids) or other.num_rows != len(ids):
            raise ValueError(
                f"{run.out} chose from {other.num_rows:,} rows and {runs[0].out} from {len(ids):,}, {both:,} "
                "of them the same: only selections from the same rows can be compared. Evaluate them one by "
                "one, or run both recipes on the same inputs with the same dedupe"
            )
    return pool

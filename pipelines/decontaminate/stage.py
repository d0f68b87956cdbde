"""Stage decontaminate: which rows hold items of evaluation sets. It runs first, on every example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.manifest import file_hash
from connectors.shards import Unit, group_units, read_stats, read_unit, write_parquet
from pipelines.decontaminate.eval_sets import EvalItem, read_items, set_files
from pipelines.decontaminate.ngrams import EvalIndex, Hit
from pipelines.decontaminate.settings import DecontaminateSettings
from pipelines.drops import DROP_SCHEMA
from pipelines.progress import ProgressCounter
from pipelines.stages import StageResult, Workspace, run_stage

ROWS_IN_TASK = 16_384
ITEMS = "eval-items.parquet"
_ITEM_SCHEMA = pa.schema([(name, pa.string()) for name in EvalItem._fields])


@dataclass(frozen=True)
class SearchTask:
    """Consecutive units to search; `file` holds their hits."""

    file: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class MergeTask:
    """The one file of all hits."""

    file: str


class FindItems(beam.DoFn):
    """Writes the contaminated rows of consecutive units."""

    def __init__(self, folder: str, settings: DecontaminateSettings, counts: str) -> None:
        self.folder = folder
        self.settings = settings
        self.progress = ProgressCounter(counts)
        self._index: EvalIndex | None = None

    def process(self, task: SearchTask) -> Iterator[str]:
        """Yields the path of the finished file."""
        if self._index is None:
            rows = pq.read_table(Path(self.folder) / ITEMS).to_pylist()
            self._index = EvalIndex([EvalItem(**row) for row in rows], self.settings)
        path = Path(self.folder) / task.file
        if not path.exists():
            tables = [self._search(self._index, unit) for unit in task.units]
            write_parquet(path, pa.concat_tables([DROP_SCHEMA.empty_table(), *tables]), DROP_SCHEMA)
        yield str(path)

    def _search(self, index: EvalIndex, unit: Unit) -> pa.Table:
        table = read_unit(unit, ["id", "messages"])
        ids = table["id"]
        rows = [
            _drop(hit, index, unit.row_start, ids[hit.row].as_py()) for hit in index.find(table["messages"])
        ]
        self.progress(rows=unit.rows)
        return pa.Table.from_pylist(rows, schema=DROP_SCHEMA)


def _drop(hit: Hit, index: EvalIndex, row_start: int, row_id: str) -> dict[str, Any]:
    item = index.items[hit.item]
    return {
        "row": row_start + hit.row,
        "id": row_id,
        "stage": "decontaminate",
        "kind": "contaminated",
        "reason": f"contaminated: {item.eval_set}",
        "similarity": hit.share,
        "eval_set": item.eval_set,
        "eval_item": item.item,
        "eval_match": hit.match,
        "eval_span": hit.span,
    }


def decontaminate(
    space: Workspace, settings: DecontaminateSettings, units: Sequence[Unit], ingested: StageResult
) -> StageResult:
    """Finds the rows that hold items of the evaluation sets.

    Returns:
        The stage; its one file lists the rows to drop (pipelines/drops.py). Its stats count the contaminated
        rows, and under `sets` for each set its items, the items found, and the rows by kind of match.

    Raises:
        ValueError: If an evaluation set cannot be read.
    """
    sets = [(eval_set, set_files(eval_set, Path.cwd())) for eval_set in settings.against]
    identity = [[asdict(file) | {"path": file_hash(file.path)} for file in found] for _, found in sets]
    total = sum(unit.rows for unit in units)
    merged = MergeTask("contaminated.parquet")
    groups = [group for group in group_units(units, ROWS_IN_TASK) if group]

    def build(collection: beam.PCollection, folder: str) -> None:
        items = [item._asdict() for s, found in sets for item in read_items(s, found)]
        write_parquet(Path(folder) / ITEMS, pa.Table.from_pylist(items, schema=_ITEM_SCHEMA), _ITEM_SCHEMA)
        tasks = [SearchTask(f"hits-{group[0].name}.parquet", group) for group in groups]
        hits = (
            collection.pipeline
            | "units" >> beam.Create(tasks)
            | "find items" >> beam.ParDo(FindItems(folder, settings, space.counts("decontaminate")))
        )
        _ = collection | "merge" >> beam.Map(_merge, folder, beam.pvalue.AsList(hits))

    stage = run_stage(
        space,
        "decontaminate",
        {"settings": settings.model_dump(mode="json"), "files": identity},
        [ingested],
        [merged],
        build,
        total=total,
        spread=len(groups) > 1,
        summarise=lambda paths: _summarise(paths[0], total),
    )
    for leftover in Path(stage.folder).glob("hits-*.parquet"):
        leftover.unlink()
    return stage


def _merge(task: MergeTask, folder: str, hits: Sequence[str]) -> str:
    tables = [DROP_SCHEMA.empty_table(), *(pq.read_table(path) for path in sorted(hits))]
    write_parquet(Path(folder) / task.file, pa.concat_tables(tables), DROP_SCHEMA)
    return task.file


def _summarise(path: str, rows: int) -> dict[str, Any]:
    table = pq.read_table(path, columns=["eval_set", "eval_item", "eval_match"])
    items = Counter(pq.read_table(Path(path).with_name(ITEMS), columns=["eval_set"])["eval_set"].to_pylist())
    hits = table.to_pylist()
    sets = {
        name: {
            "items": count,
            "items_found": len({hit["eval_item"] for hit in hits if hit["eval_set"] == name}),
            "rows": dict(sorted(Counter(h["eval_match"] for h in hits if h["eval_set"] == name).items())),
        }
        for name, count in items.items()
    }
    return {"rows": rows, "contaminated": read_stats(path)["rows"], "sets": sets}

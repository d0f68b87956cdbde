"""Stage suspects: the answers that are likely wrong, most certain first, with what speaks against each.

A list for a person to look through: `rank`, the row's id and source, `suspicion`, `why` in a sentence with
its numbers, whether it was kept, its conversation and the fields of the input that were not used. At most
MOST rows; the order of all others is in the column `suspicion` of train and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import EXAMPLE_SCHEMA
from connectors.shards import Unit, read_footer, read_stats, read_unit, write_parquet
from connectors.storage import fetched, join
from pipelines.metrics import StageMetrics
from pipelines.recipe import Recipe
from pipelines.scored import Files, files_by_unit, read_scored
from pipelines.selectors.verdict import Verdict
from pipelines.stages import StageResult, Workspace, run_stage

MOST = 10_000
EVIDENCE = ("loss", "entropy", "wrong_calculations", "wrong_calculation", "prompt_overlap")
SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("suspicion", pa.float64()),
        ("why", pa.string()),
        ("kept", pa.bool_()),
        EXAMPLE_SCHEMA.field("messages"),
        EXAMPLE_SCHEMA.field("extra"),
    ]
)


@dataclass(frozen=True)
class SuspectsTask:
    """The whole list, as one task."""

    file: str
    units: tuple[Unit, ...]
    scored: tuple[Files, ...]
    decisions: str
    step: int  # of the recipe's `select`


class WriteSuspects(beam.DoFn):
    """Writes the list."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.metrics = StageMetrics("suspects")

    def process(self, task: SuspectsTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        with self.metrics.task():
            table = suspects(task)
            size = write_parquet(join(self.folder, task.file), [table], SCHEMA, {"rows": table.num_rows})
        self.metrics(rows_listed=table.num_rows, bytes_written=size)
        yield task.file


def suspects(task: SuspectsTask) -> pa.Table:
    """The rows whose verdict is suspect, of SCHEMA, the highest suspicion first; ties in row order."""
    decisions = pq.read_table(fetched(task.decisions))
    is_suspect = pc.fill_null(pc.equal(decisions["verdict"], "suspect"), False)
    chosen = decisions.filter(is_suspect)
    order = np.lexsort((chosen["row"].to_numpy(), -chosen["suspicion"].to_numpy()))[:MOST]
    place = np.flatnonzero(is_suspect.to_numpy())  # among the candidates, whose scores stand in that order
    facts = read_stats(task.decisions)["facts"][task.step]
    known = {name: float("inf") if value is None else value for name, value in facts.items()}

    rows = chosen["row"].to_numpy()[order]
    by_rank: dict[int, dict[str, object]] = {}
    starts = np.cumsum([0, *(read_footer(files[0]).num_rows for files in task.scored)])
    for number, (unit, files) in enumerate(zip(task.units, task.scored, strict=True)):
        inside = np.flatnonzero((rows >= unit.row_start) & (rows < unit.row_start + unit.rows))
        if not len(inside):
            continue
        examples = read_unit(unit, ["id", "source", "messages", "extra"])
        scores = read_scored(files, EVIDENCE)
        for rank in inside.tolist():
            decided = chosen.slice(int(order[rank]), 1).to_pylist()[0]
            example = examples.slice(int(rows[rank]) - unit.row_start, 1).to_pylist()[0]
            own = scores.slice(int(place[order[rank]] - starts[number]), 1).to_pylist()[0]
            by_rank[rank] = {
                **example,
                "rank": rank + 1,
                "suspicion": decided["suspicion"],
                "why": Verdict.explain({**own, **decided}, known),
                "kept": decided["keep"],
            }
    return pa.Table.from_pylist([by_rank[rank] for rank in sorted(by_rank)], SCHEMA)


def list_suspects(
    space: Workspace,
    recipe: Recipe,
    units: Sequence[Unit],
    scored: Sequence[StageResult],
    selected: StageResult,
) -> StageResult | None:
    """The list of suspect answers, None where the recipe gives no verdict."""
    steps = [at for at, selector in enumerate(recipe.select) if isinstance(selector, Verdict)]
    if not steps:
        return None
    files = tuple(files_by_unit(scored, len(units)))
    task = SuspectsTask("suspects.parquet", tuple(units), files, selected.paths[0], steps[0])

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "list suspects" >> beam.ParDo(WriteSuspects(folder))

    return run_stage(
        space,
        "suspects",
        {"most": MOST},
        [*scored, selected],
        [task],
        build,
        total=selected.stats["rows"],
        parallel=False,
        summarise=lambda paths: read_stats(paths[0]),
    )

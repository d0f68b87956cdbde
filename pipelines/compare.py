"""Stages score-ROLE and compare: the scores that take a second model beside the target.

Each model runs in a stage of its own and stores what the comparing scorers read of each response token;
comparing is arithmetic on those files. So another reference never makes the target run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from connectors.shards import read_stats, write_parquet
from connectors.storage import file_name, join
from pipelines.metrics import StageMetrics
from pipelines.scored import read_scored
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.base import Role
from scorers.catalog import columns_of, comparing, versions_of
from scorers.models.comparison import check_compared, compare


@dataclass(frozen=True)
class CompareTask:
    """The score files of one unit: the target's, and that of each model by its role."""

    file: str
    target: str
    others: tuple[tuple[Role, str], ...]


class Compare(beam.DoFn):
    """Computes the comparing scorers for a unit."""

    def __init__(self, folder: str, scorers: Sequence[str]) -> None:
        self.folder = folder
        self.scorers = tuple(scorers)
        self.metrics = StageMetrics("compare")

    def process(self, task: CompareTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        with self.metrics.task():
            files: dict[Role | str, pa.Table] = {"": read_scored((task.target,))}
            files |= {role: read_scored((path,)) for role, path in task.others}
            columns, stats = compare(files, comparing(self.scorers))
            table = pa.table({"id": files[""]["id"], **columns})
            size = write_parquet(join(self.folder, task.file), [table], table.schema, stats)
        self.metrics(rows_compared=stats["compared"], bytes_written=size)
        yield task.file


def compare_models(
    space: Workspace, scorers: Sequence[str], scored: StageResult, others: Mapping[Role, StageResult]
) -> StageResult:
    """Stage compare: one file of the comparing scorers' columns for each unit.

    Args:
        space: The run's workspace.
        scorers: Names in the catalog; those that read the target alone are left out.
        scored: The target's score stage.
        others: The score stage of each other model.

    Raises:
        DifferentTokens: If a model cut every text into other tokens than the target.
    """
    names = [scorer.name for scorer in comparing(scorers)]
    tasks = [
        CompareTask(
            file_name(path).replace("scores-", "compared-", 1),
            path,
            tuple((role, stage.paths[index]) for role, stage in sorted(others.items())),
        )
        for index, path in enumerate(scored.paths)
    ]

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "compare" >> beam.ParDo(Compare(folder, names))

    settings: dict[str, Any] = {"scorers": names, "columns": [column.name for column in columns_of(names)]}
    if own := versions_of(names):
        settings["versions"] = own
    stage = run_stage(
        space,
        "compare",
        settings,
        [scored, *(others[role] for role in sorted(others))],
        tasks,
        build,
        total=scored.stats["rows"],
        summarise=_summarise,
    )
    check_compared(stage.stats, others)
    return stage


def _summarise(paths: list[str]) -> dict[str, Any]:
    stats = [read_stats(path) for path in paths]
    return {name: sum(own[name] for own in stats) for name in ("rows", "compared", "different_tokens")}

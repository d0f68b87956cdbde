"""Stages score-ROLE and compare: the scores that take a second model beside the target.

Each model runs in a stage of its own and stores what the comparing scorers read of each response token;
comparing is arithmetic on those files. So another reference never makes the target run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.shards import read_stats, write_parquet
from connectors.storage import fetched, file_name, join
from pipelines.metrics import StageMetrics
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.base import Need, Outputs, Role, Scorer, TokenValues, output_column
from scorers.catalog import columns_of, comparing


class DifferentTokens(ValueError):  # noqa: N818 - reads as what happened
    """Two models cut the texts into different tokens, so their numbers cannot be compared."""


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
            files: dict[Role | str, pa.Table] = {"": pq.read_table(fetched(task.target))}
            files |= {role: pq.read_table(fetched(path)) for role, path in task.others}
            columns, stats = compare(files, comparing(self.scorers))
            table = pa.table({"id": files[""]["id"], **columns})
            size = write_parquet(join(self.folder, task.file), [table], table.schema, stats)
        self.metrics(rows_compared=stats["compared"], bytes_written=size)
        yield task.file


def compare(
    files: Mapping[Role | str, pa.Table], scorers: Sequence[Scorer]
) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """The columns of scorers that read several models.

    Args:
        files: Stored scores of the target ("") and of each role, row by row of the same examples.
        scorers: What to compute.

    Returns:
        The columns, null where a model that a scorer reads has no scores for a row or cut it into other
        tokens; and counts: rows, and over all scorers compared and different_tokens.
    """
    target = files[""]
    scored = {role: _is_scored(table) for role, table in files.items()}
    same = {role: _same_tokens(target, table) for role, table in files.items()}
    columns: dict[str, pa.Array] = {}
    counts = {"rows": target.num_rows, "compared": 0, "different_tokens": 0}
    for scorer in scorers:
        both = np.logical_and.reduce([scored[role] for role in ("", *scorer.roles)])
        valid = np.logical_and.reduce([both, *(same[role] for role in scorer.roles)])
        needs = {need: _token_values(files[need.model], need, valid) for need in scorer.needs}
        for name, values in scorer.score(Outputs(needs, {})).items():
            columns[name] = pa.array(values, pa.float64(), from_pandas=True)
        counts["compared"] += int(valid.sum())
        counts["different_tokens"] += int((both & ~valid).sum())
    return columns, counts


def _is_scored(table: pa.Table) -> npt.NDArray[np.bool_]:
    return np.array(table["status"].to_numpy(zero_copy_only=False) == "ok", np.bool_)


def _same_tokens(one: pa.Table, other: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have the same token ids and response positions in both tables."""
    same = np.ones(one.num_rows, np.bool_)
    for name in ("input_ids", "response_at"):
        pairs = zip(one[name], other[name], strict=True)
        same &= np.fromiter((a.equals(b) for a, b in pairs), np.bool_, one.num_rows)
    return same


def _token_values(table: pa.Table, need: Need, valid: npt.NDArray[np.bool_]) -> TokenValues:
    """A stored output, ragged; rows that are not valid have no tokens."""
    name = "token_nll" if need.output == "logprob" else output_column(need.output)
    lists = table[name].filter(pa.array(valid)).combine_chunks()
    lengths = np.zeros(len(valid) + 1, np.int64)
    lengths[1:][valid] = pc.list_value_length(lists).to_numpy()
    values = lists.flatten().to_numpy().astype(np.float32)
    return TokenValues(0.0 - values if need.output == "logprob" else values, np.cumsum(lengths))


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

    stage = run_stage(
        space,
        "compare",
        {"scorers": names, "columns": [column.name for column in columns_of(names)]},
        [scored, *(others[role] for role in sorted(others))],
        tasks,
        build,
        total=scored.stats["rows"],
        summarise=_summarise,
    )
    if stage.stats["different_tokens"] and not stage.stats["compared"]:
        raise DifferentTokens(
            f"the models {', '.join(sorted(others))} cut every text into other tokens than the target, so "
            "nothing can be compared token by token. They need the target's tokenizer, chat template and "
            "max_tokens."
        )
    return stage


def _summarise(paths: list[str]) -> dict[str, Any]:
    stats = [read_stats(path) for path in paths]
    return {name: sum(own[name] for own in stats) for name in ("rows", "compared", "different_tokens")}

"""Stage score: one file of scores for each unit of examples, from one pass of the target model.

Rows that were dropped before, as duplicates or as part of an evaluation set, are not scored. The model is
loaded and run by Beam's RunInference with the handler of scorers/models/handler.py; a unit goes in whole, so
that the handler can sort its rows by length and pack them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from connectors.number_lists import pack, packed_schema
from connectors.shards import Unit, read_stats, read_unit, write_parquet
from connectors.storage import join
from pipelines.drops import drop_files, left_mask, rows_left
from pipelines.failed_rows import sum_stats, warn_of_rows
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.recipe import ModelPass
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.base import FAILURES
from scorers.catalog import versions_of
from scorers.models.columns import scores_schema
from scorers.models.fingerprint import as_known
from scorers.models.handler import CausalLMHandler, ScoredBatch, ScoringBatch
from scorers.models.scoring import Stats
from scorers.models.settings import ModelSettings

SCORED_COLUMNS = ["id", "messages", "tools"]


class NothingScored(RuntimeError):  # noqa: N818 - reads as what happened
    """The model could not score a single row."""


@dataclass(frozen=True)
class ScoreTask:
    """One unit to score."""

    file: str
    unit: Unit
    drops: tuple[str, ...]


class ReadForScoring(beam.DoFn):
    """Reads what the model needs of a unit: its rows that were not dropped before."""

    def process(self, task: ScoreTask) -> Iterator[ScoringBatch]:
        """Yields the unit's rows as one batch."""
        left = left_mask(task.drops, task.unit)
        table = read_unit(task.unit, SCORED_COLUMNS).filter(pa.array(left)).combine_chunks()
        empty = pa.RecordBatch.from_pylist([], schema=table.schema)
        yield ScoringBatch(task.file, table.to_batches()[0] if table.num_rows else empty)


class WriteScores(beam.DoFn):
    """Writes a unit's scores, with its counts in the footer."""

    def __init__(self, folder: str, stage: str, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = packed_schema(schema)
        self.metrics = StageMetrics(stage)

    def process(self, batch: ScoredBatch) -> Iterator[str]:
        """Yields the name of the finished file."""
        path = join(self.folder, batch.unit)
        differing = ("seconds", "memory_retries")  # from run to run
        stats = {key: value for key, value in batch.stats.items() if key not in differing}
        size = write_parquet(path, pack(pa.Table.from_batches([batch.scores])), self.schema, stats)
        warn_of_rows(batch.unit, stats)
        self.metrics.took(batch.stats["seconds"])
        self.metrics(bytes_written=size, **model_metrics(batch.stats))
        yield batch.unit


def model_metrics(stats: Stats) -> dict[str, float]:
    """The counters of a stage of scores, from the stats of a batch."""
    scored = stats["status/ok"]
    return {
        "rows_scored": scored,
        "rows_not_scored": stats["rows"] - scored,
        "rows_failed": sum(stats[f"status/{name}"] for name in FAILURES),
        "tokens_scored": stats["tokens"],
        "tokens_padding": stats["padded_tokens"] - stats["tokens"],
        "tokens_response": stats["response_tokens"],
        "calls_model": stats["micro_batches"],
        "calls_out_of_memory": stats["memory_retries"],
        "milliseconds_model": 1000 * stats["seconds"],
    }


def score(
    space: Workspace,
    run: ModelPass,
    model: dict[str, Any],
    units: Sequence[Unit],
    ingested: StageResult,
    dropping: Sequence[StageResult],
) -> StageResult:
    """Scores every example that no stage before dropped.

    Args:
        space: The run's workspace.
        run: The model, and what it computes and stores.
        model: The model's fingerprint.
        units: The pieces of work.
        ingested: The stage that made the units.
        dropping: The stages that dropped rows; see pipelines/drops.py.

    Raises:
        NothingScored: If there were rows and not one got scores.
    """
    drops = drop_files(dropping)
    tasks = [ScoreTask(f"scores-{unit.name}.parquet", unit, drops) for unit in units]
    handler = CausalLMHandler(
        as_known(run.settings, model),
        run.scorers,
        store_tokens=run.tokens,
        store_outputs=run.outputs,
        threads=space.runner.threads,
        on_rows=ProgressCounter(space.counts(run.stage)),
    )
    schema = scores_schema(run.scorers, run.tokens, run.outputs)

    hints = space.runner.model_hints(model["device"])

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = (
            collection
            | "read rows" >> beam.ParDo(ReadForScoring())
            | "run the model" >> RunInference(handler).with_resource_hints(**hints)
            | "write scores" >> beam.ParDo(WriteScores(folder, run.stage, schema))
        )

    # A folder is known by its contents, so that a moved model is the same model.
    identity = {k: v for k, v in model.items() if k != "name" or model["revision"]}
    settings = {
        "model": identity,
        "settings": run.settings.model_dump(mode="json", exclude={"path", "device"}),
        "score": list(run.scorers),
        "tokens": run.tokens,
        "store": list(run.outputs),
    }
    if own := versions_of(run.scorers):
        settings["versions"] = own
    total = rows_left(units, dropping)
    stage = run_stage(
        space,
        run.stage,
        settings,
        [ingested, *dropping],
        tasks,
        build,
        total=total,
        summarise=lambda paths: sum_stats(map(read_stats, paths)),
        parallel=model["device"] == "cpu" or _one_each(run.settings),
    )
    if stage.stats["rows"] and not stage.stats["status"].get("ok"):
        counts = ", ".join(f"{count:,} {status}" for status, count in stage.stats["status"].items())
        messages = "".join(f"\n  {count:,} rows: {text}" for text, count in stage.stats["message"].items())
        raise NothingScored(
            f"{run.settings.path} scored none of {stage.stats['rows']:,} rows ({counts}). "
            "overflow: raise max_tokens or set on_overflow: keep; template_error: try chat_template: plain."
            f"{messages}"
        )
    return stage


def _one_each(settings: ModelSettings) -> bool:
    """Whether there are several GPUs, of which each worker process can own one."""
    from scorers.models.devices import cuda_devices

    return settings.device != "spread" and cuda_devices() > 1


def utilisation(stage: StageResult, model: dict[str, Any], cores: int) -> str:
    """How fast the model ran, and how much of the machine's own rate of matrix products that is."""
    from scorers.models.speed import matmul_rate

    flop, tokens = stage.stats["flop"] / stage.seconds, stage.stats["tokens"] / stage.seconds
    most = matmul_rate(model["device"], model["dtype"], cores)
    padding = stage.stats["padded_tokens"] / stage.stats["tokens"] - 1
    return (
        f"{tokens:,.0f} tokens/s, {padding:.1%} padding, {flop / 1e9:,.1f} GFLOP/s: "
        f"{flop / most:.0%} of what matrix products reach here ({most / 1e9:,.0f} GFLOP/s)"
    )

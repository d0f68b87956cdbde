"""Stages signatures and clusters: which examples are copies of which, in this run and in earlier outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.manifest import MANIFEST, file_hash, read_manifest
from connectors.shards import (
    Unit,
    group_units,
    parquet_files,
    plan_units,
    read_stats,
    read_unit,
    write_array,
    write_arrow,
)
from connectors.storage import fetched, join, remove_files, resolved
from pipelines.dedupe.find_duplicates import FindDuplicates, Search
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.settings import DedupeSettings
from pipelines.dedupe.signatures import (
    SIGNED_COLUMNS,
    SignatureFile,
    row_count,
    signature_table,
)
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.stages import WORK, StageResult, Workspace, load_stage, run_stage

ROWS_IN_FILE = 16_384  # of a signature file; more where there would be more files than FILES
BYTES_IN_FILE = 256 * 2**20  # of the examples of one
FILES = 480  # a task that compares reads a part of each
MOST_ROWS_IN_FILE = 131_072  # what a worker holds, about half a gigabyte of rows of usual length
DUPLICATES = "duplicates.parquet"
SPREAD_ROWS = 200_000  # fewer are compared sooner than worker processes start


@dataclass(frozen=True)
class SignatureTask:
    """Consecutive units to hash."""

    file: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class ClusterTask:
    """All signatures, joined in one pipeline."""

    file: str


@dataclass(frozen=True)
class Older:
    """The signatures of an earlier output.

    Attributes:
        out: The output folder, as the recipe names it.
        stage: Where its signature files are.
        dropped: Rows, in that stage's numbering, that the earlier run did not keep; ascending.
    """

    out: str
    stage: StageResult
    dropped: Int64s


class WriteSignatures(beam.DoFn):
    """Writes the hashes of consecutive units that duplicates are found by."""

    def __init__(self, folder: str, settings: DedupeSettings, stage: str, counts: str) -> None:
        self.folder = folder
        self.settings = settings
        self.progress = ProgressCounter(counts)
        self.metrics = StageMetrics(stage)

    def process(self, task: SignatureTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        with self.metrics.task():
            tables = [read_unit(unit, SIGNED_COLUMNS) for unit in task.units]
            table = pa.concat_tables(tables).combine_chunks()
            signed = signature_table(table, self.settings, task.units[0].row_start)
            size = write_arrow(join(self.folder, task.file), signed)
        self.progress(rows=table.num_rows)
        self.metrics(rows_signed=table.num_rows, bytes_written=size)
        yield task.file


def sign(
    space: Workspace,
    name: str,
    settings: DedupeSettings,
    units: Sequence[Unit],
    inputs: Sequence[StageResult],
    identity: str | None = None,
) -> StageResult:
    """Writes the signature files of some units.

    Args:
        space: The run's workspace.
        name: Name of the stage.
        settings: The recipe's `dedupe` section.
        units: What to hash, in row order.
        inputs: The stages that made the units.
        identity: What else the units depend on.
    """
    signed = signed_settings(settings)
    total = sum(unit.rows for unit in units)
    rows = min(max(ROWS_IN_FILE, -(-total // FILES)), MOST_ROWS_IN_FILE)
    groups = [group for group in group_units(units, rows, BYTES_IN_FILE) if group]

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "sign rows" >> beam.ParDo(
            WriteSignatures(folder, settings, name, space.counts(name))
        )

    return run_stage(
        space,
        name,
        {"signed": signed, "of": identity},
        inputs,
        [SignatureTask(f"signatures-{group[0].name}.arrow", group) for group in groups],
        build,
        total=total,
        summarise=lambda _: {"rows": total, "signed": signed},
    )


def signed_settings(settings: DedupeSettings) -> dict[str, Any]:
    """What of the settings shapes a signature file."""
    minhash = settings.minhash.model_dump() if settings.minhash else None
    lengths = "longest_response" in settings.keep
    return {"minhash": minhash, "fields": list(settings.fields), "response_chars": lengths}


def dedupe(
    space: Workspace,
    settings: DedupeSettings,
    units: Sequence[Unit],
    ingested: StageResult,
    left_out: Sequence[StageResult] = (),
) -> tuple[StageResult, StageResult]:
    """Finds the duplicates among all examples.

    Args:
        space: The run's workspace.
        settings: The recipe's `dedupe` section.
        units: All examples.
        ingested: The stage that made them.
        left_out: Stages whose files name rows that are dropped already.

    Returns:
        The stages signatures and clusters; the one file of clusters lists every row to drop.
    """
    total = sum(unit.rows for unit in units)
    signatures = sign(space, "signatures", settings, units, [ingested])
    older = [_older_signatures(space, settings, index, out) for index, out in enumerate(settings.against)]
    task = ClusterTask(DUPLICATES)

    def cluster(collection: beam.PCollection, folder: str) -> None:
        search = _search(signatures, older, left_out, settings, folder)
        _ = collection.pipeline | "find duplicates" >> FindDuplicates(search)

    clusters = run_stage(
        space,
        "clusters",
        {
            "dedupe": settings.model_dump(mode="json", exclude={"semantic"}),
            "older": [o.stage.key for o in older],
        },
        [signatures, *left_out],
        [task],
        cluster,
        total=total,
        spread=total > SPREAD_ROWS,
        summarise=lambda paths: _summarise(paths[0], total),
    )
    remove_files(clusters.folder, ending=".npy")  # pairs that a finished table has used up
    return signatures, clusters


def _summarise(path: str, rows: int) -> dict[str, Any]:
    stats = read_stats(path)
    found = {name: stats.get(name, 0) for name in ("exact", "near", "clusters")}
    return {"rows": rows, "duplicates": stats["rows"], **found}


def _search(
    signatures: StageResult,
    older: Sequence[Older],
    left_out: Sequence[StageResult],
    settings: DedupeSettings,
    folder: str,
) -> Search:
    """All signature files under one numbering of rows: this run's, then those of each earlier output."""
    files: list[SignatureFile] = []
    starts: list[tuple[int, str]] = []
    end = 0
    excluded = [
        pq.read_table(fetched(path), columns=["row"])["row"].to_numpy() for s in left_out for path in s.paths
    ]
    for stage, dropped, name in [(signatures, None, ""), *((o.stage, o.dropped, o.out) for o in older)]:
        if dropped is not None:
            starts.append((end, name))
            excluded.append(dropped + end)
        for path in stage.paths:
            files.append(SignatureFile(path, end, row_count(path)))
            end += files[-1].rows
    rows = np.unique(np.concatenate([np.zeros(0, np.int64), *excluded]))
    left_out_file = join(folder, "excluded.npy")
    write_array(left_out_file, rows)
    return Search(tuple(files), tuple(starts), left_out_file, settings, folder, DUPLICATES)


def _older_signatures(space: Workspace, settings: DedupeSettings, index: int, out: str) -> Older:
    """Signatures of the rows that an earlier run kept: the stored ones, or new ones of its train files.

    Raises:
        ValueError: If the folder holds no finished run, or is the one this run writes to.
    """
    manifest = read_manifest(out)
    if resolved(out) == str(space.out):
        raise ValueError(
            f"dedupe.against: {out} is the output of this very run; give this run another output"
        )
    stored = _stored(out, manifest, settings)
    if stored is not None:
        signatures, decisions = stored
        table = pq.read_table(fetched(decisions.paths[0]), columns=["row", "keep"])
        kept = table.filter(table["keep"])["row"].to_numpy()
        return Older(out, signatures, np.setdiff1d(np.arange(signatures.stats["rows"]), kept))
    space.progress.say(f"{out}: hashed again, its stored signatures are gone or of other settings")
    units = plan_units(parquet_files(join(out, "train")))
    stage = sign(space, f"older-{index}", settings, units, [], file_hash(join(out, MANIFEST)))
    return Older(out, stage, np.zeros(0, np.int64))


def _stored(
    out: str, manifest: dict[str, Any], settings: DedupeSettings
) -> tuple[StageResult, StageResult] | None:
    stages = []
    for name in ("signatures", "select"):
        stage = load_stage(join(out, WORK, f"{name}-{manifest['stages'][name]['key']}"))
        if stage is None:
            return None
        stages.append(stage)
    signatures, decisions = stages
    return (signatures, decisions) if signatures.stats.get("signed") == signed_settings(settings) else None

"""Stage ingest: input files → canonical examples and bad rows, a Parquet file of each for every input."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.decompress import file_bytes
from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA, ROWS_PER_BATCH
from connectors.manifest import file_hash
from connectors.readers import InputFile, Item, find_files, read_examples
from connectors.shards import ShardWriter, read_stats
from pipelines.progress import ProgressCounter
from pipelines.recipe import Recipe
from pipelines.stages import StageResult, Workspace, run_stage

BATCH_CHARS = 16_000_000  # a batch is closed at this size too, so that one of long rows stays bounded


class TooManyBadRows(ValueError):  # noqa: N818 - reads as what happened
    """More rows were unreadable than the recipe allows."""


@dataclass(frozen=True)
class IngestTask:
    """Input files that become one file of examples (and one of bad rows beside it).

    Attributes:
        file: Name of the examples file.
        inputs: What to read, in order.
        limit: Stop after this many examples and bad rows together; None reads everything.
    """

    file: str
    inputs: tuple[InputFile, ...]
    limit: int | None

    @property
    def bad_file(self) -> str:
        """Name of the bad rows file."""
        return self.file.replace("part-", "bad-")


class _Buffer:
    """Collects rows and writes them in batches that are bounded in rows and in characters."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []
        self._chars = 0

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row; writes a batch when one is full."""
        self._rows.append(row)
        self._chars += sum(len(turn["content"]) for turn in row.get("messages") or ())
        if len(self._rows) >= ROWS_PER_BATCH or self._chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        """Writes what is left."""
        if self._rows:
            self._writer.write(pa.RecordBatch.from_pylist(self._rows, schema=self._writer.schema))
        self._rows, self._chars = [], 0


class ReadFiles(beam.DoFn):
    """Reads a task's input files and writes its two shards; the bad rows first, the examples last."""

    def __init__(self, folder: str, counts: str) -> None:
        self.folder = folder
        self.progress = ProgressCounter(counts)

    def process(self, task: IngestTask) -> Iterator[str]:
        """Yields the name of the finished examples file."""
        folder = Path(self.folder)
        with (
            ShardWriter(folder / task.file, EXAMPLE_SCHEMA) as examples,
            ShardWriter(folder / task.bad_file, BAD_ROW_SCHEMA) as bad,
        ):
            buffers = {"example": _Buffer(examples), "bad": _Buffer(bad)}
            for item in itertools.islice(self._items(task), task.limit):
                buffers[item.kind].add(item.row)
            for buffer in buffers.values():
                buffer.flush()
        yield task.file

    def _items(self, task: IngestTask) -> Iterator[Item]:
        for file in task.inputs:
            position = 0
            for item in read_examples(file):
                self.progress(rows=1, size=item.position - position)
                position = item.position
                yield item


def input_files(recipe: Recipe) -> list[tuple[InputFile, ...]]:
    """The files of each input of the recipe.

    Raises:
        ValueError: If a path matches nothing, or two files would give the same ids.
    """
    found = [tuple(find_files(spec, Path.cwd())) for spec in recipe.inputs]
    seen: dict[tuple[str, str], str] = {}
    for file in (file for files in found for file in files):
        other = seen.setdefault((file.source, file.name), file.path)
        if other != file.path:
            raise ValueError(
                f"{other} and {file.path} would give their rows the same ids "
                f"({file.source}/{file.name}:...). "
                "Give one of the two inputs another `source:` name."
            )
    return found


def _tasks(files: Sequence[tuple[InputFile, ...]], limit: int | None) -> list[IngestTask]:
    groups = [(file,) for of_input in files for file in of_input] if limit is None else list(files)
    # Sorted by id prefix, so that the order of inputs in the recipe does not matter.
    groups = sorted(
        {_prefix(group[0]): group for group in groups if group}.values(), key=lambda g: _prefix(g[0])
    )
    return [IngestTask(f"part-{index:05d}.parquet", group, limit) for index, group in enumerate(groups)]


def _prefix(file: InputFile) -> str:
    return f"{file.source}/{file.name}:"


def describe_inputs(files: Iterable[InputFile]) -> list[dict[str, Any]]:
    """Path, size and hash of every input file, for the manifest and the stage's key."""
    return [
        {
            "source": file.source,
            "path": file.path,
            "name": file.name,
            "bytes": file_bytes(file.path),
            "hash": file_hash(file.path),  # SHA-256
            "format": file.format,
        }
        for file in files
    ]


def ingest(space: Workspace, recipe: Recipe, limit: int | None) -> tuple[StageResult, list[dict[str, Any]]]:
    """Reads every input of the recipe.

    Returns:
        The stage, and the description of each input file.
    """
    files = input_files(recipe)
    flat = [file for of_input in files for file in of_input]
    for file in flat:
        if Path(file.path).resolve().is_relative_to(space.out):
            raise ValueError(f"{file.path} lies in the output folder {space.out}; give another --output")
    inputs = describe_inputs(flat)
    settings = {
        "limit": limit,
        "files": sorted(
            [file.source, file.name, known["hash"], file.format, sorted(file.fields.items()), file.pairs]
            for file, known in zip(flat, inputs, strict=True)
        ),
    }
    tasks = _tasks(files, limit)

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "read files" >> beam.ParDo(ReadFiles(folder, space.counts("ingest")))

    stage = run_stage(
        space,
        "ingest",
        settings,
        [],
        tasks,
        build,
        total=sum(known["bytes"] for known in inputs),
        unit="bytes",
        summarise=_summarise,
    )
    return stage, inputs


def _summarise(paths: list[str]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = {}
    broken: list[dict[str, Any]] = []  # files that could not be read to their end
    for path in paths:
        for kind, name in (("read", path), ("bad", bad_path(path))):
            table = pq.read_table(name, columns=None if kind == "bad" else ["source"])
            for source, count in Counter(table["source"].to_pylist()).items():
                sources.setdefault(source, Counter())[kind] += count
            if kind == "bad":
                reasons.update(table["reason"].to_pylist())
                broken += [bad for bad in table.to_pylist() if bad["row"] is None]
    examples = sum(read_stats(path)["rows"] for path in paths)
    return {
        "examples": examples,
        "bad": sum(reasons.values()),
        "rows": examples + sum(reasons.values()),
        "bad_reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "unreadable_files": [{key: bad[key] for key in ("path", "reason", "detail")} for bad in broken],
        "sources": {name: dict(counts) for name, counts in sorted(sources.items())},
    }


def bad_path(examples_path: str) -> str:
    """Path of the bad rows that belong to an examples file of the stage."""
    path = Path(examples_path)
    return str(path.with_name(path.name.replace("part-", "bad-")))


def check_bad_rows(stage: StageResult, allowed: float, bad_folder: Path) -> None:
    """Fails the run when too many rows could not be read.

    Raises:
        TooManyBadRows: With the table of reasons and where the rows can be looked at.
    """
    bad, rows = stage.stats["bad"], stage.stats["rows"]
    if bad <= allowed * rows:
        return
    table = "\n".join(f"  {count:>8,}  {reason}" for reason, count in stage.stats["bad_reasons"].items())
    raise TooManyBadRows(
        f"{bad:,} of {rows:,} rows could not be read ({100 * bad / max(rows, 1):.2f} %), more than "
        f"max_bad_fraction: {allowed:g} allows.\n{table}\n"
        f"Each of them, with its place and an excerpt: {bad_folder}\n"
        "Mend the input, map its fields (`fields:`), or allow more with "
        f"--set max_bad_fraction={min(1.0, bad / max(rows, 1) * 1.1):.2g}"
    )

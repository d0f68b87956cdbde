"""Stage ingest: input files → canonical examples and bad rows, a Parquet file of each for every input file.

A large file of JSON lines is read in parts, ranges of its lines, and so is a large Parquet file, in runs of
its row groups; each part gives files of its own. Which number the first line of a part has is found out while
the file is hashed. Any other file is read by one worker: where a CSV row begins, or what a packed file holds,
is known to the one who has read all before it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA, Batcher
from connectors.inputs import find_all_files
from connectors.line_ranges import LineRange
from connectors.manifest import Fingerprint, check_unchanged, fingerprint
from connectors.readers import InputFile, Item, in_reading_order, line_cutter, read_examples
from connectors.shards import ShardWriter, read_stats
from connectors.storage import fetched, file_name, folder_of, is_inside, join
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.recipe import Recipe
from pipelines.stages import StageResult, Workspace, run_stage


class TooManyBadRows(ValueError):  # noqa: N818 - reads as what happened
    """More rows were unreadable than the recipe allows."""


@dataclass(frozen=True)
class IngestTask:
    """Input files, or a part of one, that become one file of examples (and one of bad rows beside it).

    Attributes:
        file: Name of the examples file.
        inputs: What to read, in order.
        known: What each of them held when the run began.
        limit: Stop after this many examples and bad rows together; None reads everything.
    """

    file: str
    inputs: tuple[InputFile, ...]
    known: tuple[Fingerprint, ...]
    limit: int | None

    @property
    def bad_file(self) -> str:
        """Name of the bad rows file."""
        return self.file.replace("part-", "bad-")


class ReadFiles(beam.DoFn):
    """Reads a task's input files and writes its two shards; the bad rows first, the examples last."""

    def __init__(self, folder: str, counts: str) -> None:
        self.folder = folder
        self.progress = ProgressCounter(counts)
        self.metrics = StageMetrics("ingest")

    def process(self, task: IngestTask) -> Iterator[str]:
        """Yields the name of the finished examples file."""
        with self.metrics.task():
            self._write(task)
        yield task.file

    def _write(self, task: IngestTask) -> None:
        rows: Counter[str] = Counter()
        with (
            ShardWriter(join(self.folder, task.file), EXAMPLE_SCHEMA) as examples,
            ShardWriter(join(self.folder, task.bad_file), BAD_ROW_SCHEMA) as bad,
        ):
            buffers = {
                "example": Batcher(EXAMPLE_SCHEMA, examples.write),
                "bad": Batcher(BAD_ROW_SCHEMA, bad.write),
            }
            for item in itertools.islice(self._items(task), task.limit):
                buffers[item.kind].add(item.row)
                rows[item.kind] += 1
            for buffer in buffers.values():
                buffer.flush()
            for file, known in zip(task.inputs, task.known, strict=True):
                check_unchanged(file.path, known)  # before the two files appear
        self.metrics(rows_read=rows.total(), rows_bad=rows["bad"], bytes_written=examples.bytes + bad.bytes)

    def _items(self, task: IngestTask) -> Iterator[Item]:
        for file in task.inputs:
            position = 0
            try:
                for item in read_examples(file):
                    self.progress(rows=1, size=item.position - position)
                    position = item.position
                    yield item
            finally:  # a limit ends it early
                self.metrics(bytes_read=position)


def input_files(recipe: Recipe) -> list[tuple[InputFile, ...]]:
    """The files of each input of the recipe.

    Raises:
        ValueError: If a path matches nothing, or two files would give the same ids.
    """
    return find_all_files(recipe.inputs, Path.cwd())


def _look_through(
    files: Iterable[InputFile], limit: int | None
) -> tuple[dict[str, Fingerprint], dict[str, list[LineRange]]]:
    """Fingerprints of files by path, and the parts of those that are read by lines; reads each file once."""
    known: dict[str, Fingerprint] = {}
    lines: dict[str, list[LineRange]] = {}
    for file in {file.path: file for file in files}.values():
        cutter = line_cutter(file) if limit is None else None
        known[file.path] = fingerprint(file.path, cutter.add if cutter else None)
        if cutter:
            lines[file.path] = cutter.ranges()
    return known, lines


def _tasks(
    groups: Iterable[tuple[InputFile, ...]], known: Mapping[str, Fingerprint], limit: int | None
) -> list[IngestTask]:
    return [
        IngestTask(f"part-{index:05d}.parquet", group, tuple(known[file.path] for file in group), limit)
        for index, group in enumerate(groups)
    ]


def describe_inputs(files: Iterable[InputFile], known: Mapping[str, Fingerprint]) -> list[dict[str, Any]]:
    """Path, size and hash of every input file, for the manifest and the stage's key."""
    return [
        {
            "source": file.source,
            "path": file.path,
            "name": file.name,
            "bytes": known[file.path].version[0],
            "hash": known[file.path].hash,  # SHA-256
            "format": file.format,
        }
        for file in files
    ]


def ingest(space: Workspace, recipe: Recipe, limit: int | None) -> tuple[StageResult, list[dict[str, Any]]]:
    """Reads every input of the recipe.

    Returns:
        The stage, and the description of each input file.

    Raises:
        InputChanged: If an input changed while it was read.
        ValueError: If an input is not there, or lies in the output folder.
    """
    files = input_files(recipe)
    flat = [file for of_input in files for file in of_input]
    for file in flat:
        if is_inside(file.path, space.out):
            raise ValueError(f"{file.path} lies in the output folder {space.out}; give another --output")
    fingerprints, lines = _look_through(flat, limit)
    inputs = describe_inputs(flat, fingerprints)
    settings: dict[str, Any] = {
        "limit": limit,
        "files": sorted(
            [file.source, file.name, known["hash"], file.format, sorted(file.fields.items()), file.pairs]
            for file, known in zip(flat, inputs, strict=True)
        ),
    }
    parts = sorted([file.source, file.name, *part] for file in flat for part in lines.get(file.path, ())[1:])
    if parts:  # a file of part of a file's rows must not be taken for one of all of them
        settings["parts"] = parts
    tasks = _tasks(in_reading_order(files, limit, lines), fingerprints, limit)

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "read files" >> beam.ParDo(ReadFiles(folder, space.counts("ingest")))

    try:
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
    except (RuntimeError, ValueError, OSError):
        # A worker says it in the text of a traceback, and a file that shrinks may fail in other ways first.
        for path, known in fingerprints.items():
            check_unchanged(path, known)
        raise
    return stage, inputs


def _summarise(paths: list[str]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = {}
    broken: list[dict[str, Any]] = []  # files that could not be read to their end
    for path in paths:
        for kind, name in (("read", path), ("bad", bad_path(path))):
            table = pq.read_table(fetched(name), columns=None if kind == "bad" else ["source"])
            for source in pc.value_counts(table["source"]).to_pylist():
                sources.setdefault(source["values"], Counter())[kind] += source["counts"]
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
    return join(folder_of(examples_path), file_name(examples_path).replace("part-", "bad-"))


def check_bad_rows(stage: StageResult, allowed: float, bad_folder: str | Path) -> None:
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

"""A folder that `datasets.load_dataset` reads as it is, with a dataset card; what `winnow push` uploads.

It holds what the card speaks of and nothing else: train/, dropped/ (excerpts of 300 characters, with the
reasons), bad_rows/ and report.html. The work of the stages stays behind.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from connectors.shards import ShardWriter, parquet_files
from pipelines.export.folder import link
from pipelines.export.rows import Carry, Losses, RunOutput, Written

CARRIES: frozenset[Carry] = frozenset(
    ("row weights", "row weights of 0 and 1", "token masks", "token weights")
)
FOLDERS = ("train", "dropped", "bad_rows")


def write(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Gives the run's files a second name in the folder, and writes the card."""
    from pipelines.dataset_card import write_card

    written = Written()
    for rows in run.tables(()):
        written.count(rows, masks=True)
    for name in FOLDERS:
        for path in map(Path, parquet_files(run.out / name)):
            _publish(path, folder / name / path.name)
    if (run.out / "report.html").exists():
        link(run.out / "report.html", folder / "report.html")
    write_card(folder, run.manifest)
    return written


def _publish(path: Path, name: Path) -> None:
    """Links a file, or writes it again without the empty row groups at which `datasets` stops."""
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        if all(groups):
            link(path, name)
            return
        name.parent.mkdir(parents=True, exist_ok=True)
        with ShardWriter(name, file.schema_arrow) as writer:
            for group in range(file.num_row_groups):
                writer.write(file.read_row_group(group))


def usage(run: RunOutput, target: Path) -> str:
    """Python that loads the folder."""
    return f"from datasets import load_dataset\nrows = load_dataset({str(target)!r}, split='train')"

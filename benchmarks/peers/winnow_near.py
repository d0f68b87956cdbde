"""Our own near-duplicate search, from a text column to the table of drops, without Beam."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.measure import Clock, Job, read_job, write_report
from connectors.examples import EXAMPLE_SCHEMA
from connectors.shards import write_arrow
from pipelines.dedupe.find_duplicates import Search, find_duplicates
from pipelines.dedupe.settings import DedupeSettings, MinHashSettings
from pipelines.dedupe.signatures import SignatureFile, signature_table
from pipelines.dedupe.stages import ROWS_IN_FILE


def main() -> None:
    """Runs the job of the command line."""
    job = read_job()
    minhash = MinHashSettings(threshold=job.threshold, ngram=job.ngram, permutations=job.permutations)
    settings = DedupeSettings(exact=False, minhash=minhash, keep=("first",))
    few = examples(pa.table({"id": ["0", "1"], "text": ["a b c d e f"] * 2}))
    run([few], settings, Path(job.scratch, "start"), Clock())  # loads the compiled loops, as an import would
    clock = Clock()
    dropped = run(read(job, clock), settings, Path(job.scratch, "run"), clock)
    kept = np.setdiff1d(np.arange(pq.read_metadata(job.corpus).num_rows), dropped)
    write_report(job, clock, "winnow", kept.tolist())


def read(job: Job, clock: Clock) -> Iterable[pa.Table]:
    """The corpus as examples, one table for each signature file."""
    batches = pq.ParquetFile(job.corpus).iter_batches(ROWS_IN_FILE, columns=["id", "text"])
    while True:
        with clock.phase("read"):
            batch = next(batches, None)
            table = None if batch is None else examples(pa.Table.from_batches([batch]))
        if table is None:
            return
        yield table


def examples(table: pa.Table) -> pa.Table:
    """Canonical examples of one turn; reading raw data gives the content hash, so it is made here."""
    rows = table.num_rows
    texts = table["text"].combine_chunks()
    hashes = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts.to_pylist()]
    turn_type = EXAMPLE_SCHEMA.field("messages").type.value_type
    columns = {"role": pa.repeat("assistant", rows), "content": texts}
    turns = [columns.get(field.name, pa.nulls(rows, field.type)) for field in turn_type]
    return pa.table(
        {
            "id": table["id"],
            "source": pa.repeat("corpus", rows),
            "messages": pa.ListArray.from_arrays(
                pa.array(range(rows + 1), pa.int32()),
                pa.StructArray.from_arrays(turns, fields=list(turn_type)),
            ),
            "content_hash": hashes,
            "extra": pa.nulls(rows, pa.string()),
        }
    )


def run(tables: Iterable[pa.Table], settings: DedupeSettings, folder: Path, clock: Clock) -> np.ndarray:
    """Row numbers of the duplicates that would be dropped, ascending."""
    folder.mkdir()
    files: list[SignatureFile] = []
    end = 0
    for table in tables:
        with clock.phase("signatures"):
            files.append(SignatureFile(str(folder / f"{len(files):05d}.arrow"), end, table.num_rows))
            write_arrow(Path(files[-1].path), signature_table(table, settings, end))
            end += table.num_rows
    with clock.phase("clustering"):
        np.save(folder / "excluded.npy", np.zeros(0, np.int64))
        search = Search(
            tuple(files), (), str(folder / "excluded.npy"), settings, str(folder), "drops.parquet"
        )
        find_duplicates(search)
    return np.asarray(pq.read_table(folder / "drops.parquet", columns=["row"])["row"])


if __name__ == "__main__":
    main()

"""text-dedup's MinHash command, run in this process; its own timer says where the phases begin and end."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow.parquet as pq
from text_dedup import minhash  # type: ignore[import-not-found]  # in its own environment only
from text_dedup.utils import IOArgs, MetaArgs, MinHashArgs  # type: ignore[import-not-found]  # in its own environment only

from benchmarks.peers.measure import Clock, read_job, write_report

PHASES = {"Loading": "read", "MinHashing": "signatures", "Clustering": "clustering"}


class PhaseTimer(minhash.Timer):
    """Its timer, with CPU seconds. "Total" holds the others; writing the rows kept is "rest"."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """The context that times `name`."""
        return CLOCK.phase("whole" if name == "Total" else PHASES.get(name, "rest"))


CLOCK = Clock()


def main() -> None:
    """Runs the job of the command line."""
    job = read_job()
    minhash.Timer = PhaseTimer
    minhash.main.callback(
        io_args=IOArgs(
            path="parquet", data_files=job.corpus, split="train", num_proc=1,
            cache_dir=str(Path(job.scratch, "cache")), output=str(Path(job.scratch, "output")),
        ),
        meta_args=MetaArgs(column="text"),
        minhash_args=MinHashArgs(
            ngram=job.ngram, num_perm=job.permutations, threshold=job.threshold, b=job.bands, r=job.band_rows,
            hash_func="xxh3", hash_bits=32,
        ),
    )  # fmt: skip
    rows = pq.read_metadata(job.corpus).num_rows
    write_report(job, CLOCK, "text-dedup", (row for row in range(rows) if minhash.uf.find(row) == row))


if __name__ == "__main__":
    main()

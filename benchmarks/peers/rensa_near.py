"""rensa, with shingles made in Python.

Variant `lsh`: index, query all, union-find. Variant `inline`: its deduplicator, which checks candidates by
their signatures.
"""

from __future__ import annotations

import pyarrow.parquet as pq
from rensa import RMinHash, RMinHashDeduplicator, RMinHashLSH  # type: ignore[import-not-found]  # in its own environment only

from benchmarks.peers.measure import Clock, Job, first_of_clusters, read_job, shingles, write_report

SEED = 42


def main() -> None:
    """Runs the job of the command line."""
    job, clock = read_job(), Clock()
    with clock.phase("read"):
        texts = pq.read_table(job.corpus, columns=["text"])["text"].to_pylist()
    with clock.phase("signatures"):
        sets = (shingles(text, job.ngram) for text in texts)
        signatures = RMinHash.from_token_sets(sets, job.permutations, SEED)
    with clock.phase("clustering"):
        kept = {"lsh": keep_by_lsh, "inline": keep_inline}[job.variant](job, signatures)
    write_report(job, clock, "rensa", kept)


def keep_by_lsh(job: Job, signatures: list[RMinHash]) -> list[int]:
    """All candidates are duplicates; the first row of each connected component stays."""
    lsh = RMinHashLSH(job.threshold, job.permutations, job.bands)
    lsh.insert_many(signatures)
    return first_of_clusters(lsh.query_all(signatures))


def keep_inline(job: Job, signatures: list[RMinHash]) -> list[int]:
    """A row stays unless its signature is near that of a row that stayed."""
    deduplicator = RMinHashDeduplicator(
        job.threshold, job.permutations, use_lsh=True, num_bands=job.bands, seed=SEED
    )
    added = deduplicator.add_pairs((str(row), signature) for row, signature in enumerate(signatures))
    return [row for row, is_new in enumerate(added) if is_new]


if __name__ == "__main__":
    main()

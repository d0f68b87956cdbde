"""datasketch at its quickest: signatures in bulk over xxh32, insertion session, then a query for each row."""

from __future__ import annotations

import pyarrow.parquet as pq
import xxhash
from datasketch import MinHash, MinHashLSH

from benchmarks.peers.measure import Clock, byte_shingles, first_of_clusters, read_job, write_report


def main() -> None:
    """Runs the job of the command line."""
    job, clock = read_job(), Clock()
    with clock.phase("read"):
        texts = pq.read_table(job.corpus, columns=["text"])["text"].to_pylist()
    with clock.phase("signatures"):
        sets = (byte_shingles(text.encode(), job.ngram) for text in texts)
        signatures = MinHash.bulk(sets, num_perm=job.permutations, hashfunc=xxhash.xxh32_intdigest)
    with clock.phase("clustering"):
        lsh = MinHashLSH(job.threshold, job.permutations, params=(job.bands, job.band_rows))
        with lsh.insertion_session() as session:
            for row, signature in enumerate(signatures):
                session.insert(row, signature, check_duplication=False)
        kept = first_of_clusters(lsh.query(signature) for signature in signatures)
    write_report(job, clock, "datasketch", kept)


if __name__ == "__main__":
    main()

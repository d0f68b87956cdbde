"""Data-Juicer's operator document_minhash_deduplicator, its two steps timed apart.

Its second step also filters the rows, which cannot be told from clustering.
"""

from __future__ import annotations

import datasets
from data_juicer.core.data import NestedDataset  # type: ignore[import-not-found]  # in its own environment only
from data_juicer.ops.deduplicator.document_minhash_deduplicator import (  # type: ignore[import-not-found]  # in its own environment only
    DocumentMinhashDeduplicator,
)

from benchmarks.peers.measure import Clock, read_job, write_report


def main() -> None:
    """Runs the job of the command line."""
    job, clock = read_job(), Clock()
    with clock.phase("read"):
        loaded = datasets.load_dataset("parquet", data_files=job.corpus, split="train", cache_dir=job.scratch)
        loaded = loaded.select_columns(["text"]).add_column("row", range(len(loaded)))
        dataset = NestedDataset(loaded)
    operator = DocumentMinhashDeduplicator(
        tokenization="space", window_size=job.ngram, num_permutations=job.permutations,
        jaccard_threshold=job.threshold, num_bands=job.bands, num_rows_per_band=job.band_rows,
    )  # fmt: skip
    with clock.phase("signatures"):
        hashed = dataset.map(operator.compute_hash, num_proc=1)
    with clock.phase("clustering"):
        kept, _ = operator.process(hashed)
    write_report(job, clock, "py-data-juicer", kept["row"])


if __name__ == "__main__":
    main()

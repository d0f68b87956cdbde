"""datatrove's MinHash stages 1 to 3, one task each (one for each bucket in stage 2), in this process.

Its word splitter is replaced by one that splits at blanks, through the place it has for that: the same words
as every other tool, and without spaCy, which would take most of its time. Its folding of numbers and accents
is off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline  # type: ignore[import-not-found]  # in its own environment only
from datatrove.pipeline.dedup.minhash import (  # type: ignore[import-not-found]  # in its own environment only
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import ParquetReader  # type: ignore[import-not-found]  # in its own environment only
from datatrove.utils.text import TextNormConfig  # type: ignore[import-not-found]  # in its own environment only
from datatrove.utils.word_tokenizers import WordTokenizer  # type: ignore[import-not-found]  # in its own environment only

from benchmarks.peers.measure import Clock, Job, read_job, write_report


class BlankSplitter(WordTokenizer):
    """Splits at blanks."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split(" ")

    def sent_tokenize(self, text: str) -> list[str]:
        """Not used by MinHash."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Not used by MinHash."""
        return [(0, len(text))]


def main() -> None:
    """Runs the job of the command line."""
    job, clock = read_job(), Clock()
    config = MinhashConfig(
        n_grams=job.ngram,
        num_buckets=job.bands,
        hashes_per_bucket=job.band_rows,
        norm_config=TextNormConfig(norm_unicode_diacritics=False, norm_numbers=False),
    )
    folders = [str(Path(job.scratch, name)) for name in ("signatures", "buckets", "clusters")]
    with clock.phase("read and signatures"):  # it reads row by row, while it hashes
        MinhashDedupSignature(folders[0], config, language=BlankSplitter()).run(read(job))
    with clock.phase("clustering"):
        buckets = MinhashDedupBuckets(folders[0], folders[1], config=config)
        for rank in range(job.bands):
            buckets.run(rank=rank, world_size=job.bands)
        MinhashDedupCluster(folders[1], folders[2], config).run()
    listed = Path(folders[2], "000000.remove")  # not there when nothing is to be removed
    removed = np.fromfile(listed, "<u4") if listed.exists() else np.zeros(0, np.uint32)
    kept = np.setdiff1d(np.arange(pq.read_metadata(job.corpus).num_rows), removed)
    write_report(job, clock, "datatrove", kept.tolist())


def read(job: Job) -> DocumentsPipeline:
    """The rows of the corpus as its own reader gives them."""
    path = Path(job.corpus)
    return ParquetReader(str(path.parent), glob_pattern=path.name, text_key="text", id_key="id").run()


if __name__ == "__main__":
    main()

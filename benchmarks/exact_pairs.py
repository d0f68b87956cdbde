"""All pairs of texts at or above a Jaccard similarity, exactly: the truth near-duplicate search is held to.

    python -m benchmarks.exact_pairs CORPUS.parquet --output truth.npz [--threshold 0.8] [--ngram 5]

Nothing is estimated and nothing is hashed: words and n-grams are numbered. The join is AllPairs with the
prefix and size filters (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search"; Chaudhuri,
Ganti and Kaushik 2006): of two sets that share at least a share t of their members, the rarest few of one
hold a member of the other, so only those are looked up. Memory is about 60 bytes for each word of the corpus
and 24 for each pair.

Words are what stands between single blanks (benchmarks/corpus.py writes such texts); of a text with fewer
words than n the n-gram is all of it. The search shares no code with pipelines/dedupe, so that a fault there
cannot hide here.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scorers.compiled import compiled

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What a tool that removes duplicates did.

    Attributes:
        removed: Rows removed.
        recall: Share of the removable rows that it removed; null where there are none. Removing all rows of
            a component counts as removing all but one.
        precision: Share of the removed rows that are in a true pair at all; null where none was removed.
        lost: Distinct texts lost: components, single rows included, of which no row is left.
    """

    removed: int
    recall: float | None
    precision: float | None
    lost: int


@dataclass(frozen=True)
class Truth:
    """All pairs of a corpus.

    Attributes:
        pairs: Row numbers, shape (2, pairs), the smaller first, ascending.
        similarity: Jaccard similarity of each pair, from the threshold to 1.
        component: For each row the smallest row of its connected component; its own where it has no pair.
    """

    pairs: Int64s
    similarity: Floats
    component: Int64s

    @property
    def removable(self) -> int:
        """Rows that can go while one row of each component stays."""
        return int((self.component != np.arange(len(self.component))).sum())

    def judge(self, kept: Int64s) -> Verdict:
        """How well the row numbers that a tool keeps agree with the truth."""
        rows = len(self.component)
        stays = np.zeros(rows, np.bool_)
        stays[kept] = True
        has_pair = np.zeros(rows, np.bool_)
        has_pair[self.pairs] = True
        left = np.bincount(self.component[stays], minlength=rows)
        size = np.bincount(self.component, minlength=rows)
        removed = int(rows - stays.sum())
        found = int(np.minimum(size - left, np.maximum(size - 1, 0)).sum())
        return Verdict(
            removed=removed,
            recall=found / self.removable if self.removable else None,
            precision=int((has_pair & ~stays).sum()) / removed if removed else None,
            lost=int(((size > 0) & (left == 0)).sum()),
        )

    def save(self, path: Path) -> None:
        """Writes a NumPy archive."""
        np.savez(path, pairs=self.pairs, similarity=self.similarity, component=self.component)

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["pairs"], stored["similarity"], stored["component"])


def exact_pairs(texts: pa.Array, ngram: int = 5, threshold: float = 0.8) -> Truth:
    """Finds all pairs of texts whose sets of word n-grams are at least as alike as the threshold.

    Args:
        texts: Words separated by single blanks; none is empty.
        ngram: Words in an n-gram.
        threshold: Lowest Jaccard similarity, above 0.
    """
    values, bounds = number_ngrams(texts, ngram)
    order = np.argsort(np.diff(bounds), kind="stable")  # sets are joined from the smallest to the largest
    sets, set_bounds = _rare_first(values, bounds, order)
    one, two, shared = _join(sets, set_bounds, int(values.max(initial=-1)) + 1, threshold)
    sizes = np.diff(bounds)
    pairs = np.sort(np.stack([order[one], order[two]]), axis=0)
    similarity = shared / (sizes[pairs[0]] + sizes[pairs[1]] - shared)
    ascending = np.lexsort([pairs[1], pairs[0]])
    return Truth(pairs[:, ascending], similarity[ascending], _components(pairs, len(texts)))


def number_ngrams(texts: pa.Array, ngram: int) -> tuple[Int64s, Int64s]:
    """The set of n-grams of each text as numbers: equal numbers if and only if equal words.

    Returns:
        Numbers of all texts, ascending and distinct in each; where each text's begin and end, (texts + 1,).
    """
    lists = pc.split_pattern(texts, " ")
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    words = np.asarray(lists.flatten().dictionary_encode().indices, np.int64)
    counts = np.asarray(pc.list_value_length(lists), np.int64)
    room = np.maximum(counts, ngram)  # a short text is filled up with "no word", so it has one n-gram
    starts = np.cumsum(room) - room
    grams = np.full(int(room.sum()), -1, np.int64)
    grams[_runs(starts, counts)] = words
    grams, width = _number(grams), 1
    while width < ngram:  # two n-grams side by side, or overlapping, make a longer one
        step = min(width, ngram - width)
        grams = _number(grams[:-step] * (int(grams.max(initial=0)) + 1) + grams[step:])
        width += step
    text = np.repeat(np.arange(len(room)), room - ngram + 1)
    factor = int(grams.max(initial=0)) + 1
    keys = np.sort(text * factor + grams[_runs(starts, room - ngram + 1)])
    text, grams = np.divmod(keys[np.r_[True, keys[1:] != keys[:-1]]], factor)
    return grams, np.r_[0, np.cumsum(np.bincount(text, minlength=len(room)))]


def _runs(starts: Int64s, lengths: Int64s) -> Int64s:
    """The positions of all runs, one run after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _number(keys: Int64s) -> Int64s:
    """Equal keys by equal numbers, from 0 without a gap."""
    return np.asarray(pa.array(keys).dictionary_encode().indices, np.int64)


def _rare_first(values: Int64s, bounds: Int64s, order: Int64s) -> tuple[Int64s, Int64s]:
    """The sets in the given order, their members renumbered by rising frequency and sorted."""
    held_by = np.bincount(values)
    rank = np.empty(len(held_by), np.int64)
    rank[np.argsort(held_by, kind="stable")] = np.arange(len(held_by))
    sizes = np.diff(bounds)[order]
    members = rank[values[_runs(bounds[:-1][order], sizes)]]
    keys = np.sort(np.repeat(np.arange(len(order)), sizes) * len(rank) + members)
    return keys % max(1, len(rank)), np.r_[0, np.cumsum(sizes)]


@compiled
def _shared(a: Int64s, b: Int64s, needed: float) -> int:
    """How many members two ascending sets share; -1 as soon as it is certain to be fewer than needed."""
    shared = i = j = 0
    while i < len(a) and j < len(b):
        if shared + min(len(a) - i, len(b) - j) < needed:
            return -1
        if a[i] == b[j]:
            shared += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return shared


@compiled
def _prefix(size: int, threshold: float) -> int:
    """How many of its rarest members a set must have looked up: less cannot be missed, by the pigeonhole."""
    return size - int(np.ceil(threshold * size - 1e-9)) + 1


@compiled
def _postings(sets: Int64s, bounds: Int64s, members: int, threshold: float) -> Int64s:
    """Where the sets that hold each member in their prefix will be listed, and the end of the last."""
    starts = np.zeros(members + 1, np.int64)
    for row in range(len(bounds) - 1):
        first = bounds[row]
        for index in range(first, first + _prefix(bounds[row + 1] - first, threshold)):
            starts[sets[index] + 1] += 1
    return np.cumsum(starts)


@compiled
def _join(sets: Int64s, bounds: Int64s, members: int, threshold: float) -> tuple[Int64s, Int64s, Int64s]:
    """Pairs of sets, given by rising size, and how many members they share."""
    starts = _postings(sets, bounds, members, threshold)
    ends = starts[:-1].copy()
    listed = np.empty(starts[-1], np.int64)
    seen = np.full(len(bounds), -1, np.int64)
    found = np.empty((3, 1024), np.int64)
    count = 0
    for row in range(len(bounds) - 1):
        own = sets[bounds[row] : bounds[row + 1]]
        for member in own[: _prefix(len(own), threshold)]:
            first, end = starts[member], ends[member]
            while (
                first < end
                and bounds[listed[first] + 1] - bounds[listed[first]] < threshold * len(own) - 1e-9
            ):
                first += 1  # too small for this set and for all that come after it
            starts[member] = first
            for other in listed[first:end]:
                if seen[other] == row:
                    continue
                seen[other] = row
                theirs = sets[bounds[other] : bounds[other + 1]]
                total = len(own) + len(theirs)
                shared = _shared(own, theirs, threshold * total / (1 + threshold) - 1e-6)
                if shared < 0 or shared / (total - shared) < threshold:
                    continue
                if count == found.shape[1]:
                    grown = np.empty((3, 2 * count), np.int64)
                    grown[:, :count] = found
                    found = grown
                found[0, count], found[1, count], found[2, count] = row, other, shared
                count += 1
            listed[end] = row
            ends[member] = end + 1
    return found[0, :count].copy(), found[1, :count].copy(), found[2, :count].copy()


def _components(pairs: Int64s, rows: int) -> Int64s:
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), (rows, rows))
    _, labels = connected_components(graph, directed=False)
    _, first, component = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[component], np.int64)


def main() -> None:
    """Writes the truth of a corpus and prints what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="Parquet file with the column text")
    parser.add_argument("--output", type=Path, required=True, help="NumPy archive to write")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--ngram", type=int, default=5)
    options = parser.parse_args()
    texts = pq.read_table(options.corpus, columns=["text"])["text"]
    start = time.process_time()
    truth = exact_pairs(texts, options.ngram, options.threshold)
    seconds = time.process_time() - start
    truth.save(options.output)
    _, sizes = np.unique(truth.component, return_counts=True)
    print(
        f"{len(texts):,} rows: {truth.pairs.shape[1]:,} pairs, {truth.removable:,} rows removable, "
        f"biggest component {sizes.max(initial=0):,} rows; {seconds:.1f} CPU s"
    )


if __name__ == "__main__":
    main()

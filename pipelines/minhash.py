"""MinHash signatures: from a text to its set of word shingles and the hashes of its bands.

Source: Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3. Reference: datasketch 2, whose permutations (scheme
"affine32", seed 1) and choice of bands are used as they are; only the hash of a shingle is ours (XXH3).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from xxhash import xxh3_64_intdigest

from connectors.examples import normalise

UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]
ShingleLookup = Callable[[Int64s], Mapping[int, UInt64s]]
"""Gives the shingle sets of some rows, named by ascending row numbers."""

# Every candidate is verified by its true Jaccard similarity, so a false positive costs a comparison and a
# false negative a duplicate. Of pairs that are 0.8 alike datasketch's default, equal weights, makes 40 %
# candidates, these make 95 %.
BAND_WEIGHTS = (0.05, 0.95)  # of false positives and of false negatives

# datasketch refuses a single band, which is what it would choose above this threshold.
MAX_BAND_THRESHOLD = 0.95

# A bucket of at most this many examples is compared pair by pair, a larger one through leaders.
MAX_PAIRWISE_BUCKET = 128
MAX_LEADERS = 64
ROWS_IN_MEMORY = 16_384  # examples whose shingles are held while buckets are compared

# Scripts in which every character is a word of its own here: Chinese and Japanese put no space between words.
_LONE = (
    "\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc"  # Hangul
)
# Operators are words too: 3 + 4 and 3 - 4, or a < b and a > b, are different texts. A hyphen is one only
# before a digit.
_OPERATOR = r"[+*/=<>^%&|~\u00d7\u00f7\u2212]|-(?=\s?\d)"
_WORD = re.compile(rf"[{_LONE}]|[^\W{_LONE}]+|{_OPERATOR}")


class MinHashSettings(BaseModel):
    """What counts as a near-duplicate: the `minhash` part of a recipe's `dedupe` section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="lowest Jaccard similarity of two near-duplicates"
    )
    ngram: int = Field(default=5, ge=1, description="words in a shingle")
    permutations: int = Field(default=128, ge=16, le=4096, description="numbers in a MinHash signature")


def split_words(text: str) -> list[str]:
    """Words of a text: runs of word characters, operators, and each Chinese, Japanese or Korean character.

    Args:
        text: Normalised text.

    Example:
        >>> split_words("what is 2+2? 你好 2x, well-known")
        ['what', 'is', '2', '+', '2', '你', '好', '2x', 'well', 'known']
    """
    return _WORD.findall(text)


def hash_shingles(text: str, ngram: int) -> UInt64s:
    """The set of word n-grams of a text, as 64-bit hashes.

    A text of fewer than `ngram` words has one shingle, all its words; a text without any word has one
    shingle, the normalised text itself. So every text has at least one, the empty one included.

    Args:
        text: Any text; it is normalised here.
        ngram: Words in a shingle, at least 1.

    Returns:
        Distinct hashes in ascending order, uint64, shape (s,), s >= 1.
    """
    normal = normalise(text)
    words = split_words(normal)
    if len(words) >= ngram:
        grams = [" ".join(gram) for gram in zip(*(words[start:] for start in range(ngram)), strict=False)]
    else:
        grams = [" ".join(words) or normal]
    # "surrogatepass": JSON may hold lone surrogates; they must hash, not raise.
    hashes = {xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass")) for gram in grams}
    return np.array(sorted(hashes), dtype=np.uint64)


@lru_cache
def band_shape(threshold: float, permutations: int) -> tuple[int, int]:
    """Datasketch's choice of (bands, rows of a band) for a threshold and a number of permutations.

    Two texts of Jaccard similarity s become candidates with probability 1 - (1 - s ** rows) ** bands.

    Example:
        >>> band_shape(0.8, 128)
        (16, 8)
    """
    from datasketch import MinHashLSH  # a second to import, not needed to read a recipe

    lsh = MinHashLSH(min(threshold, MAX_BAND_THRESHOLD), permutations, weights=BAND_WEIGHTS)
    return int(lsh.b), int(lsh.r)


@lru_cache
def permutation_parameters(permutations: int) -> tuple[UInt32s, UInt32s]:
    """Datasketch's (a, b) of the permutations h -> a * h + b mod 2**32, each uint32, (permutations,)."""
    from datasketch import MinHash

    a, b = MinHash(num_perm=permutations, seed=1, scheme="affine32").permutations
    return a, b


def signatures(shingle_sets: Sequence[UInt64s], permutations: int) -> UInt32s:
    """MinHash signatures; the share of equal numbers in two rows estimates their Jaccard similarity.

    Equal to datasketch's MinHash of the low 32 bits of the same shingle hashes.

    Args:
        shingle_sets: For each text its shingle hashes, none of them empty.
        permutations: Numbers in a signature.

    Returns:
        uint32, shape (len(shingle_sets), permutations).
    """
    a, b = permutation_parameters(permutations)
    result = np.empty((len(shingle_sets), permutations), dtype=np.uint32)
    for index, shingles in enumerate(shingle_sets):
        mixed = _mix(shingles.astype(np.uint32))  # keeps the low 32 bits
        result[index] = (mixed[:, None] * a + b).min(axis=0)  # (s, permutations), wraps around as intended
    return result


def _mix(hashes: UInt32s) -> UInt32s:
    """MurmurHash3's 32-bit finalizer, which datasketch applies before its permutations."""
    hashes = hashes ^ (hashes >> np.uint32(16))
    hashes = hashes * np.uint32(0x85EBCA6B)
    hashes = hashes ^ (hashes >> np.uint32(13))
    hashes = hashes * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def hash_bands(signature: UInt32s, bands: int, rows: int) -> UInt64s:
    """One hash for each band of each signature; the number of the band is part of it.

    Args:
        signature: Signatures, shape (n, permutations) with bands * rows <= permutations.
        bands: Number of bands.
        rows: Numbers in a band.

    Returns:
        uint64, shape (n, bands).
    """
    packed = memoryview(np.ascontiguousarray(signature[:, : bands * rows], dtype="<u4").tobytes())
    width = 4 * rows  # bytes of one band
    hashes = (
        xxh3_64_intdigest(packed[start * width : (start + 1) * width], start % bands)
        for start in range(len(signature) * bands)
    )
    return np.fromiter(hashes, dtype=np.uint64, count=len(signature) * bands).reshape(-1, bands)


def jaccard(a: UInt64s, b: UInt64s) -> float:
    """Jaccard similarity of two sets of distinct numbers, from 0 (nothing shared) to 1 (equal).

    Example:
        >>> jaccard(np.array([1, 2, 3], dtype=np.uint64), np.array([2, 3, 4], dtype=np.uint64))
        0.5
    """
    both = np.concatenate((a, b))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def _alike(a: UInt64s, b: UInt64s, threshold: float) -> bool:
    # |A and B| / |A or B| is at most the ratio of the sizes, which costs nothing to know
    small, large = sorted((len(a), len(b)))
    return small / large >= threshold and jaccard(a, b) >= threshold


class _Forest:
    """Disjoint sets of row numbers, so that rows already joined are not compared again."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self.edges: list[tuple[int, int]] = []

    def root(self, row: int) -> int:
        parents = self._parents
        while (parent := parents.get(row, row)) != row:
            parents[row] = row = parents.get(parent, parent)  # halves the path
        return row

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        if low != high:
            self._parents[high] = low
            self.edges.append((a, b))


def near_edges(keys: UInt64s, threshold: float, lookup: ShingleLookup) -> Int64s:
    """Joins rows that share a band hash and are at least as alike as the threshold.

    In a bucket of at most MAX_PAIRWISE_BUCKET rows all pairs are compared, except those already joined. In
    a larger one each row, in row order, is compared with the leaders of the bucket, the one matched last
    first; it joins the first that is alike enough, otherwise it becomes a leader itself. At most
    MAX_LEADERS are held; the one unmatched for longest leaves. That is linear in the size of the bucket. It
    can miss a pair in a bucket of many dissimilar rows; what it finds depends on the bucket alone, so not
    on how buckets are spread over workers.

    Args:
        keys: (band hash, row number) columns in any order, shape (2, n); equal hashes must all be there.
        threshold: Lowest Jaccard similarity.
        lookup: Where shingles are read.

    Returns:
        Pairs of row numbers, shape (2, m), without a cycle: m is less than the number of rows joined.
    """
    forest = _Forest()
    small: list[Int64s] = []
    held = 0
    for bucket in _buckets(keys):
        if len(bucket) > MAX_PAIRWISE_BUCKET:
            _compare_with_leaders(bucket, threshold, lookup, forest)
            continue
        small.append(bucket)
        held += len(bucket)
        if held >= ROWS_IN_MEMORY:
            _compare_pairwise(small, threshold, lookup, forest)
            small, held = [], 0
    _compare_pairwise(small, threshold, lookup, forest)
    return np.array(sorted(forest.edges), dtype=np.int64).reshape(-1, 2).T


def _buckets(keys: UInt64s) -> Iterator[Int64s]:
    """Row numbers, ascending, of each band hash that two rows or more share."""
    bands, rows = keys[:, np.lexsort(keys[::-1])]
    starts = np.flatnonzero(np.r_[True, bands[1:] != bands[:-1]])
    ends = np.r_[starts[1:], len(bands)]
    shared = ends - starts > 1
    for start, end in zip(starts[shared].tolist(), ends[shared].tolist(), strict=True):
        yield rows[start:end].astype(np.int64)


def _compare_pairwise(
    buckets: Sequence[Int64s], threshold: float, lookup: ShingleLookup, forest: _Forest
) -> None:
    if not buckets:
        return
    shingles = lookup(np.unique(np.concatenate(buckets)))
    for bucket in buckets:
        rows = bucket.tolist()
        for index, a in enumerate(rows):
            for b in rows[index + 1 :]:
                if forest.root(a) != forest.root(b) and _alike(shingles[a], shingles[b], threshold):
                    forest.join(a, b)


def _compare_with_leaders(bucket: Int64s, threshold: float, lookup: ShingleLookup, forest: _Forest) -> None:
    leaders: OrderedDict[int, UInt64s] = OrderedDict()  # the one matched last is last
    for start in range(0, len(bucket), ROWS_IN_MEMORY):
        for row, shingles in lookup(bucket[start : start + ROWS_IN_MEMORY]).items():
            match = next((r for r in reversed(leaders) if _alike(leaders[r], shingles, threshold)), None)
            if match is not None:
                leaders.move_to_end(match)
                forest.join(match, row)
                continue
            leaders[row] = shingles
            if len(leaders) > MAX_LEADERS:
                leaders.popitem(last=False)

"""MinHash signatures and the bands that make near-duplicates meet.

Source: Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3. Reference: datasketch 2, whose permutations (scheme
"affine32", seed 1) and choice of bands are used as they are; only the hash of a shingle is ours
(pipelines/dedupe/shingles.py).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipelines.dedupe.hashing import Int64s, UInt64s, fold64, mix64
from scorers.compiled import compiled

UInt32s = npt.NDArray[np.uint32]

# Every candidate is verified by its true Jaccard similarity, so a false positive costs a comparison and a
# false negative a duplicate. Of pairs that are 0.8 alike datasketch's default, equal weights, makes 40 %
# candidates, these make 95 %.
BAND_WEIGHTS = (0.05, 0.95)  # of false positives and of false negatives

# datasketch refuses a single band, which is what it would choose above this threshold.
MAX_BAND_THRESHOLD = 0.95


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


def signatures(values: UInt64s, bounds: Int64s, permutations: int) -> UInt32s:
    """MinHash signatures; the share of equal numbers in two rows estimates their Jaccard similarity.

    Equal to datasketch's MinHash of the low 32 bits of the same shingle hashes.

    Args:
        values: Shingle hashes of all rows, uint64, shape (m,).
        bounds: Where each row's begin and end, int64, shape (rows + 1,); no row is empty.
        permutations: Numbers in a signature.

    Returns:
        uint32, shape (rows, permutations).
    """
    result = np.empty((len(bounds) - 1, permutations), np.uint32)
    _signatures(values, bounds, *permutation_parameters(permutations), result)
    return result


@compiled
def _mix32(value: np.uint32) -> np.uint32:
    """MurmurHash3's 32-bit finalizer, which datasketch applies before its permutations."""
    value = np.uint32(value ^ (value >> np.uint32(16)))  # Numba computes in 64 bits: cut after every step
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value = np.uint32(value ^ (value >> np.uint32(13)))
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ (value >> np.uint32(16)))


@compiled
def _signatures(values: UInt64s, bounds: Int64s, a: UInt32s, b: UInt32s, result: UInt32s) -> None:
    for row in range(len(bounds) - 1):
        smallest = result[row]
        smallest[:] = np.uint32(0xFFFFFFFF)
        index, end = bounds[row], bounds[row + 1]
        while (
            index + 4 <= end
        ):  # four shingles for each time a permutation is loaded; of each the low 32 bits
            one, two = _mix32(np.uint32(values[index])), _mix32(np.uint32(values[index + 1]))
            three, four = _mix32(np.uint32(values[index + 2])), _mix32(np.uint32(values[index + 3]))
            for which in range(len(a)):
                p, q = np.uint32(a[which]), np.uint32(b[which])
                early = min(np.uint32(p * one + q), np.uint32(p * two + q))
                late = min(np.uint32(p * three + q), np.uint32(p * four + q))
                smallest[which] = min(smallest[which], min(early, late))
            index += 4
        while index < end:
            one = _mix32(np.uint32(values[index]))
            for which in range(len(a)):
                smallest[which] = min(smallest[which], np.uint32(a[which] * one + b[which]))
            index += 1


@compiled
def hash_bands(signature: UInt32s, bands: int, rows: int) -> UInt64s:
    """One hash for each band of each signature.

    Args:
        signature: Signatures, shape (n, permutations) with bands * rows <= permutations.
        bands: Number of bands.
        rows: Numbers in a band.

    Returns:
        uint64, shape (bands, n).
    """
    result = np.empty((bands, len(signature)), np.uint64)
    for row in range(len(signature)):
        for band in range(bands):
            hashed = np.uint64(rows)
            for index in range(band * rows, (band + 1) * rows):
                hashed = fold64(hashed, np.uint64(signature[row, index]))
            result[band, row] = mix64(hashed)
    return result


@compiled
def hash_sets(values: UInt64s, bounds: Int64s) -> UInt64s:
    """One hash for each row's whole set of shingles, which are hashes themselves; uint64, shape (rows,)."""
    result = np.empty(len(bounds) - 1, np.uint64)
    for row in range(len(bounds) - 1):
        total = np.uint64(bounds[row + 1] - bounds[row])
        for value in values[bounds[row] : bounds[row + 1]]:
            total += value
        result[row] = mix64(total)
    return result

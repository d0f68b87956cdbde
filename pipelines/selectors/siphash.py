"""SipHash-2-4 (Aumasson and Bernstein, 2012) of many texts in compiled loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scorers.compiled import compiled

UInt64s = npt.NDArray[np.uint64]
_BYTE, _ROUNDS_DONE = np.uint64(8), np.uint64(0xFF)


@compiled
def _rotate(value: np.uint64, bits: int) -> np.uint64:
    return np.uint64((value << np.uint64(bits)) | (value >> np.uint64(64 - bits)))


@compiled
def _round(
    v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    v0 += v1
    v2 += v3
    v1 = _rotate(v1, 13) ^ v0
    v3 = _rotate(v3, 16) ^ v2
    v0 = _rotate(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotate(v1, 17) ^ v2
    v3 = _rotate(v3, 21) ^ v0
    return v0, v1, _rotate(v2, 32), v3


@compiled
def siphash(
    data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64], first: UInt64s, second: UInt64s
) -> UInt64s:
    """SipHash-2-4 of the bytes between one bound and the next.

    Args:
        data: The bytes, shape (bytes,).
        bounds: Where each text begins, and where the last one ends, shape (n + 1,).
        first: The state's first two words before any byte, shape (2,): constants and key.
        second: Its last two words, likewise.
    """
    result = np.empty(len(bounds) - 1, np.uint64)
    for row in range(len(result)):
        v0, v1, v2, v3 = first[0], first[1], second[0], second[1]
        start, stop = bounds[row], bounds[row + 1]
        whole = stop - (stop - start) % 8
        for at in range(start, whole + 1, 8):
            word = np.uint64(0)
            for byte in range(at, min(at + 8, stop)):
                word |= np.uint64(data[byte]) << (_BYTE * np.uint64(byte - at))
            if at == whole:  # the bytes left over, and the length
                word |= np.uint64((stop - start) & 255) << np.uint64(56)
            v3 ^= word
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0 ^= word
        v2 ^= _ROUNDS_DONE
        for _ in range(4):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        result[row] = v0 ^ v1 ^ v2 ^ v3
    return result

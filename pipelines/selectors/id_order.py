"""A pseudo-random number for each id, which no other row, worker or order of rows can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64s = npt.NDArray[np.uint64]
_INITIAL = np.frombuffer(b"somepseudorandomlygeneratedbytes", dtype=">u8").astype(np.uint64)  # of SipHash


def id_order(ids: pa.Array | pa.ChunkedArray | Iterable[str], seed: int) -> UInt64s:
    """A pseudo-random number for each id that depends on (seed, id) only, uint64, shape (n,).

    It is SipHash-2-4 (Aumasson and Bernstein, 2012) of the id's UTF-8 bytes under a key made from the seed.
    """
    if not isinstance(ids, pa.Array | pa.ChunkedArray):
        ids = pa.array(list(ids), pa.large_string())
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    key = np.frombuffer(hashlib.blake2b(f"winnow:{seed}".encode(), digest_size=16).digest(), "<u8")
    empty = np.zeros(0, np.uint64)
    return np.concatenate([empty, *(_hashes(chunk.cast(pa.large_string()), key) for chunk in chunks)])


def _hashes(ids: pa.Array, key: UInt64s) -> UInt64s:
    if len(ids) == 0:
        return np.zeros(0, np.uint64)
    from pipelines.selectors.siphash import siphash  # loads Numba, which reading a recipe does not need

    _, offsets, data = ids.buffers()
    bounds = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    text = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return siphash(text, bounds, key.astype(np.uint64) ^ _INITIAL[:2], key.astype(np.uint64) ^ _INITIAL[2:])

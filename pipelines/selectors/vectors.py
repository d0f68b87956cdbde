"""What selectors with vectors share: lengths, rows of length one, and threads whose number changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.selectors.base import Vectors

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

TILE = 4096  # rows at a time


def ids_at(candidates: pa.Table, rows: Int64s) -> pa.Array:
    """The id of each of some rows, null for -1."""
    ids = candidates.column("id").combine_chunks()
    return ids.take(pa.array(rows, mask=rows < 0))


def directed(vectors: Vectors) -> Bools:
    """Candidates whose vector is known, finite and not zero, bool, shape (n,)."""
    length = lengths(vectors.rows)
    return vectors.known & np.isfinite(length) & (length > 0)


def unit_rows(rows: Floats, order: Int64s) -> Floats:
    """A copy of some rows in an order, each scaled to length one, float32, shape (len(order), d)."""
    result = rows[order]
    for start in range(0, len(result), TILE):
        part = result[start : start + TILE]
        part /= lengths(part)[:, None]
    return result


def lengths(rows: Floats) -> Doubles:
    """Length of each vector in float64, shape (n,)."""
    parts = [rows[start : start + TILE].astype(np.float64) for start in range(0, len(rows), TILE)]
    return np.concatenate([np.zeros(0), *(np.sqrt((part * part).sum(axis=1)) for part in parts)])


def fastest_device() -> str:
    """Where matrix products are computed: cuda where there is a device, or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def one_thread_each(device: str = "cpu") -> Iterator[ThreadPoolExecutor]:
    """A thread for every core, each of which runs its own products on one torch thread; on CUDA just one.

    A product that several threads share may differ in its last bits with their number; products side by side
    do not.
    """
    import torch

    from pipelines.runner import RunnerChoice
    from scorers.models.scoring import one_torch_thread

    before = torch.get_num_threads()
    threads, initializer = (RunnerChoice().threads, one_torch_thread) if device == "cpu" else (1, None)
    with ThreadPoolExecutor(threads, initializer=initializer) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(before)  # what threads of others that start later take over

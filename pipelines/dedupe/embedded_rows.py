"""Embedding files read back: the rows of all files that have a vector, mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.spherical_kmeans import ROWS_PER_CENTROID
from pipelines.selectors.base import id_order

Floats = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]

ROWS_OF_MEAN = 65_536  # that the centroid of an only cluster is the mean of


@lru_cache(maxsize=4096)
def mapped(path: str) -> pa.Table:
    """An uncompressed Arrow file; its columns take memory only where they are read."""
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all()  # of one batch, as connectors.shards.write_arrow makes it


class EmbeddedRows:
    """The rows that have a vector, numbered 0, 1, 2 and so on in row order; 16 bytes of memory for each.

    Args:
        paths: Files with columns row, id and embedding (null where there is none), in row order.

    Attributes:
        rows: Global row numbers, ascending.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        found = [np.flatnonzero(mapped(path)["embedding"].is_valid().to_numpy()) for path in paths]
        self._position = np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int32)
        self._file = np.repeat(np.arange(len(paths), dtype=np.int32), [len(at) for at in found])
        rows = [mapped(path)["row"].to_numpy()[at] for path, at in zip(paths, found, strict=True)]
        self.rows: Int64s = np.concatenate([np.zeros(0, np.int64), *rows])

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, numbers: Int64s) -> Floats:
        """The vectors of some rows, in the order asked for, float32, shape (n, dimensions)."""
        result = np.zeros((0, 1), np.float32)
        for path, places, positions in self._by_file(numbers):
            lists = mapped(path)["embedding"].chunk(0)
            values = lists.values.to_numpy().reshape(len(lists), -1)
            if not len(result):
                result = np.empty((len(numbers), values.shape[1]), np.float32)
            result[places] = values[positions]
        return result

    def ids(self, numbers: Int64s) -> list[str]:
        """The ids of some rows, in the order asked for."""
        names = np.empty(len(numbers), object)
        for path, places, positions in self._by_file(numbers):
            names[places] = mapped(path)["id"].take(pa.array(positions)).to_pylist()
        return names.tolist()

    def _by_file(self, numbers: Int64s) -> Iterator[tuple[str, Int64s, Int32s]]:
        """For each file with any of the rows: its path, places among `numbers`, positions in the file."""
        files = self._file[numbers]
        order = np.argsort(files, kind="stable")
        found, starts = np.unique(files[order], return_index=True)
        for file, places in zip(found.tolist(), np.split(order, starts[1:]), strict=False):
            yield self._paths[file], places, self._position[numbers[places]]


def sample(embedded: EmbeddedRows, numbers: Int64s, count: int, seed: int) -> Floats:
    """The vectors of some rows that centroids are trained on, in the order of a hash of (seed, id).

    So neither which they are nor their order depends on where in the files they are.

    Args:
        embedded: All rows.
        numbers: Those that are clustered.
        count: Clusters.
        seed: The recipe's seed.
    """
    order = np.argsort(id_order(embedded.ids(numbers), seed))
    wanted = count * ROWS_PER_CENTROID if count > 1 else ROWS_OF_MEAN
    return embedded.vectors(numbers[order[:wanted]])

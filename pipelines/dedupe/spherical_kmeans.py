"""Spherical k-means: centroids of length one, trained by FAISS on a sample.

Source: Dhillon and Modha 2001, "Concept decompositions for large sparse text data using clustering"; trained
as SemDeDup's code does, with faiss.Kmeans(spherical=True, seed=1234). Ours: 20 iterations instead of 100, and
a sample of at most 256 rows a centroid.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]

ITERATIONS = 20
SEED = 1234
CANCELLED = 1e-6  # a mean of unit vectors shorter than this has no direction
ROWS_PER_CENTROID = 256  # of the sample
ROWS_PER_CLUSTER = 10_000  # aimed at when the recipe names no number of clusters
FLAT_ROWS = 20_000  # as many are compared with all others


def cluster_count(rows: int) -> int:
    """Clusters for a number of rows: one for FLAT_ROWS or fewer, so that all pairs are compared.

    Example:
        >>> [cluster_count(rows) for rows in (10, 20_000, 20_001, 1_000_000)]
        [1, 1, 3, 100]
    """
    return 1 if rows <= FLAT_ROWS else -(-rows // ROWS_PER_CLUSTER)


def train_centroids(sample: Floats, count: int) -> Floats:
    """Centroids of vectors of length one; the same for the same sample.

    Args:
        sample: float32, shape (n, d).
        count: Number of centroids; no more than rows are made.

    Returns:
        float32, shape (min(count, n), d), each of length one (zero if the vectors cancel out).

    Raises:
        ValueError: If FAISS is needed and missing, or installed twice.
    """
    count = min(count, len(sample))
    if count <= 1:
        mean = sample.astype(np.float64).mean(axis=0, keepdims=True) if len(sample) else sample
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        return np.asarray(mean / length if np.all(length > CANCELLED) else 0 * mean, np.float32)
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums of several threads differ in their last bits
    try:
        kmeans = faiss.Kmeans(
            sample.shape[1], count, niter=ITERATIONS, spherical=True, seed=SEED, gpu=faiss.get_num_gpus() > 0,
            min_points_per_centroid=1, max_points_per_centroid=ROWS_PER_CENTROID,
        )  # fmt: skip
        kmeans.train(np.ascontiguousarray(sample))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(kmeans.centroids, np.float32)


def assign(vectors: Floats, centroids: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """The nearest centroid of each vector, the first of equal ones, and the cosine to it."""
    best = np.empty(len(vectors), np.int32)
    cosine = np.empty(len(vectors), np.float32)
    table = torch.from_numpy(np.ascontiguousarray(centroids)).T
    for start in range(0, len(vectors), 2048):
        part = slice(start, start + 2048)
        value, index = (torch.from_numpy(np.array(vectors[part])) @ table).max(dim=1)
        best[part], cosine[part] = index.numpy(), value.numpy()
    return best, cosine


def _faiss() -> Any:  # noqa: ANN401 - FAISS is untyped
    installed = [
        name
        for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
        if any(True for _ in importlib.metadata.distributions(name=name))
    ]
    if len(installed) > 1:
        raise ValueError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            "uninstall all of them and install one again"
        )
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"dedupe.semantic: more than {FLAT_ROWS:,} rows are clustered first, which needs FAISS: "
            "pip install 'winnow[cpu]', or 'winnow[gpu]' where there is CUDA"
        ) from error
    return faiss

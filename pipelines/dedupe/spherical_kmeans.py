"""Spherical k-means: centroids of length one, trained by FAISS on a sample.

Source: Dhillon and Modha 2001, "Concept decompositions for large sparse text data using clustering"; trained
as SemDeDup's code does, with faiss.Kmeans(spherical=True). Ours: the recipe's seed instead of 1234, 20
iterations instead of 100, and a sample of at most 256 rows a centroid. FAISS trains on a GPU where its
package has one. On CPU the same sample in the same order gives the same bytes for any number of threads.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]

ITERATIONS = 20
CANCELLED = 1e-6  # a mean of unit vectors shorter than this has no direction
ROWS_PER_CENTROID = 256  # of the sample
ROWS_AT_ONCE = 2048  # assigned
ROWS_PER_CLUSTER = 10_000  # aimed at when the recipe names no number of clusters
FLAT_ROWS = 20_000  # as many are compared with all others


def cluster_count(rows: int) -> int:
    """Clusters for a number of rows: one for FLAT_ROWS or fewer, so that all pairs are compared.

    Example:
        >>> [cluster_count(rows) for rows in (10, 20_000, 20_001, 1_000_000)]
        [1, 1, 3, 100]
    """
    return 1 if rows <= FLAT_ROWS else -(-rows // ROWS_PER_CLUSTER)


def train_centroids(sample: Floats, count: int, seed: int) -> Floats:
    """Centroids of vectors of length one; the same for the same sample.

    Args:
        sample: float32, shape (n, d).
        count: Number of centroids; no more than rows are made.
        seed: Which rows of the sample are the first centroids.

    Returns:
        float32, shape (min(count, n), d), of length one; zeros if there is one and the vectors cancel out.

    Raises:
        ValueError: If FAISS is needed and missing, or installed twice.
    """
    count = min(count, len(sample))
    if count <= 1:
        return _mean_direction(sample)
    faiss = load_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums of several threads differ in their last bits
    try:
        kmeans = faiss.Kmeans(
            sample.shape[1], count, niter=ITERATIONS, spherical=True, seed=seed % 2**31,
            gpu=faiss.get_num_gpus() > 0,
            min_points_per_centroid=1, max_points_per_centroid=ROWS_PER_CENTROID,
        )  # fmt: skip
        kmeans.train(np.ascontiguousarray(sample))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(kmeans.centroids, np.float32)


def assign(vectors: Floats, centroids: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """The nearest centroid of each vector, the first of equal ones, and the cosine to it.

    The cosine is a sum of float64 in the order of the dimensions, so it does not depend on the other rows.
    """
    best = np.empty(len(vectors), np.int32)
    cosine = np.empty(len(vectors), np.float32)
    table = torch.from_numpy(np.ascontiguousarray(centroids)).T
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = np.array(vectors[part])
        best[part] = (torch.from_numpy(rows) @ table).argmax(dim=1).numpy()
        cosine[part] = cosines(rows, centroids[best[part]])
    return best, cosine


def cosines(left: Floats, right: Floats) -> npt.NDArray[np.float64]:
    """Cosine of each row of one table to the same row of the other, both of length one; within [-1, 1]."""
    products: npt.NDArray[np.float64] = (left.astype(np.float64) * right).sum(axis=1)
    return products.clip(-1, 1)


def load_faiss() -> Any:  # noqa: ANN401 - FAISS is untyped
    """The module faiss.

    Raises:
        ValueError: If it is missing, or two packages of it are installed; the message says what to do.
    """
    names = {str(package.name).lower() for package in importlib.metadata.distributions()}
    installed = sorted(name for name in names if re.match(r"faiss-(cpu|gpu)", name))
    if len(installed) > 1:
        raise ValueError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            f"pip uninstall {' '.join(installed)}, and install one again"
        )
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"dedupe.semantic: more than {FLAT_ROWS:,} rows, or more than one cluster, need FAISS: "
            "pip install 'winnow[cpu]', or 'winnow[gpu]' where there is CUDA"
        ) from error
    return faiss


def _mean_direction(sample: Floats) -> Floats:
    if not len(sample):
        return sample
    mean = sample.mean(axis=0, keepdims=True, dtype=np.float64)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length if length > CANCELLED else 0 * mean, np.float32)

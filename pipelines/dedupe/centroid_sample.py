"""The vectors that centroids are trained on."""

from __future__ import annotations

import numpy as np

from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.spherical_kmeans import ROWS_PER_CENTROID
from pipelines.embed import EmbeddedRows, Floats
from pipelines.selectors.id_order import id_order

ROWS_OF_MEAN = 65_536  # that the centroid of an only cluster is the mean of


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

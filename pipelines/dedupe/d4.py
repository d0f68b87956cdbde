"""D4: semantic dedupe, then the most typical rows of what is left are dropped for diversity.

Source: Tirumala et al. 2023, "D4: Improving LLM Pretraining via Document De-Duplication and Diversification",
arXiv:2308.12284. (1) SemDeDup to a fraction R_dedup (0.75); (2) the remainder is clustered again, because
clusters that duplicates made are gone; (3) SSL prototypes: the rows nearest to their centroid are dropped
until a fraction R of all rows is left, so R_proto = R / R_dedup of the remainder. The quantile of the
distance is over all clusters together [as we remember the paper; it may have been per cluster]. Ties by a
hash of (seed, id).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def drop_prototypes(cosine: Floats, ranks: npt.NDArray[np.integer], keep: int) -> npt.NDArray[np.bool_]:
    """The rows nearest to their centroids, all but `keep`.

    Args:
        cosine: Cosine of each row to its own centroid.
        ranks: A pseudo-random number for each row, for ties: higher goes.
        keep: How many stay.

    Example:
        >>> drop_prototypes(np.float32([0.2, 0.9, 0.5]), np.arange(3), keep=2).tolist()
        [False, True, False]
    """
    drop = np.zeros(len(cosine), np.bool_)
    drop[np.lexsort((ranks, cosine))[::-1][: max(0, len(cosine) - keep)]] = True
    return drop

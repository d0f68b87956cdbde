"""The lowest scores of each row: which tokens are kept when each row loses a share of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipelines.dedupe.compiled import compiled


@compiled
def keep_lowest(
    values: npt.NDArray[np.float64], offsets: npt.NDArray[np.int64], fraction: float
) -> npt.NDArray[np.bool_]:
    """Mask that keeps the lowest max(1, floor(fraction * t)) of the t scores of each row, of equal the later.

    Args:
        values: Scores of tokens, row after row, shape (t,), no NaN.
        offsets: Where the scores of each row begin, and where the last ones end, shape (rows + 1,).
        fraction: Above 0, at most 1.
    """
    mask = np.zeros(len(values), dtype=np.bool_)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        if start == stop:
            continue
        left = max(1, int(math.floor(fraction * (stop - start) + 1e-9)))  # 1e-9: 0.29 * 100 means 29
        cut = np.partition(values[start:stop], left - 1)[left - 1]
        for at in range(start, stop):
            if values[at] < cut:
                mask[at] = True
                left -= 1
        for at in range(stop - 1, start - 1, -1):
            if left > 0 and values[at] == cut:
                mask[at] = True
                left -= 1
    return mask

"""All sums over the vocabulary in one call, by loops compiled for the processor.

Torch would read the logits a dozen times, from memory that every core shares, and come back to Python each
time, where the threads of a run wait for each other. Here each position's logits are read twice, the second
time out of the core's own cache: for their maximum, and for all sums and counts at once, several logits at a
time. Values are as `Logits` has them; sums are in float32 within parts of the vocabulary and in float64 over
them, and the rank compares the logits themselves, not what is left of them less the maximum.
loading.py uses it only where it agrees with outputs.py on the model's own logits.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from scorers.compiled import compiled, compiled_with
from scorers.models.outputs import Logits

Floats = npt.NDArray[np.float32]

_PART = 1024  # logits that are summed in float32; counts in it are exact
_ROWS = 6


class CompiledLogits(Logits):
    """As `Logits`, in float64; the logits are not overwritten.

    Args:
        logits: (N, V), any floating type, on the processor.
        labels: (N,), the token at each position.

    Raises:
        RuntimeError: If a label is no token of the vocabulary.
    """

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        values = logits.float().contiguous()
        # Refuses labels that are no tokens; the loop would read whatever memory is there.
        own = values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        found = np.empty((_ROWS, len(labels)))
        _reduce(values.numpy(), labels.numpy(), own.numpy(), found)
        self.top, self.at_label, rest, squares, weighted, self.rank = torch.from_numpy(found)
        weight = self.at_label.exp()
        self.total = rest + weight
        self.log_total = self.total.log()
        self.mean = (weighted + weight * self.at_label) / self.total
        self.rest = rest, squares.sqrt()


@compiled
def _reduce(
    logits: Floats, labels: npt.NDArray[np.int64], at_label: Floats, found: npt.NDArray[np.float64]
) -> None:
    """Fills the rows of `found`, NaN for positions with a logit or maximum that is not finite.

    They are the greatest logit; less it, the label's; and of the other logits, less it, the sum of the
    exponentials, that of their squares, and that of each times its logit; and how many are preferred to the
    label's.
    """
    for position in range(len(labels)):
        row, label, own = logits[position], labels[position], at_label[position]
        top = _greatest(row)
        rest = squares = weighted = rank = np.float64(0)
        for first, last in ((0, label), (label + 1, len(row))):
            for start in range(first, last, _PART):
                sums = _sums(row[start : min(start + _PART, last)], top, own)
                rest += sums[0]
                squares += sums[1]
                weighted += sums[2]
                rank += sums[3]
                if first == 0:  # of equal logits, those of lower ids are preferred
                    rank += sums[4]
        found[0, position], found[1, position] = top, own - top
        found[2, position], found[3, position] = rest, squares
        found[4, position], found[5, position] = weighted, rank
        if not (math.isfinite(top) and math.isfinite(own) and math.isfinite(weighted)):
            found[:, position] = np.nan


@compiled
def _greatest(values: Floats) -> np.float32:
    """The greatest value; a positive NaN is greater than any.

    As integers, the bits of floats have the order of the floats, backwards for negative ones. Compilers take
    several integers at a time for a maximum, and only one float, because of NaN.
    """
    greatest = np.int32(-(2**31))
    for bits in values.view(np.int32):
        greatest = max(greatest, bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFF_FFFF)))
    bits = greatest ^ ((greatest >> np.int32(31)) & np.int32(0x7FFF_FFFF))
    return np.int32(bits).view(np.float32)


@compiled_with("reassoc", "contract", "nsz")
def _sums(
    values: Floats, top: np.float32, own: np.float32
) -> tuple[np.float32, np.float32, np.float32, np.float32, np.float32]:
    """Of values less the greatest: sums of exponentials, squares and products; and values above and equal."""
    rest = squares = weighted = above = equal = np.float32(0)
    for at in range(len(values)):
        value = values[at]
        shifted = value - top
        weight = _exp(shifted)
        rest += weight
        squares += weight * weight
        # The exponential of minus infinity is 0, and so is what it weighs.
        weighted += weight * (np.float32(-87) if shifted < np.float32(-87) else shifted)
        above += np.float32(1) if value > own else np.float32(0)
        equal += np.float32(1) if value == own else np.float32(0)
    return rest, squares, weighted, above, equal


@compiled_with("contract")
def _exp(x: np.float32) -> np.float32:
    """The exponential of x <= 0, within 2 units in the last place; of x below -87, e^-87, which is 1e-38.

    The method of the Cephes library (Moshier, expf): 2^k times a polynomial in x - k log 2, which is
    subtracted in two parts. It has no branches, so that compilers take several values at a time.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    k = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    n = np.float32(k)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1)
    return p * np.int32((k + np.int32(127)) << np.int32(23)).view(np.float32)

"""All sums over the vocabulary in one reading of the logits, by a Triton kernel, for CUDA.

Each program reads the logits of one position once, a block of the vocabulary at a time, in their own
precision, and keeps the running maximum and the sums that every output needs: the online softmax of Milakov
and Gimelshein 2018 (arXiv 1805.02867), with further sums of ours. No tensor of the logits' shape is made.
loading.py uses it only where it agrees with outputs.py on the model's own logits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from scorers.models.outputs import Logits

_BLOCK = 4096
_SUMS = 6


class FusedLogits(Logits):
    """As `Logits`, from one pass; the logits are not overwritten.

    Args:
        logits: (N, V), any floating type, the vocabulary contiguous.
        labels: (N,), the token at each position.
    """

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        sums = torch.empty(_SUMS, len(labels), dtype=torch.float32, device=logits.device)
        _reduce[(len(labels),)](
            logits, labels, sums, logits.stride(0), logits.shape[1], len(labels), BLOCK=_BLOCK, num_warps=8
        )
        self.top, self.total, weighted, rest, squares, self.rank = sums
        self.at_label = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).float() - self.top
        self.log_total = self.total.log()
        self.mean = weighted / self.total
        self.rest = rest, squares.sqrt()


@triton.jit  # type: ignore[untyped-decorator] # Triton ships no types, and compiles no annotation but constexpr
def _reduce(logits, labels, sums, stride, size, rows, BLOCK: tl.constexpr):  # type: ignore # noqa: ANN001, ANN202, N803
    row = tl.program_id(0)
    label = tl.load(labels + row)
    base = logits + row.to(tl.int64) * stride
    own = tl.load(base + label).to(tl.float32)
    top = -1.0e30  # below any logit, and finite: infinity less itself is not a number
    total, weighted, rest, squares, before = 0.0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < size
        values = tl.load(base + at, mask=inside, other=-1.0e30).to(tl.float32)
        largest = tl.maximum(top, tl.max(values, axis=0))
        shifted = values - largest
        weights = tl.where(inside, tl.exp(shifted), 0.0)
        others = tl.where(at == label, 0.0, weights)
        old = tl.exp(top - largest)
        weighted = old * (weighted + (top - largest) * total) + tl.sum(weights * shifted, axis=0)
        total = old * total + tl.sum(weights, axis=0)
        rest = old * rest + tl.sum(others, axis=0)
        squares = old * old * squares + tl.sum(others * others, axis=0)
        preferred = (values > own) | ((values == own) & (at < label))
        before += tl.sum(tl.where(inside & preferred, 1.0, 0.0), axis=0)
        top = largest
    tl.store(sums + row, top)
    tl.store(sums + rows + row, total)
    tl.store(sums + 2 * rows + row, weighted)
    tl.store(sums + 3 * rows + row, rest)
    tl.store(sums + 4 * rows + row, squares)
    tl.store(sums + 5 * rows + row, before)

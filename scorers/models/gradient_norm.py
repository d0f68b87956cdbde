r"""Norm of the gradient of a row's mean loss by the output layer's weights, from a forward pass only.

With h_t the hidden state before response token t of n, p_t the prediction there and δ_t = p_t - onehot(y_t),
the gradient is G = (1/n) Σ_t δ_t h_tᵀ, a matrix of the size of the output layer, and

    ||G||² = (1/n²) Σ_{s,t} (δ_s·δ_t)(h_s·h_t)

needs only two matrices of shape (n, n) for each row. The logits are made a second time, a block of the
vocabulary at a time, so memory does not grow with the vocabulary. A factor on the logits multiplies the
norm; a bias of the output layer or a cap on the logits breaks the identity.

Source: the closed form of DONOD's probe (arXiv 2504.14810) on the output layer; the derivation is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gradient_norms(
    weight: torch.Tensor,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    log_partition: torch.Tensor,
    sizes: Sequence[int],
    block: int,
    scale: float = 1.0,
) -> torch.Tensor:
    """||G|| of each row.

    Args:
        weight: (V, D), the output layer.
        hidden: (N, D), its inputs at the response tokens of all rows, row after row.
        labels: (N,), the response tokens.
        log_partition: (N,), logarithm of the sum of the exponentials of the logits.
        sizes: Response tokens of each row; they add up to N.
        block: Tokens of the vocabulary at a time.
        scale: Factor between the output layer and the logits.

    Returns:
        (rows,), float64, >= 0; sums over pairs of tokens are in float64.

    Example:
        >>> hidden = torch.eye(2)
        >>> one = gradient_norms(
        ...     torch.zeros(2, 2), hidden, torch.tensor([0, 0]), torch.full((2,), 2.0).log(), [2], block=1
        ... )
        >>> one.tolist()
        [0.5]
    """
    products = [torch.zeros(size, size, dtype=torch.float64, device=hidden.device) for size in sizes]
    at = torch.arange(len(labels), device=labels.device)
    for start in range(0, len(weight), block):
        logits = (hidden @ weight[start : start + block].to(hidden.device).T).float() * scale
        errors = logits.sub_(log_partition.unsqueeze(-1)).exp_()  # (N, block)
        inside = (labels >= start) & (labels < start + errors.shape[1])
        errors[at[inside], labels[inside] - start] -= 1.0
        for total, part in zip(products, torch.split(errors, list(sizes)), strict=True):
            total += part @ part.T
    norms = []
    for total, states in zip(products, torch.split(hidden.double(), list(sizes)), strict=True):
        square = torch.linalg.vecdot(total.flatten(), (states @ states.T).flatten())
        norms.append(scale * square.clamp_min(0.0).sqrt() / len(states))
    return torch.stack(norms)

r"""DONOD's two quantities: what one gradient step on a row does to the output layer.

With W the output layer's weights and G the gradient of the row's mean loss by them, a step of plain gradient
descent of size η changes the norm of W by DON = ||W|| - ||W'|| and W itself by NOD = ||W - W'||:

    DON = (2η<W,G> - η²||G||²) / (||W|| + ||W'||),    NOD = η||G||

Columns: `wg_inner` = <W,G>, the mean over response tokens of the expected logit less the response token's,
and `g_norm` = ||G||. For small η DON is η<W,G>/||W||, so the two say all; pipelines/selectors/donod.py ranks
by them. Direction: a high DON (the step shrinks the weights) and a low NOD are good.

Source: DONOD, arXiv 2504.14810. Known differences: the paper takes the step; the closed forms are ours and
need forward passes only. They hold for plain gradient descent on the output layer: with Adam's first step NOD
would be nearly constant. Tied embeddings are treated as the output layer alone. Models that cap their logits,
or whose output layer has a bias, are refused.
"""

from __future__ import annotations

import math

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer, row_means

RESPONSE_GAPS = Need("conditional", "logit_gap")
GRADIENT_NORM = Need("conditional", "grad_norm")


def norm_changes(
    wg_inner: RowValues, g_norm: RowValues, w_norm: float, step: float
) -> tuple[RowValues, RowValues]:
    """DON and NOD of each row, in float64.

    Args:
        wg_inner: <W,G>, shape (rows,).
        g_norm: ||G||, shape (rows,).
        w_norm: ||W||.
        step: η.

    Returns:
        (DON, NOD), each of shape (rows,); NaN where an input is.

    Example:
        >>> don, nod = norm_changes(np.array([0.5]), np.array([math.sqrt(2.0)]), 1000.0, 1e-5)
        >>> f"{don[0]:.4e} {nod[0]:.4e}"
        '4.9999e-09 1.4142e-05'
    """
    change = 2.0 * step * wg_inner - step**2 * g_norm**2
    after = np.sqrt(np.maximum(w_norm**2 - change, 0.0))
    return change / (w_norm + after), step * g_norm


def score(outputs: Outputs) -> dict[str, RowValues]:
    """Columns `wg_inner` and `g_norm`."""
    return {
        "wg_inner": row_means(outputs.tokens[RESPONSE_GAPS]),
        "g_norm": outputs.rows[GRADIENT_NORM][:, 0].astype(np.float64),
    }


SCORER = Scorer(
    name="donod",
    columns=(
        Column(
            "wg_inner",
            "",
            -math.inf,
            math.inf,
            "neither",
            "product of output weights and their gradient",
        ),
        Column("g_norm", "", 0.0, math.inf, "neither", "norm of the output weights' gradient"),
    ),
    needs=(RESPONSE_GAPS, GRADIENT_NORM),
    score=score,
    source="DONOD, arXiv 2504.14810",
)

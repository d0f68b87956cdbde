"""GLOW: more weight for the rows that a model is slow to learn, from their losses in two epochs.

Source: "Learning from Mistakes: Negative Reasoning Samples Enhance Out-of-Domain Generalization",
https://arxiv.org/abs/2601.04992, and the authors' code, github.com/Eureka-Maggie/GLOW, which this follows.
Wrong reasoning traces stay in the training set, and the weights sort them.

    gain_i = previous_i - current_i
    w_i = clip(α (1 - sigmoid(β gain_i)), 0.5, 5)
    loss = mean(w_i loss_i)

where the losses are means over a row's response tokens. In the first epoch every weight is 1. A row learnt
fast (a large gain) gets the lowest weight, one that is stuck or gets worse up to α; a gain of 0 gives α / 2.
With α = 1 all weights lie in [0.5, 1], and every gain >= 0 is at 0.5. The weights are not renormalised.

Defaults: α 1, β 20. The authors' settings: maths, 3B parameters: α 1 or 2, β 10 to 30; 0.5B: α 1, β 20;
MMLU: α 1, β 5.

Known differences: in the code a row whose previous loss is unknown takes the mean of the current losses of
its batch; here of the rows given together, so that it does not depend on the batches when these are the
whole set. The code keeps each process's own history, so after a reshuffle between processes rows lack one.

Ours: weights from any two losses of the same rows, say before and after a short training run; a row whose
current loss is not known has no weight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST = 0.5, 5.0

Floats = npt.NDArray[np.float64]


def glow_weights(previous: Floats | None, current: Floats, alpha: float = 1.0, beta: float = 20.0) -> Floats:
    """Weight of each row: high where its loss fell little or rose.

    Args:
        previous: Loss of each row an epoch ago, nats per token, (n,), NaN where unknown; None in the first
            epoch.
        current: Its loss now, (n,), NaN where unknown.
        alpha: Upper end of the weights before they are cut, > 0.
        beta: How sharply the weight falls with the gain, > 0.

    Returns:
        Weights from 0.5 to 5, (n,); NaN where the current loss is not finite.

    Raises:
        ValueError: If the shapes differ, or α or β is not a finite number above 0.

    Example:
        >>> glow_weights(np.array([2.0, 2.0]), np.array([2.0, 1.0]), alpha=2.0, beta=10.0).tolist()
        [1.0, 0.5]
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < np.inf:
            raise ValueError(f"glow: {name} is {value}, a finite number above 0 is needed")
    if previous is not None and previous.shape != current.shape:
        raise ValueError(
            f"glow: {previous.shape} previous losses for {current.shape} current ones: give the same rows"
        )
    known = np.isfinite(current)
    weights = np.where(known, 1.0, np.nan)
    if previous is None or not known.any():
        return weights
    before = np.where(np.isfinite(previous), previous, current[known].mean())
    # tanh is the sigmoid that cannot overflow: 1 - sigmoid(x) = (1 - tanh(x / 2)) / 2
    slow = (1.0 - np.tanh(beta * (before - current)[known] / 2.0)) / 2.0
    weights[known] = np.clip(alpha * slow, LOWEST, HIGHEST)
    return weights

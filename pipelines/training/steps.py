"""Which rows make up each optimiser step, so that every training set gives the same number of tokens a step.

Rows are shuffled anew for each epoch and cut into steps of `step_tokens` trained tokens: step k ends with
the row that brings the tokens so far to k times that. What one step has too much the next has too little, so
after any number of steps two training sets have had the same number of tokens, to within one row.

A step's rows run in passes of similar lengths, of which none holds more than `pass_tokens` with padding
unless a single row does. Only memory and speed depend on that: the gradient is that of the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


def steps_of(trained: Ints, steps: int, step_tokens: int, seed: int) -> list[list[int]]:
    """The rows of each step.

    Args:
        trained: Tokens of each row that are trained on, at least 1 each, shape (rows,), at least one row.
        steps: How many steps, at least 1.
        step_tokens: Trained tokens of a step, at least 1.
        seed: Of the order of the rows.

    Returns:
        For each step the positions of its rows, at least one; a row that is longer than a step ends a step
        alone and keeps the place of the next ones.

    Example:
        >>> steps_of(np.array([10, 10, 10]), steps=3, step_tokens=15, seed=0)
        [[1, 0], [2], [0, 1]]
    """
    order = np.random.default_rng(seed)
    rows: list[int] = []
    made: list[list[int]] = []
    so_far = 0
    for step in range(1, steps + 1):
        step_rows: list[int] = []
        while not step_rows or so_far < step * step_tokens:
            if not rows:
                rows = order.permutation(len(trained)).tolist()
            step_rows.append(rows.pop())
            so_far += int(trained[step_rows[-1]])
        made.append(step_rows)
    return made


def steps_for(trained: Ints, epochs: float, step_tokens: int) -> int:
    """Steps that see each row `epochs` times, rounded up, at least 1."""
    return max(1, int(np.ceil(epochs * int(trained.sum()) / step_tokens)))


def split_into_passes(inputs: Mapping[str, torch.Tensor], pass_tokens: int) -> list[dict[str, torch.Tensor]]:
    """Parts of a padded batch, each of rows of similar length, longest first, without the padding of others.

    Args:
        inputs: Tensors of shape (rows, time), padded on the right, `attention_mask` among them; the parts
            have none.
        pass_tokens: Most tokens of a part with its padding; a longer row is a part of its own.
    """
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    parts: list[list[int]] = []
    for row in order:
        if not parts or (len(parts[-1]) + 1) * lengths[parts[-1][0]] > pass_tokens:
            parts.append([])
        parts[-1].append(row)
    # Padding is on the right and attention is causal: no real token sees it, and without a mask the kernels
    # are faster.
    names = [name for name in inputs if name != "attention_mask"]
    return [{name: inputs[name][part][:, : lengths[part[0]]] for name in names} for part in parts]

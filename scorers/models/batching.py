"""Packs rows of different lengths into padded batches."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Groups rows so that each group, padded to its longest row, stays within a budget of tokens.

    Rows are taken from the longest to the shortest, ties by index, so padding is small, the most
    memory is needed first, and the same lengths always give the same groups.

    Args:
        lengths: Tokens of each row.
        budget: Most padded tokens of a group; a row longer than that is a group of its own.

    Returns:
        Indices of the rows of each group; every row is in exactly one.

    Raises:
        ValueError: If the budget is less than one token.

    Example:
        >>> pack([3, 9, 4, 4], budget=8)
        [[1], [2, 3], [0]]
    """
    if budget < 1:
        raise ValueError(f"batch_tokens: {budget}; a batch needs room for at least 1 token")
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
            longest = lengths[row]
    return groups

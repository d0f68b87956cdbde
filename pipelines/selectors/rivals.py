"""Which right and wrong answers to one prompt are compared, and their tokens, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from connectors.number_lists import offsets_of
from pipelines.selectors.tokens import TokenBlock

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def first_of_groups(rows: Ints, group: Ints, ids: Ints, count: int) -> Ints:
    """The first `count` of the rows of each group by id, sorted by group and then id.

    Args:
        rows: Candidate indices.
        group: Number of the group of each candidate, shape (n,).
        ids: Place of each candidate in the order of ids, shape (n,).
        count: At least 1.
    """
    ordered = rows[np.lexsort((ids[rows], group[rows]))]
    place = np.arange(len(ordered)) - np.searchsorted(group[ordered], group[ordered])
    first: Ints = ordered[place < count]
    return first


def chunks(rows: Ints, rivals: Ints, group: Ints, tokens: Ints, limit: int) -> Iterator[Ints]:
    """The rows, sorted by group, in parts that have about `limit` tokens together with their rivals.

    Args:
        rows: Candidate indices, at least one.
        rivals: Candidate indices, sorted by group.
        group: Number of the group of each candidate, shape (n,).
        tokens: Response tokens of each candidate, shape (n,).
        limit: A part exceeds it by no more than one row and the rivals of its group.
    """
    rows = rows[np.lexsort((rows, group[rows]))]
    of_rivals = np.bincount(group[rivals], weights=tokens[rivals], minlength=int(group.max()) + 1)
    first = np.append(True, np.diff(group[rows]) > 0)
    cost = tokens[rows] + np.where(first, of_rivals[group[rows]], 0)
    yield from np.split(rows, np.flatnonzero(np.diff(np.cumsum(cost) // limit)) + 1)


class Answers:
    """Which answers are compared.

    Attributes:
        group: Number of the group of each candidate, shape (n,).
        length: Response tokens of each candidate, shape (n,).
        read: Candidate indices of all answers that are compared, ascending.
        is_right: Which candidates are right answers to weigh, bool, shape (n,).
        place: Place of each candidate among the rivals, which are sorted by group and then id, shape (n,);
            -1 of others.
        last: Last row of `read` of the group of each candidate in `read`, shape (n,).
    """

    def __init__(self, group: Ints, length: Ints, rights: Ints, rivals: Ints) -> None:
        self.group, self.length = group, length
        self.is_right = np.zeros(len(group), np.bool_)
        self.is_right[rights] = True
        self.place = np.full(len(group), -1)
        self.place[rivals] = np.arange(len(rivals))
        self.read = np.flatnonzero(self.is_right | (self.place >= 0))
        last = np.zeros(group.max() + 1, np.int64)
        last[group[self.read]] = self.read  # the last of several stays
        self.last = last[group]


def whole_prompts(
    blocks: Iterable[TokenBlock], answers: Answers, tokens: int
) -> Iterator[tuple[TokenBlock, Bools]]:
    """The blocks joined to larger ones, in which each prompt is whole at the end.

    Args:
        blocks: The answers to compare, row by row.
        answers: Which they are.
        tokens: A block is given when prompts with as many tokens, at least, are whole. More where others that
            are not yet whole would have to be held, which are copied each time.

    Yields:
        A block; and bool, which of its rows are of prompts that are whole in it and in none before.

    Raises:
        ValueError: If a row has not as many tokens as its length says.
    """
    read, last, length = answers.read, answers.last, answers.length
    ending = offsets_of(np.bincount(last[read], weights=length[read], minlength=len(last)).astype(np.int64))
    held: list[TokenBlock] = []
    waiting = given = 0
    for block in blocks:
        if not np.array_equal(np.diff(block.offsets), length[block.rows]):
            raise ValueError(
                "fait: the stored tokens of some row are not as many as its response_tokens; "
                "delete the run's folder and run again"
            )
        held.append(block)
        waiting += int(block.offsets[-1])
        end = int(block.rows[-1]) + 1
        whole = int(ending[end]) - given
        if whole >= max(tokens, waiting - whole) or end > read[-1]:
            joined = _joined(held)
            closed = last[joined.rows] < end
            yield joined, closed
            held, waiting, given = [_rows_of(joined, ~closed)], waiting - whole, given + whole


def _joined(blocks: Sequence[TokenBlock]) -> TokenBlock:
    lengths = [np.diff(block.offsets) for block in blocks]
    return TokenBlock(
        np.concatenate([block.rows for block in blocks]),
        offsets_of(np.concatenate(lengths)),
        {name: np.concatenate([block.arrays[name] for block in blocks]) for name in blocks[0].arrays},
    )


def _rows_of(block: TokenBlock, chosen: Bools) -> TokenBlock:
    lengths = np.diff(block.offsets)
    tokens = np.repeat(chosen, lengths)
    arrays = {name: values[tokens] for name, values in block.arrays.items()}
    return TokenBlock(block.rows[chosen], offsets_of(lengths[chosen]), arrays)

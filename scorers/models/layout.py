"""How rows lie side by side in one forward call: padded on the right, rival answers behind their prompt.

Rows need no attention mask: a causal model never looks at what comes later. Where neighbours begin with the
same context, and a long one, it is read once, and the answers follow it one after the other; a mask keeps
each from seeing the others, and each goes on counting positions where the context ends. What each token
attends to, and so every output, is the same as in rows of their own, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from scorers.models.tokenising import Int64s, TokenSequence

MAX_SHARED_TOKENS = 1024  # of a context and its answers: the mask grows with the square
MIN_SHARED = 0.25  # of a row; a mask costs more than it saves where less is shared


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows laid out for one forward call.

    Attributes:
        ids: Token ids, (B, T); any id pads, because nothing looks at it.
        positions: Position of each token in its row, (B, T); None where it is its place.
        answers: 0 for context, from 1 on for each answer behind it, -1 for padding, (B, T); None where no
            context is shared.
        sources: Flat places in `ids` of the tokens that predict the targets, row after row, (targets,).
    """

    ids: Int64s
    positions: Int64s | None
    answers: Int64s | None
    sources: Int64s


def context(row: TokenSequence) -> Int64s:
    """What comes before the first target."""
    return row.ids[: row.targets[0]]


def groups(rows: Sequence[TokenSequence]) -> Iterator[list[TokenSequence]]:
    """Neighbours that share their context, where that pays; every other row for itself."""
    group: list[TokenSequence] = []
    for row in rows:
        if group and _shares(group, row):
            group.append(row)
            continue
        if group:
            yield group
        group = [row]
    if group:
        yield group


def _shares(group: Sequence[TokenSequence], row: TokenSequence) -> bool:
    shared = row.targets[0]
    if shared < MIN_SHARED * row.targets[-1] or shared_tokens([*group, row]) > MAX_SHARED_TOKENS:
        return False
    return np.array_equal(context(group[0]), context(row))


def shared_tokens(rows: Sequence[TokenSequence]) -> int:
    """Tokens that the model reads of rows with one context: that once, of each all but the last target."""
    shared = int(rows[0].targets[0])
    return shared + sum(int(row.targets[-1]) - shared for row in rows)


def lay_out(rows: Sequence[TokenSequence], whole: bool, share: bool) -> Layout:
    """Lays rows out.

    Args:
        rows: At least one.
        whole: Whether the model reads the last target of each too.
        share: Whether neighbours share their context; they do not with `whole`.
    """
    parts = list(groups(rows)) if share and not whole else [[row] for row in rows]
    if len(parts) == len(rows):
        return _side_by_side(rows, whole)
    width = max(shared_tokens(part) for part in parts)
    ids, positions = np.zeros((2, len(parts), width), np.int64)
    answers = np.full((len(parts), width), -1, np.int64)
    sources = []
    for number, part in enumerate(parts):
        start = end = int(part[0].targets[0])
        ids[number, :start], positions[number, :start] = context(part[0]), np.arange(start)
        answers[number, :start] = 0
        for answer, row in enumerate(part, 1):
            last = int(row.targets[-1])
            place = slice(end, end + last - start)
            ids[number, place], positions[number, place] = row.ids[start:last], np.arange(start, last)
            answers[number, place] = answer
            before = row.targets - 1
            sources.append(number * width + np.where(before < start, before, before - start + end))
            end += last - start
    return Layout(ids, positions, answers, np.concatenate(sources))


def _side_by_side(rows: Sequence[TokenSequence], whole: bool) -> Layout:
    lengths = [len(row.ids) if whole else int(row.targets[-1]) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[number, :length] = row.ids[:length]
    width = ids.shape[1]
    return Layout(
        ids, None, None, np.concatenate([row.targets - 1 + number * width for number, row in enumerate(rows)])
    )


def attention_mask(answers: npt.NDArray[np.int64], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What each token may look at: what came before it in the context and in its own answer.

    Returns:
        (B, 1, T, T), 0 where it may and the lowest number of the type where it may not.
    """
    own = torch.from_numpy(answers).to(device)
    seen = (own.unsqueeze(1) == 0) | (own.unsqueeze(1) == own.unsqueeze(2))  # (B, T looking, T looked at)
    seen &= torch.ones(own.shape[1], own.shape[1], dtype=torch.bool, device=device).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)

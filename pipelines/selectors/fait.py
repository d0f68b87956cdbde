"""FAIT (FGIT): more weight for the tokens in which a right answer differs from a wrong one that is like it.

Of the rows of one prompt, a right answer is aligned with the wrong answer most like it. With S its sensitive
tokens, those that the wrong answer lacks, S' the wrong answer's in their place, and l the mean loss in nats:

    g = sigmoid((l_S - l_S') / τ),    w = 1 + λ g on S, 1 elsewhere, scaled so that the mean is 1

g is near 1 where the model finds the wrong version likelier than the right one, near 0 where it tells them
apart already. Defaults λ = 1, τ = 1, similarity at least 0.6. Right rows are kept, wrong ones dropped: they
serve as rivals only. A right answer without a wrong one like it is kept with the weight 1 on all tokens.

Source: "FAIT: Fault-Aware Fine-Tuning for Better Code Generation", https://arxiv.org/abs/2503.16913, called
FGIT in its second version. There a teacher writes wrong variants of right code, changed lines and in them
changed tokens are marked, and the weights follow how the model being trained treats both versions.

Ours, as neither code nor the exact form of the weights was at hand: the form of g, the scaling and
all defaults; the similarity, the share 2 m / (n + n') of tokens in a longest common subsequence of m tokens,
which is the Levenshtein ratio without substitutions; tokens of the target tokenizer throughout, in place of
lines and characters, so that no byte offsets are needed; sampled answers as rivals, at most `rivals` of them,
the first by id; of equally like ones the first by id. Where the wrong answer has tokens more and the right
one none in their place, the right answer's next token is sensitive, or its last. Where S' is empty there is
nothing to compare and g is 0.5. A wrong answer with the very tokens of the right one is the one most like it,
and weighs nothing. The losses are those before training.

Removing near duplicates (`dedupe.minhash`) would take a right answer and a wrong one like it for copies:
leave it out, or the pairs are gone. Put selectors that drop wrong answers behind this one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import (
    Decisions,
    Selector,
    choose,
    counts,
    group_codes,
    id_ranks,
    without_score,
)
from pipelines.selectors.pass_rate import labels
from pipelines.selectors.tokens import TokenBlock, TokenLists, TokenRows, join

Answer = Mapping[str, npt.NDArray[Any]]  # by `token_reads`, an entry for each response token
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOKENS_AT_ONCE = 2**24  # response tokens in memory, 8 bytes each: 128 MB

_REASONS = (
    "fait: wrong answer, serves as a rival only",
    "fait: right answer without a wrong one",
    "fait: right answer, tokens weighed where a wrong one like it differs",
)


class Fait(Selector):
    """Keeps right answers, and weighs the tokens in which they differ from wrong ones to the same prompt."""

    name: ClassVar[str] = "fait"
    source: ClassVar[str] = "FAIT, arXiv 2503.16913, with our form of its weights, before training"

    correct: str = Field(
        default="correct", description="column that says whether a response is right: 1, 0 or null"
    )
    similarity: float = Field(
        default=0.6, ge=0, le=1, description="least share of common tokens of right and wrong answer"
    )
    strength: float = Field(default=1.0, ge=0, description="λ: how much more a sensitive token may weigh")
    temperature: float = Field(
        default=1.0, gt=0, description="τ in nats: how fast the weight grows with the difference of losses"
    )
    rivals: int = Field(
        default=8,
        ge=1,
        description="wrong answers that a right one is compared with at most, the first by id",
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of labels."""
        return (self.correct,)

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The tokens and their losses."""
        return ("token_ids", "token_nll")

    @property
    def weighs_tokens(self) -> bool:
        """Always."""
        return True

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the right answers; `weigh_tokens` are those that have a wrong one to compare with."""
        label = labels(candidates, self.correct, self.name)
        group = group_codes(candidates)
        right = label == 1
        has_rival = (np.bincount(group, weights=label == 0) > 0)[group]
        reason = choose(_REASONS, right.astype(np.int64) + (right & has_rival))
        unread = np.isnan(label)
        reason[unread] = without_score(f"fait: no {self.correct}", candidates, unread)
        return Decisions(right, reason, weigh_tokens=right & has_rival)

    def token_weights(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields the weight of each response token, mean 1, where a wrong answer is like it.

        Rows of `weigh_tokens` without such a wrong answer, or with none that differs, are left out: their
        tokens weigh 1 each.
        """
        if decisions.weigh_tokens is None or not decisions.weigh_tokens.any():
            return
        wrong = labels(candidates, self.correct, self.name) == 0
        length = counts(candidates, "response_tokens", self.name)
        group, ids = group_codes(candidates), id_ranks(candidates)
        rivals = first_of_groups(np.flatnonzero(wrong), group, ids, self.rivals)
        for rows in chunks(np.flatnonzero(decisions.weigh_tokens), rivals, group, length, TOKENS_AT_ONCE):
            compared = rivals[np.isin(group[rivals], group[rows])]
            answers = dict(_answers(tokens(np.union1d(rows, compared))))
            starts = np.searchsorted(group[compared], group[rows], side="left")
            stops = np.searchsorted(group[compared], group[rows], side="right")
            found = []
            for row, start, stop in zip(rows.tolist(), starts, stops, strict=True):
                weights = self._weights(answers[row], [answers[at] for at in compared[start:stop].tolist()])
                if weights is not None:
                    one = np.array([row]), np.array([0, len(weights)])
                    found.append(TokenLists(*one, weights.astype(np.float32)))
            yield join(found, np.float32)

    def _weights(self, right: Answer, rivals: Sequence[Answer]) -> Floats | None:
        """The weights of a right answer's tokens, None where no rival gives any."""
        own = right["token_ids"].tolist()
        likeness = [similarity(own, rival["token_ids"].tolist()) for rival in rivals]
        nearest = max(range(len(rivals)), key=likeness.__getitem__)  # the first of equal ones
        if likeness[nearest] < self.similarity:
            return None
        return weigh(right, rivals[nearest], self.strength, self.temperature)


def _answers(blocks: Iterable[TokenBlock]) -> Iterator[tuple[int, Answer]]:
    """(candidate index, its tokens) of each row of the blocks."""
    for block in blocks:
        bounds = block.offsets.tolist()
        for row, start, stop in zip(block.rows.tolist(), bounds[:-1], bounds[1:], strict=True):
            yield row, {name: values[start:stop] for name, values in block.arrays.items()}


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


def weigh(right: Answer, wrong: Answer, strength: float, temperature: float) -> Floats | None:
    """Weights of a right answer's tokens beside a wrong answer.

    Args:
        right: `token_ids` and `token_nll` (nats), shape (n,) each.
        wrong: The same of the wrong answer, shape (m,).
        strength: λ, at least 0.
        temperature: τ in nats, above 0.

    Returns:
        float64, shape (n,), all above 0, mean 1; None where both have the same tokens.
    """
    sensitive, theirs = sensitive_tokens(right["token_ids"].tolist(), wrong["token_ids"].tolist())
    if not sensitive.any():
        return None
    gap = 0.0
    if theirs.any():
        gap = float(right["token_nll"][sensitive].mean(dtype=np.float64))
        gap -= float(wrong["token_nll"][theirs].mean(dtype=np.float64))
    # tanh is the sigmoid that cannot overflow: sigmoid(x) = (1 + tanh(x / 2)) / 2
    share = (1.0 + math.tanh(gap / temperature / 2.0)) / 2.0
    weights = 1.0 + strength * share * sensitive
    scaled: Floats = weights / weights.mean()
    return scaled


def sensitive_tokens(right: Sequence[int], wrong: Sequence[int]) -> tuple[Bools, Bools]:
    """Which tokens of a right answer a wrong one lacks, and which of the wrong one are not in the right one.

    Where the wrong answer has tokens more and the right one none in their place, the right answer's next
    token counts, or its last.

    Returns:
        bool, shape (len(right),), and bool, shape (len(wrong),).

    Example:
        >>> own, theirs = sensitive_tokens([7, 1, 2, 9], [7, 3, 2, 4, 9])
        >>> own.tolist(), theirs.tolist()  # 1 stands for 3; before 9 the wrong answer has a 4
        ([False, True, False, True], [False, True, False, True, False])
    """
    pairs = np.array(align(right, wrong), dtype=np.int64).reshape(-1, 2)
    own, theirs = np.ones(len(right), np.bool_), np.ones(len(wrong), np.bool_)
    own[pairs[:, 0]] = theirs[pairs[:, 1]] = False
    borders = np.concatenate([[[-1, -1]], pairs, [[len(right), len(wrong)]]])
    steps = np.diff(borders, axis=0)
    behind = borders[1:, 0][(steps[:, 0] == 1) & (steps[:, 1] > 1)]
    if len(right):
        own[np.minimum(behind, len(right) - 1)] = True
    return own, theirs


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of the tokens of two texts that are common, 2 m / (n + n'), from 0 to 1; 1 for equal texts.

    Example:
        >>> similarity([1, 2, 3, 4], [1, 9, 3, 4])
        0.75
    """
    last = deque(_common(one, other), maxlen=1)
    longest = len(one) - last[0].bit_count() if last else 0
    total = len(one) + len(other)
    return 2 * longest / total if total else 1.0


def align(one: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (in one, in other) of a longest common subsequence, ascending.

    Example:
        >>> align([5, 6, 7, 8], [5, 7, 7, 8])
        [(0, 0), (2, 1), (3, 3)]
    """
    states = list(_common(one, other))
    pairs = []
    at, there = len(one), len(other)
    while at and there:
        if not _lengthens(states, at, there):
            at -= 1
        elif there > 1 and _lengthens(states, at, there - 1):
            there -= 1
        else:
            at, there = at - 1, there - 1
            pairs.append((at, there))
    return pairs[::-1]


def _lengthens(states: Sequence[int], at: int, there: int) -> bool:
    """Whether one[at - 1] is needed for the longest common subsequence of one[:at] and other[:there]."""
    return not states[there - 1] >> (at - 1) & 1


def _common(one: Sequence[int], other: Sequence[int]) -> Iterator[int]:
    """Longest common subsequences of `one` and each beginning of `other`, 64 cells at a time or more.

    The bit-parallel algorithm of Hyyrö (2004) on whole numbers of any size. On answers of 290 tokens it takes
    a tenth of the time of difflib, whose matches are not always longest and depend on the order of the two.

    Yields:
        A number for each token of `other`: bit i is 0 where the longest common subsequence with one[:i + 1]
        is longer than that with one[:i].
    """
    positions: dict[int, int] = {}
    for at, token in enumerate(one):
        positions[token] = positions.get(token, 0) | 1 << at
    every = (1 << len(one)) - 1
    state = every
    for token in other:
        matched = state & positions.get(token, 0)
        state = ((state + matched) | (state - matched)) & every
        yield state

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

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from connectors.number_lists import offsets_of
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

Ints = npt.NDArray[np.int64]

TOKENS_AT_ONCE = 2**26  # response tokens in memory, 8 bytes each: 512 MB

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
        # Loads Numba, which reading a recipe does not need.
        from pipelines.selectors.alignment import weigh_sensitive

        if decisions.weigh_tokens is None or not decisions.weigh_tokens.any():
            return
        wrong = labels(candidates, self.correct, self.name) == 0
        length = counts(candidates, "response_tokens", self.name)
        group, order = group_codes(candidates), id_ranks(candidates)
        rivals = first_of_groups(np.flatnonzero(wrong), group, order, self.rivals)
        for rows in chunks(np.flatnonzero(decisions.weigh_tokens), rivals, group, length, TOKENS_AT_ONCE):
            compared = rivals[np.isin(group[rivals], group[rows])]
            needed = np.zeros(len(group), np.bool_)
            needed[rows] = needed[compared] = True
            read = np.flatnonzero(needed)
            offsets, ids, nll = _joined(tokens(read), length[read])
            weigh = partial(
                weigh_sensitive,
                ids=ids,
                nll=nll,
                bounds=offsets,
                rivals=np.searchsorted(read, compared),
                least=self.similarity,
                strength=self.strength,
                temperature=self.temperature,
            )
            places = np.searchsorted(read, rows)
            of_each = (
                places,
                np.searchsorted(group[compared], group[rows], side="left"),
                np.searchsorted(group[compared], group[rows], side="right"),
            )
            parts = [np.array_split(values, pa.cpu_count()) for values in (*of_each, rows)]
            with ThreadPoolExecutor(pa.cpu_count()) as pool:  # compiled, so outside of Python's lock
                weighed = list(pool.map(weigh, *parts[:-1]))
            lists = [
                TokenLists(own[found], offsets_of(length[own[found]]), weights)
                for own, (weights, found) in zip(parts[-1], weighed, strict=True)
            ]
            yield join(lists, np.float32)


def _joined(
    blocks: Iterable[TokenBlock], lengths: Ints
) -> tuple[Ints, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Offsets, token ids and losses of all rows of the blocks, of these lengths.

    The arrays have their full size from the beginning: kept and joined at the end, blocks would be in memory
    twice, and each in memory of its own, which takes as long again as to read it.
    """
    offsets, row = offsets_of(lengths), 0
    ids, nll = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    for block in blocks:
        own = slice(row, row + len(block.rows))
        if not np.array_equal(np.diff(block.offsets), lengths[own]):
            raise ValueError(
                "fait: the stored tokens of some row are not as many as its response_tokens; "
                "delete the run's folder and run again"
            )
        values = slice(offsets[own.start], offsets[own.stop])
        ids[values], nll[values] = block.arrays["token_ids"], block.arrays["token_nll"]
        row = own.stop
    return offsets, ids, nll


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

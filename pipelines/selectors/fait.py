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

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from connectors.number_lists import offsets_of
from pipelines.ahead import ahead
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
from pipelines.selectors.rivals import Answers, chunks, first_of_groups, whole_prompts
from pipelines.selectors.tokens import TokenBlock, TokenLists, TokenRows

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

TOKENS_AT_ONCE = 2**26  # response tokens in memory at most, 8 bytes each: 512 MB
TOKENS_OF_A_BLOCK = 2**19  # weighed at a time at least: 4 MB, which the cache may still hold

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
        group, order = group_codes(candidates), id_ranks(candidates)
        rivals = first_of_groups(np.flatnonzero(wrong), group, order, self.rivals)
        weighed = np.flatnonzero(decisions.weigh_tokens)
        for rows in chunks(weighed, rivals, group, length, TOKENS_AT_ONCE):
            compared = rivals[np.isin(group[rivals], group[rows])]
            answers = Answers(group, length, rows, compared)
            blocks = whole_prompts(tokens(answers.read), answers, TOKENS_OF_A_BLOCK)
            yield from ahead(partial(self._weigh, answers), blocks, pa.cpu_count())

    def _weigh(self, answers: Answers, part: tuple[TokenBlock, Bools]) -> TokenLists:
        """The weights of a block's right answers whose prompt is whole in it."""
        from pipelines.selectors.alignment import weigh_sensitive  # loads Numba, which a recipe does not need

        block, whole = part
        group = answers.group[block.rows]
        rights = np.flatnonzero(whole & answers.is_right[block.rows])
        rights = rights[np.argsort(group[rights], kind="stable")]
        place = answers.place[block.rows]
        rivals = np.flatnonzero(place >= 0)
        rivals = rivals[np.argsort(place[rivals])]
        weights, found = weigh_sensitive(
            rights,
            np.searchsorted(group[rivals], group[rights], side="left"),
            np.searchsorted(group[rivals], group[rights], side="right"),
            block.arrays["token_ids"],
            block.arrays["token_nll"],
            block.offsets,
            rivals,
            self.similarity,
            self.strength,
            self.temperature,
        )
        rows = block.rows[rights[found]]
        return TokenLists(rows, offsets_of(answers.length[rows]), weights)

"""RHO-1, selective language modelling: train on the tokens that the target has still to learn.

    excess_t = L_target(t) - L_reference(t);    keep the share `token_keep` of tokens of highest excess

The reference is the target's base tuned on data known to be good; a token that it finds no easier than the
target does is noise, or known already, and gets no loss. Defaults: the paper keeps 60 % for its 1B model and
70 % for 7B.

Source: "Rho-1: Not All Tokens Are What You Need", arXiv 2404.07965. Known differences: the paper chooses
among the tokens of a training batch with the student's current weights; here the losses are those before
training, and the tokens compete within their row (`scope: row`, at least one stays) or over all candidates
(`scope: all`, nearer to a batch; a row may then lose every token, and stays with ignored labels only). Only
response tokens compete, as fine-tuning trains on these. Of equal tokens the earlier, and that of the earlier
row, is dropped.

Ours: rows are not chosen; `top_k` on `rho1_excess` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Decisions, Selector, choose, counts, scores, without_score
from pipelines.selectors.q_tuning_tokens import drop_highest
from pipelines.selectors.tokens import TokenLists, TokenRows

REFERENCE_NLL = "reference.token_nll"


class Rho1(Selector):
    """Keeps every row, and of its response the tokens of highest excess loss."""

    name: ClassVar[str] = "rho1"
    source: ClassVar[str] = "RHO-1, arXiv 2404.07965, with the losses before training"

    token_keep: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of response tokens to train on, those of highest excess loss",
    )
    scope: Literal["row", "all"] = Field(
        default="row", description="where tokens compete: within their row, or over all candidates"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of the scorer rho1: a row without it has no losses to compare."""
        return ("rho1_excess",)

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The losses of both models."""
        return ("token_nll", REFERENCE_NLL)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows that both models scored."""
        known = np.isfinite(scores(candidates, "rho1_excess", self.name))
        reason = choose(["", "rho1: kept, tokens of low excess loss pruned"], known)
        reason[~known] = without_score("rho1: no excess loss", candidates, ~known)
        return Decisions(known, reason, prune_tokens=known)

    def token_masks(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields masks over response tokens (True = train on it) of every kept row."""
        # Loads Numba, which reading a recipe does not need.
        from pipelines.selectors.lowest import keep_lowest

        rows = np.flatnonzero(decisions.keep)

        def lack_of_excess() -> Iterator[TokenLists]:
            for block in tokens(rows):
                own, reference = block.arrays["token_nll"], block.arrays[REFERENCE_NLL]
                yield TokenLists(block.rows, block.offsets, np.subtract(reference, own, dtype=np.float64))

        if self.scope == "row":
            for block in lack_of_excess():
                mask = keep_lowest(block.values, block.offsets, self.token_keep)
                yield TokenLists(block.rows, block.offsets, mask)
        else:
            total = int(counts(candidates, "response_tokens", self.name)[rows].sum())
            yield from drop_highest(lack_of_excess, total - round(total * self.token_keep))

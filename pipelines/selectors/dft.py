"""Dynamic fine-tuning (DFT): the loss of each token weighs as much as the model finds it probable.

    w_t = p(y_t | x, y_<t),    loss = -(1/n) Σ_t w_t log p(y_t | x, y_<t)

divided by the number n of response tokens, not by the sum of weights. 0 <= w_t <= 1, and a token's loss is at
most 1/e. A token that the model lacks gets hardly any gradient: it suits sets with many valid answers, and
not facts to be learnt.

Source: "On the Generalization of SFT", arXiv 2508.05629. Known difference: there the weights follow the
current model at every step (pipelines/training/dft.py does that); here they are those before training,
written as `token_weights` beside `labels`. Rows are not chosen: `dft_weight` and `dft_low` are columns for
that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipelines.selectors.base import Decisions, Selector, choose, scores, without_score
from pipelines.selectors.tokens import TokenLists, TokenRows


class Dft(Selector):
    """Keeps every row, and weighs its tokens by the model's probability of them."""

    name: ClassVar[str] = "dft"
    source: ClassVar[str] = "DFT, arXiv 2508.05629, with the weights before training"

    @property
    def reads(self) -> tuple[str, ...]:
        """The mean weight of a row, from the scorer dft."""
        return ("dft_weight",)

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The losses of tokens."""
        return ("token_nll",)

    @property
    def weighs_tokens(self) -> bool:
        """Always."""
        return True

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows that have scores."""
        known = np.isfinite(scores(candidates, "dft_weight", self.name))
        reason = choose(["", "dft: kept, tokens weighed by their probability"], known)
        reason[~known] = without_score("dft: no weights", candidates, ~known)
        return Decisions(known, reason, weigh_tokens=known)

    def token_weights(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields the probability of each response token."""
        for block in tokens(np.flatnonzero(decisions.keep)):
            probability = np.exp(-block.arrays["token_nll"], dtype=np.float32)
            yield TokenLists(block.rows, block.offsets, probability)

"""GLOW: more weight in training for the rows that a model is slow to learn.

    w = clip(α (1 - sigmoid(β gain)), 0.5, 5),    gain = loss_previous - loss_target, nats per token

so that a row learnt fast gets the least weight, and one that is stuck or gets worse up to α. The weight
stands in the column `weight` of the training set and multiplies the row's mean loss; weights are not
renormalised. Defaults α = 1, β = 20: the authors' for a model of 0.5B parameters.

Source: "Learning from Mistakes: Negative Reasoning Samples Enhance Out-of-Domain Generalization",
arXiv 2601.04992; formula and differences in pipelines/training/glow.py. The gains are those of the scorer
glow, from two checkpoints: ours, as the code logs losses while it trains. Every row is kept, wrong reasoning
included, as in the paper.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Decisions, Selector, choose, scores, without_score
from pipelines.training.glow import glow_weights


class Glow(Selector):
    """Keeps every row, and weighs it by how little was learnt of it between two checkpoints."""

    name: ClassVar[str] = "glow"
    source: ClassVar[str] = "GLOW, arXiv 2601.04992, with the losses of two checkpoints"

    alpha: float = Field(default=1.0, gt=0, description="upper end of the weights before they are cut to 5")
    beta: float = Field(default=20.0, gt=0, description="how sharply the weight falls with the gain")

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of the scorer glow."""
        return ("glow_gain",)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the rows that both checkpoints scored."""
        gain = scores(candidates, "glow_gain", self.name)
        known = np.isfinite(gain)
        texts = ["glow: kept, its loss rose", "glow: kept, its loss did not rise"]
        reason = choose(texts, gain >= 0)
        reason[~known] = without_score("glow: no gain", candidates, ~known)
        weights = glow_weights(np.where(known, gain, 0.0), np.zeros(len(gain)), self.alpha, self.beta)
        return Decisions(known, reason, weights=weights)

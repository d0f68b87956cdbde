"""The joint verdict: one word for every row, out of error, uncertainty, difficulty, fit and its text.

Rules, of which the first that holds decides; quantiles are those of the candidates themselves:

- suspect: a calculation in the answer does not hold, or most rival answers end otherwise, or its suspicion is
  among the highest `suspect` share. Dropped, and listed in OUT/suspects, most certain first.
- off_distribution: loss - entropy is among the highest `off_distribution` share. Dropped.
- out_of_reach: loss and entropy are both among their highest `out_of_reach` share. Dropped.
- too_easy: loss and entropy are both among their lowest `too_easy` share. Dropped.
- keep_prune: loss above its median, entropy not: confident, and wrong in parts. Kept, worst tokens pruned.
- keep: all others. Kept.

Rows that an earlier stage dropped have the verdict duplicate, contaminated or not_scored. What suspicion is
made of stands in suspicion.py.

Of the rows to keep, a budget takes those of highest priority, the mean of two quantiles: of `ifd_ppl` (the
prompt leaves much to learn) and of entropy - loss (the response is something the model might say).

Ours. The plane of loss and entropy is Q-Tuning's (arXiv 2509.23873), as is the rule for tokens; difficulty is
IFD's (arXiv 2402.00530). Thresholds are quantiles, so a share of any data set is called suspect or too easy:
they put rows in order, and do not say how many are wrong. A value equal to a threshold is not beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import (
    Budget,
    Decisions,
    Selector,
    choose,
    counts,
    id_ranks,
    scores,
    without_score,
)
from pipelines.selectors.q_tuning_tokens import token_scores
from pipelines.selectors.suspicion import mean_of_known, quantiles, rivals_that_differ, suspicion
from pipelines.selectors.tokens import TokenLists, TokenRows

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

VERDICTS = ("keep", "keep_prune", "too_easy", "out_of_reach", "off_distribution", "suspect")
KEEP, PRUNE, EASY, REACH, OFF, SUSPECT = range(6)
_WHY = (
    "kept whole",
    "kept, the model is confidently wrong about parts of it: tokens pruned",
    "too easy: the model knows it already",
    "out of reach: high loss and high uncertainty",
    "off distribution: unlike anything the model would say",
    "suspect answer",
)
SMOOTHING = 0.5  # of token scores, as Q-Tuning has it


class Verdict(Selector, Budget):
    """One verdict for every row: keep, keep and prune, suspect, too easy, out of reach, off distribution."""

    name: ClassVar[str] = "verdict"
    source: ClassVar[str] = "ours, after Q-Tuning, arXiv 2509.23873, and IFD, arXiv 2402.00530"

    suspect: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of rows, those of highest suspicion, that is called suspect",
    )
    off_distribution: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of rows, those of highest loss less entropy, that is off distribution",
    )
    out_of_reach: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="share of highest loss and of highest entropy; a row in both is out of reach",
    )
    too_easy: float = Field(
        default=0.2,
        ge=0,
        le=0.5,
        description="share of lowest loss and of lowest entropy; a row in both is too easy",
    )
    token_keep: float = Field(
        default=0.7, gt=0, le=1, description="share of response tokens that keep_prune rows keep"
    )
    keep_suspects: bool = Field(
        default=False, description="whether suspect rows are listed and kept all the same"
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_all_by_default(cls, options: Any) -> Any:  # noqa: ANN401 - raw YAML
        if isinstance(options, Mapping) and not {"keep", "keep_examples", "keep_tokens"} & options.keys():
            return {**options, "keep": 1.0}
        return options

    @property
    def reads(self) -> tuple[str, ...]:
        """Scores of the model, and what the stage check reads in the text."""
        return (
            "loss", "entropy", "direct_loss", "ifd_ppl", "answer", "wrong_calculations", "prompt_overlap",
        )  # fmt: skip

    @property
    def token_reads(self) -> tuple[str, ...]:
        """The losses of tokens, where keep_prune rows lose some."""
        return ("token_nll",) if self.token_keep < 1 else ()

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Gives every row its verdict; writes `verdict`, `suspicion`, and what they are made of.

        Columns: verdict; suspicion (0 to 3); misfit (nats); surprise (nats per token); rivals_differ (share
        of rivals that end otherwise, null without rivals); priority (0 to 1).
        """
        loss, entropy, direct, ifd, wrong, overlap = (
            scores(candidates, column, self.name) for column in self.reads if column != "answer"
        )
        known = np.isfinite(loss) & np.isfinite(entropy)
        loss[~known], entropy[~known] = np.nan, np.nan
        misfit = (loss - direct) * counts(candidates, "response_tokens", self.name)
        rivals = rivals_that_differ(candidates, known)
        found = {
            "suspicion": suspicion(misfit, overlap, wrong, rivals, known),
            "misfit": misfit,
            "surprise": loss - entropy,
            "rivals_differ": rivals,
            "priority": mean_of_known(quantiles(ifd), quantiles(entropy - loss)),
        }
        facts = self._thresholds(loss, entropy, found)
        verdict = self._verdicts(loss, entropy, wrong, found, facts)

        worth = known & np.isin(verdict, [KEEP, PRUNE, *([SUSPECT] if self.keep_suspects else [])])
        in_play = worth & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        order = rows[np.lexsort((id_ranks(candidates)[rows], -found["priority"][rows]))]
        keep = self.keep_first(order, candidates)
        columns: dict[str, pa.Array] = {
            "verdict": pa.array(choose(VERDICTS, verdict), pa.string(), mask=~known)
        }
        columns |= {
            name: pa.array(values, pa.float64(), mask=~np.isfinite(values)) for name, values in found.items()
        }
        prune = keep & (verdict == PRUNE) if self.token_reads else None
        reason = self._reasons(verdict, keep, in_play, worth)
        reason[~known] = without_score("verdict: no loss or entropy", candidates, ~known)
        return Decisions(keep, reason, columns, prune, facts=facts)

    def _thresholds(self, loss: Floats, entropy: Floats, found: Mapping[str, Floats]) -> dict[str, float]:
        """The values beyond which a rule holds; infinite where a share is 0 or no row has a score."""

        def highest(values: Floats, share: float) -> float:
            known = values[np.isfinite(values)]
            return float(np.quantile(known, 1 - share)) if len(known) and share > 0 else np.inf

        def lowest(values: Floats, share: float) -> float:
            return -highest(-values, share)

        return {
            "suspicion": highest(found["suspicion"], self.suspect),
            "surprise": highest(found["surprise"], self.off_distribution),
            "high_loss": highest(loss, self.out_of_reach),
            "high_entropy": highest(entropy, self.out_of_reach),
            "low_loss": lowest(loss, self.too_easy),
            "low_entropy": lowest(entropy, self.too_easy),
            "median_loss": highest(loss, 0.5),
            "median_entropy": highest(entropy, 0.5),
        }

    def _verdicts(
        self,
        loss: Floats,
        entropy: Floats,
        wrong: Floats,
        found: Mapping[str, Floats],
        at: Mapping[str, float],
    ) -> npt.NDArray[np.intp]:
        """The code of each row's verdict; a comparison with an unknown value does not hold."""
        evidence = (wrong > 0) | (found["rivals_differ"] > 0.5)
        rules = [
            (SUSPECT, evidence | (found["suspicion"] > at["suspicion"])),
            (OFF, found["surprise"] > at["surprise"]),
            (REACH, (loss > at["high_loss"]) & (entropy > at["high_entropy"])),
            (EASY, (loss < at["low_loss"]) & (entropy < at["low_entropy"])),
            (PRUNE, (loss > at["median_loss"]) & (entropy <= at["median_entropy"])),
        ]
        return np.select([holds for _, holds in rules], [code for code, _ in rules], KEEP).astype(np.intp)

    def _reasons(
        self, verdict: npt.NDArray[np.intp], keep: Bools, in_play: Bools, worth: Bools
    ) -> npt.NDArray[np.object_]:
        reason = choose([f"verdict: {why}" for why in _WHY], verdict)
        beyond = worth & ~keep
        reason[beyond] = choose([f"verdict: {name}, beyond the budget" for name in VERDICTS], verdict)[beyond]
        reason[worth & ~in_play] = "verdict: no token count"
        return reason

    def token_masks(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields masks over response tokens (True = train on it) of kept keep_prune rows."""
        # Loads Numba, which reading a recipe does not need.
        from pipelines.selectors.lowest import keep_lowest

        rows = np.flatnonzero(decisions.keep if decisions.prune_tokens is None else decisions.prune_tokens)
        for block in tokens(rows):
            values = token_scores(block.arrays["token_nll"], block.offsets, SMOOTHING, "zero")
            yield TokenLists(block.rows, block.offsets, keep_lowest(values, block.offsets, self.token_keep))

    @classmethod
    def explain(cls, row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """The row's verdict in one sentence with its numbers."""
        verdict = row.get("verdict")
        if verdict == "suspect":
            return f"suspect answer: {', '.join(_evidence(row, facts))}"
        if verdict == "off_distribution":
            limit = facts["surprise"]
            return (
                f"off distribution: loss less entropy is {row['surprise']:.3g} nats, the limit is {limit:.3g}"
            )
        if verdict not in _SENTENCES:
            return ""
        numbers = {name: row[name] for name in ("loss", "entropy")}
        return _SENTENCES[verdict].format(**numbers, **facts)


_TWO = "loss {loss:.3g} and entropy {entropy:.3g}"
_SENTENCES = {
    "out_of_reach": f"out of reach: {_TWO} are both high, above {{high_loss:.3g}} and {{high_entropy:.3g}}",
    "too_easy": f"too easy: {_TWO} are both low, below {{low_loss:.3g}} and {{low_entropy:.3g}}",
    "keep_prune": f"keep and prune tokens: {_TWO}, medians {{median_loss:.3g}} and {{median_entropy:.3g}}: "
    "confident, and wrong in parts",
    "keep": f"keep: {_TWO} lie in no corner, and suspicion is not above {{suspicion:.3g}}",
}


def _evidence(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    wrong, differ = row.get("wrong_calculations") or 0, row.get("rivals_differ") or 0
    if wrong:
        more = f" (one of {wrong:.0f})" if wrong > 1 else ""
        yield f"{row.get('wrong_calculation') or 'a calculation'} does not hold{more}"
    if differ > 0.5:
        yield f"{differ:.0%} of the rival answers end otherwise"
    yield f"suspicion {row['suspicion']:.3g} (the limit is {facts['suspicion']:.3g})"
    misfit, overlap = row.get("misfit"), row.get("prompt_overlap")
    if misfit is not None:
        yield f"the prompt makes it {abs(misfit):.3g} nats {'less' if misfit > 0 else 'more'} likely"
    if overlap is not None:
        yield f"{overlap:.0%} of its words are in the prompt"

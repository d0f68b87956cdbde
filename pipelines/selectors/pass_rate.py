"""Pass rate: the groups of answers of which neither too few nor too many are right.

A prompt whose sampled answers are all right teaches nothing new, one whose answers are all wrong is out of
reach or has a wrong gold answer; what lies between is learnable. A group is kept when right / labelled lies
within [low, high], both ends included. `keep: all` keeps every row of a kept group, `correct` the right ones.

Ours: no single published method; the filter on pass rates of many recipes for verifiable answers, for example
DAPO (https://arxiv.org/abs/2503.14476), which drops prompts with all answers right or all wrong. There is
no default band. A row without a label counts for no share; groups with fewer than `min_answers` labels are
dropped, because a share of one answer is 0 or 1. Exact duplicates among sampled answers were dropped
before, so that the share is one of distinct answers.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines.selectors.base import Decisions, Selector, choose, group_codes, scores, without_score

Floats = npt.NDArray[np.float64]
LABELS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "": None}
"""What a label may be as text, in any case; numbers as text are what a CSV file holds."""


class PassRate(Selector):
    """Groups of answers whose share of right ones lies within a band."""

    name: ClassVar[str] = "pass_rate"
    source: ClassVar[str] = "ours: prompts that are neither always nor never answered right"

    correct: str = Field(
        default="correct", description="column that says whether a response is right: 1, 0 or null"
    )
    low: float = Field(ge=0, le=1, description="least share of right answers in a group, included")
    high: float = Field(ge=0, le=1, description="greatest share of right answers in a group, included")
    keep: Literal["all", "correct"] = Field(default="all", description="which rows of a kept group stay")
    min_answers: int = Field(default=2, ge=1, description="groups with fewer labelled answers are dropped")

    @model_validator(mode="after")
    def _band_is_open(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}: no share is between them")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of labels."""
        return (self.correct,)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the groups within the band; writes `pass_rate` and `labelled_answers` of the group."""
        label = labels(candidates, self.correct, self.name)
        group = group_codes(candidates)
        labelled = np.bincount(group, weights=np.isfinite(label))[group]
        right = np.bincount(group, weights=label == 1)[group]
        # A quotient of small integers is the float nearest to it, as a bound written in decimal is.
        share = np.divide(right, labelled, out=np.zeros(len(label)), where=labelled > 0)
        enough = labelled >= self.min_answers
        below, above = share < self.low, share > self.high
        within = enough & ~below & ~above
        keep = within & (label == 1) if self.keep == "correct" else within

        texts = [
            f"pass_rate: within {self.low:g} to {self.high:g}",
            f"pass_rate: share of right answers below {self.low:g}",
            f"pass_rate: share of right answers above {self.high:g}",
        ]
        reason = choose(texts, below + 2 * (above & ~below))
        reason[within & ~keep] = "pass_rate: wrong answer of a kept group"
        unread = within & ~keep & np.isnan(label)
        reason[unread] = without_score(f"pass_rate: no {self.correct}", candidates, unread)
        reason[~enough] = f"pass_rate: fewer than {self.min_answers} labelled answers"
        none = labelled == 0
        reason[none] = without_score(f"pass_rate: no {self.correct} in the group", candidates, none)
        columns = {
            "pass_rate": pa.array(share, mask=none),
            "labelled_answers": pa.array(labelled.astype(np.int64)),
        }
        return Decisions(keep, reason, columns)


def labels(candidates: pa.Table, column: str, selector: str) -> Floats:
    """Labels of correctness as float64, shape (n,): 1 right, 0 wrong, NaN for none.

    Args:
        candidates: The rows in play.
        column: Numbers 1 and 0, booleans, or texts: true, false, 1, 0 in any case; null, NaN and a blank
            text are no label.
        selector: Who asks, for the error.

    Raises:
        ValueError: If there is no such column or it holds anything else; the message shows the first value.
    """
    if column not in candidates.column_names or not _is_text(candidates.column(column).type):
        found = scores(candidates, column, selector)
        wrong = np.flatnonzero(np.isfinite(found) & (found != 0) & (found != 1))
        if len(wrong):
            raise _no_label(selector, column, f"{found[wrong].min():g}")
        return found
    encoded = candidates.column(column).combine_chunks().dictionary_encode()
    texts = [text and text.strip().lower() for text in encoded.dictionary.to_pylist()]
    strange = sorted(text for text in texts if text not in LABELS)
    if strange:
        raise _no_label(selector, column, repr(strange[0]))
    values = pa.array([LABELS[text] for text in texts], pa.float64())
    return np.asarray(pc.fill_null(values.take(encoded.indices), np.nan).to_numpy(), dtype=np.float64)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _no_label(selector: str, column: str, found: str) -> ValueError:
    return ValueError(
        f"{selector}: the column {column!r} holds {found}, and a label is 1 or 0, true or false, or null. "
        "Give another column, or compare the answers with `check:`"
    )

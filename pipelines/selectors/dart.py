"""DART: right answers in proportion to how hard their prompt is, instead of as they were sampled.

With w wrong answers in T trials, a prompt has the fail rate w/T. Right answers to keep of each prompt:
- `vanilla`: all of them, the rejection sampling that the others are compared with; easy prompts dominate.
- `uniform`: k of every prompt.
- `prop2diff`: ceil(k * fail rate / highest fail rate), so the hardest prompt has k, and at least 1 (`cover`).
The answers of a prompt are taken in the order of a hash of (seed, id), so a larger k adds to a smaller one's.

Source: DART-Math, "Difficulty-Aware Rejection Tuning for Mathematical Problem-Solving",
https://arxiv.org/abs/2407.13690, github.com/hkust-nlp/dart-math. The paper samples until each prompt has its
number, with k = 40 (uniform) and k = 192 (prop2diff) at about 590,000 rows; here the answers are there, so k
has no default. Known differences: its code takes the first answers in file order and stops one late, the
allocation of prop2diff is not in it, and division by the highest fail rate is the reading of our
specification (`normalise: one` leaves it out).

Ours: integers throughout (in floats ceil(10 * (1 - 0.7)) is 4); the hash; `examples: M`, the exact size: the
least k that gives at least M rows, less rows that its last step added, those of the highest hash. Prompts
without a right answer count for the highest fail rate, and keep nothing. Trials are the labelled answers in
play, unless `trials` names their total, for a pool that holds a part of them, mostly the right ones: then all
but the right answers in play failed. Exact duplicates among answers were dropped before, so that without
`trials` a fail rate is one of distinct answers. Sampling that stops at a success biases it.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import Decisions, Selector, choose, group_codes, id_ranks, scores, without_score
from pipelines.selectors.id_order import id_order
from pipelines.selectors.pass_rate import labels

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
MAX_TRIALS = 2**31 - 1
Mode = Literal["prop2diff", "uniform", "vanilla"]


class Dart(Selector):
    """Right answers by the difficulty of their prompt."""

    name: ClassVar[str] = "dart"
    source: ClassVar[str] = "DART-Math, arXiv 2407.13690, over answers that are there"

    correct: str = Field(
        default="correct", description="column that says whether a response is right: 1, 0 or null"
    )
    mode: Mode = Field(
        default="prop2diff",
        description="prop2diff: more of harder prompts; uniform: k of each; vanilla: every right answer",
    )
    k: int | None = Field(
        default=None, ge=1, description="right answers of each prompt (uniform), of the hardest (prop2diff)"
    )
    examples: int | None = Field(
        default=None, ge=0, description="number of rows to keep, for which k is found; instead of k"
    )
    trials: str | None = Field(
        default=None, description="column of the total trials of the prompt; by default its labelled answers"
    )
    normalise: Literal["max", "one"] = Field(
        default="max", description="prop2diff: fail rates over the highest one (max), or as they are (one)"
    )
    cover: bool = Field(default=True, description="prop2diff: at least 1 of every prompt, however easy")

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.mode == "vanilla" and self.k is not None:
            raise ValueError("vanilla keeps every right answer and has no k; give `examples`, or neither")
        if self.mode != "vanilla" and (self.k is None) == (self.examples is None):
            raise ValueError(f"{self.mode} needs exactly one of k and examples")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of labels, and that of trials."""
        return (self.correct,) if self.trials is None else (self.correct, self.trials)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the targets; writes `fail_rate`, `target_k` and `selected_k` of the group, and `dart_rank`.

        `dart_rank` is the place of a right answer among those of its group, from 1. A group without trials
        has no fail rate and no target; the target of `vanilla` is the number of right answers.
        """
        label = labels(candidates, self.correct, self.name)
        group = group_codes(candidates)
        prompts = self._prompts(candidates, label, group)
        right = label == 1
        hashed = np.zeros(len(label), np.uint64)
        hashed[right] = id_order(candidates["id"].filter(pa.array(right)), seed)
        ids = id_ranks(candidates)
        rank = _ranks(np.flatnonzero(right), group, hashed, ids)

        target, before, spare = self._targets(prompts)
        keep = right & (rank <= target[group])
        last_step = np.flatnonzero(keep & (rank > before[group]))
        last_step = last_step[np.lexsort((ids[last_step], hashed[last_step]))]
        over = last_step[len(last_step) - spare :]
        keep[over] = False

        within = ["dart: beyond the target of its prompt", "dart: within the target of its prompt"]
        reason = choose(within, keep)
        reason[over] = "dart: beyond the number of examples"
        reason[label == 0] = "dart: wrong answer"
        unknown, unread = (prompts.trials == 0)[group], np.isnan(label)
        reason[unknown] = "dart: no trials of its prompt"
        reason[unread] = without_score(f"dart: no {self.correct}", candidates, unread)
        selected = np.bincount(group, weights=keep, minlength=len(target)).astype(np.int64)
        fail_rate = prompts.wrong / np.maximum(prompts.trials, 1)
        columns = {
            "fail_rate": pa.array(fail_rate[group], mask=unknown),
            "target_k": pa.array(target[group], mask=unknown),
            "selected_k": pa.array(selected[group], mask=unknown),
            "dart_rank": pa.array(rank, mask=~right),
        }
        return Decisions(keep, reason, columns)

    def _prompts(self, candidates: pa.Table, label: Floats, group: Ints) -> Prompts:
        right = np.bincount(group, weights=label == 1).astype(np.int64)
        labelled = np.bincount(group, weights=np.isfinite(label)).astype(np.int64)
        if self.trials is None:
            return Prompts(labelled - right, labelled, right)
        trials = _group_trials(candidates, self.trials, group)
        few = np.isfinite(scores(candidates, self.trials, self.name)) & (trials < labelled)[group]
        if few.any():
            row = _first(candidates, few)
            raise ValueError(
                f"dart: the prompt of {candidates['id'][row]} has {labelled[group[row]]} labelled answers, "
                f"but the column {self.trials!r}, which must count all its trials, says {trials[group[row]]}"
            )
        return Prompts(np.maximum(trials - right, 0), trials, right)

    def _targets(self, prompts: Prompts) -> tuple[Ints, Ints, int]:
        """Target of each prompt, its target with one k less, and rows that `examples` has no place for."""
        kinds, kind_of, count = prompts.kinds()
        hardest = Fraction(1)
        if self.normalise == "max":
            hardest = max((Fraction(wrong, trials) for wrong, trials, _ in kinds if trials), default=hardest)

        def targets(k: int) -> list[int]:
            return [self._target(k, *kind, hardest) for kind in kinds]

        def size(k: int) -> int:
            most = (min(target, right) for target, (_, _, right) in zip(targets(k), kinds, strict=True))
            return sum(number * target for number, target in zip(count, most, strict=True))

        k, spare = self.k or 1, 0
        if self.examples is not None:
            top = max((self._last_k(*kind, hardest) for kind in kinds), default=1)
            k = bisect.bisect_left(range(top + 1), min(self.examples, size(top)), key=size)
            spare = max(size(k) - self.examples, 0)
        now, before = (np.array(targets(step), np.int64)[kind_of] for step in (k, max(k - 1, 0)))
        return now, before, spare

    def _target(self, k: int, wrong: int, trials: int, right: int, hardest: Fraction) -> int:
        """Right answers to keep of a prompt; 0 without trials, and of every prompt with k = 0."""
        if k == 0 or trials == 0:
            return 0
        if self.mode == "vanilla":
            return right
        return k if self.mode == "uniform" else prop2diff(k, wrong, trials, hardest, self.cover)

    def _last_k(self, wrong: int, trials: int, right: int, hardest: Fraction) -> int:
        """The least k that takes all that the mode ever takes of a prompt, at least 1."""
        if self.mode == "uniform":
            return max(right, 1)
        if self.mode == "vanilla" or wrong == 0:
            return 1
        return max(math.ceil(right * hardest / Fraction(wrong, trials)), 1)


def prop2diff(k: int, wrong: int, trials: int, hardest: Fraction, cover: bool = True) -> int:
    """ceil(k * fail rate / hardest) in integers: the right answers to keep of a prompt.

    Args:
        k: Target of a prompt whose fail rate is `hardest`.
        wrong: Wrong answers of the prompt, at least 0.
        trials: All its answers, at least 1.
        hardest: The fail rate to divide by; 0 when no answer of any prompt is wrong.
        cover: Whether the target is at least 1.

    Example:
        >>> [prop2diff(4, wrong, 4, Fraction(1)) for wrong in (0, 1, 3, 4)]
        [1, 1, 3, 4]
        >>> prop2diff(10, 3, 10, Fraction(1))
        3
    """
    target = -(-k * wrong * hardest.denominator // (trials * hardest.numerator)) if hardest else 0
    return max(target, int(cover))


@dataclass(frozen=True)
class Prompts:
    """What is known of each group of answers; int64 arrays, shape (groups,).

    Attributes:
        wrong: Trials that failed.
        trials: All trials, 0 when unknown.
        right: Right answers in play.
    """

    wrong: Ints
    trials: Ints
    right: Ints

    def kinds(self) -> tuple[list[tuple[int, int, int]], Ints, list[int]]:
        """The distinct (wrong, trials, right), which of them each prompt is, and how many prompts each is."""
        order = np.lexsort((self.right, self.trials, self.wrong))
        columns = np.stack([self.wrong[order], self.trials[order], self.right[order]], axis=1)
        is_first = np.any(columns[1:] != columns[:-1], axis=1)
        starts = np.concatenate(([True], is_first))[: len(order)]
        kind_of = np.empty(len(order), np.int64)
        kind_of[order] = np.cumsum(starts) - 1
        distinct = [(wrong, trials, right) for wrong, trials, right in columns[starts].tolist()]
        return distinct, kind_of, np.bincount(kind_of).tolist()


def _group_trials(candidates: pa.Table, column: str, group: Ints) -> Ints:
    """Trials of each group, int64, shape (groups,), 0 where no row says."""
    values = scores(candidates, column, "dart")
    known = np.isfinite(values)
    broken = known & ((values < 0) | (values != np.floor(values)) | (values > MAX_TRIALS))
    if broken.any():
        raise ValueError(
            f"dart: the column {column!r} holds {values[broken].min():g}, and trials are counted "
            f"(a whole number from 0 to {MAX_TRIALS:,})"
        )
    trials = np.zeros(int(group.max(initial=-1)) + 1)
    np.maximum.at(trials, group[known], values[known])
    differing = known & (values != trials[group])
    if differing.any():
        row = _first(candidates, differing)
        raise ValueError(
            f"dart: the column {column!r} says {values[row]:g} for {candidates['id'][row]} and "
            f"{trials[group[row]]:g} for another answer to the same prompt; all its answers must say the same"
        )
    return trials.astype(np.int64)


def _first(candidates: pa.Table, rows: Bools) -> int:
    """The one of `rows` whose id is first, for messages that do not depend on the order of rows."""
    found = np.flatnonzero(rows)
    return int(found[np.argmin(id_ranks(candidates)[found])])


def _ranks(rows: Ints, group: Ints, hashed: npt.NDArray[np.uint64], ids: Ints) -> Ints:
    """Place of each of `rows` in its group in the order of the hash, from 1; 0 for other rows."""
    ranks = np.zeros(len(group), np.int64)
    order = rows[np.lexsort((ids[rows], hashed[rows], group[rows]))]
    of_group = group[order]
    ranks[order] = np.arange(len(order)) - np.searchsorted(of_group, of_group) + 1
    return ranks

"""The sets that models are trained on: what was selected, and what it is held against.

- `selected`: the training set of a run, its token masks and weights applied.
- `random`: rows in a random order, another one for each seed, up to the trained tokens of the selected set.
- `longest`: the rows of the longest responses, up to the same number of tokens: "Long Is More for Alignment",
  https://arxiv.org/abs/2402.04833, whose 1,000 longest responses beat more elaborate selections.
- `everything`: all rows that could have been selected, duplicates and unscored rows not among them.

A set ends with the row that brings it nearest to the number of tokens, so it has the same to within half a
row. Selected sets whose tokens differ by less than 2 % share the sets they are held against, those of the
first of them. Every set is trained on for the same number of steps of the same number of tokens, so a smaller
one is seen more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.training.token_rows import TokenRows

SAME_TOKENS = 0.02
BASELINES = ("random", "longest", "everything")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Arm:
    """One training set and one seed.

    Attributes:
        name: "selected", "random", "longest" or "everything".
        run: The name of the run whose selection it is or whose number of tokens it has; "" for everything.
        seed: Of the order of the rows, and of the draw where the set is random.
        rows: What is trained on.
    """

    name: str
    run: str
    seed: int
    rows: TokenRows

    @property
    def label(self) -> str:
        """How tables call the arm, whatever the seed."""
        return self.run if self.name == "selected" else self.name


def budgets(tokens: dict[str, int]) -> dict[str, str]:
    """Whose sets each run is held against: its own, or those of an earlier run of nearly as many tokens.

    Example:
        >>> budgets({"a": 1000, "b": 1010, "c": 700})
        {'a': 'a', 'b': 'a', 'c': 'c'}
    """
    owners: dict[str, str] = {}
    for run, own in tokens.items():
        near = [one for one in owners.values() if abs(tokens[one] - own) <= SAME_TOKENS * tokens[one]]
        owners[run] = near[0] if near else run
    return owners


def make_arms(selected: dict[str, TokenRows], everything: TokenRows, seeds: int) -> list[Arm]:
    """All arms, selected sets first, those of the first seed before the others.

    Args:
        selected: The training set of each run, by its name, without held-out prompts.
        everything: All rows, without held-out prompts.
        seeds: How many, at least 1.
    """
    tokens = {run: int(rows.trained.sum()) for run, rows in selected.items()}
    owners = sorted(set(budgets(tokens).values()), key=list(selected).index)
    arms = []
    for seed in range(seeds):
        arms += [Arm("selected", run, seed, rows) for run, rows in selected.items()]
        for run in owners:
            arms.append(Arm("random", run, seed, random_rows(everything, tokens[run], seed)))
            arms.append(Arm("longest", run, seed, longest_rows(everything, tokens[run])))
        arms.append(Arm("everything", "", seed, everything))
    return arms


def random_rows(rows: TokenRows, tokens: int, seed: int) -> TokenRows:
    """Rows in a random order up to a number of trained tokens."""
    # Another stream than that of the order of training rows, which has the same seed.
    order = np.random.default_rng([seed, 1]).permutation(len(rows.trained))
    return rows.take(np.sort(_up_to(rows.trained, order, tokens)))


def longest_rows(rows: TokenRows, tokens: int) -> TokenRows:
    """The rows of the longest responses up to a number of trained tokens; of equal ones the first."""
    order = np.argsort(-rows.trained, kind="stable")
    return rows.take(np.sort(_up_to(rows.trained, order, tokens)))


def _up_to(trained: Ints, order: Ints, tokens: int) -> Ints:
    """The beginning of an order whose tokens are nearest to a number; at least one row."""
    so_far = np.cumsum(trained[order])
    return order[: int(np.argmin(np.abs(so_far - tokens))) + 1]

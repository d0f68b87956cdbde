"""Random samples: a hash of seed and id decides."""

from __future__ import annotations

import numpy as np

from pipelines.selectors.random_sample import RandomSample
from tests.pipelines.selectors.tables import candidates, kept_rows

TABLE = candidates([1.0] * 200)


def test_the_seed_of_the_run_decides_unless_the_step_has_its_own() -> None:
    drawn = RandomSample(keep=0.5)
    assert kept_rows(drawn.decide(TABLE, 0)) != kept_rows(drawn.decide(TABLE, 1))
    own = RandomSample(keep=0.5, seed=1)
    assert kept_rows(own.decide(TABLE, 0)) == kept_rows(drawn.decide(TABLE, 1))


def test_a_row_is_drawn_or_not_whatever_else_was_drawn_before_it() -> None:
    all_rows = RandomSample(keep_examples=50).decide(TABLE, 0)
    kept = TABLE.filter(all_rows.keep)
    assert RandomSample(keep_examples=50).decide(kept, 0).keep.all()


def test_rows_are_drawn_evenly() -> None:
    kept = sum(RandomSample(keep=0.5).decide(TABLE, seed).keep.astype(np.int64) for seed in range(100))
    assert np.abs(np.asarray(kept) - 50).max() < 25  # five standard deviations of 100 fair coins


def test_rows_without_scores_take_part() -> None:
    decisions = RandomSample(keep=1).decide(candidates([None, 1.0]), 0)
    assert decisions.reason.tolist() == ["random: drawn", "random: drawn"]

"""GOT-D: potentials against worked examples, linear programmes and finite differences; then the decisions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import logsumexp

from pipelines import runner
from pipelines.selectors import got_d
from pipelines.selectors.base import Decisions, Vectors
from pipelines.selectors.got_d import (
    GotD,
    Potentials,
    Sinkhorn,
    calibrate,
    candidate_potentials,
    learn_potentials,
    mean_cost,
)
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows

Floats = npt.NDArray[np.float64]

LINE, ENDS = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0]])  # the specification's example


def gradients(vectors: Floats, target: Floats, epsilon: float) -> Floats:
    """Calibrated potentials of the candidates, at convergence."""
    found = learn_potentials(vectors, target, Sinkhorn(epsilon, 1e-8, 20_000, 1.7))
    assert found.error <= 1e-8
    return calibrate(candidate_potentials(vectors, target, found))


def after(iterations: int, vectors: Floats, target: Floats, epsilon: float) -> Floats:
    """Calibrated potentials of the candidates after some iterations without momentum."""
    found = learn_potentials(vectors, target, Sinkhorn(epsilon, 0.0, iterations, 1.0))
    return calibrate(candidate_potentials(vectors, target, found))


def plain_sinkhorn(
    iterations: int, vectors: Floats, target: Floats, masses: Floats, epsilon: float
) -> tuple[Floats, float]:
    """Calibrated potentials and regularised cost, over the whole matrix and for any masses."""
    cost = np.square(vectors[:, None] - target[None]).sum(axis=2)
    g, f = np.zeros(len(vectors)), np.zeros(len(target))
    for iteration in range(iterations + 1):
        g = -epsilon * logsumexp((f - cost) / epsilon, axis=1, b=1 / len(target))
        if iteration < iterations:
            f = -epsilon * logsumexp((g[:, None] - cost) / epsilon, axis=0, b=masses[:, None])
    return calibrate(g), float(f.mean() + masses @ g)


def some_points(seed: int, count: int, dimensions: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def in_play(vectors: npt.NDArray[Any], target: npt.NDArray[Any], known: list[bool] | None = None) -> Vectors:
    every = np.ones(len(vectors), np.bool_) if known is None else np.array(known)
    return Vectors(vectors.astype(np.float32), every, target.astype(np.float32))


def got_d_of(**options: Any) -> GotD:  # noqa: ANN401 - options of several types
    return GotD(**{"target": "t.jsonl"} | options)


def rows(count: int) -> pa.Table:
    return candidates([1.0] * count)


def scores(decisions: Decisions) -> list[float | None]:
    found: list[float | None] = decisions.columns["ot_score"].to_pylist()
    return found


def test_the_worked_example_at_three_regularisations() -> None:
    # Mass 1/3 at 0, 1, 3 goes to 1/2 at 0 and 2: all of 0 stays, 1 is split, 3 goes to 2; duals 0, 1, 1.
    assert gradients(LINE, ENDS, 0.001) == pytest.approx([-1, 0.5, 0.5], abs=1e-3)
    assert gradients(LINE, ENDS, 0.1) == pytest.approx([-0.965343, 0.430685, 0.534657], abs=1e-6)
    assert gradients(LINE, ENDS, 1.0) == pytest.approx([-0.719488, -0.185013, 0.904501], abs=1e-6)


def test_a_single_target_gives_the_squared_distances() -> None:
    # 0, 1, 9, less the mean of the others
    assert gradients(LINE, ENDS[:1], 0.1) == pytest.approx([-5, -3.5, 8.5])


def test_the_potentials_are_those_of_the_entropy_relative_to_the_product() -> None:
    found = learn_potentials(LINE, ENDS, Sinkhorn(0.1, tolerance=1e-12))
    g = candidate_potentials(LINE, ENDS, found)
    together = np.add.outer(g, found.f)  # f and g alone are free in a constant
    assert together == pytest.approx(np.add.outer([-0.574521, 0.356164, 0.425479], [0.643836] * 2), abs=1e-6)


@EXAMPLES
@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 8), st.sampled_from([0.2, 1.0, 5.0]))
def test_blocks_and_parts_give_what_the_whole_matrix_gives(
    seed: int, count: int, targets: int, epsilon: float
) -> None:
    vectors, target = some_points(seed, count), some_points(seed + 1, targets)
    whole, _ = plain_sinkhorn(4, vectors, target, np.full(count, 1 / count), epsilon)
    assert after(4, vectors, target, epsilon) == pytest.approx(whole, abs=1e-9)


def test_many_blocks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, target = some_points(0, 1000), some_points(1, 7)
    one = after(3, vectors, target, 0.5)
    monkeypatch.setattr(got_d, "COSTS_AT_ONCE", {"cpu": 1})  # blocks of 64
    monkeypatch.setattr(got_d, "PARTS", 3)
    assert after(3, vectors, target, 0.5) == pytest.approx(one, abs=1e-9)


@EXAMPLES
@given(st.integers(0, 999), st.integers(2, 12), st.integers(1, 8))
def test_moving_or_turning_all_vectors_changes_nothing_and_scores_sum_to_0(
    seed: int, count: int, targets: int
) -> None:
    vectors, target = some_points(seed, count), some_points(seed + 1, targets)
    turn, _ = np.linalg.qr(some_points(seed + 2, 3))
    found = after(3, vectors, target, 1.0)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    assert after(3, vectors + 100, target + 100, 1.0) == pytest.approx(found, abs=1e-9)
    assert after(3, vectors @ turn, target @ turn, 1.0) == pytest.approx(found, abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-10, 10))
def test_calibration_keeps_the_order_and_forgets_a_constant(values: list[float], constant: float) -> None:
    g = np.array(values)
    found = calibrate(g)
    others = [np.mean(np.delete(g, at)) for at in range(len(g))]
    assert found == pytest.approx(g - others, abs=1e-9)
    assert calibrate(g + constant) == pytest.approx(found, abs=1e-9)
    assert all(found[a] <= found[b] for a in range(len(g)) for b in range(len(g)) if g[a] <= g[b])


def test_a_constant_of_f_changes_no_gradient() -> None:
    found = learn_potentials(LINE, ENDS, Sinkhorn(1.0, tolerance=1e-9))
    moved = Potentials(found.f + 5, found.epsilon, found.iterations, found.error)
    here, there = (candidate_potentials(LINE, ENDS, one) for one in (found, moved))
    assert there == pytest.approx(here - 5)
    assert calibrate(there) == pytest.approx(calibrate(here))


@pytest.mark.parametrize("seed", range(3))
def test_little_regularisation_comes_to_the_dual_of_the_linear_programme(seed: int) -> None:
    vectors, target = some_points(seed, 5), some_points(seed + 10, 3)  # 5 and 3: no ties, one dual
    cost = np.square(vectors[:, None] - target[None]).sum(axis=2)
    sums = np.zeros((8, 15))
    for row in range(5):
        for column in range(3):
            sums[row, 3 * row + column] = sums[5 + column, 3 * row + column] = 1
    exact = linprog(cost.ravel(), A_eq=sums, b_eq=[1 / 5] * 5 + [1 / 3] * 3)
    dual = calibrate(exact.eqlin.marginals[:5])
    for epsilon in (0.1, 0.02):
        assert gradients(vectors, target, epsilon) == pytest.approx(dual, abs=3 * epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_the_gradient_is_that_of_the_transport_cost(epsilon: float) -> None:
    vectors, target, step = some_points(3, 6), some_points(4, 4), 1e-4
    found = gradients(vectors, target, epsilon)
    for row in range(6):
        masses = np.full(6, 1 / 6) - step / 5
        masses[row] = 1 / 6 + step
        opposite = 2 / 6 - masses
        more, less = (plain_sinkhorn(100, vectors, target, own, epsilon)[1] for own in (masses, opposite))
        assert (more - less) / (2 * step) == pytest.approx(found[row], abs=1e-4)


def test_a_target_far_from_every_candidate_overflows_nothing() -> None:
    vectors = np.array([[0, 0], [0, 1], [1, 0]], np.float32)
    target = np.array([[0, 0], [30, 0]], np.float32)  # a cost of 900, 9,000 times epsilon
    found = learn_potentials(vectors, target, Sinkhorn(0.1, tolerance=1e-4))
    assert found.error <= 1e-4
    exact = gradients(vectors.astype(np.float64), target.astype(np.float64), 0.1)
    assert calibrate(candidate_potentials(vectors, target, found)) == pytest.approx(exact, abs=1e-2)


@pytest.mark.parametrize("momentum", [0.5, 1.0, 1.3, 1.9])
def test_momentum_changes_the_way_and_not_the_end(momentum: float) -> None:
    how = Sinkhorn(1.0, tolerance=1e-10, momentum=momentum)
    found = learn_potentials(LINE, ENDS, how)
    assert found.iterations > 0
    assert calibrate(candidate_potentials(LINE, ENDS, found)) == pytest.approx(
        [-0.719488, -0.185013, 0.904501], abs=1e-6
    )


@EXAMPLES
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_the_mean_cost_is_that_of_all_pairs(seed: int, count: int, targets: int) -> None:
    vectors, target = some_points(seed, count), some_points(seed + 1, targets)
    pairs = np.square(vectors[:, None] - target[None]).sum(axis=2)
    assert mean_cost(vectors, target) == pytest.approx(pairs.mean())


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(got_d, "COSTS_AT_ONCE", {"cpu": 1})
    vectors, target = some_points(0, 1000, 8).astype(np.float32), some_points(1, 9, 8).astype(np.float32)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(runner.RunnerChoice, "threads", threads)
        learnt = learn_potentials(vectors, target, Sinkhorn(1.0))
        found.append((learnt.f.tolist(), candidate_potentials(vectors, target, learnt).tolist()))
    assert found[0] == found[1]


def test_the_lowest_gradients_are_kept_and_contrast_keeps_the_highest() -> None:
    vectors = in_play(LINE, ENDS)
    nearest = got_d_of(keep_examples=1).decide_with(rows(3), vectors, 0)
    assert kept_rows(nearest) == [0]
    assert scores(nearest) == pytest.approx([-0.965343, 0.430685, 0.534657], abs=1e-2)
    assert nearest.columns["ot_rank"].to_pylist() == [1, 2, 3]
    # mean cost (0 + 1 + 9 + 4 + 1 + 1) / 6 = 2.67; f = 0 happens to be the solution
    facts = "epsilon 0.0375 of the mean cost, error "
    assert nearest.reason[0].startswith(f"got_d: among the lowest transport gradients ({facts}")
    assert nearest.reason[2].startswith(f"got_d: not among the lowest transport gradients ({facts}")
    assert nearest.reason[1].endswith(" after 0 iterations)")
    away = got_d_of(keep_examples=1, direction="contrast").decide_with(rows(3), vectors, 0)
    assert kept_rows(away) == [2]
    assert away.columns["ot_rank"].to_pylist() == [3, 2, 1]
    assert scores(away) == scores(nearest)
    assert got_d_of(keep=1).target_file == "t.jsonl"


def test_it_keeps_what_the_candidates_lack_and_not_all_that_is_near() -> None:
    # 20 rows at 0, as half of the target is: there are more than enough. Only one is near the other half.
    vectors = np.concatenate([np.linspace(-0.01, 0.01, 20), [1.5], np.full(9, -3)])[:, None]
    target = np.array([[0.0], [1.0]])
    found = got_d_of(keep_examples=1).decide_with(rows(30), in_play(vectors, target), 0)
    assert kept_rows(found) == [20]


def test_scale_cost_makes_the_regularisation_a_fraction_of_the_mean_cost() -> None:
    vectors = in_play(LINE, ENDS)
    settings = {"keep_examples": 1, "tolerance": 1e-5}
    fraction = got_d_of(regularisation=0.5, scale_cost="mean", **settings).decide_with(rows(3), vectors, 0)
    plain = got_d_of(regularisation=0.5 * 16 / 6, **settings).decide_with(rows(3), vectors, 0)
    assert scores(fraction) == pytest.approx(scores(plain))
    larger = in_play(10 * LINE, 10 * ENDS)
    scaled = got_d_of(regularisation=0.5, scale_cost="mean", **settings).decide_with(rows(3), larger, 0)
    assert scores(scaled) == pytest.approx([100 * (value or 0) for value in scores(fraction)], rel=1e-3)
    alike = in_play(np.ones((3, 2)), np.ones((1, 2)))  # a mean cost of 0
    assert scores(got_d_of(scale_cost="mean", **settings).decide_with(rows(3), alike, 0)) == [0, 0, 0]


def test_a_sample_learns_and_all_are_scored() -> None:
    vectors = in_play(some_points(0, 600), some_points(1, 20) + 1)
    settings = {"keep": 0.2, "regularisation": 1.0}
    whole, few, others = (
        got_d_of(sample=sample, **settings).decide_with(rows(600), vectors, seed)
        for sample, seed in ((10_000, 0), (300, 0), (300, 1))
    )
    assert scores(few) != scores(whole)
    assert scores(few) != scores(others)
    assert None not in scores(few)
    assert sum(value or 0 for value in scores(few)) == pytest.approx(0, abs=1e-6)
    assert (few.keep & whole.keep).sum() >= 0.9 * whole.keep.sum()
    assert scores(got_d_of(sample=600, **settings).decide_with(rows(600), vectors, 1)) == scores(whole)


def test_what_has_not_converged_is_an_error_that_says_what_to_do() -> None:
    vectors = in_play(some_points(0, 30), some_points(1, 9) + 2)
    settings = {"keep": 0.5, "regularisation": 0.01, "max_iterations": 2}
    with pytest.raises(
        ValueError, match=r"got_d: Sinkhorn has not converged after 2 iterations.*0\.01 is wanted.*raise it"
    ):
        got_d_of(**settings).decide_with(rows(30), vectors, 0)
    forced = got_d_of(allow_unconverged=True, **settings).decide_with(rows(30), vectors, 0)
    assert len(kept_rows(forced)) == 15
    assert forced.reason[0].endswith("after 2 iterations)")


def test_vectors_that_are_not_finite_are_refused_even_if_forced() -> None:
    vectors = in_play(np.array([[np.nan], [1.0]]), ENDS)
    with pytest.raises(ValueError, match="off by nan"):
        got_d_of(keep=1, allow_unconverged=True).decide_with(rows(2), vectors, 0)


def test_rows_without_a_vector_or_a_token_count_have_no_score() -> None:
    table = candidates([1.0] * 4, prompt_tokens=[10, None, 10, 10])
    vectors = in_play(np.array([[0.0], [0], [0], [3]]), ENDS, [True, True, False, True])
    found = got_d_of(keep_tokens=1000).decide_with(table, vectors, 0)
    assert kept_rows(found) == [0, 3]
    assert found.reason[1:3].tolist() == ["got_d: no token count", "got_d: no vector"]
    for column in found.columns.values():
        assert column.is_valid().to_pylist() == [True, False, False, True]
    fraction = got_d_of(keep=0.5).decide_with(table, vectors, 0)
    assert len(kept_rows(fraction)) == 2  # of all four, counted or not


def test_no_row_and_one_row_and_budgets_of_nothing_and_more_than_all() -> None:
    none = got_d_of(keep=1).decide_with(rows(0), in_play(np.zeros((0, 1)), ENDS), 0)
    assert (len(none.keep), len(none.reason), len(none.columns["ot_score"])) == (0, 0, 0)
    unknown = got_d_of(keep=1).decide_with(rows(2), in_play(LINE[:2], ENDS, [False] * 2), 0)
    assert unknown.reason.tolist() == ["got_d: no vector"] * 2
    one = got_d_of(keep=1).decide_with(rows(1), in_play(LINE[:1], ENDS), 0)
    assert (kept_rows(one), scores(one)) == ([0], [0])
    for budget, kept in (({"keep_examples": 0}, 0), ({"keep_tokens": 0}, 0), ({"keep_examples": 9}, 3)):
        found = got_d_of(**budget).decide_with(rows(3), in_play(LINE, ENDS), 0)
        assert len(kept_rows(found)) == kept


def test_a_target_without_a_vector_is_an_error() -> None:
    with pytest.raises(ValueError, match="no example of t.jsonl has a vector"):
        got_d_of(keep=1).decide_with(rows(3), in_play(LINE, ENDS[:0]), 0)


@pytest.mark.parametrize(
    "wrong",
    [{"regularisation": 0}, {"momentum": 2}, {"tolerance": 0}, {"sample": 0}, {"keep": None}],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        got_d_of(**{"keep": 0.5} | wrong)


def test_copies_share_a_score_and_ties_are_taken_by_id() -> None:
    table = candidates([1.0] * 4, ids=["d", "b", "c", "a"])
    found = got_d_of(keep_examples=2).decide_with(table, in_play(np.ones((4, 2)), np.ones((1, 2))), 0)
    assert len(set(scores(found))) == 1
    assert kept_rows(found) == [1, 3]


@EXAMPLES
@given(st.integers(0, 999), st.integers(1, 25), st.sampled_from([25, 8]), st.data())
def test_the_order_of_rows_changes_no_bit(seed: int, count: int, sample: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 3, (count, 2)).astype(np.float64)  # with copies
    known = random.random(count) < 0.8
    target = random.normal(size=(4, 2))
    order = np.array(data.draw(st.permutations(range(count))))
    selector = got_d_of(keep=0.5, sample=sample, regularisation=0.5)
    before = selector.decide_with(rows(count), in_play(points, target, known.tolist()), 0)
    shuffled = in_play(points[order], target, known[order].tolist())
    after = selector.decide_with(rows(count).take(pa.array(order)), shuffled, 0)
    assert after.keep.tolist() == before.keep[order].tolist()
    assert after.reason.tolist() == before.reason[order].tolist()
    for name, column in before.columns.items():
        assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@EXAMPLES
@given(st.integers(0, 999), st.integers(0, 25), st.integers(0, 26))
def test_a_budget_is_exact_and_nested(seed: int, count: int, keep: int) -> None:
    vectors = in_play(some_points(seed, count), some_points(seed + 1, 3))
    settings = {"regularisation": 1.0}
    less, more = (
        got_d_of(keep_examples=budget, **settings).decide_with(rows(count), vectors, 0).keep
        for budget in (keep, keep + 1)
    )
    assert less.sum() == min(keep, count)
    assert not (less & ~more).any()


@pytest.mark.realdata
def test_the_defaults_converge_on_real_data_and_find_word_problems(realdata: Path) -> None:
    from scorers.models.embedding import load_embedder
    from scorers.models.settings import EmbeddingSettings

    embedder = load_embedder(EmbeddingSettings(path=str(realdata / "models" / "potion-base-4m-int8")))
    with gzip.open(realdata / "alpaca" / "alpaca_data.json.gz", "rt", encoding="utf-8") as file:
        pool = [" ".join((row["instruction"], row["input"], row["output"])) for row in json.load(file)[:4000]]
    lines = (realdata / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()[:300]
    target = embedder.embed([" ".join(map(json.loads(line).get, ("question", "answer"))) for line in lines])
    embedded = embedder.embed(pool)
    vectors = Vectors(embedded.vectors, embedded.embedded, target.vectors)
    found = got_d_of(keep_examples=100).decide_with(rows(4000), vectors, 0)
    with_digits = np.array([any(letter.isdigit() for letter in text) for text in pool])
    assert with_digits[found.keep].mean() > 0.7
    assert with_digits.mean() < 0.4

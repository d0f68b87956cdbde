"""FAIT: the worked example, alignment against the textbook's table, pairs, and what must always hold."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors import alignment, fait
from pipelines.selectors.alignment import Text, could_share, number_tokens, read_states, read_text
from pipelines.selectors.fait import Fait
from pipelines.selectors.tokens import TokenBlock
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows
from tests.pipelines.selectors.token_rows import by_row, stored

Tokens = Sequence[int]
SIGMOID_1 = 1 / (1 + math.exp(-1))

texts = st.lists(st.integers(0, 3), max_size=12)  # few kinds of tokens, so that alignments are ambiguous
seeds = st.integers(0, 2**32 - 1)


class Stored:
    """The tokens of candidates; losses are 1, 2, 3 and so on unless given. Keeps what was asked for."""

    def __init__(self, rows: Sequence[Tokens], nll: Sequence[Sequence[float]] | None = None) -> None:
        self.rows = rows
        self.nll = nll or [range(1, len(row) + 1) for row in rows]
        self.asked: list[list[int]] = []

    def __call__(self, rows: npt.NDArray[np.int64]) -> Iterable[TokenBlock]:
        self.asked.append(rows.tolist())
        assert (np.diff(rows) > 0).all()
        return stored(token_ids=self.rows, token_nll=self.nll)(rows)


def answers(
    rows: Sequence[Tokens],
    correct: Sequence[float | None],
    group: str | None = None,
    **columns: Sequence[str] | None,
) -> pa.Table:
    """A table of answers, all to one prompt unless groups are given as letters."""
    groups = list(group or "a" * len(rows))
    lengths = [len(row) for row in rows]
    return candidates([1.0] * len(rows), group=groups, correct=correct, response_tokens=lengths, **columns)  # type: ignore[arg-type] # columns of text only


def weights_of(
    rows: Sequence[Tokens],
    correct: Sequence[float | None],
    *,
    nll: Sequence[Sequence[float]] | None = None,
    group: str | None = None,
    ids: Sequence[str] | None = None,
    **options: Any,  # noqa: ANN401 - numbers or text, as the option wants
) -> dict[int, list[float]]:
    """Row → weights of its tokens, for the rows that have such."""
    table, selector = answers(rows, correct, group, ids=ids), Fait(**options)
    found = selector.token_weights(table, selector.decide(table, 0), Stored(rows, nll))
    return {row: weights.tolist() for row, weights in by_row(found).items()}


def numbered(one: Tokens, other: Tokens) -> tuple[Text, npt.NDArray[np.integer]]:
    """A text to compare with, and the other in its numbers."""
    numbers, others = number_tokens(np.array(other, np.int32))
    return read_text(numbers, np.array(one, np.int32)), others


def common_tokens(one: Tokens, other: Tokens) -> int:
    return alignment.common_tokens(read_states(*numbered(one, other)))


def align(one: Tokens, other: Tokens) -> list[list[int]]:
    pairs: list[list[int]] = alignment.align(read_states(*numbered(one, other)), len(one)).tolist()
    return pairs


def sensitive_tokens(right: Tokens, wrong: Tokens) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    return alignment.sensitive_tokens(read_states(*numbered(right, wrong)), len(right))


def textbook_length(one: Tokens, other: Tokens) -> int:
    """Length of a longest common subsequence, as a textbook has it."""

    @cache
    def longest(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return longest(i - 1, j - 1) + 1
        return max(longest(i - 1, j), longest(i, j - 1))

    return longest(len(one), len(other))


# --- examples ---------------------------------------------------------------------------------------------

RIGHT, WRONG = [10, 11, 12, 13, 14, 15, 2], [10, 11, 12, 99, 14, 15, 2]  # one token of seven differs


def test_worked_example() -> None:
    # S is the fourth token, loss 3 in the right answer and 2 in the wrong one: g = sigmoid((3 - 2) / 1).
    found = weights_of([RIGHT, WRONG], [1, 0], nll=[[0.5, 0.5, 0.5, 3, 0.5, 0.5, 0.5], [9, 9, 9, 2, 9, 9, 9]])
    mean = (6 + 1 + SIGMOID_1) / 7
    expected = [1 / mean] * 3 + [(1 + SIGMOID_1) / mean] + [1 / mean] * 3
    assert found == {0: pytest.approx(expected)}


def test_strength_and_temperature_have_their_place() -> None:
    nll = [[0, 0, 0, 4, 0, 0, 0], [0, 0, 0, 2, 0, 0, 0]]
    weights = weights_of([RIGHT, WRONG], [1, 0], nll=nll, strength=3.0, temperature=2.0)[0]
    assert weights[3] / weights[0] == pytest.approx(1 + 3 * SIGMOID_1)
    sharp = weights_of([RIGHT, WRONG], [1, 0], nll=nll, strength=1.0, temperature=1e-300)[0]
    assert sharp[3] / sharp[0] == 2


def test_tokens_that_the_wrong_answer_lacks_have_nothing_to_compare_with() -> None:
    found = weights_of([[1, 2, 3, 4, 5], [1, 2, 4, 5]], [1, 0])
    assert [weight / found[0][0] for weight in found[0]] == pytest.approx([1, 1, 1.5, 1, 1])


@pytest.mark.parametrize(
    ("right", "wrong", "sensitive"),
    [
        ([1, 2, 3, 4], [1, 2, 9, 3, 4], [2]),  # the token that is due where the wrong answer goes on
        ([1, 2, 3, 4], [1, 2, 3, 4, 9, 9], [3]),  # the last where none follows
        ([1, 2, 3, 4], [9, 1, 2, 3, 4], [0]),
        ([1, 2, 3, 4], [9, 9], [0, 1, 2, 3]),
        ([1, 2, 3, 4], [], [0, 1, 2, 3]),
        ([], [1], []),
        ([1, 5, 3, 4], [1, 6, 3, 7, 4], [1, 3]),
    ],
)
def test_what_is_sensitive_in_a_right_answer(right: Tokens, wrong: Tokens, sensitive: list[int]) -> None:
    assert np.flatnonzero(sensitive_tokens(right, wrong)[0]).tolist() == sensitive


def test_right_answers_stay_wrong_ones_and_those_without_a_label_go() -> None:
    rows = [RIGHT, WRONG, RIGHT, RIGHT, WRONG]
    table = answers(rows, [1, 0, None, 1, 0], "aaabc", status=["ok", "ok", "overflow", "ok", "ok"])
    decisions = Fait().decide(table, 0)
    assert kept_rows(decisions) == [0, 3]
    assert decisions.reason.tolist() == [
        "fait: right answer, tokens weighed where a wrong one like it differs",
        "fait: wrong answer, serves as a rival only",
        "fait: no correct (status overflow)",
        "fait: right answer without a wrong one",
        "fait: wrong answer, serves as a rival only",
    ]
    assert decisions.weigh_tokens is not None
    assert decisions.weigh_tokens.tolist() == [True, False, False, False, False]


def test_only_the_rows_that_are_compared_are_read() -> None:
    rows = [RIGHT, WRONG, WRONG, RIGHT, WRONG, RIGHT]
    table, tokens = answers(rows, [1, 0, 0, 1, 0, None], "aaabca"), Stored(rows)
    selector = Fait(rivals=1)
    assert list(by_row(selector.token_weights(table, selector.decide(table, 0), tokens))) == [0]
    assert tokens.asked == [[0, 1]]


def test_stored_tokens_of_another_number_than_the_row_has_are_refused() -> None:
    table, selector = answers([RIGHT, WRONG], [1, 0]), Fait()
    damaged = Stored([RIGHT, WRONG[:-1]])
    with pytest.raises(ValueError, match="not as many as its response_tokens; delete the run's folder"):
        list(selector.token_weights(table, selector.decide(table, 0), damaged))


def test_an_answer_that_is_not_like_the_right_one_is_no_rival() -> None:
    far = [10, 11, 12, 96, 97, 98, 99]  # 3 of 7 tokens in common: 6 / 14
    assert weights_of([RIGHT, far], [1, 0]) == {}
    assert set(weights_of([RIGHT, far], [1, 0], similarity=3 / 7)) == {0}
    assert weights_of([RIGHT, far], [1, 0], similarity=0.429) == {}


def test_the_rival_most_like_the_right_answer_counts_and_of_equal_ones_the_first_by_id() -> None:
    near, other = [10, 11, 12, 13, 14, 99, 2], [10, 11, 98, 13, 97, 15, 2]
    assert np.argmax(weights_of([RIGHT, other, near], [1, 0, 0])[0]) == 5
    assert np.argmax(weights_of([RIGHT, WRONG, near], [1, 0, 0])[0]) == 3
    assert np.argmax(weights_of([RIGHT, WRONG, near], [1, 0, 0], ids=["x", "c", "b"])[0]) == 5


def test_no_more_rivals_are_compared_than_asked_for_the_first_by_id() -> None:
    near = [10, 11, 12, 13, 14, 15, 99]
    far = [10, 11, 12, 13, 98, 99, 2]
    assert np.argmax(weights_of([RIGHT, far, near], [1, 0, 0], rivals=2)[0]) == 6
    assert np.argmax(weights_of([RIGHT, far, near], [1, 0, 0], rivals=1)[0]) in (4, 5)
    assert np.argmax(weights_of([RIGHT, far, near], [1, 0, 0], ids=["a", "z", "b"], rivals=1)[0]) == 6


def test_a_wrong_answer_with_the_same_tokens_weighs_nothing() -> None:
    assert weights_of([RIGHT, RIGHT, WRONG], [1, 0, 0]) == {}
    assert weights_of([[], []], [1, 0]) == {}


def test_another_column_of_labels_may_be_named() -> None:
    table = answers([RIGHT, WRONG], [1, 0]).append_column("extra.passed", pa.array(["True", "false"]))
    assert kept_rows(Fait(correct="extra.passed").decide(table, 0)) == [0]


def test_nothing_right_gives_no_weights() -> None:
    assert weights_of([WRONG, WRONG], [0, 0]) == {}
    assert weights_of([], []) == {}


@pytest.mark.parametrize(
    "options",
    [{"similarity": 1.1}, {"strength": -1}, {"temperature": 0}, {"rivals": 0}, {"treshold": 1}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Fait(**options)  # type: ignore[arg-type] # wrong on purpose


# --- invariants -------------------------------------------------------------------------------------------


@EXAMPLES
@given(texts, texts, st.integers(0, 9))
def test_the_common_tokens_are_those_of_the_textbook_and_the_same_from_both_sides(
    one: Tokens, other: Tokens, least: int
) -> None:
    length = textbook_length(one, other)
    assert common_tokens(one, other) == common_tokens(other, one) == length
    assert could_share(*numbered(one, other), least) or length < least


@EXAMPLES
@given(texts, texts)
def test_an_alignment_is_a_longest_common_subsequence(one: Tokens, other: Tokens) -> None:
    pairs = align(one, other)
    assert len(pairs) == textbook_length(one, other)
    assert all(one[at] == other[there] for at, there in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))


def test_texts_of_more_than_a_machine_word_are_aligned_too() -> None:
    one = np.random.default_rng(0).integers(0, 9, 300).tolist()
    other = [token for at, token in enumerate(one) if at % 7]
    assert len(align(one, other)) == len(other)
    assert np.flatnonzero(sensitive_tokens(one, other)[0]).size == len(one) - len(other)
    for length in (63, 64, 65, 128, 129):
        assert len(align(one[:length], one[1:length])) == textbook_length(one[:length], one[1:length])


@EXAMPLES
@given(texts, texts)
def test_the_mask_is_empty_only_for_equal_texts_and_holds_what_is_not_common(
    right: Tokens, wrong: Tokens
) -> None:
    own, theirs = sensitive_tokens(right, wrong)
    assert (own.shape, theirs.shape) == ((len(right),), (len(wrong),))
    assert own.any() == (right != wrong and len(right) > 0)
    assert own.sum() >= len(right) - textbook_length(right, wrong)
    assert theirs.sum() == len(wrong) - textbook_length(right, wrong)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[list[int]], list[list[float]], list[float | None], str]:
    """Answers that are changed copies of one text, with losses, labels and groups."""
    count = draw(st.integers(0, 10))
    random = np.random.default_rng(draw(seeds))
    rows = []
    for _ in range(count):
        row = np.arange(100, 100 + random.integers(1, 9))
        rows.append(np.where(random.random(len(row)) < 0.25, random.integers(0, 5, len(row)), row).tolist())
    nll = [random.gamma(1, 3, len(row)).tolist() for row in rows]
    correct = [draw(st.sampled_from([1.0, 1.0, 0.0, 0.0, None])) for _ in rows]
    return rows, nll, correct, "".join(random.choice(list("ab"), count))


OPTIONS = st.fixed_dictionaries(
    {
        "similarity": st.sampled_from([0.0, 0.6, 0.9]),
        "strength": st.sampled_from([0.0, 1.0, 5.0]),
        "temperature": st.sampled_from([0.1, 1.0]),
        "rivals": st.integers(1, 3),
    }
)


@EXAMPLES
@given(prompts(), OPTIONS)
def test_weights_are_above_zero_with_mean_one_and_highest_on_the_sensitive_tokens(
    given_rows: tuple[list[list[int]], list[list[float]], list[float | None], str], options: dict[str, Any]
) -> None:
    rows, nll, correct, group = given_rows
    found = weights_of(rows, correct, nll=nll, group=group, **options)
    for row, weights in found.items():
        assert correct[row] == 1
        assert len(weights) == len(rows[row])
        assert min(weights) > 0
        assert np.mean(weights) == pytest.approx(1, abs=1e-6)
        assert max(weights) / min(weights) <= (1 + options["strength"]) * (1 + 1e-6)
        if options["strength"] == 0:
            assert weights == [1.0] * len(weights)


@EXAMPLES
@given(prompts(), OPTIONS, st.data())
def test_the_order_of_rows_and_the_size_of_parts_change_no_weight(
    given_rows: tuple[list[list[int]], list[list[float]], list[float | None], str],
    options: dict[str, Any],
    data: st.DataObject,
) -> None:
    rows, nll, correct, group = given_rows
    ids = [f"row{at}" for at in range(len(rows))]
    before = weights_of(rows, correct, nll=nll, group=group, ids=ids, **options)
    order = data.draw(st.permutations(range(len(rows))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fait, "TOKENS_AT_ONCE", data.draw(st.integers(1, 40)))
        patch.setattr(fait, "TOKENS_OF_A_BLOCK", data.draw(st.integers(1, 40)))
        after = weights_of(
            [rows[at] for at in order],
            [correct[at] for at in order],
            nll=[nll[at] for at in order],
            group="".join(group[at] for at in order),
            ids=[ids[at] for at in order],
            **options,
        )
    assert {order[row]: weights for row, weights in after.items()} == before


# --- real answers -----------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_most_right_answers_of_real_models_have_a_wrong_one_like_them(realdata: Path) -> None:
    rows: list[dict[str, Any]] = []
    for size in ("7b", "13b", "70b"):
        with gzip.open(realdata / "gsm8k_answers" / f"abel_gsm8k_{size}.jsonl.gz", "rt") as lines:
            rows += [json.loads(line) for _, line in zip(range(300), lines, strict=False)]
    vocabulary: dict[str, int] = {}
    texts = [[vocabulary.setdefault(w, len(vocabulary)) for w in row["response"].split(" ")] for row in rows]
    table = candidates(
        [1.0] * len(rows),
        group=[str(row["id"]) for row in rows],
        correct=[float(row["result"]) for row in rows],
        response_tokens=[len(text) for text in texts],
    )
    selector = Fait()
    decisions = selector.decide(table, 0)
    assert decisions.weigh_tokens is not None
    found = by_row(selector.token_weights(table, decisions, Stored(texts)))
    assert 0.4 < len(found) / decisions.weigh_tokens.sum() < 0.9
    # Some of the words differ, about a quarter.
    raised = [(weights > weights.min()).mean() for weights in found.values()]
    assert 0.1 < np.mean(raised) < 0.5

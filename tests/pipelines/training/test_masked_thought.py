"""Masked Thought: the schedule, what may be replaced and by what, and the same masks for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import Trainer

from pipelines.training.masked_thought import (
    MaskedThought,
    UnmaskedEvaluation,
    mask_rate,
    masked_copies,
)
from pipelines.training.token_losses import IGNORED
from tests.pipelines.training.toy import EXAMPLES, Recorded, collate, model, rows, seeds, trainer
from tests.scorers import toy_models

Row = dict[str, list[int]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:  # noqa: ANN401 - transformers is untyped
    fast = toy_models.tokenizer()
    fast.add_tokens(["<think>"])
    return fast


@pytest.fixture(scope="module")
def long_row(tokenizer: Any) -> Row:  # noqa: ANN401
    """Ten prompt tokens, 2,000 response tokens, a marker and the end of text."""
    random = np.random.default_rng(0)
    text = random.integers(2, 200, 2010).tolist()
    ids = [*text, tokenizer.convert_tokens_to_ids("<think>"), tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": [IGNORED] * 10 + ids[10:]}


def masked(tokenizer: Any, features: Sequence[Row], **options: Any) -> dict[str, Any]:  # noqa: ANN401
    return MaskedThought(collate, tokenizer, **({"warmup_batches": 0} | options))(features)


def copies_of(
    row: Row,
    count: int,
    *,
    rate: float = 0.4,
    seed: int = 0,
    name: str = "row",
    vocabulary: Sequence[int] = range(2, 300),
    protected: Sequence[int] = (0, 1),
) -> list[list[int]]:
    made = masked_copies(
        name,
        row["input_ids"],
        row["labels"],
        rate=rate,
        copies=count,
        vocabulary=vocabulary,
        protected=protected,
        seed=seed,
    )
    return [ids.tolist() for ids in made]


# --- examples ---------------------------------------------------------------------------------------------


def test_worked_example_of_the_schedule() -> None:
    assert [mask_rate(batch, 0.4, 66) for batch in (0, 33, 66, 99)] == pytest.approx([0, 0.2, 0.4, 0.4])


def test_the_rate_grows_over_the_first_batches(tokenizer: Any, long_row: Row) -> None:  # noqa: ANN401
    collator = MaskedThought(collate, tokenizer, 0.4, warmup_batches=4, kind="random")
    before = torch.tensor(long_row["input_ids"])
    found = [(collator([long_row])["input_ids"][0] != before).sum().item() / 2000 for _ in range(6)]
    expected = [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]
    # three standard deviations of a share of 2,000, less the chance to draw the same token again
    assert found == pytest.approx(expected, abs=3 * (0.24 / 2000) ** 0.5 + 0.4 / 300)
    resumed = MaskedThought(collate, tokenizer, 0.4, warmup_batches=4, batches_made=4)
    again = (resumed([long_row])["input_ids"][0] != before).sum().item() / 2000
    assert again == found[4]


def test_prompt_end_of_text_and_markers_are_never_replaced(tokenizer: Any, long_row: Row) -> None:  # noqa: ANN401
    made = masked(tokenizer, [long_row], rate=1.0)["input_ids"][0].tolist()
    assert made[:10] == long_row["input_ids"][:10]
    assert made[-2:] == long_row["input_ids"][-2:]
    assert np.mean(np.array(made[10:-2]) != np.array(long_row["input_ids"][10:-2])) > 0.98


def test_random_tokens_are_never_special(tokenizer: Any, long_row: Row) -> None:  # noqa: ANN401
    made = set(masked(tokenizer, [long_row], rate=1.0)["input_ids"][0, 10:-2].tolist())
    assert made.isdisjoint({*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids("<think>")})
    assert made <= set(tokenizer.get_vocab().values())
    assert len(made) > 200


def test_the_mask_token_is_the_tokenizers_or_its_padding(long_row: Row) -> None:
    fast = toy_models.tokenizer()
    with pytest.raises(ValueError, match="no mask token"):
        masked(fast, [long_row], kind="mask")
    fast.pad_token = fast.eos_token
    with pytest.raises(ValueError, match="no mask token"):
        masked(fast, [long_row], kind="mask")
    fast.pad_token = fast.bos_token
    made = masked(fast, [long_row], kind="mask", rate=1.0)["input_ids"][0]
    assert set(made[10:-2].tolist()) == {fast.bos_token_id}
    fast.add_special_tokens({"mask_token": "[MASK]"})
    made = masked(fast, [long_row], kind="mask", rate=1.0)["input_ids"][0]
    assert set(made[10:-2].tolist()) == {fast.mask_token_id}


def test_a_row_is_masked_anew_in_the_next_batch(tokenizer: Any, long_row: Row) -> None:  # noqa: ANN401
    collator = MaskedThought(collate, tokenizer, warmup_batches=0)
    assert not torch.equal(collator([long_row])["input_ids"], collator([long_row])["input_ids"])


def test_options_out_of_range_are_refused(tokenizer: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="rate"):
        MaskedThought(collate, tokenizer, 1.5, warmup_batches=0)
    with pytest.raises(ValueError, match="warmup_batches"):
        MaskedThought(collate, tokenizer, warmup_batches=-1)


def test_a_batch_without_labels_is_refused(tokenizer: Any) -> None:  # noqa: ANN401
    def no_labels(features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"input_ids": torch.zeros(len(features), 3)}

    with pytest.raises(ValueError, match="it returned input_ids"):
        MaskedThought(no_labels, tokenizer, warmup_batches=0)([{}])


def test_copies_replace_the_asked_for_share_each_in_other_places(tokenizer: Any, long_row: Row) -> None:  # noqa: ANN401
    protected = [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]
    vocabulary = sorted(tokenizer.get_vocab().values())
    made = np.array(copies_of(long_row, 3, vocabulary=vocabulary, protected=protected))
    changed = made != np.array(long_row["input_ids"])
    assert not changed[:, :10].any()
    assert not changed[:, -2:].any()  # a chat marker and the end of text
    # three standard deviations of a share of 2,000, less the chance to draw the same token again
    assert changed.sum(axis=1) / 2000 == pytest.approx(0.4, abs=3 * (0.24 / 2000) ** 0.5 + 0.4 / 300)
    assert (changed[0] & changed[1]).sum() / changed[0].sum() == pytest.approx(0.4, abs=0.06)
    put_in = set(made[changed].tolist())
    assert put_in.isdisjoint(protected)
    assert len(put_in) > 200


def test_copies_with_a_mask_token_hold_nothing_else(long_row: Row) -> None:
    (made,) = copies_of(long_row, 1, rate=1.0, vocabulary=[301], protected=[0, 1])
    assert set(made[10:-2]) == {301}
    with pytest.raises(ValueError, match="leave a mask token out of `protected`"):
        copies_of(long_row, 1, vocabulary=[301], protected=[0, 1, 301])


def test_copies_that_cannot_be_made_are_refused(long_row: Row) -> None:
    with pytest.raises(ValueError, match="rate is -0.1"):
        copies_of(long_row, 1, rate=-0.1)
    with pytest.raises(ValueError, match="-1 copies"):
        copies_of(long_row, -1)
    with pytest.raises(ValueError, match="row: 1 copies of 2 input_ids with 1 labels"):
        copies_of({"input_ids": [1, 2], "labels": [2]}, 1)


def test_copies_are_made_by_datasets_as_the_module_says() -> None:
    plain = [{"id": f"row{at}", **row, "reason": "kept"} for at, row in enumerate(ROWS)]
    train = datasets.Dataset.from_list(plain)

    def mask(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made = [
            masked_copies(*row, rate=0.4, copies=3, vocabulary=range(2, 60), protected=[0, 1])
            for row in zip(batch["id"], batch["input_ids"], batch["labels"], strict=True)
        ]
        labels = [own for own in batch["labels"] for _ in range(3)]
        return {"input_ids": [ids for copies in made for ids in copies], "labels": labels}

    found = train.map(mask, batched=True, batch_size=5, remove_columns=train.column_names)
    assert found.column_names == ["input_ids", "labels"]
    assert found["labels"][:] == [row["labels"] for row in ROWS for _ in range(3)]
    expected = [copies_of(row, 3, name=f"row{at}", vocabulary=range(2, 60)) for at, row in enumerate(ROWS)]
    assert found["input_ids"][:] == [ids for copies in expected for ids in copies]


# --- invariants -------------------------------------------------------------------------------------------

ROWS = rows(12)
some_rows = st.lists(st.sampled_from(ROWS), min_size=1, max_size=6)


@EXAMPLES
@given(some_rows, st.floats(0, 1), seeds)
def test_labels_and_all_that_is_no_response_stay_as_they_are(
    tokenizer: Any,  # noqa: ANN401
    features: list[Row],
    rate: float,
    seed: int,
) -> None:
    plain, made = collate(features), masked(tokenizer, features, rate=rate, seed=seed)
    assert torch.equal(made["labels"], plain["labels"])
    assert torch.equal(made["attention_mask"], plain["attention_mask"])
    untouched = (plain["labels"] == IGNORED) | (plain["input_ids"] < 2)
    assert torch.equal(made["input_ids"][untouched], plain["input_ids"][untouched])
    assert made["input_ids"].dtype == plain["input_ids"].dtype


@EXAMPLES
@given(some_rows, seeds)
def test_the_same_seed_gives_the_same_masks_whatever_the_other_rows(
    tokenizer: Any,  # noqa: ANN401
    features: list[Row],
    seed: int,
) -> None:
    together = masked(tokenizer, features, seed=seed)["input_ids"]
    for row, feature in zip(together, features, strict=True):
        alone = masked(tokenizer, [feature], seed=seed)["input_ids"][0]
        assert row[: len(alone)].tolist() == alone.tolist()


@EXAMPLES
@given(some_rows)
def test_a_rate_of_zero_changes_nothing(tokenizer: Any, features: list[Row]) -> None:  # noqa: ANN401
    assert torch.equal(masked(tokenizer, features, rate=0)["input_ids"], collate(features)["input_ids"])


@EXAMPLES
@given(st.sampled_from(ROWS), st.floats(0, 1), seeds, st.integers(0, 3), st.integers(0, 3))
def test_copies_depend_on_seed_row_and_number_only_and_leave_the_rest(
    row: Row, rate: float, seed: int, fewer: int, more: int
) -> None:
    made = copies_of(row, fewer + more, rate=rate, seed=seed)
    assert made[:fewer] == copies_of(row, fewer, rate=rate, seed=seed)
    for ids in made:
        assert len(ids) == len(row["input_ids"])
        for own, before, label in zip(ids, row["input_ids"], row["labels"], strict=True):
            assert own == before if label == IGNORED or before < 2 else own >= 2
    assert copies_of(row, 2, rate=0, seed=seed) == [row["input_ids"]] * 2


def test_other_seeds_rows_and_numbers_give_other_copies(long_row: Row) -> None:
    first, second = copies_of(long_row, 2)
    assert first != second
    assert copies_of(long_row, 1, seed=1) != [first]
    assert copies_of(long_row, 1, name="other") != [first]


@pytest.mark.filterwarnings("ignore")  # torch on forks of a process with threads
def test_workers_make_the_masks_of_one_process_and_go_on_counting_in_the_next_epoch(tokenizer: Any) -> None:  # noqa: ANN401
    def two_epochs(workers: int) -> list[list[list[int]]]:
        collator = MaskedThought(collate, tokenizer, 0.9, warmup_batches=8)
        loader = DataLoader(ROWS, batch_size=3, collate_fn=collator, num_workers=workers)  # type: ignore[arg-type, var-annotated] # a list is a dataset
        return [batch["input_ids"].tolist() for _ in range(2) for batch in loader]

    alone = two_epochs(0)
    assert two_epochs(2) == alone
    assert alone[:4] != alone[4:]


@pytest.mark.filterwarnings("ignore")  # what accelerate says of a machine without a GPU
def test_a_trainer_trains_on_masked_rows_and_evaluates_on_plain_ones(tmp_path: Path, tokenizer: Any) -> None:  # noqa: ANN401
    class MaskedThoughtTrainer(UnmaskedEvaluation, Trainer):
        pass

    tokens = toy_models.tokenizer()
    tokens.get_vocab = lambda: {"a": 60, "b": 61}  # within the model's vocabulary
    seen = Recorded()
    collator = MaskedThought(seen, tokens, 1.0, warmup_batches=0)
    net = model()
    own = trainer(net, tmp_path, kind=MaskedThoughtTrainer, collator=collator, eval_dataset=rows(8, seed=1))
    read: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, __, batch: read.append(batch["input_ids"]), with_kwargs=True)
    own.train()
    assert len(read) == 2
    for batch, ids in zip(seen.batches, read, strict=False):  # a batch is made ahead
        response = batch["labels"] != IGNORED
        assert set(ids[response].tolist()) == {60, 61}
        assert torch.equal(ids[~response], batch["input_ids"][~response])
    read.clear()
    own.evaluate()
    assert torch.equal(read[0], collate(rows(8, seed=1))["input_ids"])
    assert own.data_collator is collator

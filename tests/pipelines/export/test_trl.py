"""TRL's own trainers load what is exported for them, and see the messages, masks and weights of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import message
from pipelines.export.export import export
from pipelines.training.weighted import WeightedCollator, WithWeights
from tests.draws import draws
from tests.pipelines.corpus import MODEL
from tests.pipelines.export.runs import (
    TOOLS,
    Kept,
    call,
    chat,
    make_run,
    parquet_rows,
    tokenizer,
    with_tool,
)

# What TRL, accelerate and torch say of a machine without a GPU is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [Kept(chat(f"Question {n}?", f"The answer is {n}, שלום 🦆.")) for n in range(4)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def load(folder: Path) -> Any:  # noqa: ANN401 - datasets is untyped
    return datasets.load_dataset("parquet", data_files=str(folder / "train" / "*.parquet"), split="train")


def sft(folder: Path, work: Path, *, weighted: bool = False, **options: Any) -> Any:  # noqa: ANN401 - TRL is untyped
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    class WeightedTrainer(WithWeights, SFTTrainer):
        pass

    collator = {"data_collator": WeightedCollator(tokenizer().pad_token_id)} if weighted else {}
    return (WeightedTrainer if weighted else SFTTrainer)(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        processing_class=tokenizer(),
        train_dataset=load(folder),
        args=SFTConfig(
            output_dir=str(work / "tuned"), max_length=None, max_steps=1, per_device_train_batch_size=8,
            use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
            remove_unused_columns=not weighted, **options,
        ),
        **collator,
    )  # fmt: skip


def prepared(trainer: Any) -> list[tuple[list[int], list[int]]]:  # noqa: ANN401 - TRL is untyped
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


def of_run(out: Path) -> list[tuple[list[int], list[int]]]:
    return [(row["input_ids"], row["labels"]) for row in parquet_rows(out / "train")]


def test_sft_trainer_makes_the_tokens_that_were_scored_of_the_messages(tmp_path: Path) -> None:
    kept = [*ROWS, Kept(with_tool(), tools=TOOLS), Kept([*chat("a", "b"), *chat("c", "d")])]
    out = make_run(tmp_path / "out", kept)
    assert prepared(sft(export(out, "trl").folder, tmp_path)) == of_run(out)


def test_sft_trainer_takes_ids_and_labels_as_they_are(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [*ROWS, Kept(chat("Which?", "These and those."), pruned=(0, 2))])
    assert prepared(sft(export(out, "trl-tokenised").folder, tmp_path)) == of_run(out)


def test_weights_of_rows_and_tokens_reach_the_batch(tmp_path: Path) -> None:
    kept = [*ROWS, Kept(chat("What?", "That."), weight=0.5), Kept(chat("How?", "So so."), token_weight=0.25)]
    out = make_run(tmp_path / "out", kept)
    trainer = sft(export(out, "trl-tokenised").folder, tmp_path, weighted=True)
    batch = next(iter(trainer.get_train_dataloader()))
    weights = {
        tuple(ids[: int(mask.sum())].tolist()): weight[labels != -100].unique().tolist()
        for ids, mask, labels, weight in zip(*(batch[name] for name in BATCH), strict=True)
    }
    expected = [1.0] * 4 + [0.5, 0.25]
    assert [weights[tuple(ids)] for ids, _ in of_run(out)] == [[weight] for weight in expected]
    assert trainer.train().training_loss > 0


BATCH = ("input_ids", "attention_mask", "labels", "token_weights")


def test_when_every_answer_is_trained_on_the_conversation_stays_whole(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [Kept([*chat("a", "b"), *chat("c", "d")])], loss_on="all")
    (row,) = load(export(out, "trl").folder)
    assert [turn["content"] for turn in row["messages"]] == ["a", "b", "c", "d"]


def test_arguments_of_tool_calls_come_back_as_they_were(tmp_path: Path) -> None:
    def turns(arguments: str) -> list[Any]:
        return [message("user", "do it"), message("assistant", "", [call(arguments)])]

    arguments = ['{"a": 1}', '{"b": {"c": [1, null]}}', "{broken"]
    out = make_run(tmp_path / "out", [*map(Kept, map(turns, arguments)), *ROWS], tokens=False)
    rows = load(export(out, "trl").folder)
    calls = [row["completion"][0]["tool_calls"][0]["function"] for row in rows.select(range(3))]
    assert [function["arguments"] for function in calls] == [{"a": 1}, {"b": {"c": [1, None]}}, "{broken"]
    assert rows[3]["completion"] == [{"role": "assistant", "content": "The answer is 0, שלום 🦆."}]


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: bool(text.strip()))


@draws(15)
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_messages_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    work = tmp_path_factory.mktemp("trip")
    out = make_run(work / "out", [Kept(chat(*pair)) for pair in pairs], tokens=False)
    rows = parquet_rows(export(out, "trl").folder / "train")
    assert [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows] == pairs
    assert [row["id"] for row in rows] == [f"rows/kept:{at:04d}" for at in range(len(pairs))]


def test_dpo_trainer_loads_the_pairs(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    kept = [
        Kept(chat("Two and two?", "Four.")),
        Kept(chat("  two AND two? ", "It is four.")),
        Kept(chat("Best?", "This."), extra={"rejected": "That."}),
        Kept(chat("Alone?", "Yes.")),
        Kept(chat("Doubtful?", "Perhaps."), verdict="suspect"),
    ]
    wrong = [chat("Two and two?", "Five."), chat("Doubtful?", "No."), chat("Other?", "No.")]
    done = export(make_run(tmp_path / "out", kept, wrong=wrong), "dpo")
    rows = load(done.folder)
    pairs = [(row["id"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs == [
        ("rows/kept:0000", "Four.", "Five."),
        ("rows/kept:0001", "It is four.", "Five."),
        ("rows/kept:0002", "This.", "That."),
    ]
    assert rows["rejected_id"][:] == ["rows/wrong:0", "rows/wrong:0", None]
    assert "3 of 5 kept rows have a rival" in done.written.notes[0]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        args=DPOConfig(output_dir=str(tmp_path / "tuned"), use_cpu=True, bf16=False, report_to=[]),
        train_dataset=rows,
        processing_class=tokenizer(),
    )
    first = trainer.train_dataset[0]
    assert tokenizer().decode(first["rejected_ids"]).startswith("Five.")


def test_several_wrong_answers_are_taken_in_turn(tmp_path: Path) -> None:
    kept = [Kept(chat("Two?", f"2, {n}")) for n in range(3)]
    wrong = [chat("Two?", "3"), chat("Two?", "4")]
    rows = parquet_rows(export(make_run(tmp_path / "out", kept, wrong=wrong), "dpo").folder / "train")
    assert [row["rejected"][0]["content"] for row in rows] == ["3", "4", "3"]


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ([{"role": "user", "content": "another"}, {"role": "assistant", "content": "b"}], "another prompt"),
        ({"weight": 3}, "unknown form"),
        ("Yes.", "the same"),
    ],
)
def test_a_rejected_answer_that_makes_no_pair_is_named(tmp_path: Path, rejected: Any, reason: str) -> None:  # noqa: ANN401
    kept = [Kept(chat("Well?", "Yes."), extra={"rejected": rejected})]
    with pytest.raises(ValueError, match=f"{reason}|no pairs"):
        export(make_run(tmp_path / "out", [*kept, *ROWS]), "dpo")


def test_a_run_without_rivals_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        export(make_run(tmp_path / "out", ROWS), "dpo")


def test_pairs_whose_texts_are_gone_are_refused(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", ROWS, wrong=[chat("Question 1?", "no")])
    for path in (out / ".winnow" / "ingest-k").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no texts of dropped rows"):
        export(out, "dpo")

"""The formats of trainers that are not installed here, against a statement of what their loaders accept.

Sources: LLaMA-Factory at ff6d4d1 (src/llamafactory/data/converter.py, v1/utils/types.py), axolotl at 067b021
(src/axolotl/prompt_strategies/chat_template.py, utils/data/wrappers.py), OpenAI's guide to supervised
fine-tuning. By hand, the loaders of both trainers read what is exported: LLaMA-Factory's newer core and
axolotl make the token ids of the run of it, and axolotl its labels (but none after the end of a turn).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.examples import message
from pipelines.export.export import export
from pipelines.export.rows import Unfit
from pipelines.export.spans import Answer, text_spans
from tests.draws import draws
from tests.pipelines.export.runs import (
    IGNORED,
    TOOLS,
    Kept,
    call,
    chat,
    json_lines,
    make_run,
    parquet_rows,
    tokenizer,
    with_tool,
)

TWO_TURNS = [message("system", "Be brief."), *chat("One?", "1"), *chat("Two?", "2 🦆")]
KEPT = [Kept(TWO_TURNS), Kept(with_tool(), tools=TOOLS), Kept(chat("Who?", "שלום\n\nyou"))]


def exported(tmp_path: Path, name: str, kept: Sequence[Kept] = KEPT, **options: Any) -> Path:  # noqa: ANN401
    return export(make_run(tmp_path / "out", kept, **options), name).folder


# LLaMA-Factory


def test_sharegpt_turns_alternate_and_dataset_info_points_to_them(tmp_path: Path) -> None:
    folder = exported(tmp_path, "llama-factory")
    info = json.loads((folder / "dataset_info.json").read_text())["winnow"]
    rows = json_lines(folder / info["file_name"])
    assert info["formatting"] == "sharegpt"
    for row in rows:
        assert set(info["columns"].values()) <= set(row)
        turns = row[info["columns"]["messages"]]
        assert len(turns) % 2 == 0
        for at, turn in enumerate(turns):
            assert turn["from"] in (("human", "observation"), ("gpt", "function_call"))[at % 2]
            assert isinstance(turn["value"], str)
    assert rows[0]["system"] == "Be brief."
    assert [turn["value"] for turn in rows[0]["conversations"]] == ["One?", "1", "Two?", "2 🦆"]
    assert json.loads(rows[1]["tools"]) == json.loads(TOOLS)
    calls = json.loads(rows[1]["conversations"][1]["value"])
    assert calls == [{"name": "add", "arguments": {"a": 1, "b": 2}}]
    assert [row["id"] for row in rows] == [f"rows/kept:{at:04d}" for at in range(3)]


def test_alpaca_has_earlier_turns_as_history(tmp_path: Path) -> None:
    folder = exported(tmp_path, "llama-factory-alpaca", [KEPT[0], KEPT[2]])
    first, second = json_lines(folder / "train.jsonl")
    assert first == {
        "id": "rows/kept:0000", "instruction": "Two?", "input": "", "output": "2 🦆", "system": "Be brief.",
        "history": [["One?", "1"]],
    }  # fmt: skip
    assert (second["instruction"], second["output"], second["history"]) == ("Who?", "שלום\n\nyou", [])


def test_text_beside_a_tool_call_does_not_fit_the_older_core(tmp_path: Path) -> None:
    turns = [message("user", "do"), message("assistant", "I will.", [call()])]
    with pytest.raises(ValueError, match="text beside a tool call"):
        exported(tmp_path, "llama-factory", [Kept(turns)])
    out = make_run(tmp_path / "v1", [Kept(turns)])
    (row,) = json_lines(export(out, "llama-factory-v1").folder / "train.jsonl")
    assert [part["type"] for part in row["messages"][-1]["content"]] == ["text", "tool_call"]


@pytest.mark.parametrize(("loss_on", "weights"), [("last", [0, 0, 0, 0, 0.5]), ("all", [0, 0, 0.5, 0, 0.5])])
def test_the_newer_core_gets_the_weight_of_the_row(
    tmp_path: Path, loss_on: str, weights: list[float]
) -> None:
    folder = exported(tmp_path, "llama-factory-v1", [Kept(TWO_TURNS, weight=0.5)], loss_on=loss_on)
    (row,) = json_lines(folder / "train.jsonl")
    assert [turn["loss_weight"] for turn in row["messages"]] == weights
    for turn in row["messages"]:
        assert turn["role"] in ("system", "user", "assistant", "tool")
        assert all(part["type"] == "text" and part["value"] for part in turn["content"])


# OpenAI


def test_openai_lines_have_what_the_guide_allows_and_nothing_else(tmp_path: Path) -> None:
    folder = exported(tmp_path, "openai")
    lines = json_lines(folder / "train.jsonl")
    assert json_lines(folder / "ids.jsonl") == [f"rows/kept:{at:04d}" for at in range(3)]
    for line in lines:
        assert set(line) <= {"messages", "tools", "parallel_tool_calls"}
        for turn in line["messages"]:
            allowed = {"role", "content", "name", "weight", "tool_calls", "tool_call_id"}
            assert set(turn) <= allowed
            assert ("weight" in turn) == (turn["role"] == "assistant")
    assert [turn.get("weight") for turn in lines[0]["messages"]] == [None, None, 0, None, 1]
    calls = lines[1]["messages"][2]["tool_calls"]
    assert calls[0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert lines[1]["messages"][3] == {"role": "tool", "content": "3", "tool_call_id": calls[0]["id"]}
    assert lines[1]["tools"] == json.loads(TOOLS)


def test_openai_gets_a_weight_of_0(tmp_path: Path) -> None:
    folder = exported(tmp_path, "openai", [Kept(TWO_TURNS, weight=0.0)], loss_on="all")
    (line,) = json_lines(folder / "train.jsonl")
    assert [turn["weight"] for turn in line["messages"] if turn["role"] == "assistant"] == [0, 0]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([message("user", "a"), message("tool", "3"), message("assistant", "b")], "without a call"),
        ([message("user", "a"), message("assistant", "", [call(name="my tool")])], "a name with characters"),
    ],
)
def test_what_openai_would_refuse_is_named(tmp_path: Path, turns: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        exported(tmp_path, "openai", [*KEPT, Kept(turns)])


# axolotl


def test_every_turn_says_whether_it_is_trained_on(tmp_path: Path) -> None:
    rows = parquet_rows(exported(tmp_path, "axolotl") / "train")
    assert [turn["train"] for turn in rows[0]["messages"]] == [False, False, False, False, True]
    assert all(turn["train_detail"] is None for row in rows for turn in row["messages"])
    function = rows[1]["messages"][2]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"a": 1, "b": 2}
    both = parquet_rows(exported(tmp_path / "all", "axolotl", loss_on="all") / "train")
    assert [turn["train"] for turn in both[0]["messages"]] == [False, False, True, False, True]


def test_spans_tell_which_words_are_trained_on(tmp_path: Path) -> None:
    text = "All of these words are here."
    (row,) = parquet_rows(
        exported(tmp_path, "axolotl", [Kept(chat("Which?", text), pruned=(1, 2))]) / "train"
    )
    spans = row["messages"][-1]["train_detail"]
    parts = [text[span["begin_offset"] : span["end_offset"] + 1] for span in spans]
    ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert "".join(parts) == text
    assert [span["train"] for span in spans] == [True, False, True]
    assert parts[1] == tokenizer().decode(ids[1:3])


def test_an_answer_without_a_trained_token_is_no_trained_turn(tmp_path: Path) -> None:
    kept = [*KEPT, Kept(chat("Which?", "None."), pruned=range(20))]
    row = parquet_rows(exported(tmp_path, "axolotl", kept) / "train")[3]
    assert [(turn["train"], turn["train_detail"]) for turn in row["messages"]] == [(False, None)] * 2


def test_a_mask_of_the_end_of_a_turn_cannot_be_told_in_spans(tmp_path: Path) -> None:
    kept = [*KEPT, Kept(chat("Which?", "These."), pruned=(-2, -1))]
    out = make_run(tmp_path / "out", kept)
    with pytest.raises(
        ValueError, match=r"spans of characters cannot tell: 1 of 4 rows.*\n?.*axolotl-tokenised"
    ):
        export(out, "axolotl")
    assert export(out, "axolotl", lossy=True).written.rows == 4


def test_masks_need_the_tokenizer_of_the_run(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [Kept(chat("Which?", "These words."), pruned=(0,))])
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["recipe"]["model"]["path"] = str(tmp_path)
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="export axolotl-tokenised, which needs none"):
        export(out, "axolotl")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)


@draws(150)
@given(text=texts, seed=st.integers(0, 2**32 - 1))
@example(text="cq中", seed=0b110)  # the mask ends after the first byte of a character
def test_spans_mark_the_tokens_of_the_mask_or_are_refused(text: str, seed: int) -> None:
    ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
    trained = [bool(seed >> at % 32 & 1) for at in range(len(ids))]
    end = tokenizer().convert_tokens_to_ids("<|im_end|>")
    answer = Answer([*ids, end], [*trained, True])
    try:
        spans = text_spans(tokenizer(), text, answer)
    except Unfit:
        return
    assert (marked(text, spans) if spans else [True] * len(ids)) == trained


def marked(text: str, spans: Sequence[Any]) -> list[bool]:
    """Which tokens of a text axolotl trains on: those that lie in a span, each reaching to the next one."""
    starts = [
        start
        for start, _ in tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    ]
    ends = [start - 1 for start in starts[1:]] + [len(text) - 1]
    return [
        any(span["train"] and start >= span["begin_offset"] and end <= span["end_offset"] for span in spans)
        for start, end in zip(starts, ends, strict=True)
    ]


def test_tokenised_rows_have_the_three_columns_axolotl_knows_them_by(tmp_path: Path) -> None:
    kept = [*KEPT, Kept(chat("Which?", "These words."), pruned=(0,))]
    folder = exported(tmp_path, "axolotl-tokenised", kept)
    rows = parquet_rows(folder / "train")
    assert set(rows[0]) == {"input_ids", "attention_mask", "labels"}
    of_run = parquet_rows(tmp_path / "out" / "train")
    for row, own in zip(rows, of_run, strict=True):
        assert row == {
            "input_ids": own["input_ids"], "attention_mask": [1] * len(own["input_ids"]), 
            "labels": own["labels"],
        }  # fmt: skip
    assert [row["id"] for row in parquet_rows(folder / "ids")] == [row["id"] for row in of_run]
    assert sum(label != IGNORED for label in rows[3]["labels"]) == of_run[3]["response_tokens"] - 1


# datasets


def test_the_folder_of_the_card_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = exported(tmp_path, "datasets", wrong=[chat("no", "never")])
    rows = datasets.load_dataset(str(folder), split="train")
    assert rows["id"][:] == [f"rows/kept:{at:04d}" for at in range(3)]
    assert re.search(r"3 of \d+ rows", (folder / "README.md").read_text("utf-8"))
    assert not (folder / ".winnow").exists()


def test_shards_with_empty_row_groups_are_written_so_that_they_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    out = make_run(tmp_path / "out", KEPT)
    for path in (out / "train").iterdir():
        table = pq.read_table(path)
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(pa.Table.from_batches([], table.schema))
            writer.write_table(table)
    for name in ("datasets", "trl"):
        folder = export(out, name).folder
        files = str(folder / "train" / "*.parquet")
        assert datasets.load_dataset("parquet", data_files=files, split="train").num_rows == 3

"""Reading evaluation sets of any kind of file: their fields, their items and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipelines.decontaminate.eval_sets import EvalItem, chosen_fields, read_items, set_files
from pipelines.decontaminate.settings import EvalSet


def read(path: Path, **changes: object) -> tuple[list[EvalItem], str]:
    """The items of a file, and which fields they are said to come from."""
    eval_set = EvalSet.model_validate({"path": str(path), **changes})
    files = set_files(eval_set, path.parent)
    return list(read_items(eval_set, files)), chosen_fields(eval_set, files)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_csv_with_a_byte_order_mark_is_read_by_its_first_field(tmp_path: Path) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_bytes(b'\xef\xbb\xbfQuestion,Best Answer\r\n"Is it, so?",No\r\n')
    items, chosen = read(path, name="truthfulqa")
    assert items == [EvalItem("truthfulqa", "TruthfulQA.csv:1", "Is it, so?", "No")]
    assert chosen == "prompt from `Question`, response from `Best Answer`"


def test_the_texts_of_a_list_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"turns": ["Write a poem.", "Now rhyme it."]})
    items, chosen = read(path, name="mt_bench")
    assert items == [EvalItem("mt_bench", "q.jsonl:1", "Write a poem.\nNow rhyme it.", "")]
    assert chosen == "prompt from `turns`, no response"


def test_items_are_numbered_from_one_in_each_file_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "b").mkdir(parents=True)
    lines(folder / "a.jsonl", {"question": "one", "answer": "1"}, {"question": "two", "answer": "2"})
    lines(folder / "b" / "a.jsonl", {"question": "three", "answer": "3"})
    for changes in ({}, {"name": "gsm8k"}):  # fields found, and fields known
        items, chosen = read(folder, **changes)
        assert [item.item for item in items] == ["a.jsonl:1", "a.jsonl:2", "b/a.jsonl:1"]
        assert chosen == "prompt from `question`, response from `answer`"


def test_a_set_may_have_only_one_of_the_fields(tmp_path: Path) -> None:
    path = lines(tmp_path / "s.jsonl", {"frage": "Warum?", "antwort": "Darum."})
    items, chosen = read(path, name="mine", fields={"response": "antwort"})
    assert items == [EvalItem("mine", "s.jsonl:1", "", "Darum.")]
    assert chosen == "no prompt, response from `antwort`"


def test_a_set_of_conversations_is_found_by_its_format(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    items, chosen = read(lines(tmp_path / "s.jsonl", {"messages": turns}))
    assert items == [EvalItem("s", "s.jsonl:1", "Hi?", "Yes.")]
    assert chosen == "read as format messages"


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ('{"a": 1}', {"name": "gsm8k"}, "row 1: found the fields a, wanted one of question, answer"),
        ("{", {"name": "gsm8k"}, "row 1: not JSON"),
        ('{"question": "", "answer": ""}', {"name": "gsm8k"}, "row 1: .* with a text in it"),
        ('{"q": [{"content": "x"}]}', {"fields": {"prompt": "q"}}, "row 1: field 'q' holds nested values"),
        ('{"prompt": "x"}', {}, "row 1: missing response"),
        ("", {"name": "gsm8k"}, "bad.jsonl: empty file"),
    ],
)
def test_a_row_that_cannot_be_searched_for_is_refused(
    text: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "bad.jsonl", **changes)


def test_a_set_of_the_hub_needs_the_package_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"openai/gsm8k.*needs the package datasets: pip install"):
        set_files(EvalSet(name="gsm8k"), tmp_path)

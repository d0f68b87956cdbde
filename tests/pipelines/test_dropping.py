"""Whole runs that drop rows before scoring: duplicates of earlier outputs and items of evaluation sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from connectors.manifest import read_manifest
from pipelines.explain import explain_text
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import Finished, reselect, run
from pipelines.runner import RunnerChoice
from tests.pipelines.corpus import hashes, rows_of

WORDS = [f"w{number}" for number in range(40)]
NEAR = {"minhash": {"threshold": 0.7, "ngram": 2}}


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows), "utf-8")
    return path


def run_on(path: Path, out: Path, **changes: Any) -> Finished:  # noqa: ANN401 - any part of a recipe
    plain = {"name": "t", "inputs": [{"path": str(path), "source": "s"}], "dedupe": NEAR, **changes}
    return run(parse_recipe(plain), out, RunnerChoice(), Progress())


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """An output that kept three of four rows."""
    rows = [("first question", "first answer"), ("q", " ".join(WORDS)), ("q", " ".join([*WORDS[:-1], "x"])),
            ("second question", "second answer")]  # fmt: skip
    out = run_on(write_rows(tmp_path / "old.jsonl", rows), tmp_path / "older").out
    assert [row["duplicate_of"] for row in rows_of(out, "dropped")] == ["s/old.jsonl:00000002"]
    return out


NEW = [
    ("First question", "first answer"),  # exact
    ("q", " ".join([*WORDS[:-2], "y", "z"])),  # near a row that was kept, and one that was dropped
    ("something new", "that nobody asked"),
    ("something new", "that nobody asked"),
]


@pytest.mark.parametrize("stored", [True, False])
def test_rows_that_repeat_an_earlier_output_are_dropped(older: Path, stored: bool, tmp_path: Path) -> None:
    if not stored:
        shutil.rmtree(older / ".winnow")
    before = hashes(older)
    done = run_on(
        write_rows(tmp_path / "new.jsonl", NEW), tmp_path / "out", dedupe={**NEAR, "against": [str(older)]}
    )
    dropped = {row["id"]: row for row in rows_of(done.out, "dropped")}
    first, second, copy = (dropped[f"s/new.jsonl:{n:08d}"] for n in (1, 2, 4))
    assert len(dropped) == 3
    assert (first["duplicate_of"], first["kind"], first["similarity"]) == (
        "s/old.jsonl:00000001",
        "exact",
        1.0,
    )
    assert (second["duplicate_of"], second["kind"]) == ("s/old.jsonl:00000002", "near")
    assert {row["duplicate_in"] for row in (first, second)} == {str(older)}
    assert (copy["duplicate_of"], copy["duplicate_in"]) == ("s/new.jsonl:00000003", None)
    assert [row["id"] for row in rows_of(done.out, "train")] == ["s/new.jsonl:00000003"]
    assert done.manifest["counts"]["duplicates"] == {"exact": 2, "near": 1, "semantic": 0}
    assert hashes(older) == before
    text = explain_text(done.out, "s/new.jsonl:00000001")
    assert f"which is in the earlier output {older}" in text
    page = (done.out / "report.html").read_text("utf-8")
    assert "Largest clusters of duplicates" in page
    assert "The row that stays is in an earlier output." in page
    hashed_again = (done.out / ".winnow").glob("older-0-*")
    assert bool(list(hashed_again)) is False  # the finished run keeps what it may need again, and this is not


def test_signatures_of_other_settings_are_made_again(older: Path, tmp_path: Path) -> None:
    dedupe = {"minhash": {"threshold": 0.7, "ngram": 3}, "against": [str(older)]}
    done = run_on(write_rows(tmp_path / "new.jsonl", NEW), tmp_path / "out", dedupe=dedupe)
    assert done.manifest["counts"]["dropped"] == 3


def test_an_output_is_not_deduplicated_against_itself(older: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the output of this very run"):
        run_on(tmp_path / "old.jsonl", older, dedupe={"against": [str(older)]})
    with pytest.raises(ValueError, match=r"nowhere"):
        run_on(tmp_path / "old.jsonl", tmp_path / "out", dedupe={"against": [str(tmp_path / "nowhere")]})


def test_contaminated_rows_are_dropped_before_duplicates_and_explained(tmp_path: Path) -> None:
    question = "How many apples are left when Ann eats three of the seven she has?"
    rows = [(question, "Four of them."), (question, "Four of them."), ("Another question", "an answer")]
    test_set = tmp_path / "test.jsonl"
    test_set.write_text(json.dumps({"question": question, "answer": "#### 4"}) + "\n", "utf-8")
    done = run_on(
        write_rows(tmp_path / "rows.jsonl", rows),
        tmp_path / "out",
        decontaminate={"against": [{"name": "gsm8k", "path": str(test_set)}]},
    )
    counts = done.manifest["counts"]
    assert (counts["contaminated"], counts["dropped"], counts["kept"]) == (2, 2, 1)
    assert counts["duplicates"] == {"exact": 0, "near": 0, "semantic": 0}
    row = rows_of(done.out, "dropped")[0]
    assert (row["stage"], row["reason"]) == ("decontaminate", "contaminated: gsm8k")
    assert (row["eval_set"], row["eval_item"], row["eval_match"]) == ("gsm8k", "test.jsonl:1", "prompt")
    text = explain_text(done.out, row["id"])
    assert "item test.jsonl:1" in text
    assert "how many apples are left" in text
    assert "how many apples are left" in (done.out / "report.html").read_text("utf-8")
    assert "13 words in sequence" in (done.out / "README.md").read_text("utf-8")
    again = reselect(done.out, parse_recipe(read_manifest(done.out)["recipe"]), RunnerChoice(), Progress())
    assert again.manifest["counts"] == counts


def test_a_changed_evaluation_set_is_searched_for_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [("one two three four five six", "x"), ("b", "y")])
    settings = {"against": [{"path": str(tmp_path / "set.jsonl")}]}
    write_rows(tmp_path / "set.jsonl", [("nothing of this is in any row", "z")])
    assert run_on(path, tmp_path / "out", decontaminate=settings).manifest["counts"]["contaminated"] == 0
    write_rows(tmp_path / "set.jsonl", [("One two three, four five six!", "z")])
    assert run_on(path, tmp_path / "out", decontaminate=settings).manifest["counts"]["contaminated"] == 1

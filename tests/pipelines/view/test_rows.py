"""What is listed, searched and downloaded."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import EXAMPLE_SCHEMA, message
from pipelines.view.index import RunIndex
from pipelines.view.query import Query
from pipelines.view.rows import Rows, excerpt, unlike_formulas
from pipelines.view.search import TextSearch, holds
from pipelines.view.spans import shared_pieces
from tests.pipelines.fake_run import SCRIPT
from tests.pipelines.view.run import REST, make_view_run

MESSAGES = EXAMPLE_SCHEMA.field("messages").type


def test_a_search_goes_on_where_it_stopped_and_says_how_far_it_came(rows: Rows) -> None:
    search = TextSearch(rows.index, rows.texts, "ducks")
    wanted = np.ones(rows.index.rows, np.bool_)
    steps = [search.advance(wanted, seconds=0)]
    while not steps[-1].done:
        steps.append(search.advance(wanted, seconds=0))
    searched = [step.searched for step in steps]
    assert len(steps) > 2
    assert searched == sorted(set(searched))
    assert searched[-1] == rows.index.rows
    assert np.count_nonzero(search.found) == rows.page(Query(text="DUCKS"))["found"]


def test_a_search_reads_only_the_rows_that_are_asked_for(rows: Rows) -> None:
    search = TextSearch(rows.index, rows.texts, "ducks")
    wanted = np.zeros(rows.index.rows, np.bool_)
    wanted[3] = True
    assert search.advance(wanted, math.inf).rows == 1
    assert np.count_nonzero(search._searched) == len(rows.index.groups.group(0, ["id"]))


def test_a_page_of_an_unfinished_search_has_what_was_found_so_far(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.view.rows.SEARCH_SECONDS", 0)
    query = Query(text="He has")
    first = rows.page(query)
    assert not first["done"]
    assert 0 < first["searched"] < first["to_search"]
    answers = [first]
    while not answers[-1]["done"]:
        answers.append(rows.page(query))
    assert answers[-1]["found"] > first["found"] > 0
    assert rows.page(query)["found"] == answers[-1]["found"]


def test_dropped_rows_are_searched_whole_or_in_their_beginnings(rows: Rows, bare_rows: Rows) -> None:
    query = Query(text=REST.strip())
    dropped = len(rows.index.range_of("dropped"))
    assert rows.texts.whole
    assert rows.page(query)["found"] == dropped
    assert not bare_rows.texts.whole
    assert bare_rows.page(query)["found"] == 0


@given(
    conversations=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=3), max_size=6),
    wanted=st.text("abAB.*é\\", min_size=1, max_size=2),
)
def test_a_conversation_holds_a_text_that_one_of_its_turns_holds(
    conversations: list[list[str]], wanted: str
) -> None:
    turns = [[message("user", text) for text in texts] for texts in conversations]
    found = holds(pa.array(turns, MESSAGES), wanted).tolist()
    pattern = re.compile(re.escape(wanted), re.IGNORECASE)
    assert found == [any(pattern.search(text) for text in texts) for texts in conversations]


def test_a_text_is_found_in_tool_calls(rows: Rows) -> None:
    call = {
        "id": None,
        "type": "function",
        "function": {"name": "look_up", "arguments": '{"city": "Bergen"}'},
    }
    turns = [[message("user", "a")], [message("user", "b"), message("assistant", "", [call])]]  # type: ignore[list-item]  # a plain dict
    for text in ("bergen", "LOOK_up"):
        assert holds(pa.array(turns, MESSAGES), text).tolist() == [False, True]


@given(text=st.text(max_size=80), wanted=st.text(min_size=1, max_size=4), limit=st.integers(20, 60))
def test_an_excerpt_holds_what_was_searched_for(text: str, wanted: str, limit: int) -> None:
    cut = excerpt(text, wanted, limit)
    assert cut.strip("…") in text
    assert len(cut) <= limit + 2
    if re.search(re.escape(wanted), text, re.IGNORECASE):
        assert re.search(re.escape(wanted), cut, re.IGNORECASE)


@given(text=st.text("ab ,.\n", max_size=60), words=st.lists(st.sampled_from(["ab", "a", "b"]), max_size=4))
def test_pieces_are_the_whole_text_and_the_marked_ones_the_shared_words(text: str, words: list[str]) -> None:
    span = " ".join(words)
    pieces = shared_pieces(text, span)
    assert "".join(piece["text"] for piece in pieces) == text
    for piece in pieces:
        if piece.get("shared"):
            assert re.sub(r"\W", "", piece["text"]) == "".join(words)


def test_a_csv_has_every_row_and_no_cell_that_a_spreadsheet_computes(rows: Rows) -> None:
    query = Query(part="dropped", sort="loss", descending=True)
    lines = list(csv.DictReader(io.StringIO(b"".join(rows.download(query, "csv")).decode())))
    positions = rows.find(query, math.inf)["positions"].tolist()
    assert [line["id"] for line in lines] == [rows.index.key_of(position) for position in positions]
    assert lines[0]["part"] == "dropped"
    assert float(lines[0]["loss"]) == rows.index.numbers("loss")[positions[0]]
    assert lines[-1]["loss"] == ""


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_text_like_a_formula_gets_a_quote_in_front(cell: str) -> None:
    texts = pa.chunked_array([[cell, f"a{cell}", f"a\n{cell}", None]])
    assert unlike_formulas(texts).to_pylist() == [f"'{cell}", f"a{cell}", f"a\n{cell}", None]


def test_json_lines_have_numbers_as_numbers_and_null_for_none(rows: Rows) -> None:
    lines = [json.loads(line) for line in b"".join(rows.download(Query(), "jsonl")).splitlines()]
    assert len(lines) == rows.index.rows
    assert isinstance(lines[0]["loss"], float)
    assert lines[-1]["loss"] is None
    assert lines[-1]["part"] == "bad"


def test_a_folder_that_changed_after_the_run_is_refused(tmp_path: Path) -> None:
    out = make_view_run(tmp_path / "out", 60)
    next((out / "dropped").iterdir()).unlink()
    with pytest.raises(ValueError, match="changed after the run"):
        RunIndex(str(out))
    shutil.rmtree(out / "dropped")
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no finished run"):
        RunIndex(str(out))


def test_work_of_another_number_of_rows_is_not_taken_for_that_of_the_run(tmp_path: Path) -> None:
    out = make_view_run(tmp_path / "out", 60)
    next((out / ".winnow").glob("*/part-00001.parquet")).unlink()
    assert not Rows(RunIndex(str(out))).texts.whole


def test_a_run_that_kept_nothing_and_one_without_scores_can_be_listed(tmp_path: Path) -> None:
    from tests.pipelines.fake_run import make_run

    nothing = Rows(RunIndex(str(make_run(tmp_path / "nothing", 60, keep=False))))
    assert nothing.page(Query(part="kept"))["found"] == 0
    plain = Rows(RunIndex(str(make_run(tmp_path / "plain", 60, scored=False))))
    assert plain.page(Query(text="ducks"))["found"] > 0
    assert SCRIPT in plain.page(Query(part="bad"))["rows"][0]["detail"]

"""Filters, orders and pages against the plainest way of doing the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import prompt_text, response_text
from pipelines.view.query import PAGE_ROWS, Query, parse_query
from pipelines.view.rows import Rows
from tests.draws import draws
from tests.pipelines.view.run import REST

NUMBERS = ("loss", "entropy", "prompt_tokens", "similarity")


def reference(out: Path) -> list[dict[str, Any]]:
    """Every row in stored order, with its part and whole text."""
    found: list[dict[str, Any]] = []
    for part, folder in (("kept", "train"), ("dropped", "dropped"), ("bad", "bad_rows")):
        for path in sorted((out / folder).glob("*.parquet")):
            found += [{**row, "part": part} for row in pq.read_table(path).to_pylist()]
    suspects = {row["id"] for row in pq.read_table(out / "suspects").to_pylist()}
    for row in found:
        row["suspect"] = row.get("id") in suspects
        if row["part"] == "kept":
            row["text"] = "\n".join((prompt_text(row["messages"]), response_text(row["messages"])))
        elif row["part"] == "dropped":
            row["text"] = "\n".join((row["prompt_excerpt"], row["response_excerpt"] + REST))
        else:
            row["text"] = "\n".join((row["excerpt"], row["detail"]))
    return found


@pytest.fixture(scope="module")
def all_rows(out: Path) -> list[dict[str, Any]]:
    return reference(out)


def fits(row: dict[str, Any], query: Query) -> bool:
    """Whether a row is asked for."""
    part = row["suspect"] if query.part == "suspect" else query.part in ("", row["part"])
    labels = all(row.get(name) in values for name, values in query.labels.items())
    bounds = all(
        row.get(bound.column) is not None and bound.low <= row[bound.column] <= bound.high
        for bound in query.bounds
    )
    return bool(part and labels and bounds and query.text.lower() in row["text"].lower())


def positions_of(rows: Rows, query: Query) -> list[int]:
    return list(rows.find(query, math.inf)["positions"].tolist())


scores = st.builds(
    lambda column, low, high: f"{column}:{low}:{high}",
    st.sampled_from(NUMBERS),
    st.sampled_from(["", "0.5", "1", "40"]),
    st.sampled_from(["", "1.5", "2", "70"]),
)
queries = st.fixed_dictionaries(
    {},
    optional={
        "part": st.sampled_from([[part] for part in ("kept", "dropped", "bad", "suspect")]),
        "source": st.lists(st.sampled_from(["maths", "general", "chat <b>bold</b> | pipe"]), max_size=2),
        "reason": st.sampled_from([["near duplicate"], ["exact duplicate", "not JSON"], ["no such reason"]]),
        "score": st.lists(scores, max_size=2),
        "text": st.sampled_from([["ducks"], ["DUCKS"], ["<script>"], ["rest of the"], ["(.*"], ["\\"]]),
    },
)


@given(fields=queries)
def test_a_query_finds_what_looking_at_every_row_finds(
    rows: Rows, all_rows: list[dict[str, Any]], fields: dict[str, list[str]]
) -> None:
    query = parse_query(fields)
    expected = [at for at, row in enumerate(all_rows) if fits(row, query)]
    assert sorted(positions_of(rows, query)) == expected


@draws(15)
@given(
    fields=queries, sort=st.sampled_from(["", "id", "shuffle", "rank", *NUMBERS]), descending=st.booleans()
)
def test_pages_part_the_result_and_keep_its_order(
    rows: Rows, fields: dict[str, list[str]], sort: str, descending: bool
) -> None:
    query = parse_query({**fields, "sort": [sort], "desc": ["1" if descending else "0"]})
    whole = positions_of(rows, query)
    assert len(set(whole)) == len(whole)
    first = rows.page(query, 1)
    pages = [rows.page(query, number + 1) for number in range(first["pages"])]
    assert [len(page["rows"]) for page in pages[:-1]] == [PAGE_ROWS] * (len(pages) - 1)
    keys = [row["key"] for page in pages for row in page["rows"]]
    assert keys == [rows.index.key_of(position) for position in whole]
    assert first["found"] == len(whole)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("descending", [True, False])
def test_rows_are_sorted_by_a_number_with_those_without_one_last(
    rows: Rows, all_rows: list[dict[str, Any]], name: str, descending: bool
) -> None:
    found = positions_of(rows, Query(sort=name, descending=descending))
    values = [all_rows[at].get(name) for at in found]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending)
    assert values == [*known, *[None] * (len(values) - len(known))]
    neighbours = zip(zip(values, found, strict=True), zip(values[1:], found[1:], strict=True), strict=False)
    assert all(at < after for (value, at), (other, after) in neighbours if value == other)


def test_suspects_are_listed_by_rank(rows: Rows) -> None:
    page = rows.page(Query(part="suspect"))
    assert [row["suspect"]["rank"] for row in page["rows"]] == [1, 2, 3]


def test_shuffling_shuffles_the_same_way_each_time(rows: Rows, out: Path) -> None:
    query = Query(sort="shuffle")
    first = positions_of(rows, query)
    assert first == positions_of(Rows(rows.index), query)
    assert first != sorted(first)


@pytest.mark.parametrize("text", ["", "ducks"])
def test_a_facet_counts_the_rows_that_meet_every_other_condition(
    rows: Rows, all_rows: list[dict[str, Any]], text: str
) -> None:
    query = parse_query({"part": ["dropped"], "source": ["maths"], "text": [text]})
    counts = rows.find(query, math.inf)["facets"]
    for name in ("source", "reason", "kind"):
        if text and name == "source":  # nobody asked to search the rows of other sources
            assert [rows for value, rows in counts[name] if value != "maths"] == [None, None]
            continue
        others = Query("dropped", {k: v for k, v in query.labels.items() if k != name}, text=query.text)
        held = [row.get(name) for row in all_rows if fits(row, others)]
        assert dict(counts[name]) == {value: held.count(value) for value in set(held) - {None}}
        assert [rows for _, rows in counts[name]] == sorted((rows for _, rows in counts[name]), reverse=True)


def test_ids_are_found_by_a_part_whatever_its_case(rows: Rows, all_rows: list[dict[str, Any]]) -> None:
    found = positions_of(rows, Query(id="MATHS/long"))
    assert [all_rows[at]["id"] for at in found] == [
        row["id"] for row in all_rows if "maths/long" in (row.get("id") or "")
    ]
    assert found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"part": ["nothing"]}, "part='nothing'"),
        ({"score": ["loss"]}, "COLUMN:LOW:HIGH"),
        ({"score": ["loss:a:b"]}, "COLUMN:LOW:HIGH"),
        ({"score": ["loss:nan:1"]}, "COLUMN:LOW:HIGH"),
        ({"score": ["unknown:0:1"]}, "'unknown'"),
        ({"sort": ["messages"]}, "'messages'"),
        ({"quadrants": ["Q1"], "sort": ["__class__"]}, "'__class__'"),
        ({"text": ["x" * 1_001]}, "1,001 characters"),
    ],
)
def test_a_query_without_meaning_is_refused_by_what_is_wrong(
    rows: Rows, fields: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rows.page(parse_query(fields))


def test_a_page_behind_the_last_is_the_last(rows: Rows) -> None:
    page = rows.page(Query(), 10**9)
    assert page["page"] == page["pages"]

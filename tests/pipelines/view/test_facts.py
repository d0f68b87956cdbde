"""What the page of a row says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.explain import explain_text
from pipelines.view.facts import relatives, row_facts, run_facts, token_pieces
from pipelines.view.query import Query
from pipelines.view.rows import Rows
from tests.pipelines.view.run import REST, SPAN


def position(rows: Rows, query: Query, at: int = 0) -> int:
    return int(rows.find(query, float("inf"))["positions"][at])


def text_of(turn: dict[str, object]) -> str:
    return "".join(piece["text"] for piece in turn["pieces"])  # type: ignore[attr-defined]  # pieces


def test_every_row_has_a_page_that_json_can_hold(rows: Rows, bare_rows: Rows) -> None:
    for some in (rows, bare_rows):
        for at in range(0, some.index.rows, 7):
            facts = row_facts(some, at)
            assert some.index.position_of(facts["key"]) == at
            json.dumps([facts, relatives(some, at)], allow_nan=False)


def test_a_page_says_what_explain_says(rows: Rows, out: Path) -> None:
    for part in ("kept", "dropped"):
        facts = row_facts(rows, position(rows, Query(part=part)))
        said = explain_text(out, facts["id"])
        for words in (facts["reason"], facts["place"], *(one["text"] for one in facts["sentences"])):
            assert words in said
        for score in facts["scores"]:
            if score["doc"] and score["name"] in ("loss", "entropy", "ifd_ppl"):
                assert f"{score['value']:.4f}" in said
                share = 100 * score["below"] / score["rows"]
                assert f"higher than {share:.1f} % of {score['rows']:,} rows" in said


def test_a_dropped_row_has_its_whole_conversation_while_the_work_is_there(
    rows: Rows, bare_rows: Rows
) -> None:
    whole = row_facts(rows, position(rows, Query(part="dropped")))
    assert whole["whole"]
    assert text_of(whole["turns"][-1]).endswith(REST)
    assert whole["extra"] == {"label": "x"}
    begun = row_facts(bare_rows, position(bare_rows, Query(part="dropped")))
    assert not begun["whole"]
    assert [turn["role"] for turn in begun["turns"]] == ["prompt", "response"]


def test_a_suspect_keeps_its_conversation_when_the_work_is_gone(bare_rows: Rows) -> None:
    facts = row_facts(bare_rows, position(bare_rows, Query(part="suspect")))
    assert facts["whole"]
    assert facts["suspect"]["why"] == "doubt 0"


def test_words_shared_with_an_evaluation_set_are_marked(rows: Rows) -> None:
    found = next(
        facts for at in rows.index.range_of("dropped") if (facts := row_facts(rows, at))["contamination"]
    )
    assert found["contamination"]["set"] == "gsm8k"
    assert "of the distinct n-grams" in found["contamination"]["how"]
    marked = [piece["text"] for turn in found["turns"] for piece in turn["pieces"] if piece.get("shared")]
    assert marked
    assert set(marked) == {SPAN}


def test_a_duplicate_is_shown_with_the_row_that_stays_and_the_other_way_round(rows: Rows) -> None:
    copy = position(rows, Query(labels={"kind": ("near",)}))
    cluster = relatives(rows, copy)["cluster"]
    assert cluster["measure"] == "Jaccard similarity"
    assert rows.index.key_of(copy) in [member["key"] for member in cluster["members"]]
    keeper = rows.index.position_of(cluster["kept"]["key"])
    assert keeper is not None
    assert relatives(rows, keeper)["cluster"] == cluster
    assert cluster["rows"] == len(cluster["members"]) + 1


def test_rivals_are_the_other_rows_of_the_same_prompt(rows: Rows) -> None:
    long = rows.find(Query(labels={"stage": ("score",)}), float("inf"))["positions"].tolist()
    rivals = relatives(rows, long[0])["rivals"]
    assert [row["key"] for row in rivals["shown"]] == [rows.index.key_of(at) for at in long[1:]]
    assert (rivals["rows"], rivals["only_kept"]) == (len(long) - 1, False)


def test_copies_of_a_row_are_no_rivals_of_it(rows: Rows) -> None:
    copy = position(rows, Query(labels={"kind": ("exact",)}))
    found = relatives(rows, copy)
    assert found["cluster"]["kept"]["key"] == str(
        rows.index.labels("duplicate_of").values[rows.index.labels("duplicate_of").codes[copy]]
    )
    assert found["rivals"] is None


def test_a_bad_row_says_where_it_is(rows: Rows) -> None:
    facts = row_facts(rows, position(rows, Query(part="bad"), 1))
    assert facts["key"] == "bad:2"
    assert facts["place"].endswith("data/in.jsonl, row 2")
    assert relatives(rows, position(rows, Query(part="bad"))) == {"cluster": None, "rivals": None}


@pytest.mark.parametrize("key", ["", "nothing", "bad:0", "bad:99999", "bad:x", "../../manifest.json"])
def test_a_key_of_no_row_is_none(rows: Rows, key: str) -> None:
    assert rows.index.position_of(key) is None


def test_a_row_without_tokens_has_no_pieces(rows: Rows) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        token_pieces(rows, position(rows, Query(part="dropped")))


def test_the_run_says_how_many_rows_each_part_has(rows: Rows) -> None:
    parts = run_facts(rows)["parts"]
    assert parts[""] == parts["kept"] + parts["dropped"] + parts["bad"] == 300
    assert parts["suspect"] == 3

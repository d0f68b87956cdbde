"""Reading sets of examples into memory, and how they show themselves."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import Examples, Rows, read
from connectors.examples import EXAMPLE_SCHEMA, ROWS_PER_BATCH
from connectors.shards import group_bytes, plan_units, write_parquet

ROWS: list[dict[str, Any]] = [
    {"question": f"What is {n} + {n}?", "answer": str(2 * n), "level": n} for n in range(7)
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def as_pandas(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([{"question": "dropped", "answer": "before", "level": 0}, *rows])
    return frame[frame["question"] != "dropped"]  # an index that does not begin at 0


@pytest.mark.parametrize(
    "made",
    [
        lambda rows: rows,
        lambda rows: (row for row in rows),
        pa.Table.from_pylist,
        as_pandas,
        datasets.Dataset.from_list,
        lambda rows: datasets.Dataset.from_list(rows[::-1]).select(range(6, -1, -1)),
    ],
    ids=["list", "generator", "Arrow", "pandas", "datasets", "selection of datasets"],
)
def test_rows_in_memory_are_what_they_are_in_a_file(tmp_path: Path, made: Any) -> None:  # noqa: ANN401
    from_file = read(written(tmp_path / "rows", ROWS), source="memory")
    examples = read(made(ROWS))
    assert examples.table.drop_columns(["id"]).equals(from_file.table.drop_columns(["id"]))
    assert examples["id"].to_pylist() == [f"memory/rows:{n:08d}" for n in range(1, 8)]


def test_bad_rows_are_kept_with_their_place_and_reason() -> None:
    examples = read([{"question": "2 + 2?"}, "text", {"question": "\ud800", "answer": "x"}, *ROWS])
    bad = [(row["row"], row["reason"]) for row in examples.bad]
    assert bad == [(1, "missing response"), (2, "not an object"), (3, "invalid Unicode")]
    assert len(examples) == len(ROWS)
    assert "3 bad rows" in repr(examples)


def test_keywords_are_those_of_an_input_of_a_recipe() -> None:
    examples = read([{"q": "2 + 2?", "a": "4"}], fields={"prompt": "q", "response": "a"}, source="sums")
    assert examples[0]["id"] == "sums/rows:00000001"
    with pytest.raises(ValueError, match="unknown format 'alpca'; did you mean 'alpaca'"):
        read(ROWS, format="alpca")
    with pytest.raises(ValueError, match=r"inputs\.0: unknown key `sorce` \(nearest: 'source'\)"):
        read(inputs=[{"path": "x", "sorce": "y"}])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "exactly one of"),
        ({"data": ROWS, "dataset": "a/b"}, "exactly one of"),
        ({"inputs": [{"path": "x"}], "source": "y"}, "each input states its own"),
        ({"data": 3}, "wanted a path or rows"),
        ({"data": {"train": ROWS}}, "got a mapping of 'train'"),
        ({"data": "nowhere.jsonl"}, "no file or folder"),
    ],
)
def test_what_cannot_be_read_is_said(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**given_)


def test_several_paths_are_several_inputs_in_the_order_of_their_ids(tmp_path: Path) -> None:
    paths = [str(written(tmp_path / f"{name}.jsonl", ROWS[:2])) for name in "ba"]
    assert [i.split("/")[0] for i in read(paths)["id"].to_pylist()] == ["a", "a", "b", "b"]
    assert read(paths, limit=1)["source"].to_pylist() == ["a", "b"]


def test_canonical_examples_keep_their_ids() -> None:
    examples = read(ROWS, source="mine")
    assert read(examples) is examples
    assert len(read(examples, limit=2)) == 2
    again = read(examples.table.append_column("loss", pa.array(np.ones(7))))
    assert again.table.equals(examples.table)
    with pytest.raises(ValueError, match="one id, and another"):
        read(pa.concat_tables([examples.table, examples.table]))


def test_chunks_are_the_units_of_a_run(tmp_path: Path) -> None:
    sizes = [900, 900, 900, ROWS_PER_BATCH, 3]
    for name, size in enumerate(sizes):
        written(tmp_path / f"{name}.jsonl", [ROWS[0]] * size)
    examples = read(str(tmp_path / "*.jsonl"), source="s")
    batches = examples.table.to_batches()
    assert [batch.num_rows for batch in batches] == [1800, 900, ROWS_PER_BATCH, 3]
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    write_parquet(tmp_path / "units.parquet", tables, EXAMPLE_SCHEMA)
    units = plan_units([str(tmp_path / "units.parquet")])
    assert [(unit.rows, unit.size) for unit in units] == [(b.num_rows, group_bytes(b)) for b in batches]


def test_rows_can_be_sliced_iterated_and_handed_on() -> None:
    examples = read(ROWS)
    assert isinstance(examples[2:4], Examples)
    assert [row["id"] for row in examples[-2:]] == [examples[5]["id"], examples[-1]["id"]]
    assert pa.table(examples).equals(examples.table)
    assert list(examples.to_pandas()["id"]) == examples["id"].to_pylist()
    with pytest.raises(IndexError):
        examples[7]
    with pytest.raises(KeyError):
        examples["loss"]


class Cells(HTMLParser):
    """The texts of a table's cells, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.text(), st.text(min_size=1))
def test_hostile_text_stays_text(text: str, name: str) -> None:
    table = pa.table({name.encode("utf-8", "replace").decode(): [text.encode("utf-8", "replace").decode()]})
    rows = Rows(table)
    assert all(line.isprintable() for line in repr(rows).splitlines()[2:])
    cells = Cells()
    cells.feed(rows._repr_html_())
    assert cells.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_script_is_shown_and_not_run() -> None:
    html = Rows(pa.table({"text": ["<script>alert(1)</script>"]}))._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html

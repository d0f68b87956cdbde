from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines import report_numbers
from pipelines.report import write_report
from pipelines.report_numbers import SHORTEST, Spread, read_numbers, stops
from pipelines.report_page import embedded
from pipelines.report_sample import SAMPLE_BYTES, sample_rows
from tests.pipelines.fake_run import SCORES, make_run

PAGE_BYTES = 4_000_000
values = st.floats(-1e12, 1e12, allow_nan=False)


def columns_of(out: Path, folder: str, *names: str) -> list[npt.NDArray[Any]]:
    table = pq.read_table(out / folder)
    return [np.asarray(table[name].to_numpy()) for name in names]


@given(st.lists(values, min_size=1, max_size=60), st.lists(values, max_size=60), st.data())
def test_a_threshold_keeps_exactly_the_values_within_it(
    kept: list[float], dropped: list[float], data: st.DataObject
) -> None:
    edges = stops(np.array(kept))
    spread = Spread.at(edges)
    for side, own in ((True, kept), (False, dropped)):
        spread.add(np.array([*own, np.nan]), np.arange(len(own) + 1), side)
    at = data.draw(st.integers(0, len(edges) - 1))
    for row, numbers in enumerate((np.array(dropped, np.float64), np.array(kept))):
        within = numbers >= edges[at]  # what threshold does with {min: edge}, and with {max: edge}
        assert spread.rows[row, 2 * at + 1 :].sum() == within.sum()
        assert spread.tokens[row, 2 * at + 1 :].sum() == np.flatnonzero(within).sum()
        assert spread.rows[row, : 2 * at + 2].sum() == (numbers <= edges[at]).sum()


@given(st.lists(values, min_size=1, max_size=60), st.lists(values, max_size=60), st.integers(1, 60))
def test_the_bars_of_a_histogram_and_what_is_outside_account_for_every_value(
    sample: list[float], others: list[float], wanted: int
) -> None:
    spread = Spread.at(stops(np.array(sample)))
    spread.add(np.array([*sample, *others]), np.zeros(len(sample) + len(others), np.int64), kept=True)
    edges, counts, outside = spread.bars(wanted)
    assert len(edges) == counts.shape[1] + 1 <= wanted + 1
    assert counts.sum() + outside == len(sample) + len(others)


@given(st.lists(values, min_size=1, max_size=60))
@example([0.0, 5e-324])
@example([0.0, 1e-05])
def test_places_for_a_threshold_ascend_and_are_floats_of_short_decimals(sample: list[float]) -> None:
    edges = stops(np.array(sample))
    assert (np.diff(edges) > 0).all()
    assert 2 <= len(edges) <= 400
    assert [float(f"{edge:.15g}") for edge in edges] == edges.tolist()


def test_whole_numbers_have_whole_places_and_a_bar_of_their_own() -> None:
    edges = stops(np.array([0.0, 1.0, 3.0]))
    assert edges.tolist() == [0, 1, 2, 3, 4]
    spread = Spread.at(edges)
    spread.add(np.array([0.0, 1, 1, 3, 7]), np.zeros(5, np.int64), kept=True)
    assert spread.bars(40)[1].tolist() == [[0, 0, 0, 0], [1, 2, 0, 1]]
    assert spread.bars(40)[2] == 1


def test_the_sample_is_the_same_whatever_the_size_of_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_run(tmp_path, 400)
    monkeypatch.setattr(report_numbers, "SAMPLE_ROWS", 50)
    whole = read_numbers(out)
    monkeypatch.setattr(report_numbers, "PASS_ROWS", 7)
    parted = read_numbers(out)
    assert whole.sample.table.num_rows == 50
    assert whole.sample.table.equals(parted.sample.table)
    assert whole.sample.of == parted.sample.of == 400 - 400 // 30 - 400 // 10 - 400 // 60
    for name in SCORES:
        assert (whole.spreads[name].rows == parted.spreads[name].rows).all()


def test_numbers_of_all_rows_are_those_of_the_files(tmp_path: Path) -> None:
    out = make_run(tmp_path, 300)
    numbers = read_numbers(out)
    source, loss, prompt, response = columns_of(
        out, "train", "source", "loss", "prompt_tokens", "response_tokens"
    )
    here = source == "maths"
    group = numbers.sources["maths"]
    assert group.rows[1] == here.sum()
    assert group.tokens[1] == (prompt + response)[here].sum()
    at = numbers.columns.scores.index("loss")
    assert group.mean(at, kept=True) == pytest.approx(loss[here].mean())
    assert numbers.spreads["loss"].rows.sum() == numbers.sample.of
    assert numbers.spreads["loss"].tokens[1].sum() == (prompt + response).sum()
    rows = sum(int(group.rows.sum()) for group in numbers.lengths.values())
    assert rows == numbers.sample.of
    assert numbers.lengths[SHORTEST].rows[1] == (response <= SHORTEST).sum()
    assert numbers.lengths[64].rows[1] == ((response > 32) & (response <= 64)).sum()


def test_a_page_of_endless_ids_and_costly_texts_stays_small(tmp_path: Path) -> None:
    out = make_run(tmp_path, 3000)
    for folder in ("train", "dropped", "scores"):
        for path in (out / folder).glob("*.parquet"):
            table = pq.read_table(path)
            ids = pa.array([f"{row_id}{'<🦆' * 200}" for row_id in table["id"].to_pylist()])
            pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), path)
    numbers = read_numbers(out)
    rows = sample_rows(out, numbers.sample, numbers.columns.all)
    assert len(embedded(rows).encode()) <= SAMPLE_BYTES
    assert 100 < len(rows["id"]) < 2550
    assert {len(own) for own in rows["numbers"].values()} == {len(rows["id"])}
    assert rows["of"] == 2550
    assert write_report(out).stat().st_size < PAGE_BYTES


def test_a_suspect_row_is_told_from_one_merely_dropped(tmp_path: Path) -> None:
    out = make_run(tmp_path, 60)
    path = next((out / "dropped").glob("*.parquet"))
    table = pq.read_table(path)
    words = ["suspect" if i % 2 else None for i in range(table.num_rows)]
    pq.write_table(table.append_column("verdict", pa.array(words, pa.string())), path)
    sample = read_numbers(out).sample
    verdict = sample.table["verdict"].to_pylist()
    kept = sample.table["kept"].to_pylist()
    wanted = [2 if v == "suspect" else int(not k) for v, k in zip(verdict, kept, strict=True)]
    assert sample.states.tolist() == wanted
    assert {0, 1, 2} == set(wanted)


def test_a_score_of_few_rows_is_drawn_though_no_row_of_the_sample_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_run(tmp_path, 400)
    for folder in ("train", "scores"):
        path = sorted((out / folder).glob("*.parquet"))[0]
        table = pq.read_table(path)
        rare = pa.array([0.5] + [None] * (table.num_rows - 1), pa.float64())
        pq.write_table(table.append_column("rare", rare), path)
    monkeypatch.setattr(report_numbers, "SAMPLE_ROWS", 5)
    numbers = read_numbers(out)
    assert numbers.sample.table["rare"].null_count == 5
    assert numbers.spreads["rare"].rows.sum() == 1

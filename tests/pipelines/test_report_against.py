from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from connectors.manifest import read_manifest
from pipelines.report_against import recipe_difference, shift, write_against
from pipelines.report_matched import BOTH, NEITHER, ONLY_A, ONLY_B, Names, match, read_rows
from tests.pipelines.fake_run import SCRIPT, make_run, write_manifest

ROWS = 120


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and one that swaps some of its decisions, lacks some of its rows and doubles its losses."""
    a, b = (tmp_path_factory.mktemp(name) for name in "ab")
    make_run(a, ROWS)
    make_run(b, ROWS)
    train, dropped = (pq.read_table(b / folder) for folder in ("train", "dropped"))
    swapped = train.slice(0, 10)
    texts = {"stage": "select", "reason": f"top_k: {SCRIPT}", "prompt_excerpt": "p", "response_excerpt": "r"}
    columns = [
        pa.array([texts[f.name]] * 10, f.type)
        if f.name in texts
        else swapped[f.name].cast(f.type)
        if f.name in swapped.column_names
        else pa.nulls(10, f.type)
        for f in dropped.schema
    ]
    now = {
        "train": train.slice(10),
        "dropped": pa.concat_tables([dropped.slice(5), pa.table(columns, schema=dropped.schema)]),
    }
    for folder, table in now.items():
        for path in (b / folder).iterdir():
            path.unlink()
        at = table.column_names.index("loss")
        table = table.set_column(at, "loss", pc.multiply(table["loss"], 2.0))
        pq.write_table(table.sort_by("id"), b / folder / "0.parquet")
    manifest = read_manifest(b)
    counts = manifest["counts"]
    counts |= {"kept": counts["kept"] - 10, "dropped": counts["dropped"] + 5, "read": counts["read"] - 5}
    manifest["recipe"]["select"][0]["q_tuning"]["keep"] = 0.4
    write_manifest(b, manifest)
    return a, b


def ids(out: Path, folder: str) -> set[str]:
    return set(pq.read_table(out / folder)["id"].to_pylist())


def test_every_row_of_both_runs_is_in_exactly_one_cell(runs: tuple[Path, Path]) -> None:
    a, b = runs
    matched = match(*(read_rows(str(run), Names(), Names()) for run in runs))
    kept_a, kept_b, dropped_a, dropped_b = (
        ids(run, folder) for folder in ("train", "dropped") for run in (a, b)
    )
    counts = np.bincount(matched.cell, minlength=4)
    assert counts[BOTH] == len(kept_a & kept_b)
    assert counts[ONLY_A] == len(kept_a & dropped_b) == 10
    assert counts[ONLY_B] == len(dropped_a & kept_b) == 0
    assert counts[NEITHER] == len(dropped_a & dropped_b)


def test_scores_are_those_of_the_same_rows(runs: tuple[Path, Path]) -> None:
    matched = match(*(read_rows(str(run), Names(), Names()) for run in runs))
    a, b = matched.score("loss")
    known = np.isfinite(a)
    assert known.any()
    assert b[known] == pytest.approx(2 * a[known])
    moved = shift("loss", a[known], b[known])
    assert moved.moved == pytest.approx(a[known].mean())
    assert moved.correlation == pytest.approx(1)
    assert moved.same == 0


def test_the_page_says_what_each_run_keeps_and_why(runs: tuple[Path, Path], tmp_path: Path) -> None:
    a = shutil.copytree(runs[0], tmp_path / "a")
    path = write_against(a, runs[1])
    assert path == a / "report-against.html"
    html = path.read_text("utf-8")
    assert SCRIPT not in html
    both = len(ids(a, "train")) - 10
    assert f"<b>{both}</b> rows are kept in both, 10 by A only, 0 by B only." in html
    assert "5 rows are in run A only" in html
    why = html[html.index("why B drops them") :]
    assert "top_k: &lt;script&gt;" in why[: why.index("</table>")]
    assert '<span class="del">−     keep: 0.5</span><span class="add">+     keep: 0.4</span>' in html
    assert html.count('<div class="row only-a">') == 4


def test_a_run_against_itself_differs_in_nothing(runs: tuple[Path, Path], tmp_path: Path) -> None:
    a = shutil.copytree(runs[0], tmp_path / "a")
    html = write_against(a, runs[0]).read_text("utf-8")
    assert "Both runs keep the same" in html
    assert "Nothing: the recipes are the same." in html
    assert "Every score of every row is the same in both runs." in html


def test_runs_without_scores_and_runs_that_keep_nothing_compare(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 60, scored=False), make_run(tmp_path / "b", 60, keep=False)
    html = write_against(a, b).read_text("utf-8")
    assert "0 by B only" in html


def test_runs_that_share_no_row_are_refused_with_an_id_of_each(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", 60)
    for folder in ("train", "dropped"):
        for path in (other / folder).iterdir():
            table = pq.read_table(path)
            renamed = pa.array([f"other/{row_id}" for row_id in table["id"].to_pylist()], pa.string())
            pq.write_table(table.set_column(table.column_names.index("id"), "id", renamed), path)
    with pytest.raises(ValueError, match=r"share no row.*same files"):
        write_against(other, runs[0])
    with pytest.raises(ValueError, match="other/"):
        write_against(other, runs[0])
    with pytest.raises(ValueError, match="no finished run"):
        write_against(runs[0], tmp_path / "nothing")
    assert not (other / "report-against.html").exists()


def test_a_recipe_difference_is_empty_where_there_is_none() -> None:
    assert recipe_difference({"a": 1, "b": None}, {"a": 1}) == []
    changed = recipe_difference({"a": [1, {"x": 2}]}, {"a": [1, {"x": 3}]})
    assert [line for kind, line in changed if kind == "add"] == ["- x: 3"]

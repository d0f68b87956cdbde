from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import IngestTask, ReadFiles, bad_path, input_files
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice

text = st.text(max_size=20)
good_or_empty = st.fixed_dictionaries({"prompt": text, "completion": text})
strange = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
# A file that begins with "[" is a JSON list, so these begin with an object.
FIRST = '{"prompt": "p", "completion": "c"}'
line = good_or_empty.map(json.dumps) | strange.map(json.dumps) | st.just("{broken")
lines = st.lists(line, max_size=30).map(lambda rest: [FIRST, *rest])


def _ingest(
    folder: Path, content: list[str], limit: int | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    (folder / "data.jsonl").write_text("\n".join(content) + "\n", "utf-8")
    [files] = input_files(parse_recipe({"name": "x", "inputs": [{"path": str(folder / "data.jsonl")}]}))
    task = IngestTask("part-00000.parquet", files, limit)
    assert list(ReadFiles(str(folder), str(folder / "counts")).process(task)) == [task.file]
    part = folder / task.file
    return pq.read_table(part).to_pylist(), pq.read_table(bad_path(str(part))).to_pylist()


@settings(deadline=None, max_examples=60)
@given(lines)
def test_every_line_is_an_example_or_a_bad_row_and_ids_ascend(content: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        examples, bad = _ingest(Path(folder), content)
    rows = [int(row["id"].rsplit(":", 1)[1][:8]) for row in examples] + [row["row"] for row in bad]
    assert sorted(set(rows)) == list(range(1, len(content) + 1))
    ids = [row["id"] for row in examples]
    assert ids == sorted(set(ids))
    assert all(row["reason"] for row in bad)


@settings(deadline=None, max_examples=20)
@given(lines, st.integers(1, 10))
def test_a_limit_reads_a_prefix_of_what_is_read_without_it(content: list[str], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        whole_examples, whole_bad = _ingest(Path(folder), content)
        examples, bad = _ingest(Path(folder) / "a", content, limit)
    assert len(examples) + len(bad) == min(limit, len(whole_examples) + len(whole_bad))
    assert examples == whole_examples[: len(examples)]
    assert [row["row"] for row in bad] == [row["row"] for row in whole_bad[: len(bad)]]


def test_two_files_that_would_share_ids_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    inputs = [{"path": str(tmp_path / name / "x.jsonl"), "source": "s"} for name in ("a", "b")]
    with pytest.raises(ValueError, match="would give their rows the same ids"):
        input_files(parse_recipe({"name": "x", "inputs": inputs}))


def test_an_input_inside_the_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    recipe = parse_recipe({"name": "x", "inputs": [{"path": str(tmp_path / "x.jsonl")}]})
    with pytest.raises(ValueError, match="lies in the output folder"):
        run(recipe, tmp_path, RunnerChoice(), Progress())


def test_a_run_without_a_readable_row_names_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("nothing\n")
    recipe = parse_recipe(
        {"name": "x", "inputs": [{"path": str(tmp_path / "x.jsonl")}], "max_bad_fraction": 1}
    )
    with pytest.raises(ValueError, match=r"no example at all \(1 not JSON\)"):
        run(recipe, tmp_path / "out", RunnerChoice(), Progress())

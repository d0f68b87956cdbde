from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.manifest import InputChanged, fingerprint
from connectors.readers import InputFile, Item, read_examples
from pipelines.ingest import IngestTask, ReadFiles, bad_path, input_files
from pipelines.progress import Progress
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from tests.draws import draws

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
    known = tuple(fingerprint(file.path) for file in files)
    task = IngestTask("part-00000.parquet", files, known, limit)
    assert list(ReadFiles(str(folder), str(folder / "counts")).process(task)) == [task.file]
    part = folder / task.file
    return pq.read_table(part).to_pylist(), pq.read_table(bad_path(str(part))).to_pylist()


@draws(60)
@given(lines)
def test_every_line_is_an_example_or_a_bad_row_and_ids_ascend(content: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        examples, bad = _ingest(Path(folder), content)
    rows = [int(row["id"].rsplit(":", 1)[1][:8]) for row in examples] + [row["row"] for row in bad]
    assert sorted(set(rows)) == list(range(1, len(content) + 1))
    ids = [row["id"] for row in examples]
    assert ids == sorted(set(ids))
    assert all(row["reason"] for row in bad)


@draws(20)
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


def test_a_source_with_a_slash_and_a_folder_that_spell_the_same_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one" / "b").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    for path in (tmp_path / "one" / "b" / "c.jsonl", tmp_path / "two" / "c.jsonl"):
        path.write_text('{"prompt": "p", "completion": "c"}\n')
    inputs = [
        {"path": str(tmp_path / "one"), "source": "a"},
        {"path": str(tmp_path / "two"), "source": "a/b"},
    ]
    with pytest.raises(ValueError, match=r"the same ids \(a/b/c.jsonl:"):
        input_files(parse_recipe({"name": "t", "inputs": inputs}, "test"))


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


def _write(path: Path, rows: int) -> None:
    path.write_text("".join(f'{{"prompt": "p {n}", "completion": "c {n}"}}\n' for n in range(rows)))


def _recipe(path: Path) -> Recipe:
    return parse_recipe({"name": "x", "inputs": [{"path": str(path)}]})


@pytest.mark.parametrize("change", ["appended", "rewritten", "removed"])
def test_an_input_that_changes_while_it_is_read_fails_the_run_and_leaves_nothing(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    _write(data, 20)
    before = data.read_text()

    def reading(file: InputFile) -> Iterator[Item]:
        yield from read_examples(file)
        if change == "removed":
            data.unlink()
        else:
            data.write_text(before.replace("c 7", "C 7") + ("" if change == "rewritten" else before))

    monkeypatch.setattr("pipelines.ingest.read_examples", reading)
    with pytest.raises(InputChanged, match=r"data\.jsonl (changed|was removed) while this run read it"):
        run(_recipe(data), tmp_path / "out", RunnerChoice(), Progress())
    assert not list((tmp_path / "out").rglob("*.parquet"))
    monkeypatch.undo()
    _write(data, 21)
    assert run(_recipe(data), tmp_path / "out", RunnerChoice(), Progress()).manifest["counts"]["read"] == 21


def test_a_file_that_is_only_touched_while_it_is_read_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    _write(data, 20)

    def reading(file: InputFile) -> Iterator[Item]:
        yield from read_examples(file)
        os.utime(data, (1, 1))

    monkeypatch.setattr("pipelines.ingest.read_examples", reading)
    assert run(_recipe(data), tmp_path / "out", RunnerChoice(), Progress()).manifest["counts"]["read"] == 20


def test_an_error_of_a_worker_process_over_a_changed_input_names_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.jsonl"
    _write(data, 20)

    def failing(*_: object, **__: object) -> None:
        _write(data, 5)
        raise RuntimeError("Traceback (most recent call last): ...")

    monkeypatch.setattr("pipelines.ingest.run_stage", failing)
    with pytest.raises(InputChanged, match=r"data\.jsonl changed"):
        run(_recipe(data), tmp_path / "out", RunnerChoice(), Progress())


def test_a_run_over_a_changed_input_reads_it_again_and_over_the_same_input_does_not(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    for rows, reused in ((20, False), (20, True), (21, False)):
        if not reused:
            _write(data, rows)
        manifest = run(_recipe(data), tmp_path / "out", RunnerChoice(), Progress()).manifest
        assert (manifest["counts"]["read"], manifest["stages"]["ingest"]["reused"]) == (rows, reused)

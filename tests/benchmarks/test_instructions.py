"""Synthetic instruction data: as described, the same for a seed, readable, and lopsided where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import instructions as module
from benchmarks.instructions import NAMES, SHARES, SOURCES, instructions, prompts_of, write_instructions
from connectors.inputs import InputSpec, find_files
from connectors.readers import Item, read_examples

ROWS = 30_000


def read(folder: Path) -> list[Item]:
    files = find_files(InputSpec(path=str(folder), source="made"), Path())
    return [item for file in files for item in read_examples(file)]


def test_a_row_depends_on_seed_and_number_alone() -> None:
    source, table = instructions(0, 0, 300)
    later, part = instructions(0, 100, 200)
    assert part == table.slice(100, 100)
    assert (later == source[100:200]).all()
    assert instructions(1, 100, 200)[1] != part


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_row_is_read_and_files_are_no_longer_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["jsonl", "parquet"]
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 64)
    write_instructions(tmp_path, 500, rows_per_file=100, kind=kind)
    items = read(tmp_path)
    assert {item.kind for item in items} == {"example"}
    assert len(items) == 500
    per_file: dict[str, int] = {}
    for item in items:
        name = item.row["id"].rsplit(":", 1)[0]
        per_file[name] = per_file.get(name, 0) + 1
    assert max(per_file.values()) == 100
    assert len(per_file) >= 5


def test_the_format_changes_no_text(tmp_path: Path) -> None:
    texts = []
    kinds: tuple[Literal["jsonl"], Literal["parquet"]] = ("jsonl", "parquet")
    for kind in kinds:
        write_instructions(tmp_path / kind, 300, kind=kind)
        texts.append([item.row["messages"] for item in read(tmp_path / kind)])
    assert texts[0] == texts[1]


def test_lengths_are_those_of_the_real_sets() -> None:
    source, table = instructions(0, 0, ROWS)
    for number, own in enumerate(SOURCES.values()):
        here = table.filter(pa.array(source == number))
        for name, wanted in (("instruction", own.instruction), ("output", own.output)):
            words = [len(text.split()) for text in here[name].to_pylist()]
            found = np.quantile(words, SHARES[2:5])
            assert found == pytest.approx(wanted[2:5], rel=0.16, abs=1), (NAMES[number], name)


def test_shares_of_the_sources_are_as_said() -> None:
    source, _ = instructions(0, 0, ROWS)
    wanted = [own.share for own in SOURCES.values()]
    assert np.bincount(source) / ROWS == pytest.approx(wanted, abs=0.03)


def test_rivals_answer_one_prompt_and_their_number_has_a_heavy_tail() -> None:
    _, table = instructions(0, 0, ROWS)
    asked = prompts_of(0, np.arange(ROWS))
    rivals = np.flatnonzero(asked != np.arange(ROWS))
    assert len(rivals) / ROWS == pytest.approx(0.15, abs=0.02)
    sizes = np.sort(np.bincount(asked))[::-1]
    assert sizes[0] > 10 * sizes[300] > 0
    prompts, answers = (table[name].to_pylist() for name in table.column_names)
    same = [row for row in rivals.tolist() if prompts[row] == prompts[asked[row]]]
    assert len(same) > 0.7 * len(rivals)  # the others are near copies, edited in the prompt
    assert sum(answers[row] != answers[asked[row]] for row in same) > 0.9 * len(same)

"""Contamination by embeddings: rows that mean what an item means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pipelines.decontaminate import stage as module
from pipelines.decontaminate.stage import nearest_items
from tests.draws import draws
from tests.pipelines.decontaminate.test_stage import search, write_set

TOKENS = ["[UNK]", "car", "auto", "fast", "quick", "tree"]
VECTORS = [[0, 0, 0], [10, 0, 0], [10, 1, 0], [0, 10, 0], [0, 10, 1], [0, 0, 10]]
ITEMS: list[dict[str, object]] = [
    {"question": "tree", "answer": "fast"},
    {"question": "car fast", "answer": "tree"},
    {"question": "unheard", "answer": "unheard"},
]
ROWS = [
    ("auto quick", "car"),
    ("tree tree", "car"),
    ("unheard words", "unheard"),
    ("fast", "tree"),
    ("car", "x"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = Tokenizer(WordLevel({t: n for n, t in enumerate(TOKENS)}, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": np.array(VECTORS, np.int8)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}), "utf-8")
    return folder


def recipe(path: str, model: Path, threshold: float = 0.9, scope: str = "prompt") -> dict[str, object]:
    match = {"model": {"path": str(model), "scope": scope}, "threshold": threshold}
    return {"against": [{"name": "gsm8k", "path": path}], "embedding": match}


def test_a_row_near_an_item_is_dropped_with_the_nearest_item_and_its_cosine(
    tmp_path: Path, model: Path
) -> None:
    path = write_set(tmp_path / "s.jsonl", ITEMS)
    stage = search(tmp_path / "run", ROWS, recipe(path, model))
    rows = pq.read_table(stage.paths[0]).to_pylist()
    assert [(r["row"], r["eval_item"], r["eval_match"]) for r in rows] == [
        (0, "s.jsonl:2", "embedding"),
        (1, "s.jsonl:1", "embedding"),
    ]
    row, item = np.array([10, 11, 1]), np.array([10, 10, 0])  # sums of the vectors of the words
    cosine = row @ item / np.linalg.norm(row) / np.linalg.norm(item)
    assert rows[0]["similarity"] == pytest.approx(cosine, abs=1e-6)
    assert rows[1]["similarity"] == 1.0
    assert {row["eval_span"] for row in rows} == {""}
    assert stage.stats["sets"]["gsm8k"] == {
        "items": 3, "items_found": 2, "rows": {"embedding": 2}, "items_not_embedded": 1,
    }  # fmt: skip
    assert stage.stats["not_embedded"] == 1


def test_the_scope_of_the_model_is_what_is_compared(tmp_path: Path, model: Path) -> None:
    path = write_set(tmp_path / "s.jsonl", ITEMS)
    stage = search(tmp_path / "run", ROWS, recipe(path, model, scope="response"))
    assert pq.read_table(stage.paths[0])["row"].to_pylist() == [3]


def test_an_equal_prompt_or_n_shared_words_come_before_an_embedding(tmp_path: Path, model: Path) -> None:
    text = "car fast car fast car tree"
    path = write_set(tmp_path / "s.jsonl", [{"question": text, "answer": "tree"}])
    rows = [(text, "x"), (f"tree {text}", "x"), ("fast car car", "x")]
    stage = search(tmp_path / "run", rows, recipe(path, model, threshold=0.5) | {"ngram": 5})
    assert pq.read_table(stage.paths[0])["eval_match"].to_pylist() == ["prompt", "ngram", "embedding"]


def test_the_file_is_the_same_for_any_number_of_tasks_and_workers(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_set(tmp_path / "s.jsonl", ITEMS)
    whole = search(tmp_path / "a", ROWS * 4, recipe(path, model))
    monkeypatch.setattr(module, "ROWS_IN_TASK", 5)
    split = search(tmp_path / "b", ROWS * 4, recipe(path, model), workers=2, shards=4)
    assert Path(split.paths[0]).read_bytes() == Path(whole.paths[0]).read_bytes()
    assert split.stats == whole.stats


def test_other_weights_make_the_stage_anew_and_a_moved_model_does_not(tmp_path: Path, model: Path) -> None:
    path = write_set(tmp_path / "s.jsonl", ITEMS)
    first = search(tmp_path / "a", ROWS, recipe(path, model))
    moved = model.rename(tmp_path / "moved")
    assert search(tmp_path / "b", ROWS, recipe(path, moved)).key == first.key
    save_file({"embeddings": np.array(VECTORS[::-1], np.int8)}, moved / "model.safetensors")
    assert search(tmp_path / "c", ROWS, recipe(path, moved)).key != first.key


def test_a_cosine_of_just_the_threshold_is_near_enough() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 48))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    # with itself each has 1, of which float32 products miss a little
    assert nearest_items(vectors, vectors, 1.0) == [(n, n, 1.0) for n in range(200)]


@draws(50)
@given(st.integers(0, 40), st.integers(0, 25), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_tiles_change_nothing_and_the_first_of_equally_near_items_is_given(
    count: int, items: int, tile: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)

    def unit(size: int) -> module.Floats:
        vectors = draw.integers(-2, 3, (size, 3)).astype(np.float32)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return np.asarray(vectors / lengths, np.float32)

    rows, known = unit(count), unit(items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", tile)
        found = nearest_items(rows, known, 0.9)
    expected = []
    for number, row in enumerate(rows.astype(np.float64)):
        cosines = [round(float(row @ item), 6) for item in known.astype(np.float64)]
        if cosines and max(cosines) >= 0.9:
            expected.append((number, cosines.index(max(cosines)), min(1.0, max(cosines))))
    assert found == expected


@pytest.mark.realdata
def test_a_reworded_question_is_found_by_a_real_model(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "gsm8k/test.jsonl"
    question = json.loads(path.read_text("utf-8").splitlines()[0])["question"]
    # every tenth word left out: no 13 words in sequence are left
    reworded = " ".join(word for n, word in enumerate(question.split()) if n % 10 != 5)
    rows = [(reworded, "18"), ("Name three colours of the rainbow.", "red, green, blue")]
    model = realdata / "models/potion-base-4m-int8"
    stage = search(tmp_path / "run", rows, recipe(str(path), model))
    [row] = pq.read_table(stage.paths[0]).to_pylist()
    assert (row["row"], row["eval_item"], row["eval_match"]) == (0, "test.jsonl:1", "embedding")

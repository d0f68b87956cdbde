"""Semantic duplicates through whole runs, with a small table of word vectors made here."""

from __future__ import annotations

import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from connectors.shards import write_arrow
from pipelines.dedupe import semantic
from pipelines.dedupe.semantic_drops import COPY_OF_PROTOTYPICAL, DUPLICATE, PROTOTYPICAL
from pipelines.dedupe.semantic_settings import SemanticSettings
from pipelines.explain import explain_text
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import Finished, run
from pipelines.runner import RunnerChoice
from pipelines.stages import StageResult, Workspace
from tests.pipelines.corpus import hashes, rows_of

Floats = npt.NDArray[np.float32]

WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Word vectors of which w0 and w1, w2 and w3 and so on are nearly the same."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(WordLevel({w: n for n, w in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    draw = np.random.default_rng(0)
    pairs = np.repeat(draw.normal(size=(30, 16)), 2, axis=0) + 0.02 * draw.normal(size=(60, 16))
    table = np.concatenate([np.zeros((1, 16)), pairs]).astype(np.float32)
    save_file({"embeddings": table}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows in 30 pairs of the same meaning, two texts of unknown words, an exact copy."""
    folder = tmp_path_factory.mktemp("rows")
    lines = [{"prompt": "say", "completion": word} for word in WORDS]
    lines += [{"prompt": "unknown", "completion": f"words{n}"} for n in range(2)]
    lines += [{"prompt": "say", "completion": "w0"}]
    for number in range(3):
        part = lines[number * 21 : number * 21 + 21]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part), "utf-8")
    return folder


def run_on(corpus: Path, model: Path, out: Path, workers: int = 1, **settings: Any) -> Finished:  # noqa: ANN401
    plain = {
        "name": "t",
        "inputs": [{"path": str(corpus), "source": "s"}],
        "dedupe": {"semantic": {"model": {"path": str(model)}, **settings}},
    }
    return run(parse_recipe(plain), out, RunnerChoice(workers=workers), Progress())


@pytest.mark.parametrize("clusters", [None, 4])
def test_rows_of_one_meaning_leave_one_each(
    corpus: Path, model: Path, clusters: int | None, tmp_path: Path
) -> None:
    done = run_on(corpus, model, tmp_path / "out", clusters=clusters)
    dropped = [row for row in rows_of(done.out, "dropped") if row["kind"] == "semantic"]
    kept = {row["id"] for row in rows_of(done.out, "train")}
    counts = done.manifest["counts"]
    assert counts["duplicates"]["exact"] == 1
    assert counts["duplicates"]["semantic"] == len(dropped) >= (30 if clusters is None else 25)
    assert {row["duplicate_of"] for row in dropped} <= kept
    for row in dropped:
        assert row["reason"] == "semantic duplicate"
        assert row["similarity"] > 0.95
        assert row["cluster_size"] == 2
    unknown = [row["id"] for row in rows_of(done.out, "train") if "unknown" in str(row["messages"])]
    assert len(unknown) == 2  # not embedded, so never a duplicate
    assert "(cosine similarity " in explain_text(done.out, dropped[0]["id"])


def test_similarities_are_stored_and_a_new_threshold_needs_no_new_search(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    first = run_on(corpus, model, tmp_path / "out").manifest["stages"]
    again = run_on(corpus, model, tmp_path / "out", keep=0.8)
    assert again.manifest["stages"]["embed"]["reused"]
    assert again.manifest["stages"]["similarity"]["reused"]
    assert again.manifest["stages"]["semantic"]["key"] != first["semantic"]["key"]
    assert again.manifest["counts"]["duplicates"]["semantic"] == 60 - round(0.8 * 60)
    [path] = (again.out / ".winnow").glob("similarity-*/similarity.parquet")
    table = pq.read_table(path)
    assert table.schema == semantic.SIMILARITY_SCHEMA
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
    assert table["max_sim_before"].null_count == 1  # the first of the one cluster


def test_d4_keeps_the_fraction_and_says_which_rows_were_typical(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    done = run_on(corpus, model, tmp_path / "out", d4={"keep": 0.4, "dedupe_keep": 0.5})
    dropped = [row for row in rows_of(done.out, "dropped") if row["kind"] == "semantic"]
    reasons = [row["reason"] for row in dropped]
    assert reasons.count(PROTOTYPICAL) == 6
    assert reasons.count(DUPLICATE) + reasons.count(COPY_OF_PROTOTYPICAL) == 30
    assert all((row["duplicate_of"] is None) == row["reason"].startswith("D4") for row in dropped)
    named = {row["duplicate_of"] for row in dropped} - {None}
    assert named <= {row["id"] for row in rows_of(done.out, "train")}


def test_files_are_the_same_for_any_number_of_workers_and_tiles(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "SPREAD_ROWS", 0)
    one = run_on(corpus, model, tmp_path / "one", clusters=5)
    two = run_on(corpus, model, tmp_path / "two", workers=2, clusters=5)
    assert hashes(two.out) == hashes(one.out)
    monkeypatch.setattr(semantic, "PARTS", 2)
    assert hashes(run_on(corpus, model, tmp_path / "three", clusters=5).out) == hashes(one.out)


def test_texts_of_unknown_words_alone_are_all_kept(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "unknown", "completion": f"words{n}"}) + "\n" for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), "utf-8")
    for rule in ({"threshold": 0.5}, {"d4": {"keep": 0.5}}):
        done = run_on(tmp_path / "rows.jsonl", model, tmp_path / "out", **rule)
        assert done.manifest["counts"]["kept"] == 3
    [record] = (done.out / ".winnow").glob("semantic-*/done.json")
    stats = json.loads(record.read_text("utf-8"))["stats"]
    assert (stats["rows"], stats["not_embedded"], stats["semantic"]) == (3, 3, 0)


def test_missing_faiss_is_said_before_anything_is_embedded(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for settings in ({"clusters": 2}, {"d4": {"keep": 0.5, "clusters": 2}}):
        with pytest.raises(ValueError, match=r"pip install 'winnow\[cpu\]'"):
            run_on(corpus, model, tmp_path / "out", **settings)
    assert not list((tmp_path / "out" / ".winnow").glob("embed-*"))


def similarities(vectors: Floats, ids: list[str], cuts: list[int], out: Path) -> pa.Table:
    """The stage similarity over files that end at `cuts`; every seventh row has no vector."""
    out.mkdir()
    bounds = [0, *cuts, len(ids)]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        part = slice(start, stop)
        without = pa.array(np.array([name.endswith("7") for name in ids[part]], np.bool_))
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors[part].ravel()), vectors.shape[1], mask=without
        )
        write_arrow(
            out / f"{number}.arrow",
            pa.table(
                {"row": np.arange(start, stop), "id": pa.array(ids[part], pa.string()), "embedding": lists}
            ),
        )
    stats = {"rows": len(ids), "not_embedded": sum(name.endswith("7") for name in ids)}
    files = tuple(f"{number}.arrow" for number in range(len(bounds) - 1))
    embedded = StageResult("embed", "key", str(out), files, 0.0, stats)
    settings = SemanticSettings.model_validate({"model": {"path": "x", "device": "cpu"}, "clusters": 3})
    stage = semantic.compare_rows(Workspace(out, RunnerChoice(), Progress()), settings, 5, embedded)
    return pq.read_table(stage.paths[0])


def test_neither_the_files_nor_the_order_of_rows_change_a_similarity(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    groups = np.repeat(draw.normal(size=(50, 8)), 4, axis=0) + 0.1 * draw.normal(size=(200, 8))
    groups[100:110] = groups[:10]
    vectors: Floats = np.asarray(groups / np.linalg.norm(groups, axis=1, keepdims=True), np.float32)
    ids = [f"id{n:04d}" for n in range(200)]
    whole = similarities(vectors, ids, [], tmp_path / "whole")
    assert whole.num_rows == 180
    assert whole["max_sim_before"].null_count == 3
    assert similarities(vectors, ids, [0, 37, 37, 150], tmp_path / "cut").equals(whole)

    def facts(table: pa.Table) -> list[dict[str, Any]]:
        names = dict(zip(table["row"].to_pylist(), table["id"].to_pylist(), strict=True))
        rows = [{**row, "nearest_before": names.get(row["nearest_before"])} for row in table.to_pylist()]
        return sorted(({**row, "row": 0} for row in rows), key=lambda row: str(row["id"]))

    order = draw.permutation(200)
    shuffled = similarities(vectors[order], [ids[at] for at in order], [90], tmp_path / "shuffled")
    assert facts(shuffled) == facts(whole)


@pytest.mark.realdata
def test_the_real_model_finds_paraphrases_that_shingles_do_not(realdata: Path, tmp_path: Path) -> None:
    rows = [
        (
            "How do I bake bread?",
            "Mix flour, water, salt and yeast, let it rise, bake it for half an hour.",
        ),
        (
            "How can I bake some bread?",
            "Mix flour, water, yeast and salt; let it rise; bake for half an hour.",
        ),
        ("Sort a list in Python.", "Use sorted(values), or values.sort() to sort it in place."),
        ("What is the capital of France?", "The capital of France is Paris."),
    ]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows), "utf-8"
    )
    model = realdata / "models" / "potion-base-4m-int8"
    done = run_on(tmp_path / "rows.jsonl", model, tmp_path / "out", threshold=0.9)
    assert done.manifest["counts"]["kept"] == 3
    [row] = rows_of(done.out, "dropped")
    assert {row["id"][-1], row["duplicate_of"][-1]} == {"1", "2"}


@pytest.mark.realdata
def test_clusters_find_nearly_all_that_a_search_of_all_pairs_finds(realdata: Path, tmp_path: Path) -> None:
    packed = realdata / "near_duplicates" / "toolformer-similarity-0.8-dataset.json.gz"
    rows = json.loads(gzip.decompress(packed.read_bytes()))
    lines = [json.dumps({"prompt": row["instruction"], "completion": row["response"]}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    model = realdata / "models" / "potion-base-4m-int8"
    found = []
    for clusters in (1, 8):
        done = run_on(tmp_path / "rows.jsonl", model, tmp_path / f"out{clusters}", clusters=clusters)
        found.append(done.manifest["counts"]["duplicates"]["semantic"])
    assert found[1] >= 0.93 * found[0] > 2500  # 2,828 of 2,945 when this was written

"""Whole runs through the front door: what comes out, and that it is the same however it was made."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.books import UnbalancedBooks, check_books
from pipelines.explain import explain_text
from pipelines.ingest import TooManyBadRows
from pipelines.progress import Progress
from pipelines.recipe import RecipeError, parse_recipe
from pipelines.run import Finished, reselect, run
from pipelines.runner import RunnerChoice, choose_runner
from tests.pipelines.corpus import hashes, recipe, rows_of, write_corpus

LOCAL = RunnerChoice()
QUIET = Progress()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(parse_recipe(recipe(corpus)), tmp_path_factory.mktemp("run") / "out", LOCAL, QUIET)


def _run(plain: dict[str, Any], out: Path, runner: RunnerChoice = LOCAL) -> Finished:
    return run(parse_recipe(plain), out, runner, QUIET)


def test_every_row_read_is_in_exactly_one_output(finished: Finished) -> None:
    counts = finished.manifest["counts"]
    kept, dropped, bad = (rows_of(finished.out, name) for name in ("train", "dropped", "bad_rows"))
    assert counts["read"] == 252 + 60 + 60 + len([r for r in dropped if r["reason"] == "near duplicate"])
    assert (counts["kept"], counts["dropped"], counts["bad"]) == (len(kept), len(dropped), len(bad))
    ids = [row["id"] for row in kept + dropped]
    assert len(ids) == len(set(ids)) == counts["read"] - counts["bad"]


def test_the_contract_of_the_output_folder_holds(finished: Finished) -> None:
    names = {path.name for path in finished.out.iterdir()}
    expected = {
        "manifest.json",
        "train",
        "dropped",
        "bad_rows",
        "scores",
        "report.html",
        "README.md",
        ".winnow",
    }
    assert names == expected
    manifest = json.loads((finished.out / "manifest.json").read_text())
    assert {
        "winnow_version",
        "recipe",
        "recipe_hash",
        "seed",
        "inputs",
        "models",
        "counts",
        "tokens",
        "stages",
    } <= set(manifest)
    assert {"exact", "near", "semantic"} == set(manifest["counts"]["duplicates"])
    kept = rows_of(finished.out, "train")[0]
    assert {
        "id",
        "source",
        "messages",
        "loss",
        "entropy",
        "ifd_ppl",
        "weight",
        "reason",
        "quadrant",
        "input_ids",
        "labels",
    } <= set(kept)
    dropped = rows_of(finished.out, "dropped")[0]
    assert {"id", "source", "stage", "reason", "duplicate_of", "loss"} <= set(dropped)
    assert not list(finished.out.rglob("*.tmp"))


def test_planted_copies_and_bad_rows_are_found(finished: Finished) -> None:
    dropped, bad = rows_of(finished.out, "dropped"), rows_of(finished.out, "bad_rows")
    exact = [row for row in dropped if row["reason"] == "exact duplicate"]
    near = [row for row in dropped if row["reason"] == "near duplicate"]
    assert len(exact) == 10
    assert len(near) > 0
    kept_or_dropped_later = {row["id"] for row in rows_of(finished.out, "scores")}
    assert {row["duplicate_of"] for row in exact + near} <= kept_or_dropped_later
    assert sorted((row["row"], row["reason"]) for row in bad) == [(6, "not JSON"), (7, "empty response")]


def test_rows_come_in_id_order_and_labels_follow_the_token_mask(finished: Finished) -> None:
    kept = rows_of(finished.out, "train")
    assert [row["id"] for row in kept] == sorted(row["id"] for row in kept)
    pruned = 0
    for row in kept:
        labels, ids = np.array(row["labels"]), np.array(row["input_ids"])
        assert len(ids) == row["prompt_tokens"] + row["response_tokens"]
        assert (labels[: row["prompt_tokens"]] == -100).all()
        trained = labels[row["prompt_tokens"] :]
        assert ((trained == -100) | (trained == ids[row["prompt_tokens"] :])).all()
        if row["quadrant"] in ("Q2", "Q2 fill"):
            assert (trained != -100).sum() == max(1, int(0.7 * len(trained) + 1e-9))
            pruned += 1
        else:
            assert (trained != -100).all()
    assert pruned > 0


def test_the_budget_is_met_exactly(finished: Finished) -> None:
    scored = len(rows_of(finished.out, "scores"))
    assert finished.manifest["counts"]["kept"] == scored // 2


def test_datasets_reads_the_result(finished: Finished, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(finished.out / "train" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path),
    )
    assert len(loaded) == finished.manifest["counts"]["kept"]
    assert loaded[0]["messages"][-1]["role"] == "assistant"


def test_two_workers_give_the_same_bytes(finished: Finished, corpus: Path, tmp_path: Path) -> None:
    again = _run(recipe(corpus), tmp_path / "out", choose_runner(2, []))
    assert hashes(again.out) == hashes(finished.out)


def test_the_order_of_inputs_does_not_matter(finished: Finished, corpus: Path, tmp_path: Path) -> None:
    plain = recipe(corpus)
    again = _run({**plain, "inputs": plain["inputs"][::-1]}, tmp_path / "out")
    assert hashes(again.out) == hashes(finished.out)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def job_service(tmp_path: Path) -> Iterator[list[str]]:
    """Beam's job service and a pool of external workers; gives the Beam options that use them."""
    ports = [_free_port(), _free_port()]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = [
        ["apache_beam.runners.portability.local_job_service_main", f"--port={ports[0]}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={ports[1]}"],
    ]
    with (tmp_path / "services.log").open("w") as log:
        processes = [
            subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, env=environment)
            for command in commands
        ]
        try:
            for port in ports:
                _wait_for(port)
            yield [
                "--runner=PortableRunner",
                f"--job_endpoint=localhost:{ports[0]}",
                "--environment_type=EXTERNAL",
                f"--environment_config=localhost:{ports[1]}",
            ]
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=30)


def test_a_job_service_with_external_workers_gives_the_same_bytes(
    finished: Finished, corpus: Path, tmp_path: Path, job_service: list[str]
) -> None:
    again = _run(recipe(corpus), tmp_path / "out", choose_runner(1, job_service))
    assert hashes(again.out) == hashes(finished.out)
    for name, stage in finished.manifest["stages"].items():
        counted = again.manifest["stages"][name]["metrics"]
        assert set(counted) == set(stage["metrics"])
        assert counted["bytes_written"] == stage["metrics"]["bytes_written"]


def test_a_chain_of_selectors_gives_each_row_the_reason_of_the_one_that_dropped_it(
    corpus: Path, tmp_path: Path
) -> None:
    steps = [
        {"threshold": {"column": "ifd_ppl", "max": 1.0}},
        {"grape": {}},
        {"random": {"keep_examples": 20}},
    ]
    done = _run(recipe(corpus, select=steps), tmp_path / "out")
    selectors = {
        row["reason"].split(":")[0] for row in rows_of(done.out, "dropped") if row["stage"] == "select"
    }
    assert selectors == {"threshold", "grape", "random"}
    assert done.manifest["counts"]["kept"] == 20


def test_too_many_bad_rows_fail_after_reading_with_the_table_of_reasons(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TooManyBadRows, match=r"(?s)2 of \d+ rows.*max_bad_fraction.*1  empty response.*1  not JSON"
    ):
        _run(recipe(corpus, max_bad_fraction=0), tmp_path / "out")
    assert len(rows_of(tmp_path / "out", "bad_rows")) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_rows_that_do_not_fit_are_dropped_or_cut_as_the_recipe_says(corpus: Path, tmp_path: Path) -> None:
    for policy in ("drop", "keep"):
        model = {**recipe(corpus)["model"], "max_tokens": 64, "on_overflow": policy}
        plain = recipe(corpus, model=model, score=["loss"], select=[])
        done = _run(plain, tmp_path / policy)
        overflow = done.manifest["dropped_reasons"].get("not scored: overflow", 0)
        cut = sum(bool(row["truncated"]) for row in rows_of(done.out, "train"))
        assert (overflow > 0, cut > 0) == ((True, False) if policy == "drop" else (False, True))


def test_unbalanced_books_fail_the_run() -> None:
    with pytest.raises(UnbalancedBooks, match=r"10 rows read.*= 9 \(\+1\)"):
        check_books({"read": 10, "bad": 1, "dropped": 3, "kept": 5})


def test_a_selector_with_vectors_needs_an_embedding_model(corpus: Path) -> None:
    with pytest.raises(RecipeError, match=r"k_center reads vectors; name the model: `embed: \{path"):
        parse_recipe(recipe(corpus, select=[{"k_center": {"keep": 0.5}}]))
    with pytest.raises(RecipeError, match=r"dart reads correct, which nothing computes; .*check: \{gold"):
        parse_recipe(recipe(corpus, select=[{"dart": {"k": 2}}]))


def test_a_verdict_lists_suspect_answers_and_names_what_was_dropped_before(
    corpus: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.jsonl"
    answers = [f"{i} + {i} = {2 * i + (i == 5)}, so the answer is {2 * i}." for i in range(20)]
    rows = [{"prompt": f"What is {i} plus {i}?", "completion": answers[i]} for i in range(20)]
    wrong.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = recipe(corpus, score=["loss", "entropy", "ifd"], select=[{"verdict": {}}])
    plain["inputs"].append({"path": str(wrong), "source": "sums"})
    first = _run(plain, tmp_path / "out")
    listed = rows_of(first.out, "suspects")
    assert [row["rank"] for row in listed] == list(range(1, len(listed) + 1))
    assert [row["suspicion"] for row in listed] == sorted((row["suspicion"] for row in listed), reverse=True)
    assert listed[0]["id"] == "sums/wrong.jsonl:00000006"  # rows are counted from 1
    assert listed[0]["messages"][-1]["content"] == answers[5]
    assert listed[0]["why"].startswith("suspect answer: 5 + 5 = 11 does not hold, suspicion 1.")
    kept, dropped = rows_of(first.out, "train"), rows_of(first.out, "dropped")
    assert {row["id"] for row in listed} == {row["id"] for row in dropped if row["verdict"] == "suspect"}
    assert {row["verdict"] for row in kept} <= {"keep", "keep_prune"}
    assert all(row["verdict"] == "duplicate" for row in dropped if row["duplicate_of"])
    assert None not in {row["verdict"] for row in dropped}
    for row in [*kept[:3], *(row for row in dropped if row["verdict"] == "too_easy")][:6]:
        assert "  verdict   " in explain_text(first.out, row["id"])
    page = (first.out / "report.html").read_text("utf-8")
    assert f"of the {len(listed)} in <code>suspects/</code>" in page
    assert "5 + 5 = 11 does not hold" in page
    again = reselect(first.out, parse_recipe(plain | {"select": [{"random": {"keep": 1}}]}), LOCAL, QUIET)
    assert not (again.out / "suspects").exists()
    assert "Suspect answers" not in (again.out / "report.html").read_text("utf-8")

"""Runs to object stores: the bytes of a run to a disk, also after a kill and when the store fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from connectors import storage
from connectors.manifest import read_manifest
from pipelines.explain import explain_text
from pipelines.lock import StoreLock
from pipelines.progress import Progress
from pipelines.recipe import RecipeError, parse_recipe
from pipelines.report import write_report
from pipelines.run import Finished, reselect, run
from pipelines.runner import RunnerChoice
from pipelines.view.facts import row_facts
from pipelines.view.index import RunIndex
from pipelines.view.query import Query
from pipelines.view.rows import Rows
from tests.pipelines.corpus import hashes, recipe, rows_of, write_corpus
from tests.stores import BUCKET, Stores, content, environment, flaky, running_stores

QUIET = Progress()
ROWS = 48


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with running_stores(tmp_path_factory.mktemp("credentials")) as running:
        yield running


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def local(corpus: Path, stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run on a disk that all others are compared with."""
    out = tmp_path_factory.mktemp("run") / "out"
    return run(parse_recipe(recipe(corpus)), out, RunnerChoice(flags=stores.flags), QUIET)


@pytest.fixture(scope="module")
def in_s3(corpus: Path, stores: Stores) -> Finished:
    place = f"s3://{BUCKET}/run"
    return run(parse_recipe(recipe(corpus)), place, RunnerChoice(flags=stores.flags), QUIET)


def small(corpus: Path) -> dict[str, Any]:
    """A recipe without a model."""
    return recipe(corpus, model=None, score=[], select=[{"random": {"keep": 0.5}}])


def everything(place: str) -> list[str]:
    """Names of all that is under a place."""
    return [path.removeprefix(f"{place}/") for path in storage.matching(f"{place}/**")]


def test_a_run_to_s3_gives_the_bytes_of_a_run_to_a_disk(in_s3: Finished, local: Finished) -> None:
    assert content(in_s3.place) == hashes(local.out)
    for name in ("counts", "tokens", "dropped_reasons", "files"):
        assert in_s3.manifest[name] == local.manifest[name]
    assert read_manifest(in_s3.place)["files"] == in_s3.manifest["files"]
    assert not [name for name in everything(in_s3.place) if ".tmp" in name or "/lock-" in name]
    with pytest.raises(ValueError, match="no folder of this machine"):
        _ = in_s3.out


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_inputs_and_output_in_a_store_and_two_workers_give_the_same_rows(
    stores: Stores, corpus: Path, local: Finished, scheme: str
) -> None:
    inputs = f"{scheme}://{BUCKET}/inputs"
    for path in corpus.iterdir():
        with storage.whole_file(f"{inputs}/{path.name}") as copy:
            shutil.copyfile(path, copy)
    plain = recipe(corpus)
    for entry in plain["inputs"]:
        entry["path"] = entry["path"].replace(str(corpus), inputs)
    choice = RunnerChoice(workers=2, flags=stores.flags)
    done = run(parse_recipe(plain), f"{scheme}://{BUCKET}/two", choice, QUIET)
    found, wanted = content(done.place), hashes(local.out)
    assert found.keys() == wanted.keys()
    # bad rows say where they were read
    assert {k: v for k, v in found.items() if "bad" not in k} == {
        k: v for k, v in wanted.items() if "bad" not in k
    }
    with pytest.raises(ValueError, match="lies in the output folder"):
        run(parse_recipe(plain), f"{scheme}://{BUCKET}", choice, QUIET)


def test_the_rows_of_a_run_in_a_store_can_be_looked_at(in_s3: Finished, local: Finished) -> None:
    here, there = (Rows(RunIndex(str(place))) for place in (local.out, in_s3.place))
    for query in (Query(), Query(part="dropped"), Query(sort="loss", descending=True), Query(text="the")):
        found = list(here.find(query, float("inf"))["positions"])
        assert found == list(there.find(query, float("inf"))["positions"])
        assert found
        assert here.page(query)["rows"] == there.page(query)["rows"]
    dropped = here.index.range_of("dropped").start
    facts = row_facts(here, dropped)
    assert facts["whole"]
    assert facts == row_facts(there, dropped)


def test_a_finished_run_in_a_store_is_explained_reported_and_decided_again(
    stores: Stores, in_s3: Finished, local: Finished, tmp_path: Path
) -> None:
    kept, dropped = rows_of(local.out, "train")[0], rows_of(local.out, "dropped")[0]
    for row_id in (kept["id"], dropped["id"], "alpaca/alpaca.jsonl:00000006"):
        assert explain_text(in_s3.place, row_id) == explain_text(local.out, row_id)
    page = write_report(in_s3.place)
    assert page == f"{in_s3.place}/report.html"
    assert "<html" in storage.read_text(page)
    shutil.copytree(local.out, tmp_path / "out")
    other = parse_recipe(
        {
            **read_manifest(local.out)["recipe"],
            "select": [{"top_k": {"column": "loss", "order": "lowest", "keep": 0.3}}],
        }
    )
    here = reselect(tmp_path / "out", other, RunnerChoice(flags=stores.flags), QUIET)
    there = reselect(in_s3.place, other, RunnerChoice(flags=stores.flags), QUIET)
    assert content(there.place) == hashes(here.out) != hashes(local.out)
    assert there.manifest["stages"]["score"]["reused"]


def test_the_command_takes_places_and_the_options_of_beam(
    stores: Stores, corpus: Path, tmp_path: Path
) -> None:
    place = f"s3://{BUCKET}/command"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small(corpus)), "utf-8")

    def winnow(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.cli", *arguments, "--", *stores.flags]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=300, check=False
        )

    done = winnow("run", "recipe.yaml", "--output", place)
    assert done.returncode == 0, done.stderr
    assert f"winnow explain {place} ID" in done.stdout
    [name, *_] = storage.file_names(f"{place}/train")
    row_id = pq.read_table(storage.fetched(f"{place}/train/{name}"))["id"][0].as_py()
    assert "KEPT" in winnow("explain", place, row_id).stdout
    wrong = winnow("run", "recipe.yaml", "--output", "s3://winnow-no-such-bucket/run")
    assert wrong.returncode == 2
    assert "the bucket does not exist" in wrong.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.yaml"]


def test_a_killed_run_goes_on_from_where_it_was(stores: Stores, corpus: Path, tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/killed"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small(corpus)), "utf-8")
    command = [sys.executable, "-m", "pipelines.cli", "run", "recipe.yaml", "--output", place]
    process = subprocess.Popen(
        [*command, "--", *stores.flags],
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=tmp_path,
        start_new_session=True,
    )
    for _ in range(600):
        if any("/clusters-" in name for name in everything(place)) or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not storage.exists(f"{place}/manifest.json")
    assert [name for name in everything(place) if "/lock-" in name]
    plain = small(corpus)
    done = run(parse_recipe(plain), place, RunnerChoice(flags=stores.flags), QUIET)
    assert done.manifest["stages"]["ingest"]["reused"]
    undisturbed = run(parse_recipe(plain), tmp_path / "out", RunnerChoice(flags=stores.flags), QUIET)
    assert content(place) == hashes(undisturbed.out)
    assert not [name for name in everything(place) if ".tmp" in name or "/lock-" in name]


def test_a_second_run_on_the_same_place_is_refused(stores: Stores, corpus: Path) -> None:
    place = f"gs://{BUCKET}/refused"
    first = StoreLock(f"{place}/.winnow")
    first.acquire()
    with pytest.raises(RecipeError, match=f"{place}: another winnow run is writing here"):
        run(parse_recipe(small(corpus)), place, RunnerChoice(flags=stores.flags), QUIET)
    first.release()


def test_a_place_that_holds_something_else_is_never_replaced(stores: Stores, corpus: Path) -> None:
    place = f"gs://{BUCKET}/strange"
    storage.write_text(f"{place}/train/mine.txt", "mine")
    with pytest.raises(RecipeError, match="which no winnow run put there"):
        run(parse_recipe(small(corpus)), place, RunnerChoice(flags=stores.flags), QUIET)
    assert everything(place) == ["train/mine.txt"]


def test_files_of_an_earlier_run_are_gone_from_what_a_later_one_publishes(
    stores: Stores, corpus: Path
) -> None:
    place = f"gs://{BUCKET}/again"
    choice = RunnerChoice(flags=stores.flags)
    run(parse_recipe(small(corpus)), place, choice, QUIET, limit=5)
    storage.write_text(f"{place}/train/train-00007-of-00009.parquet", "of an earlier run")
    done = run(parse_recipe(small(corpus)), place, choice, QUIET)
    assert done.manifest["counts"]["read"] > 15
    assert storage.file_names(f"{place}/train") == ["train-00000-of-00001.parquet"]
    assert done.manifest["files"] == {
        output: storage.file_sizes(f"{place}/{output}") for output in done.manifest["files"]
    }


def test_a_store_that_fails_one_request_in_twenty_gives_the_same_bytes(
    stores: Stores, corpus: Path, tmp_path: Path
) -> None:
    place = f"s3://{BUCKET}/flaky"
    plain = small(corpus)
    with flaky(stores.s3_port, 0.05) as (port, failures):
        flags = (f"--s3_endpoint_url=http://127.0.0.1:{port}",)
        run(parse_recipe(plain), place, RunnerChoice(flags=flags), QUIET)
    assert len(failures) >= 5
    undisturbed = run(parse_recipe(plain), tmp_path / "out", RunnerChoice(flags=stores.flags), QUIET)
    assert content(place) == hashes(undisturbed.out)
    assert not [name for name in everything(place) if ".tmp" in name or "/lock-" in name]

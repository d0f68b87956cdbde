"""Running again: what is not done twice, what is decided anew, and what a killed run goes on to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from connectors.manifest import InputChanged
from pipelines.embed import embed_file
from pipelines.progress import Progress
from pipelines.recipe import RecipeError, parse_recipe
from pipelines.run import Finished, reselect, run
from pipelines.runner import RunnerChoice
from scorers.models.settings import EmbeddingSettings
from tests.pipelines.corpus import MODEL, hashes, recipe, rows_of, write_corpus

LOCAL = RunnerChoice()
QUIET = Progress()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return _run(recipe(corpus), tmp_path_factory.mktemp("run") / "out")


def _run(plain: dict[str, Any], out: Path) -> Finished:
    return run(parse_recipe(plain), out, LOCAL, QUIET)


def test_running_again_does_nothing_again(corpus: Path, tmp_path: Path) -> None:
    _run(recipe(corpus), tmp_path / "out")
    before = hashes(tmp_path / "out")
    again = _run(recipe(corpus), tmp_path / "out")
    assert all(stage["reused"] for stage in again.manifest["stages"].values())
    assert hashes(tmp_path / "out") == before


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    def redone(plain: dict[str, Any]) -> set[str]:
        stages = _run(plain, tmp_path / "out").manifest["stages"]
        return {name for name, stage in stages.items() if not stage["reused"]}

    plain = recipe(corpus, score=["loss"], select=[{"random": {"keep": 0.5}}])
    assert redone(plain) == {"ingest", "signatures", "clusters", "score", "select", "emit"}
    assert redone({**plain, "seed": 1}) == {"select", "emit"}
    assert redone({**plain, "score": ["loss", "entropy"]}) == {"score", "select", "emit"}
    assert redone({**plain, "dedupe": {"exact": True}, "score": []} | {"model": None}) == {
        "signatures",
        "clusters",
        "select",
        "emit",
    }


def test_select_decides_again_without_inputs_or_model(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_corpus(data)
    plain = recipe(data)
    _run(plain, tmp_path / "out")
    for path in data.iterdir():
        path.unlink()
    chosen = parse_recipe(
        {**plain, "select": [{"top_k": {"column": "loss", "order": "lowest", "keep_examples": 7}}]}
    )
    again = reselect(tmp_path / "out", chosen, LOCAL, QUIET)
    assert again.manifest["counts"]["kept"] == 7
    losses = sorted(row["loss"] for row in rows_of(tmp_path / "out", "scores"))
    assert sorted(row["loss"] for row in rows_of(tmp_path / "out", "train")) == losses[:7]


def test_a_second_run_on_the_same_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out" / ".winnow").mkdir(parents=True)
    with (tmp_path / "out" / ".winnow" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecipeError, match="another winnow run"):
            _run(recipe(corpus), tmp_path / "out")


def test_folders_that_are_not_ours_are_never_replaced(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious.txt").write_text("mine")
    with pytest.raises(RecipeError, match="holds train, which no winnow run put there"):
        _run(recipe(corpus), tmp_path)
    assert (tmp_path / "train" / "precious.txt").exists()


def test_a_lost_shard_is_made_again(corpus: Path, tmp_path: Path) -> None:
    plain = recipe(corpus, model=None, score=[], select=[])
    before = hashes(_run(plain, tmp_path / "out").out)
    next((tmp_path / "out").glob(".winnow/signatures-*/*.arrow")).unlink()
    again = _run(plain, tmp_path / "out")
    assert [name for name, stage in again.manifest["stages"].items() if not stage["reused"]] == ["signatures"]
    assert hashes(again.out) == before


def test_a_run_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    finished: Finished, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(corpus)), "utf-8")
    command = [sys.executable, "-m", "pipelines.cli", "run", str(path), "--output", str(tmp_path / "out")]
    draw = random.Random(3)
    deadline = time.monotonic() + 420
    kills = 0
    while True:
        # each time with another number of workers: what they leave must not depend on it
        attempt = [*command, "--workers", draw.choice("12")]
        process = subprocess.Popen(
            attempt, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=draw.uniform(2, 9) + 2 * kills)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            assert time.monotonic() < deadline, "never finished"
            continue
        assert process.returncode == 0, errors.decode()
        break
    assert kills > 0
    assert hashes(tmp_path / "out") == hashes(finished.out)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_selecting_again_embeds_and_checks_what_the_run_did_not(corpus: Path, tmp_path: Path) -> None:
    target = tmp_path / "task.jsonl"
    target.write_text(json.dumps({"prompt": "Describe the apple.", "completion": "apple1 river2"}) + "\n")
    select = [
        {"threshold": {"column": "wrong_calculations", "max": 0}},
        {"kshot": {"target": str(target), "keep": 0.5}},
        {"stratified": {"by": "source", "column": "extra.label", "order": "highest", "keep_examples": 20}},
    ]
    embed = {"path": str(MODEL), "scope": "prompt"}
    again = recipe(corpus, select=select, embed=embed)
    direct = _run(again, tmp_path / "direct")
    first = _run(recipe(corpus), tmp_path / "out")
    later = reselect(first.out, parse_recipe(again), LOCAL, QUIET)
    assert hashes(later.out) == hashes(direct.out)
    assert later.manifest["counts"]["kept"] == 20
    assert {row["source"] for row in rows_of(later.out, "train")} == {"alpaca"}  # no other has the field
    assert all(row["kshot_rank"] for row in rows_of(later.out, "train"))
    stages = reselect(first.out, parse_recipe(again), LOCAL, QUIET).manifest["stages"]
    assert stages["check"]["reused"]
    assert stages["vectors"]["reused"]


def test_a_task_that_changes_while_a_selector_aims_at_it_fails_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "task.jsonl"
    row = json.dumps({"prompt": "Describe the apple.", "completion": "apple1 river2"}) + "\n"
    target.write_text(row)

    def embedding(path: str, settings: EmbeddingSettings) -> npt.NDArray[np.float32]:
        vectors = embed_file(path, settings)
        target.write_text(row.replace("apple", "river"))
        return vectors

    monkeypatch.setattr("pipelines.embed.embed_file", embedding)
    select = [{"kshot": {"target": str(target), "keep": 0.5}}]
    aiming = recipe(corpus, score=[], select=select, embed={"path": str(MODEL), "scope": "prompt"})
    with pytest.raises(InputChanged, match=r"task\.jsonl changed while this run read it"):
        _run(aiming, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()

"""The same recipe on other engines: every file of the run is the local one, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.corpus import write_corpus
from tests.cluster.engines import REPOSITORY, Processes, start_flink, start_prism
from tests.cluster.fetch import Engines

pytestmark = pytest.mark.cluster

FOLDERS = ("train", "dropped", "bad_rows", "scores")
RUN_SECONDS = 400
REALDATA = Path(os.environ.get("WINNOW_REALDATA", REPOSITORY.parent / "shared" / "data"))
ROWS = int(os.environ.get("WINNOW_CLUSTER_ROWS", "50000"))


@pytest.fixture(scope="module")
def engines() -> Engines:
    """What `make cluster-test` fetched; there a missing engine is an error, elsewhere the reason to skip."""
    folder = os.environ.get("WINNOW_CLUSTER")
    if folder is None:
        pytest.skip("no engines: `make cluster-test` fetches Flink and Prism and runs this")
    found = Engines.under(Path(folder).resolve())
    assert found.jar.is_file(), f"{found.jar} is not there: python -m tests.cluster.fetch {folder}"
    assert found.prism.is_file(), f"{found.prism} is not there: python -m tests.cluster.fetch {folder}"
    return found


@pytest.fixture(scope="module")
def recipe(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of every kind of stage, and its corpus."""
    folder = tmp_path_factory.mktemp("cluster")
    write_corpus(folder / "data", ROWS, ROWS // 5)
    trained = REALDATA / "models" / "stories260K"
    settings = {
        "name": "cluster",
        "inputs": [{"path": str(folder / "data" / "*.jsonl"), "source": "toys"}],
        "max_bad_fraction": 0.01,
        "dedupe": {"exact": True, "minhash": {"threshold": 0.8, "ngram": 5}},
        "model": {
            "path": str(trained if trained.is_dir() else REPOSITORY / "quickstart" / "model"),
            "max_tokens": 256,
            "on_overflow": "drop",
            **({"chat_template": "plain"} if trained.is_dir() else {}),
        },
        "score": ["loss", "entropy"],
        "select": [{"q_tuning": {"keep": 0.5, "token_keep": 0.7}}],
        "output": str(folder / "out"),
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def local(recipe: Path) -> Path:
    """Output of the run on the local default."""
    return _run(recipe, recipe.with_name("local"), [])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes that end with the test."""
    with Processes(tmp_path / "engine") as owner:
        yield owner


@pytest.mark.parametrize("engine", ["prism", "flink"])
def test_a_run_on_another_engine_gives_the_same_bytes(
    engine: str, engines: Engines, recipe: Path, local: Path, processes: Processes
) -> None:
    if engine == "flink":
        options = start_flink(processes, engines.jar)
    else:
        options = start_prism(processes, engines.prism)
    remote = _run(recipe, recipe.with_name(engine), options)
    assert _counts(remote) == _counts(local)
    assert _counts(remote)["counts"]["read"] == ROWS + 2
    assert _differing(local, remote) == []


def _run(recipe: Path, out: Path, beam_options: list[str]) -> Path:
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--output", str(out)]
    done = subprocess.run(
        [*command, "--", *beam_options], cwd=REPOSITORY, timeout=RUN_SECONDS, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(beam_options)}\n{done.stderr[-4000:]}"
    return out


def _counts(out: Path) -> dict[str, Any]:
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    return {key: manifest[key] for key in ("counts", "tokens", "dropped_reasons")}


def _differing(one: Path, other: Path) -> list[str]:
    """Names of the data files that only one of two runs has, or that differ by a byte."""
    files = [
        {
            str(path.relative_to(out)): path.read_bytes()
            for folder in FOLDERS
            for path in (out / folder).glob("*")
        }
        for out in (one, other)
    ]
    names = sorted(set(files[0]) | set(files[1]))
    assert {name.split("/")[0] for name in names} == set(FOLDERS)
    return [name for name in names if files[0].get(name) != files[1].get(name)]

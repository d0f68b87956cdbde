"""The command as users type it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.pipelines.corpus import recipe, rows_of, write_corpus


def _winnow(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a recipe and a finished run in `out`."""
    folder = tmp_path_factory.mktemp("cli")
    write_corpus(folder / "data")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe(folder / "data"), "output": "out"}))
    done = _winnow("run", "recipe.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout
    assert "report.html" in done.stdout
    return folder


def test_explain_says_why_for_kept_dropped_copied_and_bad_rows(workplace: Path) -> None:
    out = workplace / "out"
    kept = rows_of(out, "train")[0]
    dropped = next(row for row in rows_of(out, "dropped") if row["stage"] == "select")
    copy = next(row for row in rows_of(out, "dropped") if row["reason"] == "exact duplicate")
    for row, words in (
        (kept, ["KEPT", kept["reason"], "loss", "higher than", "file"]),
        (dropped, ["DROPPED at stage select", dropped["reason"]]),
        (copy, ["DROPPED at stage dedupe", f"copy of   {copy['duplicate_of']}"]),
        ({"id": "alpaca/alpaca.jsonl:00000006"}, ["bad row: not JSON", "row 6"]),
    ):
        said = _winnow("explain", out, row["id"]).stdout
        assert all(word in said for word in words), said


def test_an_unknown_id_is_an_error_that_shows_what_ids_look_like(workplace: Path) -> None:
    done = _winnow("explain", workplace / "out", "nothing")
    assert done.returncode == 2
    assert "Ids look like 'alpaca/alpaca.jsonl:" in done.stderr


def test_plan_names_stages_passes_and_who_shares_them(workplace: Path) -> None:
    said = _winnow("plan", workplace / "recipe.yaml").stdout
    assert "pass over the conditional view, once for loss, entropy, top1_agreement, ifd" in said
    assert "pass over the direct view, once for ifd" in said
    assert "tokens through the model" in said


def test_validate_and_init_and_methods_and_report(workplace: Path, tmp_path: Path) -> None:
    assert "fine" in _winnow("validate", workplace / "recipe.yaml").stdout
    assert _winnow("init", "mine.yaml", cwd=tmp_path).returncode == 0
    again = _winnow("init", "mine.yaml", cwd=tmp_path)
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    assert _winnow("schema").stdout == (tmp_path / "recipe.schema.json").read_text("utf-8")
    said = _winnow("methods").stdout
    assert all(
        name in said for name in ("ifd_ppl", "q_tuning", "grape", "perplexity_band", "top_k", "threshold")
    )
    (workplace / "out" / "report.html").unlink()
    assert _winnow("report", workplace / "out").returncode == 0
    assert (workplace / "out" / "report.html").exists()
    against = _winnow("report", workplace / "out", "--against", workplace / "out")
    assert "report-against.html" in against.stdout
    assert (workplace / "out" / "report-against.html").exists()
    nothing = _winnow("report", workplace / "out", "--against", tmp_path)
    assert (nothing.returncode, "no finished run" in nothing.stderr) == (2, True)


def test_limit_set_and_select_change_what_they_say(workplace: Path, tmp_path: Path) -> None:
    done = _winnow(
        "run", workplace / "recipe.yaml", "--output", tmp_path / "out", "--limit", "20",
        "--set", "select.0.q_tuning.keep=0.25",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = len(rows_of(tmp_path / "out", "train"))
    assert kept == len(rows_of(tmp_path / "out", "scores")) // 4
    done = _winnow(
        "select", tmp_path / "out", workplace / "recipe.yaml", "--set", "select.0.q_tuning.keep=0.75"
    )
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "out", "train")) == 3 * len(rows_of(tmp_path / "out", "scores")) // 4
    assert "score       done before" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "sedd=1"], "nearest: 'seed'"),
        (["--", "--direct_running_mode=multi_threading"], "loses rows"),
        (["--", "--no_such_option=1"], "knows no option"),
        (["--set", "inputs.0.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["--set", "model.path=no/such-model-here"], "no/such-model-here"),
    ],
)
def test_what_cannot_work_ends_with_a_message_and_no_traceback(
    workplace: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = _winnow("run", workplace / "recipe.yaml", "--output", tmp_path / "out", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("workers", "moment"), [("1", 0.0), ("2", 0.0), ("2", 1.5)])
def test_ctrl_c_stops_cleanly_and_says_how_to_resume(
    workplace: Path, tmp_path: Path, workers: str, moment: float
) -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "run",
        str(workplace / "recipe.yaml"),
        "--workers",
        workers,
    ]
    command += ["--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 180
    while not list((tmp_path / "out").glob(".winnow/ingest-*/done.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(moment)  # workers that are just starting are the hard case
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipelines.cli", ("torch", "apache_beam", "transformers", "pyarrow")),  # `--help`
        ("pipelines.recipe", ("torch", "apache_beam", "transformers", "numba")),  # `validate`
    ],
)
def test_help_and_recipes_are_read_without_loading_what_runs_need(
    module: str, heavy: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PLAIN = """
import sys
from importlib.machinery import PathFinder

class Plain(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        extra = {"pandas", "jsonschema", "datasets", "trl", "accelerate", "faiss", "math_verify"}
        return None if name.partition(".")[0] in extra else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Plain
from pipelines.cli import main
main()
"""


def test_a_run_that_stores_tokens_needs_none_of_the_packages_that_extras_bring(tmp_path: Path) -> None:
    options = [
        "--limit",
        "5",
        "--set",
        "store=[entropy]",
        "--set",
        "max_bad_fraction=1",
        "--output",
        tmp_path,
    ]
    command = [sys.executable, "-c", PLAIN, "run", "quickstart/recipe.yaml", *map(str, options)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "manifest.json").exists()

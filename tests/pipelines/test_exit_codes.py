"""What the exit code of the command says."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from connectors.manifest import InputChanged
from pipelines import terminal
from pipelines.books import UnbalancedBooks
from pipelines.cli import EXIT_CODES
from pipelines.exit_codes import CODES, MEANINGS, ExitCode, codes_text, exit_code_of
from pipelines.failed_rows import TooManyFailedRows
from pipelines.ingest import TooManyBadRows
from pipelines.interrupts import DeadWorker
from pipelines.lock import OutputInUse, sole_user
from pipelines.progress import Progress
from pipelines.recipe import RecipeError
from pipelines.runner import RunnerChoice
from pipelines.stages import Workspace
from tests.pipelines.corpus import recipe, write_corpus

ROOT = Path(__file__).resolve().parents[2]
FROM_A_WORKER = """Traceback (most recent call last):
  File "sdk_worker.py", line 1, in _execute
connectors.manifest.InputChanged: data/a.jsonl changed while this run read it
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("shapes cannot be multiplied"), 1),
        (KeyError("id"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (ConnectionError("nothing answers"), 1),
        (DeadWorker("a worker process ended"), 1),
        (RecipeError("unknown key"), 2),
        (FileNotFoundError("recipe.yaml"), 2),
        (ModuleNotFoundError("math-verify"), 2),
        (InputChanged("data/a.jsonl changed"), 2),
        (RuntimeError(FROM_A_WORKER), 2),
        (TooManyBadRows("2 of 10 rows"), 3),
        (TooManyFailedRows("2 of 10 rows"), 3),
        (UnbalancedBooks("10 rows read"), 4),
        (OutputInUse("another winnow run is writing here"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_way_to_end_has_its_code_and_a_message(
    error: BaseException,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipelines.interrupts.stop_on_signals", lambda: None)
    monkeypatch.setattr("pipelines.interrupts.STOP.caught", False)
    with pytest.raises(typer.Exit) as ended, terminal.failures(str(tmp_path)):
        raise error
    assert ended.value.exit_code == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.strip()
    # whatever is nobody's known fault leaves its traceback where the message says
    log = tmp_path / terminal.RUN_LOG
    assert log.exists() == (code == 1 or str(error) == FROM_A_WORKER)
    assert not log.exists() or str(log) in said


def test_credentials_do_not_reach_the_screen_or_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.interrupts.stop_on_signals", lambda: None)
    with pytest.raises(typer.Exit), terminal.failures(str(tmp_path)):
        raise RuntimeError("cannot reach https://me:hunter2@host/x")
    assert "hunter2" not in capsys.readouterr().err + (tmp_path / terminal.RUN_LOG).read_text()


def test_a_second_run_in_one_folder_is_refused_as_in_use(tmp_path: Path) -> None:
    space = Workspace(str(tmp_path / "out"), RunnerChoice(), Progress())
    with sole_user(space), pytest.raises(OutputInUse, match="another winnow run"), sole_user(space):
        pass


def test_the_names_in_the_table_are_those_of_real_errors() -> None:
    ours = ("failed_rows", "score", "books", "lock", "recipe", "ingest")
    modules = ("builtins", "connectors.manifest", *(f"pipelines.{name}" for name in ours))
    known = {name for module in modules for name in vars(importlib.import_module(module))}
    assert set(CODES) <= known


def test_the_code_of_a_subclass_is_that_of_its_nearest_class() -> None:
    assert exit_code_of(OutputInUse("x")) is ExitCode.OUTPUT_IN_USE
    assert exit_code_of(UnicodeDecodeError("utf-8", b"", 0, 1, "x")) is ExitCode.CHANGE_NEEDED


def test_readme_docs_and_help_say_what_every_code_means() -> None:
    assert set(MEANINGS) == set(ExitCode)
    texts = [(ROOT / "docs" / "observability.md").read_text("utf-8"), (ROOT / "README.md").read_text("utf-8")]
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in texts[0]
        assert f"| {code.value} | {meaning} |" in texts[1]
    assert codes_text() in EXIT_CODES


def test_a_run_with_too_many_bad_rows_says_so_as_json(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=24)
    plain = recipe(tmp_path / "data", model=None, score=[], select=[], max_bad_fraction=0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    command = [sys.executable, "-m", "pipelines.cli", "run", str(tmp_path / "recipe.yaml")]
    command += ["--output", str(tmp_path / "out"), "--log-format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == ExitCode.TOO_MANY_FAILURES, done.stderr
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len({line["run_id"] for line in lines}) == 1
    assert lines[-1]["level"] == "ERROR"
    assert "max_bad_fraction" in lines[-1]["message"]

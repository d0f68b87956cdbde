"""What holds for every format: whole or not at all, nothing lost silently, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.examples import message
from pipelines.export.export import export, export_text
from pipelines.export.folder import MARK
from pipelines.export.formats import FORMATS, formats_table
from tests.pipelines.export.runs import Kept, chat, make_run, with_tool

ROOT = Path(__file__).resolve().parents[3]
PLAIN = [name for name in FORMATS if name != "dpo"]
PLAIN_ROWS = [Kept(chat(f"Question {n}?", f"Answer {n}, with “quotes”, 🦆 and שלום.")) for n in range(5)]
WEIGHED = Kept(chat("What?", "That."), weight=0.5)
MASKED = Kept(chat("Which words?", "All of these words are here."), pruned=(1, 2))
TOKEN_WEIGHED = Kept(chat("What?", "That and this."), token_weight=0.25)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", PLAIN)
def test_every_format_writes_every_row_and_says_so(tmp_path: Path, name: str) -> None:
    done = export(make_run(tmp_path / "out", PLAIN_ROWS), name)
    assert done.folder == tmp_path / "out" / "exports" / name
    assert done.written.rows == 5
    text = export_text(done)
    assert "5 rows" in text
    assert str(done.folder) in text
    assert f"{done.written.tokens:,} tokens" in text


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_run_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    out = make_run(tmp_path / "out", PLAIN_ROWS)
    first = digests(export(out, name, tmp_path / "first").folder)
    assert first == digests(export(out, name, tmp_path / "second").folder)
    assert first == digests(export(out, name, tmp_path / "first").folder)
    assert not list(tmp_path.glob(".*"))


CARRY = {"row weights": WEIGHED, "token masks": MASKED, "token weights": TOKEN_WEIGHED}


@pytest.mark.parametrize("carry", CARRY)
@pytest.mark.parametrize("name", PLAIN)
def test_a_format_carries_it_or_refuses_and_names_those_that_do(
    tmp_path: Path, name: str, carry: str
) -> None:
    out = make_run(tmp_path / "out", [*PLAIN_ROWS, CARRY[carry]])
    if carry in FORMATS[name].carries:
        assert export(out, name).written.rows == 6
        return
    with pytest.raises(ValueError, match=f"{name} cannot carry {carry}: 1 of 6 rows") as refused:
        export(out, name)
    assert "rows/kept:0005" in str(refused.value)
    assert "datasets" in str(refused.value)
    assert "--lossy" in str(refused.value)
    assert not (out / "exports" / name).exists()
    done = export(out, name, lossy=True)
    assert done.written.rows == 6
    assert f"Lost: {carry} of 1 rows" in export_text(done)
    assert json.loads((done.folder / MARK).read_text())["lost"] == {carry: 1}


def test_row_weights_of_0_and_1_are_what_openai_carries(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [Kept(chat("a", "b"), weight=0.0), *PLAIN_ROWS])
    assert export(out, "openai").written.rows == 6
    with pytest.raises(ValueError, match="row weights"):
        export(out, "axolotl")


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_that_kept_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="kept no row"):
        export(make_run(tmp_path / "out", []), name)


def test_tokens_that_the_run_did_not_write_are_asked_for(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", PLAIN_ROWS, tokens=False)
    with pytest.raises(ValueError, match="tokens: always"):
        export(out, "trl-tokenised")
    assert export(out, "axolotl").written.rows == 5


def test_a_folder_with_files_of_another_is_left_alone(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", PLAIN_ROWS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        export(out, "trl", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    done = export(out, "trl", tmp_path / "export")
    (done.folder / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.md"):
        export(out, "trl", tmp_path / "export")


@pytest.mark.parametrize("place", ["out", ".", "out/train", "out/dropped/more"])
def test_an_export_never_goes_over_the_run(tmp_path: Path, place: str) -> None:
    out = make_run(tmp_path / "out", PLAIN_ROWS)
    before = digests(out)
    with pytest.raises(ValueError, match="--to"):
        export(out, "trl", tmp_path / place)
    assert digests(out) == before


def test_a_failed_export_leaves_the_earlier_one(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", PLAIN_ROWS)
    before = digests(export(out, "trl", tmp_path / "to").folder)
    worse = make_run(tmp_path / "worse", [*PLAIN_ROWS, WEIGHED])
    with pytest.raises(ValueError, match="row weights"):
        export(worse, "trl", tmp_path / "to")
    assert digests(tmp_path / "to") == before


def test_an_unknown_format_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'axolotl'"):
        export(tmp_path, "axolot")


def test_rows_that_do_not_fit_are_counted_and_left_out_only_when_allowed(tmp_path: Path) -> None:
    two = [message("user", "a"), message("user", "b"), message("assistant", "c")]
    out = make_run(tmp_path / "out", [Kept(two), Kept(with_tool()), Kept(chat("a", "see <image>"))])
    with pytest.raises(ValueError, match="no way to write 3 of 3 rows") as refused:
        export(out, "llama-factory-alpaca")
    assert "turns that do not alternate" in str(refused.value)
    done = export(out, "llama-factory", lossy=True)
    assert done.written.rows == 1
    assert done.losses.left_out == {
        "turns that do not alternate between question and answer": 1,
        "text with <image>, <video> or <audio>, which would be taken for a file": 1,
    }
    with pytest.raises(ValueError, match="no row of"):
        export(out, "llama-factory-alpaca", lossy=True)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip


def test_the_command_says_what_it_wrote_or_why_it_did_not(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [*PLAIN_ROWS, WEIGHED])
    refused = command("export", out, "--format", "openai")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "openai cannot carry row weights: 1 of 6 rows" in refused.stderr
    done = command("export", out, "--format", "llama-factory-v1", "--to", tmp_path / "to")
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 rows" in done.stdout
    assert f"train_dataset: {tmp_path / 'to' / 'train.jsonl'}" in done.stdout


def test_the_table_has_a_line_for_each_format() -> None:
    assert len(formats_table().splitlines()) == len(FORMATS) + 1

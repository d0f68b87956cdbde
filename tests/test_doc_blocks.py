"""What the pages show runs: Python, recipes, command lines, and the output beside them."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from pipelines.cli import app
from pipelines.recipe import Recipe, parse_recipe
from pipelines.recipe_schema import recipe_schema
from scorers.base import ROLES
from scorers.catalog import SCORERS
from tests.doc_blocks import PAGES, ROOT, Block, Command, agrees, blocks_of, commands_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [command for page in PAGES for command in commands_of(page)]
LANGUAGES = {"", "python", "yaml", "text", "console"}
START: dict[str, Any] = {"name": "x", "inputs": [{"path": "rows.jsonl"}]}
EVERYTHING: dict[str, Any] = {  # what a fragment may build on
    "model": {"path": "m"},
    "models": {role: {"path": "m"} for role in ROLES},
    "score": [*SCORERS],
    "check": {"gold": "answer"},
    "embed": {"path": "m"},
}
WINNOW = typer.main.get_group(app)
SCHEMA = Draft202012Validator(recipe_schema())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and not block.not_run]


def test_every_block_says_what_it_is() -> None:
    odd = [block.name for block in BLOCKS if block.language not in LANGUAGES]
    assert odd == []
    assert of("python")
    assert of("console")


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.name)
def test_a_recipe_or_a_part_of_one_is_valid(block: Block) -> None:
    part = yaml.safe_load(block.text)
    assert set(part) <= set(Recipe.model_fields), "no part of a recipe: mark it `<!-- not run: why -->`"
    whole = START | part if {"model", "score", "models"} & set(part) else START | EVERYTHING | part
    parse_recipe(whole)
    assert not [error.message for error in SCHEMA.iter_errors(whole)]


def words_before(command: Command, option: str) -> list[str]:
    words = list(command.words)
    return words[: words.index(option)] if option in words else words


def winnow_fault(command: Command) -> str:
    """A command that is not there; wrong options raise. Options of Beam are tested with docs/cluster.md."""
    _, name, *words = words_before(command, "--")
    if name not in WINNOW.commands:
        return f"there is no command {name!r}"
    WINNOW.commands[name].make_context(name, words)
    return ""


def python_fault(command: Command) -> str:
    """A script or module of this repository that is not there, or does not know an option."""
    words = list(command.words[1:])
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1]) if words[1].split(".")[0] != "tests" else None
        path = Path(found.origin) if found and found.origin else ROOT / words[1].replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if path.name == "__init__.py":
            path = path.with_name("__main__.py")
    else:
        path = ROOT / words[0]
    if not path.is_file():
        return f"there is no {path}"
    text = path.read_text("utf-8")
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in text]
    return f"{path.name} does not know {', '.join(unknown)}" if unknown else ""


def other_fault(command: Command) -> str:
    """An extra of the package or a target of the Makefile that is not there."""
    tool, *words = command.words
    if tool == "make":
        known = (ROOT / "Makefile").read_text("utf-8")
        return "" if all(f"\n{word}:" in known for word in words) else f"no target {words}"
    named = [word.split("[")[1].rstrip("]") for word in words if "[" in word]
    missing = {extra for names in named for extra in names.split(",")} - set(EXTRAS)
    return f"no extra {missing}" if missing else ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_line_is_one_that_would_be_taken(command: Command) -> None:
    tool = command.words[0].rsplit("/", 1)[-1]
    check = {"winnow": winnow_fault, "python": python_fault}.get(tool, other_fault)
    assert check(command) == ""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: the quickstart with a finished run, a small run in OUT, a model."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "quickstart").mkdir()
    for path in (ROOT / "quickstart").iterdir():
        if path.name != "out":
            (folder / "quickstart" / path.name).symlink_to(path)
    (folder / "my").mkdir()
    (folder / "my" / "model").symlink_to(ROOT / "quickstart" / "model")
    said = call(folder, "-m", "pipelines.cli", "run", "quickstart/recipe.yaml")
    said += call(folder, "quickstart/found.py", "quickstart/out")
    (folder / "demo.txt").write_text(said, "utf-8")
    (folder / "OUT" / "train").mkdir(parents=True)
    rows = pq.read_table(folder / "quickstart" / "out" / "train")
    pq.write_table(rows.slice(0, 8), folder / "OUT" / "train" / "part-00000.parquet")  # enough to train on
    return folder


def call(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "page", sorted({block.page for block in of("python")}), ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_of_a_page_runs_and_prints_what_the_page_shows(page: Path, workplace: Path) -> None:
    printed: dict[str, str] = json.loads(call(workplace, "-m", "tests.run_page", str(page)).splitlines()[-1])
    blocks = list(blocks_of(page))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python" or "print(" not in block.text or block.not_run:
            continue  # trainers print too, and nobody shows that
        assert following is not None, f"{block.name} prints, and nothing of it is shown"
        assert following.language == "text", f"{block.name} prints, and nothing of it is shown"
        said = printed[str(block.line)]
        assert agrees(following.text, said), f"{block.name} prints:\n{said}"


def without_times(text: str) -> str:
    """What the demo prints; of the table of stages only names and rows, whatever a machine's speed."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("whole run")]
    end = next(at for at, words in enumerate(lines) if words[0] == "read")
    return "\n".join(" ".join(words) for words in [*(words[:2] for words in lines[:end]), *lines[end:]])


def test_the_readme_shows_what_the_demo_prints(workplace: Path) -> None:
    shown = next(block for block in blocks_of(ROOT / "README.md") if block.language == "text")
    printed = without_times((workplace / "demo.txt").read_text("utf-8"))
    assert agrees(without_times(shown.text), printed), printed


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.shown], ids=lambda command: command.name
)
def test_a_command_prints_what_the_page_shows(command: Command, workplace: Path) -> None:
    said = call(workplace, "-m", "pipelines.cli", *command.words[1:])
    assert agrees(command.shown or "", said), said


def test_every_section_of_a_report_is_explained(workplace: Path) -> None:
    report = (workplace / "quickstart" / "out" / "report.html").read_text("utf-8")
    page = (ROOT / "docs" / "reading_the_report.md").read_text("utf-8")
    titles = re.findall(r"<h2[^>]*>([^<{]+)</h2>", report)
    assert len(titles) > 8
    assert [title for title in titles if f"**{html.unescape(title)}" not in page] == []

"""What must hold of every reader, and of the reading of recipes, whatever it is given."""

from __future__ import annotations

from pathlib import Path
from random import Random

import orjson
import pyarrow as pa

from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA
from connectors.readers import InputSpec, Item, find_files, read_examples
from pipelines.recipe import Recipe, RecipeError
from pipelines.recipe_file import load_recipe
from tests.fuzz.cases import FileCase, file_case, recipe_case


def check_case(seed: int, folder: Path) -> None:
    """One case: a file four times out of five, else a recipe.

    Raises:
        AssertionError: If a property does not hold; any other exception is a fault too.
    """
    random = Random(seed)  # noqa: S311 - no secret
    if random.random() < 0.8:
        check_file(file_case(random), folder)
    else:
        check_recipe(recipe_case(random), folder)


def check_file(case: FileCase, folder: Path) -> None:
    """A file gives examples and bad rows, and every row of it is among them."""
    path = folder / case.name
    path.write_bytes(case.content)
    try:
        files = find_files(InputSpec(path=str(path), format=case.format), folder)
    except ValueError as error:
        _check_message(str(error), path)  # a kind that is not read, named with what to do
        return
    [file] = files
    items = list(read_examples(file))
    assert items, "nothing was said of the file"
    _check_items(items, len(case.content))
    if file.kind == "jsonl" and file.compression is None:
        _check_lines(items, case.content)


def _check_items(items: list[Item], size: int) -> None:
    positions = [item.position for item in items]
    assert positions == sorted(positions), "the position moved backwards"
    assert positions[-1] <= size
    for kind, schema in (("example", EXAMPLE_SCHEMA), ("bad", BAD_ROW_SCHEMA)):
        rows = [item.row for item in items if item.kind == kind]
        pa.RecordBatch.from_pylist(rows, schema=schema).validate(full=True)
    examples = [item.row for item in items if item.kind == "example"]
    assert len({row["id"] for row in examples}) == len(examples), "two examples share an id"
    for row in examples:
        assert row["messages"][-1]["role"] == "assistant"
        if row["extra"] is not None:
            orjson.loads(row["extra"])
    for item in items:
        if item.kind == "bad":
            assert item.row["reason"]
            assert len(item.row["detail"]) < 5000
            assert len(item.row["excerpt"] or "") <= 300


def _check_lines(items: list[Item], content: bytes) -> None:
    """Every line of JSON lines that is not blank has an item, and no other line has."""
    lines = enumerate(content.split(b"\n"), start=1)
    wanted = {number for number, line in lines if line.removeprefix(b"\xef\xbb\xbf").strip()}
    found = {item.row["row"] if item.kind == "bad" else _row_of(item) for item in items}
    assert found - {None} == wanted, "a line was lost, or made up"


def _row_of(item: Item) -> int:
    identity: str = item.row["id"]
    return int(identity.split(":", 1)[1].split("/", 1)[0])


def check_recipe(text: str, folder: Path) -> None:
    """A recipe is a Recipe, which can be written down, or a RecipeError that names the file."""
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        _check_message(str(error), path)
        return
    assert isinstance(recipe, Recipe)
    orjson.dumps(recipe.resolved())


def _check_message(message: str, path: Path) -> None:
    assert str(path) in message
    assert len(message) < 100_000

"""`winnow init` writes a recipe that editors can check."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.published import STARTER, recipe_names, write_recipe
from pipelines.recipe_file import load_recipe
from pipelines.recipe_schema import EDITOR_LINE, FILE_NAME, schema_json


@pytest.mark.parametrize("name", [STARTER, *recipe_names()])
def test_a_written_recipe_loads_and_names_the_schema_beside_it(name: str, tmp_path: Path) -> None:
    written = write_recipe(name, tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text("utf-8").startswith(f"{EDITOR_LINE}\n# ")
    assert load_recipe(tmp_path / "mine.yaml").name
    assert written[-1] == tmp_path / FILE_NAME
    assert written[-1].read_text("utf-8") == schema_json()


def test_a_second_recipe_leaves_the_schema_of_the_folder_alone(tmp_path: Path) -> None:
    write_recipe("grape", tmp_path / "one.yaml")
    (tmp_path / FILE_NAME).write_text("mine", "utf-8")
    assert write_recipe("grape", tmp_path / "two.yaml") == [tmp_path / "two.yaml"]
    assert (tmp_path / FILE_NAME).read_text("utf-8") == "mine"
    with pytest.raises(ValueError, match="there already"):
        write_recipe("grape", tmp_path / "two.yaml")

"""The recipes of published pipelines that come with the package, one file each in pipelines/recipes."""

from __future__ import annotations

import difflib
from pathlib import Path

from pipelines.recipe_schema import EDITOR_LINE, FILE_NAME, schema_json

RECIPES = Path(__file__).parent / "recipes"
STARTER = "starter"  # of no one published pipeline


def recipe_names() -> list[str]:
    """Names of the recipes of published pipelines, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != STARTER)


def recipe_line(name: str) -> str:
    """What a recipe is, its first line of comment."""
    with (RECIPES / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ").rstrip()


def write_recipe(name: str, path: Path) -> list[Path]:
    """Writes a recipe, the chat template beside it if it has one, and the schema that editors check it with.

    A schema that is there already stays as it is: it serves every recipe of the folder.

    Returns:
        The files written, the recipe first.

    Raises:
        ValueError: If there is no such recipe, or a file of that name is there already.
    """
    if name not in (STARTER, *recipe_names()):
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "take one of these."
        raise ValueError(f"there is no recipe {name!r}; {hint} Recipes: {', '.join(recipe_names())}")
    texts = {path: f"{EDITOR_LINE}\n{(RECIPES / f'{name}.yaml').read_text('utf-8')}"}
    template = RECIPES / f"{name}.jinja"
    if template.exists():
        texts[path.with_name(template.name)] = template.read_text("utf-8")
    for target in texts:
        if target.exists():
            raise ValueError(f"{target} is there already; name another file")
    schema = path.with_name(FILE_NAME)
    if not schema.exists():
        texts[schema] = schema_json()
    for target, text in texts.items():
        target.write_text(text, "utf-8")
    return list(texts)

"""The recipes of published pipelines that come with the package, one file each in pipelines/recipes."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

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
    """Copies a recipe, and the chat template beside it if it has one.

    Returns:
        The files written, the recipe first.

    Raises:
        ValueError: If there is no such recipe, or a file of that name is there already.
    """
    if name not in (STARTER, *recipe_names()):
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "take one of these."
        raise ValueError(f"there is no recipe {name!r}; {hint} Recipes: {', '.join(recipe_names())}")
    copies = {RECIPES / f"{name}.yaml": path}
    template = RECIPES / f"{name}.jinja"
    if template.exists():
        copies[template] = path.with_name(template.name)
    for target in copies.values():
        if target.exists():
            raise ValueError(f"{target} is there already; name another file")
    for source, target in copies.items():
        shutil.copyfile(source, target)
    return list(copies.values())

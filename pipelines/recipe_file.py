"""Reading a recipe file: YAML without objects, bounded in size, with the values given by `--set` in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from connectors.secrets import without_secrets
from pipelines.plain_values import why_refused
from pipelines.recipe import Recipe, RecipeError, parse_recipe

_MAX_RECIPE_BYTES = 2**20  # far above any recipe
_MAX_QUOTED = 2000  # characters of another library's message


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe file.

    Args:
        path: The YAML file.
        overrides: `key.path=value` texts, as given with `--set`; list items by number
            (`select.0.q_tuning.keep=0.3`).

    Raises:
        RecipeError: For a file that is not there or not YAML, and for a recipe that cannot run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}. Write one with `winnow init`.") from error
    if len(content) > _MAX_RECIPE_BYTES:
        raise RecipeError(
            f"{path}: a recipe above {_MAX_RECIPE_BYTES:,} bytes is not read; is it a data file?"
        )
    raw = _plain_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of keys (name, inputs, ...), found {type(raw).__name__}"
        )
    for text in overrides:
        _override(raw, text)
    return parse_recipe(raw, str(path))


def _plain_yaml(text: str | bytes, where: str) -> Any:  # noqa: ANN401 - any YAML
    """YAML as plain data, none of it twice: what aliases repeat counts as often as it is repeated.

    Raises:
        RecipeError: If it is not YAML, asks for objects, or holds more than any recipe does.
    """
    try:
        value = yaml.safe_load(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise RecipeError(f"{where}: nested too deeply for a recipe") from error
    # A value that a tag or its shape promises and that is not one (`!!int ""`, a 99th of January) ends the
    # reading with whatever error Python's own conversion has.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise RecipeError(f"{where}: not YAML: {without_secrets(str(error))[:_MAX_QUOTED]}") from error
    if fault := why_refused(value):
        raise RecipeError(f"{where}: {fault}")
    return value


def _override(raw: dict[str, Any], text: str) -> None:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise RecipeError(
            f"--set {text}: wanted key.path=value, for example --set dedupe.minhash.threshold=0.9"
        )
    *parents, last = path.split(".")
    target: Any = raw
    for part in parents:
        target = _step(target, part, text)
    parsed = _plain_yaml(value, f"--set {text}")
    if isinstance(target, list):
        target[_index(target, last, text)] = parsed
    else:
        target[last] = parsed


def _step(target: Any, part: str, text: str) -> Any:  # noqa: ANN401 - raw YAML
    if isinstance(target, list):
        return target[_index(target, part, text)]
    if target.get(part) is None:
        target[part] = {}
    if not isinstance(target[part], dict | list):
        raise RecipeError(f"--set {text}: `{part}` holds {target[part]!r}, which has no keys")
    return target[part]


def _index(target: list[Any], part: str, text: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise RecipeError(f"--set {text}: `{part}` is no item of a list of {len(target)} (counted from 0)")
    return int(part)

"""Settings given as plain data, checked with messages that name each wrong key and the nearest known one."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


def parse_settings(kind: type[Settings], raw: Any, where: str) -> Settings:  # noqa: ANN401 - raw YAML
    """Settings of a kind from plain data.

    Args:
        kind: The pydantic model.
        raw: A mapping of its fields, as YAML or JSON gives it.
        where: What each line of the messages begins with; "" for nothing.

    Raises:
        ValueError: One line for each key that is unknown or wrong.
    """
    begin = f"{where}: " if where else ""
    problems = unknown_keys(kind, raw)
    if problems:
        raise ValueError("\n".join(f"{begin}{problem}" for problem in problems))
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            lines.append(f"{begin}{key + ': ' if key else ''}{item['msg'].removeprefix('Value error, ')}")
        raise ValueError("\n".join(lines)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name, "" where nothing is near.

    Example:
        >>> nearest("sed", ["seed", "name"])
        " (nearest: 'seed')"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (nearest: {close[0]!r})" if close else ""


def unknown_keys(model: type[BaseModel], value: Any, at: str = "") -> list[str]:  # noqa: ANN401 - raw YAML
    """Keys of `value` that `model` does not have, each with its place and the nearest known key."""
    if not isinstance(value, dict):
        return []
    problems = []
    for key, item in value.items():
        place = f"{at}{key}"
        field = model.model_fields.get(str(key))
        if field is None:
            known = ", ".join(model.model_fields)
            problems.append(
                f"unknown key `{place}`{nearest(str(key), model.model_fields)}; known here: {known}"
            )
            continue
        inner = _model_in(field.annotation)
        if inner is not None:
            items = _parts(place, item, typing.get_origin(field.annotation) is dict)
            problems += [problem for prefix, part in items for problem in unknown_keys(inner, part, prefix)]
    return problems


def _parts(place: str, item: Any, named: bool) -> list[tuple[str, Any]]:  # noqa: ANN401 - raw YAML
    """The values to check in an item, each with its place: of a list, of a mapping of names, or itself."""
    if isinstance(item, list):
        return [(f"{place}.{index}.", part) for index, part in enumerate(item)]
    if named and isinstance(item, dict):
        return [(f"{place}.{name}.", part) for name, part in item.items()]
    return [(f"{place}.", item)]


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None

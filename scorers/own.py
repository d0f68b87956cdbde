"""Scorers that do not come with winnow: of other installed packages, and of a program or notebook.

A package offers a scorer as an entry point of the group `winnow.scorers`, in its pyproject.toml:

    [project.entry-points."winnow.scorers"]
    peak_loss = "my_package.peak_loss:SCORER"

It then stands in every recipe, on every worker that has the package. `scorers.register` adds one to the
running program only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import re
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from scorers.base import ROLES, ROW_OUTPUTS, TOKEN_COLUMNS, TOKEN_OUTPUTS, Need, Scorer

GROUP = "winnow.scorers"
RESERVED = {
    "id", "source", "messages", "tools", "group", "content_hash", "extra", "status", "prompt_tokens",
    "response_tokens", "truncated", "control_text", "weight", "reason", "stage", "labels", "token_weights",
    *TOKEN_COLUMNS,
}  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def installed() -> Iterator[Scorer]:
    """The scorers that installed packages offer, in the order of their names.

    Raises:
        ImportError: If a package offers one that cannot be loaded; the message names the package.
    """
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
        try:
            found = entry.load()
        except Exception as error:  # another package's code may raise anything, and says nothing of itself
            raise ImportError(
                f"the package {package} offers winnow the scorer {entry.name!r} as {entry.value}, "
                f"which cannot be loaded: {type(error).__name__}: {error}. Mend or uninstall it"
            ) from error
        if not isinstance(found, Scorer) or found.name != entry.name:
            raise ImportError(
                f"the package {package} offers winnow the scorer {entry.name!r}, but {entry.value} is "
                f"{found!r:.100}; wanted a scorers.Scorer of that name"
            )
        yield replace(found, version=found.version or package)


def checked(scorer: Scorer, others: Mapping[str, Scorer]) -> Scorer:
    """A scorer of a program, with a version made from its code if it states none.

    Args:
        scorer: What is to be added.
        others: All other scorers, by name.

    Raises:
        ValueError: If it would not fit beside the others; the message says why.
    """
    where = f"scorer {scorer.name!r}"
    taken = {column.name: name for name, other in others.items() for column in other.columns}
    _check_name(scorer.name, where, others)
    if not scorer.columns or not scorer.needs:
        raise ValueError(f"{where}: it declares no {'columns' if not scorer.columns else 'needs'}")
    for column in scorer.columns:
        _check_name(column.name, f"{where}: column", RESERVED)
        if column.name in taken:
            raise ValueError(f"{where}: the column {column.name!r} is written by {taken[column.name]}")
    for need in scorer.needs:
        _check_need(need, where)
    return replace(scorer, version=scorer.version or _version(scorer.score))


def _check_name(name: str, where: str, taken: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: wanted a name of small letters, digits and _, found {name!r}")
    if name in taken:
        raise ValueError(f"{where}: the name {name!r} is taken; give another")


def _check_need(need: Need, where: str) -> None:
    known = {**TOKEN_OUTPUTS, **ROW_OUTPUTS}
    if need.output not in known:
        raise ValueError(f"{where}: no model gives {need.output!r}; outputs are {', '.join(known)}")
    if need.view not in ("conditional", "direct", "whole"):
        raise ValueError(f"{where}: there is no view {need.view!r}; views are conditional, direct, whole")
    if need.model and need.model not in ROLES:
        raise ValueError(f"{where}: there is no role {need.model!r}; roles are {', '.join(ROLES)}")


def _version(score: Callable[..., Any]) -> str:
    """Hash of the code that a function stands in: stored scores of other code are not taken for its own."""
    module = sys.modules.get(score.__module__)
    for where in (module, score):  # a notebook is a module without source, whose functions have it
        try:
            source = inspect.getsource(where)  # type: ignore[arg-type] # None is a TypeError, as below
        except (OSError, TypeError):
            continue
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    return uuid.uuid4().hex  # typed at a prompt: nobody can say whether it is the same

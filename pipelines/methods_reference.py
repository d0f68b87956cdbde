"""`winnow methods --format markdown`: the page of methods, docs/methods.md, from the catalogs and files."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator

from pipelines.methods import needs_of, passes_of
from pipelines.selectors.base import Budget, Selector
from pipelines.selectors.catalog import SELECTORS
from scorers.base import ROLES, Column, Scorer
from scorers.catalog import SCORERS

_OPENING = """\
<!-- Written by `winnow methods --format markdown`; change the opening of a method's file, not this page. -->

# Methods

Every scorer and every selector: what it computes, in which direction it is meant, what it costs, who
published it, and where paper, code and ours differ. What nobody published, and what we changed, is labelled
*ours*. The text of each method is the opening of its file. The options of selectors with their bounds are in
[recipes](recipes.md).

- [Scorers](#scorers): {scorers}
- [Selectors](#selectors): {selectors}
- [Duplicates](duplicates.md) and evaluation sets come before all of these.
"""

_SCORERS = """\
## Scorers

Named under `score:`. What a scorer costs is the *passes* over every row that it needs; scorers that share a
pass pay for it once. The *conditional* view is the response after its prompt, the *direct* view the same
tokens without it, the *whole* view prompt and response alike. A value that cannot be computed is null,
never 0.

Some compare the target with another model, which the recipe lists under its role: {roles}.
Every model runs in a stage of its own, and the comparison reads what both stored.
"""

_SELECTORS = """\
## Selectors

Steps of `select:`; each decides about the rows that the step before kept. A selector reads columns that are
stored, so deciding again needs no model: `winnow select` takes seconds for a million rows
([measured](measured.md#deciding-again)). Ties break by id, and randomness is a hash of seed and id: the same
input gives the same set for any number of workers and any order of files. A row without the column that
decides is dropped with that reason, unless the text says otherwise.
"""

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_BETTER = {"higher": "higher", "lower": "lower", "neither": "see below"}


def methods_page() -> str:
    """The page, in Markdown."""
    opening = _OPENING.format(
        scorers=", ".join(f"[{name}](#{name})" for name in SCORERS),
        selectors=", ".join(f"[{name}](#{name}-selector)" for name in SELECTORS),
    )
    roles = "; ".join(f"`{role}`, {said}" for role, said in ROLES.items())
    lines = [opening, _SCORERS.format(roles=roles)]
    for name, scorer in SCORERS.items():
        lines += [f"### {name}", "", *_scorer(scorer), ""]
    lines.append(_SELECTORS)
    for name, selector in SELECTORS.items():
        lines += [f"### {name} selector", "", *_selector(selector), ""]
    return "\n".join(lines).rstrip() + "\n"


def _scorer(scorer: Scorer) -> Iterator[str]:
    yield "| column | unit | range | better | meaning |"
    yield "|---|---|---|---|---|"
    for column in scorer.columns:
        better = _BETTER[column.better]
        yield f"| `{column.name}` | {column.unit or 'none'} | {_range(column)} | {better} | {column.doc} |"
    yield ""
    yield f"Passes: {passes_of(scorer)}. Source: {linked(scorer.source)}."
    yield ""
    yield from opening_of(scorer.score.__module__)


def _selector(selector: type[Selector]) -> Iterator[str]:
    yield f"**{(inspect.getdoc(selector) or '').splitlines()[0]}**"
    yield ""
    options = [f"`{key}`" for key in selector.model_fields if key not in Budget.model_fields]
    if issubclass(selector, Budget):
        options.insert(0, "a [budget](recipes.md#budgets)")
    yield f"Options: {', '.join(options) or 'none'}. [Values and bounds](recipes.md#{selector.name})."
    yield ""
    yield f"Needs: {needs_of(selector)}. Source: {linked(selector.source)}."
    yield ""
    yield from opening_of(selector.__module__)


def opening_of(module: str) -> list[str]:
    """The docstring of a module as lines of Markdown, in which a formula is indented by four."""
    return (inspect.getdoc(importlib.import_module(module)) or "").splitlines()


def linked(source: str) -> str:
    """A source with links to its papers.

    Example:
        >>> linked("GRAPE, arXiv 2502.04194")
        'GRAPE, [arXiv 2502.04194](https://arxiv.org/abs/2502.04194)'
    """
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _range(column: Column) -> str:
    low = "-∞" if math.isinf(column.low) else f"{column.low:.4g}"
    high = "∞" if math.isinf(column.high) else f"{column.high:.4g}"
    return f"{low} to {high}"

"""`winnow methods`: every scorer and selector, from the catalogs themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pipelines.published import recipe_line, recipe_names
from pipelines.selectors.base import Selector, VectorSelector
from pipelines.selectors.catalog import SELECTORS
from scorers.base import Scorer
from scorers.catalog import SCORERS, columns_of

_DIRECTION = {
    "higher": "higher is better",
    "lower": "lower is better",
    "neither": "no single better direction",
}


def methods_text() -> str:
    """Scorers with their columns and needs, selectors with their options, recipes of published pipelines."""
    scorers = ["SCORERS (under `score:`)", *_scorers(), ""]
    selectors = ["SELECTORS (under `select:`)", *_selectors(), ""]
    recipes = ["RECIPES (winnow init --recipe NAME)", ""]
    recipes += [f"  {name:<18}{recipe_line(name)}" for name in recipe_names()]
    return "\n".join([*scorers, *selectors, *recipes])


def _scorers() -> Iterator[str]:
    for name, scorer in SCORERS.items():
        yield f"\n  {name}    passes: {passes_of(scorer)}    source: {scorer.source}"
        for column in scorer.columns:
            unit = f" [{column.unit}]" if column.unit else ""
            yield f"    {column.name:<20}{column.doc}{unit}; {_DIRECTION[column.better]}"


def passes_of(scorer: Scorer) -> str:
    """The passes over every row that a scorer costs alone; scorers that share a pass pay it once.

    Example:
        >>> passes_of(SCORERS["ifd"]), passes_of(SCORERS["rho1"])
        ('conditional, direct', 'conditional, conditional of the reference model')
    """
    passes = sorted({(need.model, need.view) for need in scorer.needs})
    return ", ".join(view + (f" of the {model} model" if model else "") for model, view in passes)


def _selectors() -> Iterator[str]:
    for name, selector in SELECTORS.items():
        yield f"\n  {name}    {(inspect.getdoc(selector) or '').splitlines()[0]}"
        yield f"    needs: {_needs(selector)}    source: {selector.source}"
        for key, field in selector.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else f"default {field.get_default(call_default_factory=True)!r}"
            )
            yield f"    {key:<20}{field.description or ''} ({default})"


def _needs(selector: type[Selector]) -> str:
    if issubclass(selector, VectorSelector):
        return "one pass of the embedding model"
    try:
        reads = selector.model_construct().reads
    except AttributeError:  # an option without a default names the column
        return "the column it is given"
    names = sorted(name for name in SCORERS for column in columns_of([name]) if column.name in reads)
    scorers = ", ".join(dict.fromkeys(names))
    return f"the scorer {scorers}" if scorers else "no scorer"

"""`winnow methods`: every scorer and selector, from the catalogs themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pipelines.check_settings import CHECK_COLUMNS
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
    said = [view + (f" of the {model} model" if model else "") for model, view in passes]
    if any(need.output == "grad_norm" for need in scorer.needs):
        said.append("the output layer a second time")
    return ", ".join(said)


def _selectors() -> Iterator[str]:
    for name, selector in SELECTORS.items():
        yield f"\n  {name}    {(inspect.getdoc(selector) or '').splitlines()[0]}"
        yield f"    needs: {needs_of(selector)}    source: {selector.source}"
        for key, field in selector.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else f"default {field.get_default(call_default_factory=True)!r}"
            )
            yield f"    {key:<20}{field.description or ''} ({default})"


def needs_of(selector: type[Selector]) -> str:
    """What has to be computed before a selector can decide.

    Example:
        >>> needs_of(SELECTORS["q_tuning"]), needs_of(SELECTORS["random"])
        ('the scorers loss, entropy', 'nothing')
    """
    options = selector.model_construct()
    needs = ["one pass of the embedding model"] if issubclass(selector, VectorSelector) else []
    if "column" in selector.model_fields:
        needs.append("the column it is given")
        reads: tuple[str, ...] = ()
    else:
        reads = options.reads
    names = [name for name in SCORERS if any(column.name in reads for column in columns_of([name]))]
    if names:
        needs.append(f"the scorer{'s' if names[1:] else ''} {', '.join(names)}")
    if any(column in CHECK_COLUMNS for column in reads):
        needs.append("what `check` reads in the text")
    if options.token_reads:
        needs.append("the stored losses of tokens")
    return "; ".join(needs) or "nothing"

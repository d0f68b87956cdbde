"""`winnow methods`: every scorer and selector, from the catalogs themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import SCORERS, plan, views_of

_DIRECTION = {
    "higher": "higher is better",
    "lower": "lower is better",
    "neither": "no single better direction",
}


def methods_text() -> str:
    """Scorers with their columns and needs, selectors with their options."""
    return "\n".join(
        ["SCORERS (under `score:`)", *_scorers(), "", "SELECTORS (under `select:`)", *_selectors()]
    )


def _scorers() -> Iterator[str]:
    for name, scorer in SCORERS.items():
        views = ", ".join(views_of(plan([name])))
        yield f"\n  {name}    passes: {views}    source: {scorer.source}"
        for column in scorer.columns:
            unit = f" [{column.unit}]" if column.unit else ""
            yield f"    {column.name:<16}{column.doc}{unit}; {_DIRECTION[column.better]}"


def _selectors() -> Iterator[str]:
    for name, selector in SELECTORS.items():
        yield f"\n  {name}    {(inspect.getdoc(selector) or '').splitlines()[0]}"
        for key, field in selector.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else f"default {field.get_default(call_default_factory=True)!r}"
            )
            yield f"    {key:<20}{field.description or ''} ({default})"

"""How many cases hypothesis draws: the same few each time in the suite, many new ones in `make explore`."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100  # what the suite draws where a test says nothing


def draws(number: int) -> settings:
    """Draw `number` cases where other tests draw `USUAL`; `make explore` multiplies both."""
    return settings(max_examples=max(1, number * settings().max_examples // USUAL))

"""Published scoring methods, one file each, and the machinery that runs a language model for them.

The door for notebooks: `score` gives the `Scores` of a set of examples; `register` adds a scorer of your own,
which is declared with the other names.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scorers.base import Column, Need, Outputs, Scorer, TokenValues, row_means
    from scorers.catalog import register
    from scorers.in_memory import Scores, score

__all__ = [
    "Column", "Need", "Outputs", "Scorer", "Scores", "TokenValues", "register", "row_means", "score",
]  # fmt: skip


def __getattr__(name: str) -> object:  # loads torch and transformers only for those who score
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scorers import base, catalog

    for module in (base, catalog):
        if name in vars(module):
            return vars(module)[name]
    from scorers import in_memory

    return getattr(in_memory, name)

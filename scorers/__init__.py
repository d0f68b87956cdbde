"""Published scoring methods, one file each, and the machinery that runs a language model for them.

The door for notebooks: `score` gives the `Scores` of a set of examples.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scorers.in_memory import Scores, score

__all__ = ["Scores", "score"]


def __getattr__(name: str) -> object:  # loads torch and transformers when they are asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scorers import in_memory

    return getattr(in_memory, name)

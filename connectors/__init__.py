"""Where examples come from and where they go: the canonical row, chat formats, readers, shards, manifest.

The door for notebooks: `read` gives a set of `Examples`, from files or from rows that a program holds.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.in_memory import Examples, read
    from connectors.rows import Rows

__all__ = ["Examples", "Rows", "read"]


def __getattr__(name: str) -> object:  # loads Arrow and the readers when they are asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from connectors import in_memory

    return getattr(in_memory, name)

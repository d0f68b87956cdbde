"""Beam stages, selectors, recipes, command line, report.

The door for notebooks: `deduplicate` and `select` decide about rows in memory, `run_recipe` runs a recipe,
`open_run` reads what a run left.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.finished import Run, open_run, run_recipe
    from pipelines.in_memory import Selection, deduplicate, select

__all__ = ["Run", "Selection", "deduplicate", "open_run", "run_recipe", "select"]


def __getattr__(name: str) -> object:  # loads Beam when it is asked for: `winnow --help` does not need it
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines import finished, in_memory

    return getattr(finished if name in vars(finished) else in_memory, name)

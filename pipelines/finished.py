"""Finished runs, opened for a program or a notebook; and running a recipe from there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import BAD_ROW_SCHEMA
from connectors.manifest import read_manifest
from connectors.rows import Rows
from connectors.shards import parquet_files
from connectors.storage import fetched, join
from pipelines.exit_codes import BEAM_STEP, cause_of
from pipelines.explain import explain_text
from pipelines.recipe import Recipe, parse_recipe
from pipelines.recipe_file import load_recipe
from pipelines.run import run
from pipelines.runner import choose_runner
from pipelines.suspects import SCHEMA as SUSPECTS_SCHEMA


@contextmanager
def plain_errors() -> Iterator[None]:
    """Takes Beam's additions from messages for users, and its own log of errors that are raised anyway."""
    logger = logging.getLogger("apache_beam")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ValueError as error:
        if BEAM_STEP not in str(error):
            raise
        raise ValueError(cause_of(error)) from error
    finally:
        logger.setLevel(before)


class Run:
    """A finished run. Its files are read when they are asked for, each once, whole.

    Args:
        out: Its output folder, on this machine or in an object store.

    Attributes:
        out: The same.
        manifest: What `OUT/manifest.json` says.

    Raises:
        ValueError: If the folder holds no finished run.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = str(out)
        self.manifest = read_manifest(self.out)

    @cached_property
    def train(self) -> Rows:
        """The rows that were kept: conversation, scores, weight, reason, decision columns."""
        return self._rows("train", "kept rows")

    @cached_property
    def dropped(self) -> Rows:
        """The rows that were not, each with stage, reason and what it is a copy of."""
        return self._rows("dropped", "dropped rows")

    @cached_property
    def bad_rows(self) -> Rows:
        """What could not be read: path, row, reason, excerpt."""
        return self._rows("bad_rows", "bad rows", BAD_ROW_SCHEMA)

    @cached_property
    def scores(self) -> Rows:
        """Id and one column for each score, of every row that was scored."""
        return self._rows("scores", "rows")

    @cached_property
    def suspects(self) -> Rows:
        """With selector `verdict`: likely wrong answers, most certain first; else no rows."""
        return self._rows("suspects", "suspect answers", SUSPECTS_SCHEMA)

    def _rows(self, output: str, name: str, schema: pa.Schema | None = None) -> Rows:
        tables = [pq.read_table(fetched(path)) for path in parquet_files(join(self.out, output))]
        if not tables and schema is not None:
            tables = [schema.empty_table()]
        return Rows(pa.concat_tables(tables), name)

    def explain(self, id: str) -> str:
        """Every fact about one row, as text: where from, scores and ranks, the decision and why.

        Raises:
            ValueError: If no row has this id.
        """
        return explain_text(self.out, id)

    def headline(self) -> str:
        """What happened to the rows."""
        counts = self.manifest["counts"]
        share = 100 * counts["kept"] / max(counts["read"], 1)
        return (
            f"{self.manifest['name']}: {counts['kept']:,} of {counts['read']:,} rows kept ({share:.1f} %), "
            f"{counts['dropped']:,} dropped, {counts['bad']:,} bad"
        )

    def __repr__(self) -> str:
        reasons = self.manifest["dropped_reasons"].items()
        most = sorted(reasons, key=lambda item: (-item[1], item[0]))
        return "\n".join([self.headline(), *(f"{number:>8,}  {reason}" for reason, number in most)])


def open_run(out: str | Path) -> Run:
    """Opens a finished run.

    Args:
        out: Its output folder, on this machine or in an object store.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    return Run(out)


def run_recipe(
    recipe: Mapping[str, Any] | str | Path | Recipe,
    output: str | Path | None = None,
    *,
    limit: int | None = None,
    workers: int = 1,
    beam_options: Sequence[str] = (),
    progress: bool = False,
) -> Run:
    """Runs a recipe, as `winnow run` does, or what is left to do of it.

    Args:
        recipe: Its file, or what the file would say.
        output: Output folder, on this machine or in an object store; default the recipe's `output`.
        limit: Read only the first this many examples of each input.
        workers: Worker processes on this machine.
        beam_options: Options of Beam, as on a command line after `--`.
        progress: Whether to say on standard error how far it is.

    Raises:
        ValueError: If the recipe, an input or the model cannot be used; the message says what to do.
        RuntimeError: If the engine or the model fails; run again to resume.
    """
    from rich.console import Console

    from pipelines.progress import Progress

    if isinstance(recipe, Mapping):
        recipe = parse_recipe(dict(recipe))
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    out = output or recipe.output
    if out is None:
        raise ValueError("no `output:` in the recipe; give output=")
    shown = Progress(Console(stderr=True, highlight=False) if progress else None)
    with plain_errors():
        return Run(run(recipe, out, choose_runner(workers, beam_options), shown, limit).place)

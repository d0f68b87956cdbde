"""Deduplicating and selecting in a notebook: the stages of a run over rows that are in memory.

The rows are written to a temporary folder in the layout of a run, the very stages of a run read them there,
and what they publish is read back; so ids, order and every value are those of `winnow run`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import EXAMPLE_SCHEMA
from connectors.in_memory import Examples, read
from connectors.manifest import read_manifest
from connectors.number_lists import pack, packed_schema
from connectors.rows import Rows
from connectors.shards import Unit, plan_units, write_parquet
from connectors.storage import join, make_folder
from pipelines.decide import select as select_stage
from pipelines.drops import DROP_SCHEMA, left_rows
from pipelines.emit import OUTPUTS, emit, output_file
from pipelines.finished import Run, plain_errors
from pipelines.progress import Progress
from pipelines.recipe import Recipe, RecipeError, parse_recipe
from pipelines.run import (
    check_texts,
    drop_rows,
    dropping_of,
    embed_texts,
    known_of,
    missing_stages,
    stored_stages,
    with_selection,
)
from pipelines.runner import RunnerChoice
from pipelines.selectors.base import Selector
from pipelines.stages import StageResult, Workspace
from pipelines.suspects import SCHEMA as SUSPECTS_SCHEMA
from pipelines.suspects import list_suspects
from scorers.in_memory import Scores

SHOWN_REASONS = 40

Step = Mapping[str, Any] | Selector
"""A step of `select:` in a recipe, such as {"top_k": {"column": "ifd_ppl", "keep": 0.5}}, or its selector."""


@dataclass(frozen=True, repr=False)
class Selection:
    """What was decided about every row.

    Attributes:
        kept: The training set, with the columns of `OUT/train` of a run.
        dropped: Every other row with `stage` and `reason`, with the columns of `OUT/dropped`.
        bad: What could not be read.
        scores: The scores that were decided on, with what was read in the texts, as in `OUT/scores`.
        suspects: With selector `verdict`: likely wrong answers, most certain first; else no rows.
        facts: Of each step of `select`, the numbers of its decision (thresholds).
    """

    kept: Rows
    dropped: Rows
    bad: Rows
    scores: Rows
    suspects: Rows
    facts: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> Rows:
        """Counts: outcome (kept, dropped, bad), stage, reason, rows; the most frequent of each first."""
        counts = [
            ("kept", "select", Counter(self.kept["reason"].to_pylist())),
            *(
                ("dropped", stage, Counter(table["reason"].to_pylist()))
                for stage in ("decontaminate", "dedupe", "score", "select")
                for table in [self.dropped.table.filter(pc.equal(self.dropped["stage"], stage))]
            ),
            ("bad", "read", Counter(self.bad["reason"].to_pylist())),
        ]
        rows = [
            {"outcome": outcome, "stage": stage, "reason": reason, "rows": number}
            for outcome, stage, reasons in counts
            for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ]
        schema = pa.schema([(name, pa.string()) for name in ("outcome", "stage", "reason")])
        table = pa.Table.from_pylist(rows, schema.append(pa.field("rows", pa.int64())))
        return Rows(table, "reasons", shown=SHOWN_REASONS)

    def headline(self) -> str:
        """How many rows went where."""
        read_rows = len(self.kept) + len(self.dropped) + len(self.bad)
        share = 100 * len(self.kept) / max(read_rows, 1)
        return (
            f"{len(self.kept):,} of {read_rows:,} rows kept ({share:.1f} %), {len(self.dropped):,} dropped, "
            f"{len(self.bad):,} bad"
        )

    def __repr__(self) -> str:
        return f"{self.headline()}\n{self.summary()!r}"

    def _repr_html_(self) -> str:
        return f"<p>{self.headline()}</p>{self.summary()._repr_html_()}"


def deduplicate(
    examples: Any,  # noqa: ANN401 - all that `read` takes
    *,
    exact: bool = True,
    minhash: Mapping[str, Any] | None = None,
    semantic: Mapping[str, Any] | None = None,
    keep: Any = "longest_response",  # noqa: ANN401 - one rule or several, as in a recipe
    against: Sequence[str] = (),
    decontaminate: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Examples:
    """Takes out duplicates, and rows that hold items of evaluation sets.

    Keywords are the keys of `dedupe:` in a recipe, and its sections `decontaminate` and `seed`. Of examples
    that were deduplicated before, all rows are looked at again.

    Args:
        examples: From `connectors.read`, or anything that it takes.
        exact: Drop examples of equal normalised content.
        minhash: Also drop near duplicates, such as {"threshold": 0.8, "ngram": 5}.
        semantic: Also drop what means the same, such as {"model": {"path": ...}, "threshold": 0.95}.
        keep: Which of a cluster stays.
        against: Output folders of earlier runs; rows that repeat one of theirs are dropped.
        decontaminate: Evaluation sets, such as {"against": ["gsm8k"], "ngram": 13}.
        seed: The one number all randomness derives from.

    Returns:
        The examples that stay; `dropped` has the others, each with its reason and what it is a copy of.

    Raises:
        ValueError: If a key or value does not fit; the message says what to do.
    """
    given = read(examples)
    whole = given.whole or given
    rules = [keep] if isinstance(keep, str | Mapping) else list(keep)
    settings = {
        "exact": exact,
        "minhash": minhash,
        "semantic": semantic,
        "keep": rules,
        "against": list(against),
    }
    recipe = _recipe({"dedupe": settings, "decontaminate": decontaminate, "seed": seed})
    with plain_errors(), _scratch() as space:
        ingested, units = _ingested(space, whole)
        dropping = dropping_of(drop_rows(space, recipe, units, ingested))
        tables = [pq.read_table(path) for stage in dropping for path in stage.paths]
        left = left_rows([path for stage in dropping for path in stage.paths], len(whole))
    drops = pa.concat_tables([DROP_SCHEMA.empty_table(), *tables]).sort_by("row")
    batches = [
        batch.filter(pa.array(left[start : start + batch.num_rows])) for start, batch in _with_starts(whole)
    ]
    return Examples(batches, whole.bad.table, drops, whole)


def select(
    scores: Scores | Examples | Run | Any,  # noqa: ANN401 - all that `read` takes
    select: Sequence[Step] = (),
    *,
    seed: int = 0,
    emit: Mapping[str, Any] | None = None,
    check: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
) -> Selection:
    """Decides about every row, with a reason for each.

    Args:
        scores: From `scorers.score`. Also examples, for selectors that read no score; or a finished run from
            `open_run`, whose stored scores are decided on again, without touching its folder.
        select: Selectors, applied one after the other, as under `select:` in a recipe.
        seed: The one number all randomness derives from.
        emit: As in a recipe: {"tokens": "always"} adds input_ids and labels to what is kept.
        check: As in a recipe: how answers are read, and the field that holds the right ones.
        embed: As in a recipe: the embedding model of selectors that read vectors.

    Raises:
        ValueError: If a selector or key is unknown, or reads what is not there; says what to do.
    """
    sections: dict[str, Any] = {"select": list(select), "seed": seed, "emit": dict(emit or {})}
    sections |= {name: dict(value) for name, value in (("check", check), ("embed", embed)) if value}
    with plain_errors(), _scratch() as space:
        if isinstance(scores, Run):
            manifest = read_manifest(scores.out)
            recipe = with_selection(scores.out, manifest, sections)
            stages = stored_stages(_space(scores.out), manifest)
            units = plan_units(stages[0].paths)
            stages += missing_stages(space, manifest, recipe, units, stages)
            return _decided(space, recipe, units, stages, scores.bad_rows)
        examples = scores.examples if isinstance(scores, Scores) else read(scores)
        asked = scores.asked.as_recipe() if isinstance(scores, Scores) else {}
        recipe = _recipe({**asked, **sections})
        if isinstance(scores, Scores) and recipe.stores_tokens and not scores.asked.tokens:
            raise RecipeError(
                "the selection needs token ids and per-token losses, which were not kept: "
                "score(..., tokens=True)"
            )
        ingested, units = _ingested(space, examples.whole or examples)
        if not units:
            raise ValueError(f"there is no example to decide on: {examples.headline()}")
        stages = [ingested, *_dropped(space, examples)]
        stages += check_texts(space, recipe, units, stages)
        stages += embed_texts(space, recipe, units, stages)
        if isinstance(scores, Scores):
            stages += _scored(space, units, stages, scores)
        return _decided(space, recipe, units, stages, examples.bad)


def _recipe(sections: Mapping[str, Any]) -> Recipe:
    # A recipe has inputs and a name; here the rows are read already.
    return parse_recipe({"name": "notebook", "inputs": [{"path": "memory"}], **sections}, where="")


def _space(out: str | Path) -> Workspace:
    return Workspace(out, RunnerChoice(), Progress())


@contextmanager
def _scratch() -> Iterator[Workspace]:
    """A run folder for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
        yield _space(folder)


def _decided(
    space: Workspace, recipe: Recipe, units: Sequence[Unit], stages: Sequence[StageResult], bad: Rows
) -> Selection:
    dropping, known = dropping_of(stages), known_of({stage.name: stage for stage in stages})
    selected = select_stage(space, recipe, units, dropping, known)
    emitted = emit(space, recipe, units, dropping, known.scored, selected)
    outputs = {
        name: pa.concat_tables(
            pq.read_table(join(emitted.folder, output_file(file, name))) for file in emitted.files
        )
        for name in OUTPUTS
    }
    listed = list_suspects(space, recipe, units, known.scored, selected)
    suspects = pq.read_table(listed.paths[0]) if listed else SUSPECTS_SCHEMA.empty_table()
    return Selection(
        kept=Rows(outputs["train"], "kept rows"),
        dropped=Rows(outputs["dropped"], "dropped rows"),
        bad=bad,
        scores=Rows(outputs["scores"], "rows"),
        suspects=Rows(suspects, "suspect answers"),
        facts=selected.stats["facts"],
    )


def _with_starts(examples: Examples) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The units of examples, each with the number of its first row."""
    start = 0
    for batch in examples.table.to_batches():
        yield start, batch
        start += batch.num_rows


def _stage(
    space: Workspace, name: str, tables: Mapping[str, Sequence[pa.Table]], schema: pa.Schema
) -> StageResult:
    """A finished stage made of what is in memory: for each file its row groups."""
    folder = join(space.work, f"{name}-memory")
    make_folder(folder)
    for file, groups in tables.items():
        write_parquet(join(folder, file), map(pack, groups), packed_schema(schema))
    rows = sum(table.num_rows for groups in tables.values() for table in groups)
    # A stage that reads this one is done once, in a folder of its own: any key will do.
    return StageResult(name, "memory", folder, tuple(tables), 0.0, {"rows": rows})


def _ingested(space: Workspace, examples: Examples) -> tuple[StageResult, list[Unit]]:
    groups = [pa.Table.from_batches([batch]) for batch in examples.table.to_batches()]
    stage = _stage(space, "ingest", {"part-00000.parquet": groups}, EXAMPLE_SCHEMA)
    return stage, plan_units(stage.paths)


def _dropped(space: Workspace, examples: Examples) -> list[StageResult]:
    if not len(examples.dropped):
        return []
    return [_stage(space, "clusters", {"dropped.parquet": [examples.dropped.table]}, DROP_SCHEMA)]


def _scored(
    space: Workspace, units: Sequence[Unit], stages: Sequence[StageResult], scores: Scores
) -> list[StageResult]:
    """The stages of scores: a file for each unit, of its rows that were not dropped before."""
    drops = [path for stage in dropping_of(stages) for path in stage.paths]
    left = left_rows(drops, sum(unit.rows for unit in units))
    before = np.concatenate(([0], np.cumsum(left)))
    bounds = [(before[unit.row_start], before[unit.row_start + unit.rows]) for unit in units]
    tables = {f"score-{role}" if role else "score": table for role, table in scores.stored.items()}
    if scores.compared is not None:
        tables["compare"] = scores.compared
    return [
        _stage(
            space,
            name,
            {
                f"{name}-{unit.name}.parquet": [table.slice(start, stop - start)]
                for unit, (start, stop) in zip(units, bounds, strict=True)
            },
            table.schema,
        )
        for name, table in tables.items()
    ]

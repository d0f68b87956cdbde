"""The rows that a report shows as examples: a few per reason, with the row that a duplicate repeats.

Only the row groups that hold a shown row are read, and one at a time, so the text of a large run is never in
memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import EXCERPT_CHARS, prompt_text, response_text
from connectors.shards import parquet_files
from connectors.storage import fetched, join
from pipelines.report_numbers import parts

EXAMPLES_PER_REASON = 3
REASONS_WITH_EXAMPLES = 12

_EXCERPTS = ("prompt_excerpt", "response_excerpt")
_DECISIONS = ("quadrant", "grape_rank")
_EVAL_FACTS = {"eval_item": "evaluation item", "eval_match": "found by", "eval_span": "words shared"}
CLUSTERS_SHOWN = 8
SUSPECTS_SHOWN = 10
MEMBERS_SHOWN = 3
HITS_SHOWN = 5
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as an example: its text, its numbers, and the row it repeats if it is a duplicate."""

    id: str
    prompt: str
    response: str
    facts: list[tuple[str, str]]
    original: ShownRow | None = None


@dataclass(frozen=True, slots=True)
class ClusterShown:
    """A cluster of duplicates: how many rows, the one that stays, and a few of the others."""

    size: int
    keeper: str
    kept: ShownRow | None  # None when it is in an earlier output
    members: list[ShownRow]


def visible(text: object, limit: int = EXCERPT_CHARS) -> str:
    r"""Text cut to `limit` characters, control characters shown as pictures of themselves.

    Example:
        >>> visible("a\x00b" + "c" * 9, limit=5)
        'a␀bcc…'
    """
    shown = str(text)
    return (shown[:limit] + "…" if len(shown) > limit else shown).translate(_CONTROL)


def format_number(value: float | None) -> str:
    """Four significant digits; a dash for what is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.4g}"


def iter_rows_at(
    folder: str | Path, positions: Sequence[int], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position, row) of rows by their position in the folder's files, in that order.

    Only the row groups that hold one are read, one at a time.
    """
    wanted = np.unique(np.asarray(positions, np.int64))
    start = 0
    for path in parquet_files(folder):
        with pq.ParquetFile(fetched(path)) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                here = wanted[(wanted >= start) & (wanted < stop)]
                if len(here):
                    table = file.read_row_group(group, columns=present).take(here - start)
                    yield from zip(here.tolist(), table.to_pylist(), strict=True)
                start = stop


def rows_at(
    folder: str | Path, chosen: Mapping[str, Sequence[int]], columns: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Rows by their position in the folder's files."""
    positions = [position for positions in chosen.values() for position in positions]
    return dict(iter_rows_at(folder, positions, columns))


def _spread(table: pa.Table, reasons: Sequence[str], most: int = EXAMPLES_PER_REASON) -> dict[str, list[int]]:
    """Positions of a few rows of each reason, spread evenly over the rows that have it."""
    column = table["reason"].combine_chunks()
    chosen = {}
    for reason in reasons[:REASONS_WITH_EXAMPLES]:
        positions = np.flatnonzero(pc.equal(column, reason).fill_null(False).to_numpy(zero_copy_only=False))
        picks = np.linspace(0, len(positions) - 1, min(most, len(positions))).astype(np.int64)
        chosen[reason] = positions[picks].tolist()
    return chosen


def shown_row(row: Mapping[str, Any], scores: Sequence[str], original: ShownRow | None = None) -> ShownRow:
    """A stored row as an example, with those of `scores` that it has."""
    if row.get("messages"):
        prompt, response = prompt_text(row["messages"]), response_text(row["messages"])
    else:
        prompt, response = row.get("prompt_excerpt") or "", row.get("response_excerpt") or ""
    names = [
        name
        for name in ("kind", "similarity", *_EVAL_FACTS, *_DECISIONS, *scores)
        if row.get(name) is not None
    ]
    facts = [
        (_EVAL_FACTS.get(name, name), row[name] if isinstance(row[name], str) else format_number(row[name]))
        for name in names
    ]
    return ShownRow(row["id"], visible(prompt), visible(response), facts, original)


def kept_examples(
    out: str | Path, kept: pa.Table, reasons: Sequence[str], scores: Sequence[str]
) -> dict[str, list[ShownRow]]:
    """A few kept rows of each reason.

    Args:
        out: Folder of the run.
        kept: Column reason of all of OUT/train.
        reasons: Reasons to show, in order.
        scores: Names of the score columns to give with each row.
    """
    chosen = _spread(kept, reasons)
    rows = rows_at(join(str(out), "train"), chosen, ["id", "messages", *_DECISIONS, *scores])
    return {reason: [shown_row(rows[p], scores) for p in positions] for reason, positions in chosen.items()}


def suspect_examples(out: str | Path) -> tuple[int, list[ShownRow]]:
    """How many suspect answers a run lists, and the most certain of them with what speaks against each."""
    total, shown = 0, list[ShownRow]()
    for path in parquet_files(join(str(out), "suspects")):
        with pq.ParquetFile(fetched(path)) as file:
            total += file.metadata.num_rows
            batch = next(file.iter_batches(SUSPECTS_SHOWN, columns=["id", "why", "messages"]), None)
        for row in batch.to_pylist() if batch is not None else []:
            prompt, response = (visible(text(row["messages"])) for text in (prompt_text, response_text))
            shown.append(ShownRow(row["id"], prompt, response, [("why", row["why"])]))
    return total, shown[:SUSPECTS_SHOWN]


def dropped_examples(
    out: str | Path, dropped: pa.Table, reasons: Sequence[str], scores: Sequence[str]
) -> dict[str, list[ShownRow]]:
    """A few dropped rows of each reason, duplicates with the row that they repeat.

    Args:
        out: Folder of the run.
        dropped: Column reason of all of OUT/dropped.
        reasons: Reasons to show, in order.
        scores: Names of the score columns to give with each row.
    """
    chosen = _spread(dropped, reasons)
    rows = rows_at(
        join(str(out), "dropped"),
        chosen,
        ["id", "duplicate_of", "similarity", *_EVAL_FACTS, *_EXCERPTS, *_DECISIONS, *scores],
    )
    ids = {row["duplicate_of"] for row in rows.values() if row.get("duplicate_of")}
    originals = _rows_of(out, ids)
    return {
        reason: [shown_row(rows[p], scores, originals.get(rows[p].get("duplicate_of"))) for p in positions]
        for reason, positions in chosen.items()
    }


def largest_clusters(out: str | Path, copies: pa.Array) -> list[ClusterShown]:
    """The clusters of the most duplicates, the largest first.

    Args:
        out: Folder of the run.
        copies: Column duplicate_of of all of OUT/dropped.
    """
    groups = pc.value_counts(copies.drop_null()).to_pylist()
    groups.sort(key=lambda group: (-group["counts"], group["values"]))
    groups = groups[:CLUSTERS_SHOWN]
    positions = {
        group["values"]: np.flatnonzero(pc.equal(copies, group["values"]).fill_null(False))[:MEMBERS_SHOWN]
        for group in groups
    }
    rows = rows_at(
        join(str(out), "dropped"),
        {keeper: found.tolist() for keeper, found in positions.items()},
        ["id", "kind", "similarity", *_EXCERPTS],
    )
    keepers = _rows_of(out, set(positions))
    return [
        ClusterShown(
            size=group["counts"] + 1,
            keeper=group["values"],
            kept=keepers.get(group["values"]),
            members=[shown_row(rows[position], ()) for position in positions[group["values"]].tolist()],
        )
        for group in groups
    ]


def contaminated_examples(out: str | Path, dropped: pa.Table) -> dict[str, list[ShownRow]]:
    """A few rows found in each evaluation set, with the item, the words they share and how alike they are.

    Args:
        out: Folder of the run.
        dropped: Columns stage and reason of all of OUT/dropped.
    """
    found = pc.equal(dropped["stage"], "decontaminate").fill_null(False).combine_chunks()
    reasons = sorted(map(str, dropped["reason"].filter(found).unique().to_pylist()))
    chosen = _spread(dropped, reasons, HITS_SHOWN)
    columns = ["id", "similarity", *_EVAL_FACTS, *_EXCERPTS]
    rows = rows_at(join(str(out), "dropped"), chosen, columns)
    return {reason: [shown_row(rows[p], ()) for p in positions] for reason, positions in chosen.items()}


def bad_examples(out: str | Path, bad: pa.Table, reasons: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """A few bad rows of each reason: source, path, row, detail, excerpt."""
    chosen = _spread(bad, reasons)
    rows = rows_at(join(str(out), "bad_rows"), chosen, ["source", "path", "row", "detail", "excerpt"])
    return {reason: [rows[p] for p in positions] for reason, positions in chosen.items()}


def _rows_of(out: str | Path, ids: set[str]) -> dict[str | None, ShownRow]:
    """The rows of some ids, kept or dropped."""
    wanted, found = pa.array(sorted(ids), pa.string()), dict[str | None, ShownRow]()
    schema = pa.schema([("id", pa.string())])
    places: dict[str, list[int]] = {"train": [], "dropped": []}
    for part in parts(out, schema) if ids else ():
        here = np.flatnonzero(pc.is_in(part.table["id"], value_set=wanted))
        places["train" if part.kept else "dropped"] += (here + part.start).tolist()
    for name, positions in places.items():
        rows = rows_at(join(str(out), name), {"": positions}, ["id", "messages", *_EXCERPTS])
        found |= {row["id"]: shown_row(row, ()) for row in rows.values()}
    return found

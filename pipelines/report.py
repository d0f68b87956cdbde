"""The report of a finished run: one HTML page that needs no network and no other file.

Everything on it is read back from the run folder, so the page shows what is there and not what the run
believed it wrote. Its pictures and tables need no script; scripts add rows at the pointer, thresholds that
move, and tables that sort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from markupsafe import Markup

from connectors.manifest import MANIFEST, read_manifest
from connectors.shards import parquet_files, read_footer
from connectors.storage import Place, fetched, join, write_text
from pipelines.charts import (
    BARS,
    Frame,
    Picture,
    Region,
    histogram,
    plane,
    share_bar,
    waterfall_bar,
)
from pipelines.report_examples import (
    bad_examples,
    contaminated_examples,
    dropped_examples,
    kept_examples,
    largest_clusters,
    suspect_examples,
)
from pipelines.report_numbers import (
    SHORTEST,
    TOKEN_COLUMNS,
    Group,
    Numbers,
    completed,
    finite,
    read_numbers,
)
from pipelines.report_page import SCRIPTS, format_share, render
from pipelines.report_sample import script_data
from scorers.catalog import SCORERS

__all__ = ["check_books", "format_share", "read_columns", "write_report"]

SOURCES_SHOWN = 50
REASONS_SHOWN = 100
INPUTS_SHOWN = 200

_LABEL = pa.dictionary(pa.int32(), pa.string())  # few distinct values: one code per row, not one text


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the flow from read to kept."""

    label: str
    lost: int
    left: int
    bar: Markup


@dataclass(frozen=True, slots=True)
class Reason:
    """How often one reason was given, with a bar of its share."""

    stage: str
    text: str
    rows: int
    bar: Markup


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table of sources or of lengths; read = bad + duplicates + other_drops + kept."""

    label: str
    read: int
    bad: int
    duplicates: int
    other_drops: int
    kept: int
    tokens_kept: int | None
    means: list[tuple[float | None, float | None]]  # of each score: kept rows, dropped rows


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """A histogram with what its column means."""

    name: str
    doc: str
    unit: str
    better: str
    picture: Markup
    kept_rows: int
    dropped_rows: int
    outside: int


@dataclass(frozen=True, slots=True)
class PlaneChart:
    """The error-uncertainty plane and how it was sampled."""

    picture: Picture
    x: str
    y: str
    points: int
    sampled: int
    rows: int
    q_tuning: bool
    verdict: bool
    suspects: bool


def write_report(out: Place, manifest: Mapping[str, Any] | None = None) -> Place:
    """Writes OUT/report.html.

    Args:
        out: Folder of a run, with train/, dropped/ and bad_rows/ complete.
        manifest: The run's manifest, for a run that has yet to write it; read from OUT when None.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there is no manifest, or its counts are not those of the Parquet files.
    """
    manifest = read_manifest(out) if manifest is None else manifest
    rows = [stored_rows(join(out, folder)) for folder in ("train", "dropped", "bad_rows")]
    check_books(out, manifest["counts"], *rows)
    path = join(out, "report.html")
    write_text(path, _page(str(out), manifest))
    return path


def _page(out: str, manifest: Mapping[str, Any]) -> str:
    numbers = read_numbers(out)
    kept = read_columns(join(out, "train"), pa.schema([("reason", _LABEL)]))
    dropped = read_columns(join(out, "dropped"), pa.schema([("stage", _LABEL), ("reason", _LABEL)]))
    bad = read_columns(join(out, "bad_rows"), pa.schema([("source", _LABEL), ("reason", _LABEL)]))
    copies = read_columns(join(out, "dropped"), pa.schema([("duplicate_of", pa.string())]))["duplicate_of"]
    reasons = {name: _reasons(table) for name, table in (("kept", kept), ("dropped", dropped), ("bad", bad))}
    texts = {name: list(dict.fromkeys(reason.text for reason in found)) for name, found in reasons.items()}
    regions = _regions(manifest, numbers)
    sources = _sources(numbers, _count(bad, "source"))
    suspect_count, suspects = suspect_examples(out)
    facts = numbers.columns.scores
    return render(
        "report.html.j2",
        SCRIPTS,
        script_data(out, numbers, regions, column_units()),
        manifest=manifest,
        counts=manifest["counts"],
        flow=_flow(manifest["counts"], _count(dropped, "stage").get("score", 0)),
        reasons=reasons,
        reasons_shown=REASONS_SHOWN,
        plane=_plane(numbers, regions),
        scores=_score_charts(numbers),
        sources=sources[:SOURCES_SHOWN],
        sources_hidden=len(sources[SOURCES_SHOWN:]),
        lengths=_lengths(numbers),
        mean_scores=[name for name in facts if name in numbers.spreads],
        kept_examples=kept_examples(out, kept, texts["kept"], facts),
        dropped_examples=dropped_examples(out, dropped, texts["dropped"], facts),
        clusters=largest_clusters(out, copies.combine_chunks()),
        contaminated=contaminated_examples(out, dropped),
        suspects=suspects,
        suspect_count=suspect_count,
        bad_examples=bad_examples(out, bad, texts["bad"]),
        inputs_shown=INPUTS_SHOWN,
        recipe=yaml.safe_dump(manifest.get("recipe", {}), sort_keys=False, allow_unicode=True),
    )


def stored_rows(folder: str | Path) -> int:
    """Rows of a folder's Parquet files, as their footers say."""
    return sum(read_footer(path).num_rows for path in parquet_files(folder))


def read_columns(folder: str | Path, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` from every Parquet file of a folder; null where a file lacks one."""
    tables = [schema.empty_table()]
    for path in parquet_files(folder):
        with pq.ParquetFile(fetched(path)) as file:
            present = [name for name in file.schema_arrow.names if name in schema.names]
            table = file.read(columns=present)
            if not present:
                table = pa.table({"": pa.nulls(file.metadata.num_rows)})
        tables.append(completed(table, schema))
    return pa.concat_tables(tables).unify_dictionaries()


def check_books(out: str | Path, counts: Mapping[str, int], kept: int, dropped: int, bad: int) -> None:
    """Raises ValueError unless the manifest's counts balance and are those of the files."""
    for name, folder, rows in (
        ("kept", "train", kept),
        ("dropped", "dropped", dropped),
        ("bad", "bad_rows", bad),
    ):
        if counts[name] != rows:
            raise ValueError(
                f"{join(str(out), folder)} holds {rows:,} rows and {MANIFEST} says "
                f"{name} = {counts[name]:,}: "
                "the folder was changed after the run; run it again into an empty folder"
            )
    if counts["read"] != kept + dropped + bad:
        raise ValueError(
            f"{join(str(out), MANIFEST)}: read = {counts['read']:,} is not bad {bad:,} + dropped {dropped:,} "
            f"+ kept {kept:,}: rows were lost or counted twice; run it again into an empty folder"
        )


def _count(table: pa.Table, column: str) -> dict[str, int]:
    return {
        str(pair["values"]): pair["counts"]
        for pair in pc.value_counts(table[column].combine_chunks()).to_pylist()
    }


def _flow(counts: Mapping[str, Any], not_scorable: int) -> list[Step]:
    duplicates = counts.get("duplicates", {})
    losses = {
        "could not be read": counts["bad"],
        "exact duplicates": duplicates.get("exact", 0),
        "near duplicates": duplicates.get("near", 0),
        "semantic duplicates": duplicates.get("semantic", 0),
        "found in an evaluation set": counts.get("contaminated", 0),
        "could not be scored": not_scorable,
    }
    losses["not selected"] = counts["read"] - counts["kept"] - sum(losses.values())
    steps: list[Step] = []
    left = counts["read"]
    for label, lost in losses.items():
        if lost:
            steps.append(Step(label, lost, left - lost, waterfall_bar(left, left - lost, counts["read"])))
        left -= lost
    return steps


def _reasons(table: pa.Table) -> list[Reason]:
    """Reasons by falling count, ties by name."""
    keys = [name for name in ("stage", "reason") if name in table.column_names]
    groups = table.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    groups.sort(key=lambda group: (-group["count_all"], str(group["reason"])))
    return [
        Reason(
            str(group.get("stage", "")), str(group["reason"]), group["count_all"],
            share_bar(group["count_all"], table.num_rows, "dropped"),
        )
        for group in groups
    ]  # fmt: skip


def _regions(manifest: Mapping[str, Any], numbers: Numbers) -> list[Region]:
    """What the selection made of rectangles of loss and entropy.

    The two corners that Q-Tuning kept, whose thresholds are the extremes of the rows inside them, and the
    two that the verdict drops.
    """
    plane = numbers.plane
    if plane is None or (plane.x, plane.y) != ("loss", "entropy"):
        return []
    regions = []
    if "Q2" in plane.corners:
        low, _, _, high = plane.corners["Q2"]
        regions.append(Region(low, np.inf, -np.inf, high, "Q2: high loss, low entropy"))
    if "Q4" in plane.corners:
        _, high, low, _ = plane.corners["Q4"]
        regions.append(Region(-np.inf, high, low, np.inf, "Q4: low loss, high entropy"))
    facts = _verdict_facts(manifest)
    for name, loss, entropy in (
        ("too easy", "low_loss", "low_entropy"),
        ("out of reach", "high_loss", "high_entropy"),
    ):
        bounds = facts.get(loss), facts.get(entropy)
        if None not in bounds:
            x, y = (float(bound) for bound in bounds)  # type: ignore[arg-type]  # not None, says the line above
            corner = (-np.inf, x, -np.inf, y) if name == "too easy" else (x, np.inf, y, np.inf)
            regions.append(Region(*corner, name=name, kept=False))
    return regions


def _verdict_facts(manifest: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Thresholds of the verdict, {} for a run without one."""
    steps = (manifest.get("recipe") or {}).get("select") or []
    for step, facts in zip(steps, manifest.get("selection") or [], strict=False):
        if isinstance(step, Mapping) and "verdict" in step:
            return facts or {}
    return {}


def _plane(numbers: Numbers, regions: Sequence[Region]) -> PlaneChart | None:
    """None when the run has fewer than two scores."""
    found = numbers.plane
    if found is None:
        return None
    points = np.array([finite(numbers.sample.table, name) for name in (found.x, found.y)])
    both = np.isfinite(points).all(axis=0)
    points, states = points[:, both], numbers.sample.states[both]
    units = column_units()
    names = [f"{name} ({units[name]})" if units.get(name) else name for name in (found.x, found.y)]
    picture = plane(points, states, Frame(names[0], names[1], *found.frame), regions, found.rows)
    return PlaneChart(
        picture, found.x, found.y, points.shape[1], numbers.sample.table.num_rows, numbers.sample.of,
        q_tuning=any(region.kept for region in regions),
        verdict=any(not region.kept for region in regions),
        suspects=bool((states == 2).any()),
    )  # fmt: skip


def _known_columns() -> dict[str, tuple[str, str, str]]:
    """What the columns of the catalog mean, in which unit, and which direction is better."""
    known = {c.name: (c.doc, c.unit, str(c.better)) for scorer in SCORERS.values() for c in scorer.columns}
    return known | {name: (doc, "tokens", "neither") for name, doc in TOKEN_COLUMNS.items()}


def column_units() -> dict[str, str]:
    """Units of the columns that winnow's own scorers write."""
    return {name: unit for name, (_, unit, _) in _known_columns().items()}


def _score_charts(numbers: Numbers) -> list[ScoreChart]:
    known, charts = _known_columns(), []
    for name, spread in numbers.spreads.items():
        edges, bars, outside = spread.bars(BARS)
        dropped_rows, kept_rows = spread.rows.sum(axis=1).tolist()
        doc, unit, better = known.get(name, ("", "", "neither"))
        picture = histogram(edges, bars[1], bars[0])
        charts.append(ScoreChart(name, doc, unit, better, picture, kept_rows, dropped_rows, outside))
    return charts


def _sources(numbers: Numbers, bad_rows: Mapping[str, int]) -> list[Line]:
    """One line per source, the largest first."""
    lines = [
        _line(source, numbers.sources.get(source), bad_rows.get(source, 0), numbers)
        for source in numbers.sources.keys() | bad_rows.keys()
    ]
    return sorted(lines, key=lambda line: (-line.read, line.label))


def _lengths(numbers: Numbers) -> list[Line]:
    """One line per class of response lengths that has a row, the shortest first."""
    lines = []
    for end, group in sorted(numbers.lengths.items()):
        start = end // 2 + 1 if end > SHORTEST else 0
        lines.append(_line(f"{start:,}–{end:,}", group, 0, numbers))
    return lines


def _line(label: str, group: Group | None, bad: int, numbers: Numbers) -> Line:
    if group is None:
        return Line(label, bad, bad, 0, 0, 0, None, [(None, None)] * len(numbers.spreads))
    dropped, kept = group.rows.tolist()
    at = [i for i, name in enumerate(numbers.columns.scores) if name in numbers.spreads]
    return Line(
        label=label,
        read=bad + dropped + kept,
        bad=bad,
        duplicates=group.duplicates,
        other_drops=dropped - group.duplicates,
        kept=kept,
        tokens_kept=int(group.tokens[1]) if group.counted[1] else None,
        means=[(group.mean(i, kept=True), group.mean(i, kept=False)) for i in at],
    )

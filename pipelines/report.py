"""The report of a finished run: one HTML page that needs no network, no script and no other file.

Everything on it is read back from the run folder, so the page shows what is there and not what the run
believed it wrote. Numbers of all rows are read column by column; text only of the few rows shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from markupsafe import Markup

from connectors.manifest import MANIFEST, read_manifest
from connectors.shards import parquet_files, read_schema
from connectors.storage import Place, fetched, join, write_text
from pipelines.charts import Floats, Picture, Region, histogram, plane, share_bar, waterfall_bar
from pipelines.report_examples import (
    bad_examples,
    dropped_examples,
    format_number,
    kept_examples,
    largest_clusters,
    suspect_examples,
    visible,
)
from pipelines.selectors.id_order import id_order
from scorers.catalog import SCORERS

PLANE_POINTS = 3_000
SOURCES_SHOWN = 50

_TOKEN_COLUMNS = {
    "prompt_tokens": "tokens of the prompt, by the target model's tokenizer",
    "response_tokens": "tokens of the response, by the target model's tokenizer",
}
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
class SourceLine:
    """One line of the per-source table; read = bad + duplicates + other_drops + kept."""

    source: str
    read: int
    bad: int
    duplicates: int
    other_drops: int
    kept: int
    tokens_kept: int | None
    loss_kept: float | None
    loss_dropped: float | None


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """A histogram with what its column means."""

    name: str
    doc: str
    unit: str
    picture: Picture
    kept_rows: int
    dropped_rows: int


@dataclass(frozen=True, slots=True)
class PlaneChart:
    """The error-uncertainty plane and how it was sampled."""

    picture: Picture
    points: int
    rows: int
    quadrants: bool


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
    scores = score_columns(out)
    kept = read_columns(join(out, "train"), _schema(scores, "reason"))
    dropped = read_columns(join(out, "dropped"), _schema(scores, "reason", "stage", duplicate_of=pa.string()))
    bad = read_columns(join(out, "bad_rows"), pa.schema([("source", _LABEL), ("reason", _LABEL)]))
    check_books(out, manifest["counts"], kept.num_rows, dropped.num_rows, bad.num_rows)
    reasons = {name: _reasons(table) for name, table in (("kept", kept), ("dropped", dropped), ("bad", bad))}
    texts = {name: list(dict.fromkeys(reason.text for reason in found)) for name, found in reasons.items()}
    sources = _source_lines(kept, dropped, bad)
    suspect_count, suspects = suspect_examples(out)
    page = _environment().get_template("report.html.j2").render(
        manifest=manifest,
        counts=manifest["counts"],
        flow=_flow(manifest["counts"], _count(dropped, "stage").get("score", 0)),
        reasons=reasons,
        plane=_plane(kept, dropped),
        scores=_score_charts(kept, dropped, scores),
        sources=sources[:SOURCES_SHOWN],
        sources_hidden=len(sources[SOURCES_SHOWN:]),
        kept_examples=kept_examples(out, kept, texts["kept"], scores),
        dropped_examples=dropped_examples(out, kept, dropped, texts["dropped"], scores),
        clusters=largest_clusters(out, kept, dropped),
        suspects=suspects,
        suspect_count=suspect_count,
        bad_examples=bad_examples(out, bad, texts["bad"]),
        recipe=yaml.safe_dump(manifest.get("recipe", {}), sort_keys=False, allow_unicode=True),
    )  # fmt: skip
    path = join(out, "report.html")
    write_text(path, page)
    return path


def score_columns(out: str | Path) -> list[str]:
    """Names of the number columns in OUT/scores, in stored order; none when the run had no model."""
    files = parquet_files(join(str(out), "scores"))
    if not files:
        return []
    return [f.name for f in read_schema(files[0]) if pa.types.is_floating(f.type) or f.name in _TOKEN_COLUMNS]


def read_columns(folder: str | Path, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` from every Parquet file of a folder; null where a file lacks one."""
    tables = [schema.empty_table()]
    for path in parquet_files(folder):
        with pq.ParquetFile(fetched(path)) as file:
            present = [name for name in file.schema_arrow.names if name in schema.names]
            table, rows = file.read(columns=present), file.metadata.num_rows
        columns = [
            table[f.name].cast(f.type) if f.name in present else pa.nulls(rows, pa.null()).cast(f.type)
            for f in schema
        ]
        tables.append(pa.table(columns, schema=schema))
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


def format_share(part: float, whole: float) -> str:
    """A percentage with one decimal; a dash of nothing."""
    return f"{100 * part / whole:.1f}\u00a0%" if whole else "–"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "commas": lambda value: "–" if value is None else f"{value:,}",
        "number": format_number,
        "visible": visible,
    }
    environment.globals |= {"share": format_share, "share_bar": share_bar, "waterfall_bar": waterfall_bar}
    return environment


def _schema(scores: Sequence[str], *labels: str, **more: pa.DataType) -> pa.Schema:
    numbers = dict.fromkeys(["loss", "entropy", *_TOKEN_COLUMNS, *scores], pa.float64())
    texts = dict.fromkeys(["source", "quadrant", *labels], _LABEL)
    return pa.schema({"id": pa.string(), **texts, **numbers, **more})


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


def _plane(kept: pa.Table, dropped: pa.Table) -> PlaneChart | None:
    """None when no row has both a loss and an entropy."""
    names = ["id", "loss", "entropy", "quadrant"]
    both = pa.concat_tables([kept.select(names), dropped.select(names)]).unify_dictionaries()
    keep = np.arange(both.num_rows) < kept.num_rows
    scored = np.isfinite(_values(both, "loss")) & np.isfinite(_values(both, "entropy"))
    both, keep = both.filter(pa.array(scored)), keep[scored]
    if not both.num_rows:
        return None
    loss, entropy = _values(both, "loss"), _values(both, "entropy")
    sample = np.arange(both.num_rows)
    if both.num_rows > PLANE_POINTS:
        order = id_order(both["id"], seed=0)
        sample = np.sort(np.argpartition(order, PLANE_POINTS)[:PLANE_POINTS])
    regions = _q_tuning_regions(loss, entropy, keep, both["quadrant"].to_pylist())
    picture = plane(loss, entropy, keep, sample, regions)
    return PlaneChart(picture, len(sample), both.num_rows, bool(regions))


def _q_tuning_regions(
    loss: Floats, entropy: Floats, keep: np.ndarray[Any, np.dtype[np.bool_]], quadrants: list[str | None]
) -> list[Region]:
    """The two corners that Q-Tuning kept: Q-Tuning's thresholds are the extremes of the rows inside them."""
    names = np.array(quadrants, dtype=object)
    q2, q4 = keep & (names == "Q2"), keep & (names == "Q4")
    regions = []
    if q2.any():
        regions.append(Region(float(loss[q2].min()), np.inf, -np.inf, float(entropy[q2].max())))
    if q4.any():
        regions.append(Region(-np.inf, float(loss[q4].max()), float(entropy[q4].min()), np.inf))
    return regions


def _score_charts(kept: pa.Table, dropped: pa.Table, scores: Sequence[str]) -> list[ScoreChart]:
    known = {
        column.name: (column.doc, column.unit) for scorer in SCORERS.values() for column in scorer.columns
    }
    known |= {name: (doc, "tokens") for name, doc in _TOKEN_COLUMNS.items()}
    charts = []
    for name in scores:
        values = [column[np.isfinite(column)] for column in (_values(kept, name), _values(dropped, name))]
        if len(values[0]) + len(values[1]):
            charts.append(ScoreChart(name, *known.get(name, ("", "")), histogram(*values), *map(len, values)))
    return charts


def _values(table: pa.Table, name: str) -> Floats:
    """A number column as float64, NaN where it is null."""
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _source_lines(kept: pa.Table, dropped: pa.Table, bad: pa.Table) -> list[SourceLine]:
    """One line per source, the largest first."""
    bad_rows = _count(bad, "source")
    duplicates = _count(dropped.filter(pc.is_valid(dropped["duplicate_of"])), "source")
    in_kept, in_dropped = _per_source(kept), _per_source(dropped)
    lines = []
    for source in bad_rows.keys() | in_kept.keys() | in_dropped.keys():
        kept_here, dropped_here = in_kept.get(source, {}), in_dropped.get(source, {})
        rows_kept, rows_dropped = kept_here.get("id_count", 0), dropped_here.get("id_count", 0)
        tokens = [int(v) for n in _TOKEN_COLUMNS if (v := kept_here.get(f"{n}_sum")) is not None]
        lines.append(
            SourceLine(
                source=source,
                read=bad_rows.get(source, 0) + rows_dropped + rows_kept,
                bad=bad_rows.get(source, 0),
                duplicates=duplicates.get(source, 0),
                other_drops=rows_dropped - duplicates.get(source, 0),
                kept=rows_kept,
                tokens_kept=sum(tokens) if tokens else None,
                loss_kept=kept_here.get("loss_mean"),
                loss_dropped=dropped_here.get("loss_mean"),
            )
        )
    return sorted(lines, key=lambda line: (-line.read, line.source))


def _per_source(table: pa.Table) -> dict[str, dict[str, Any]]:
    wanted = [("id", "count"), ("loss", "mean"), *((name, "sum") for name in _TOKEN_COLUMNS)]
    return {str(group["source"]): group for group in table.group_by("source").aggregate(wanted).to_pylist()}

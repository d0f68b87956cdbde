"""Comparison of two runs over the same rows: which of them each kept, why, and how their scores moved."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from connectors.manifest import read_manifest
from connectors.storage import Place, join, write_text
from pipelines.charts import CELL_MARKS, Floats
from pipelines.report import column_units
from pipelines.report_against_plane import Drawn, draw, picture, script_data
from pipelines.report_examples import ShownRow, format_number, shown_row
from pipelines.report_matched import (
    BOTH,
    CELLS,
    NEITHER,
    ONLY_A,
    ONLY_B,
    Matched,
    Names,
    match,
    read_rows,
    rows_stored,
    shared_scores,
)
from pipelines.report_page import render

AGAINST_PAGE = "report-against.html"
EXAMPLES_PER_CELL = 4
REASONS_SHOWN = 30
SOURCES_SHOWN = 50
_TEXTS = ("id", "reason", "messages", "prompt_excerpt", "response_excerpt")


@dataclass(frozen=True, slots=True)
class Shift:
    """How one score of the rows that have it in both runs moved from A to B."""

    name: str
    rows: int
    same: int
    mean_a: float
    mean_b: float
    moved: float  # mean of B - A
    correlation: float | None


def write_against(out: Place, other: str | Path) -> Place:
    """Writes OUT/report-against.html: the run OUT (A) compared with the run `other` (B).

    Args:
        out: Folder of a finished run; the page is written there.
        other: Folder of another finished run over the same inputs.

    Returns:
        Path of the page.

    Raises:
        ValueError: If a folder holds no finished run, or the two share no row.
    """
    manifests = [read_manifest(out), read_manifest(other)]
    sources, reasons = Names(), Names()
    matched = match(*(read_rows(str(folder), sources, reasons) for folder in (out, other)))
    columns = shared_scores(str(out), str(other))
    drawn = draw(matched, columns)
    shifts, means = _scores(matched, columns, drawn)
    units = column_units()
    page = render(
        "report_against.html.j2",
        ("report_tables.js", "report_plane.js"),
        script_data(matched, drawn, sources, reasons, units) if drawn else {},
        drawn=drawn,
        marks=list(CELL_MARKS.items()),
        picture=picture(matched, drawn, units) if drawn else None,
        runs=[_described(folder, own) for folder, own in zip((out, other), manifests, strict=True)],
        cells=CELLS,
        counts=np.bincount(matched.cell, minlength=4).tolist(),
        tokens=_tokens(matched),
        only_there=_only_there(matched),
        expected=_expected(matched),
        sources=_by_source(matched, sources),
        sources_shown=SOURCES_SHOWN,
        reasons=_by_reason(matched, reasons),
        shifts=shifts,
        means=means,
        examples=_examples(matched, columns),
        differences=recipe_difference(*(manifest.get("recipe") or {} for manifest in manifests)),
    )
    path = join(out, AGAINST_PAGE)
    write_text(path, page)
    return path


def recipe_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What changes from one recipe to the other: ("del", line), ("add", line), ("", line that both have).

    A key without a value is left out, as a person leaves it out.

    Example:
        >>> recipe_difference({"seed": 0, "name": "x"}, {"seed": 1, "name": "x"})
        [('del', 'seed: 0'), ('add', 'seed: 1'), ('', 'name: x')]
    """
    first, second = (
        yaml.safe_dump(_given(one), sort_keys=False, allow_unicode=True).splitlines() for one in (a, b)
    )
    kinds = {"-": "del", "+": "add", "@": "gap", " ": ""}
    lines = list(difflib.unified_diff(first, second, n=2, lineterm=""))[2:]
    found = [(kinds[line[0]], "⋯" if line[0] == "@" else line[1:]) for line in lines]
    return found[1:] if found[:1] == [("gap", "⋯")] else found


def _given(value: Any) -> Any:  # noqa: ANN401 - any part of a recipe
    """The same without keys whose value is null."""
    if isinstance(value, Mapping):
        return {key: _given(own) for key, own in value.items() if own is not None}
    return [_given(own) for own in value] if isinstance(value, list) else value


def _tokens(matched: Matched) -> list[int]:
    """Tokens of the rows in each cell, as A counted them, or B where A did not."""
    of_a, of_b = matched.a.tokens[matched.in_a], matched.b.tokens[matched.in_b]
    sums = np.bincount(matched.cell, np.where(of_a > 0, of_a, of_b), 4)
    return [int(tokens) for tokens in sums]


def _scores(
    matched: Matched, columns: Sequence[str], drawn: Drawn | None
) -> tuple[list[Shift], list[tuple[str, list[float | None]]]]:
    """The shift of each score, and A's mean of it (B's where A has none) in each cell; fills in `drawn`."""
    shifts, means = [], []
    for name in columns:
        a, b = matched.score(name)
        both = np.isfinite(a) & np.isfinite(b)
        if both.any():
            shifts.append(shift(name, a[both], b[both]))
        own = np.where(np.isfinite(a), a, b)
        if drawn is not None:
            drawn.values[name] = own[drawn.at]
        cells = [own[(matched.cell == cell) & np.isfinite(own)] for cell in range(4)]
        if any(len(values) for values in cells):
            means.append((name, [float(values.mean()) if len(values) else None for values in cells]))
    return shifts, means


def shift(name: str, a: Floats, b: Floats) -> Shift:
    """How a score moved; the correlation is None where one run gives every row the same.

    Args:
        name: Of the score.
        a: Its finite values in run A, at least one.
        b: Those of the same rows in run B.
    """
    varies = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    correlation = float(np.corrcoef(a, b)[0, 1]) if varies else None
    same = int((a == b).sum())
    return Shift(name, len(a), same, float(a.mean()), float(b.mean()), float((b - a).mean()), correlation)


def _expected(matched: Matched) -> float:
    """How many rows two random choices of as many rows would share."""
    kept_a, kept_b = matched.a.kept[matched.in_a].sum(), matched.b.kept[matched.in_b].sum()
    return float(kept_a) * float(kept_b) / len(matched.cell)


def _only_there(matched: Matched) -> list[tuple[int, int]]:
    """Rows that only A has, and of these kept; then the same of B."""
    found = []
    for rows, shared in ((matched.a, matched.in_a), (matched.b, matched.in_b)):
        found.append((len(rows.keys) - len(shared), int(rows.kept.sum() - rows.kept[shared].sum())))
    return found


def _by_source(matched: Matched, names: Names) -> list[tuple[str, list[int]]]:
    """Rows of each cell by source, the source with the most rows first."""
    codes = matched.a.source[matched.in_a]
    table = np.bincount(codes * 4 + matched.cell, minlength=4 * len(names.codes)).reshape(-1, 4)
    lines = [(name, table[code].tolist()) for name, code in names.codes.items() if table[code].any()]
    return sorted(lines, key=lambda line: (-sum(line[1]), line[0]))


def _by_reason(matched: Matched, names: Names) -> dict[int, list[tuple[str, str, int]]]:
    """For each cell, reasons with their rows, the most common first: (of A, of B, rows).

    Of rows that only one run keeps, the reason of the other is told and the one's own is "".
    """
    texts, found = list(names.codes), dict[int, list[tuple[str, str, int]]]()
    a, b = matched.a.reason[matched.in_a].astype(np.int64), matched.b.reason[matched.in_b].astype(np.int64)
    texts.append("")
    nothing = np.full(len(a), len(texts) - 1)
    told = {BOTH: (a, b), ONLY_A: (nothing, b), ONLY_B: (a, nothing), NEITHER: (a, b)}
    for cell, (of_a, of_b) in told.items():
        here = matched.cell == cell
        pairs, counts = np.unique(of_a[here] * len(texts) + of_b[here], return_counts=True)
        order = np.lexsort((pairs, -counts))[:REASONS_SHOWN]
        found[cell] = [
            (texts[pair // len(texts)], texts[pair % len(texts)], rows)
            for pair, rows in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        ]
    return found


def _examples(
    matched: Matched, columns: Sequence[str]
) -> dict[int, list[tuple[ShownRow, list[tuple[str, str]]]]]:
    """Of each cell the rows of the least hashes: as A has them, and what B says of each."""
    chosen = {cell: np.flatnonzero(matched.cell == cell)[:EXAMPLES_PER_CELL] for cell in range(4)}
    every = np.concatenate(list(chosen.values()))
    a = dict(rows_stored(matched.a, matched.in_a[every], [*_TEXTS, *columns]))
    b = dict(rows_stored(matched.b, matched.in_b[every], ["reason", *columns]))
    found, start = {}, 0
    for cell, rows in chosen.items():
        found[cell] = [
            (replace(shown_row(a[i], ()), facts=_facts(a[i], columns)), _facts(b[i], columns, a[i]))
            for i in range(start, start + len(rows))
        ]
        start += len(rows)
    return found


def _facts(
    row: Mapping[str, Any], columns: Sequence[str], beside: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """The reason of a row and its scores, less those that are the same in the row `beside` it."""
    names = [name for name in columns if row.get(name) is not None]
    told = [name for name in names if beside is None or row[name] != beside.get(name)]
    return [("reason", str(row["reason"])), *((name, format_number(row[name])) for name in told)]


def _described(out: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of the two runs says of one."""
    counts, models = manifest["counts"], manifest.get("models") or []
    return {
        "name": manifest.get("name") or "run",
        "folder": str(out),
        "made": manifest.get("created", "–"),
        "model": ", ".join(str(model.get("name", "")) for model in models) or "none",
        "weights": ", ".join(str(model.get("weights_hash") or "")[:16] for model in models) or "–",
        "seed": manifest.get("seed"),
        "recipe hash": str(manifest.get("recipe_hash", "–"))[:16],
        "rows read": counts["read"],
        "bad": counts["bad"],
        "dropped": counts["dropped"],
        "kept": counts["kept"],
        "tokens kept": (manifest.get("tokens") or {}).get("kept"),
    }

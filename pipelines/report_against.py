"""Comparison of two runs over the same rows: which of them each kept, why, and how their scores moved.

Rows are matched by the hash of their id and held as a few numbers each; scores are read one column at a time
and texts only of the rows shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from connectors.manifest import read_manifest
from connectors.storage import Place, join, write_text
from pipelines.charts import Floats
from pipelines.report_examples import ShownRow, format_number, iter_rows_at, shown_row
from pipelines.report_numbers import TOKEN_COLUMNS, finite, number_columns, parts, tokens_of
from pipelines.report_page import render
from pipelines.selectors.id_order import id_order

AGAINST_PAGE = "report-against.html"
EXAMPLES_PER_CELL = 4
REASONS_SHOWN = 30
SOURCES_SHOWN = 50
CELLS = ("kept in both", "kept by A only", "kept by B only", "kept by neither")
BOTH, ONLY_A, ONLY_B, NEITHER = range(4)

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Names:
    """Texts that repeat, each with a code in the order of its first row."""

    codes: dict[str, int] = field(default_factory=dict)

    def of(self, column: pa.ChunkedArray) -> Codes:
        """The codes of a column; null is ""."""
        encoded = column.fill_null("").combine_chunks().dictionary_encode()
        own = [self.codes.setdefault(name, len(self.codes)) for name in encoded.dictionary.to_pylist()]
        codes: Codes = np.array(own, np.int32)[encoded.indices.to_numpy()]
        return codes


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of a run, in the order of the hashes of their ids; every array has shape (rows,).

    Attributes:
        out: Folder of the run.
        keys: uint64, ascending: the hash of (0, id), as the sample of a report is drawn by.
        place: Place of each row among those of OUT/train and then OUT/dropped.
        kept: Whether it was kept.
        source: Code in the `Names` of sources; `reason` in those of reasons.
        tokens: Prompt and response tokens, 0 where not counted.
        train_rows: Rows of OUT/train.
    """

    out: str
    keys: npt.NDArray[np.uint64]
    place: Ints
    kept: Bools
    source: Codes
    reason: Codes
    tokens: Ints
    train_rows: int

    def score(self, name: str) -> Floats:
        """A score of every row, NaN where it has none."""
        schema = pa.schema([(name, pa.float64())])
        values = [np.zeros(0), *(finite(part.table, name) for part in parts(self.out, schema))]
        return np.concatenate(values)[self.place]


@dataclass(frozen=True, slots=True)
class Matched:
    """Two runs row by row: where the rows that both have stand in each, and the cell of each, shape (n,)."""

    a: RunRows
    b: RunRows
    in_a: Ints
    in_b: Ints
    cell: npt.NDArray[np.int8]


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
    shifts, means = _scores(matched, columns)
    page = render(
        "report_against.html.j2",
        ("report_tables.js",),
        {},
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


def read_rows(out: str, sources: Names, reasons: Names) -> RunRows:
    """The rows of a run; texts are read for their hashes and codes, a part of the files at a time."""
    texts = dict.fromkeys(("id", "source", "reason"), pa.string())
    schema = pa.schema({**texts, **dict.fromkeys(TOKEN_COLUMNS, pa.float64())})
    columns: list[list[npt.NDArray[Any]]] = [[np.zeros(0, kind)] for kind in ("u8", "?", "i4", "i4", "i8")]
    for part in parts(out, schema):
        table = part.table
        own: tuple[npt.NDArray[Any], ...] = (
            id_order(table["id"], seed=0),
            np.full(table.num_rows, part.kept),
            sources.of(table["source"]),
            reasons.of(table["reason"]),
            tokens_of(table)[0],
        )
        for column, values in zip(columns, own, strict=True):
            column.append(values)
    keys, kept, source, reason, tokens = (np.concatenate(column) for column in columns)
    place = np.argsort(keys, kind="stable")
    return RunRows(
        out, keys[place], place, kept[place], source[place], reason[place], tokens[place], int(kept.sum())
    )


def match(a: RunRows, b: RunRows) -> Matched:
    """The rows that both runs have.

    Raises:
        ValueError: If there are none.
    """
    # 64 bits: among a million rows, two share a hash by chance once in forty million comparisons
    _, in_a, in_b = np.intersect1d(a.keys, b.keys, return_indices=True)
    if not len(in_a):
        raise ValueError(
            f"{a.out} ({_first_id(a)}) and {b.out} ({_first_id(b)}) share no row. "
            "An id is made of the source, the file's name and the row: compare runs over the same files "
            "under the same names of sources"
        )
    cell = np.where(
        a.kept[in_a], np.where(b.kept[in_b], BOTH, ONLY_A), np.where(b.kept[in_b], ONLY_B, NEITHER)
    )
    return Matched(a, b, in_a, in_b, cell.astype(np.int8))


def _first_id(rows: RunRows) -> str:
    first = next(
        (part.table["id"][0].as_py() for part in parts(rows.out, pa.schema([("id", pa.string())]))), None
    )
    return f"its first id: {first}" if first is not None else "no rows"


def shared_scores(out: str, other: str) -> list[str]:
    """Names of the scores that both runs have, in the order of the first."""
    there = number_columns(other).scores
    return [name for name in number_columns(out).scores if name in there]


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
    matched: Matched, columns: Sequence[str]
) -> tuple[list[Shift], list[tuple[str, list[float | None]]]]:
    """The shift of each score, and A's mean of it (B's where A has none) in each cell."""
    shifts, means = [], []
    for name in columns:
        a, b = matched.a.score(name)[matched.in_a], matched.b.score(name)[matched.in_b]
        both = np.isfinite(a) & np.isfinite(b)
        if both.any():
            shifts.append(shift(name, a[both], b[both]))
        own = np.where(np.isfinite(a), a, b)
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
    a = _stored(matched.a, matched.in_a[every], columns)
    b = _stored(matched.b, matched.in_b[every], columns)
    found, start = {}, 0
    for cell, rows in chosen.items():
        pairs = zip(a[start : start + len(rows)], b[start : start + len(rows)], strict=True)
        found[cell] = [
            (replace(shown_row(one, ()), facts=_facts(one, columns)), _facts(two, columns, one))
            for one, two in pairs
        ]
        start += len(rows)
    return found


def _stored(rows: RunRows, at: Ints, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The stored rows at some places of a run, in that order."""
    places = rows.place[at]
    wanted = ["id", "reason", "messages", "prompt_excerpt", "response_excerpt", *columns]
    found: dict[int, dict[str, Any]] = {}
    for folder, start in (("train", 0), ("dropped", rows.train_rows)):
        in_train = places < rows.train_rows
        own = places[in_train if folder == "train" else ~in_train] - start
        found |= {
            place + start: row for place, row in iter_rows_at(join(rows.out, folder), own.tolist(), wanted)
        }
    return [found[place] for place in places.tolist()]


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

"""The numbers of a report, in two passes over the files of a run that hold a part of the rows at a time.

The first pass draws the sample: of the rows with a score, those whose ids have the least hashes. The sample's
quantiles set the frame of each picture and the places where a threshold can stand. The second pass counts
every row between those places, so what a threshold would keep is exact, and sums up sources and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.shards import parquet_files, read_schema
from connectors.storage import fetched, join
from pipelines.charts import TILES, Floats, robust_range
from pipelines.selectors.id_order import id_order

SAMPLE_ROWS = 3_000
STOPS = 160  # about as many places for a threshold
PASS_ROWS = 65_536
RARE_VALUES = 1_000  # that set the frame of a score which no row of the sample has
TOKEN_COLUMNS = {
    "prompt_tokens": "tokens of the prompt, by the target model's tokenizer",
    "response_tokens": "tokens of the response, by the target model's tokenizer",
}
SUSPECT = "suspect"
SHORTEST = 16  # response tokens: the upper end of the first class of lengths
_NEITHER = ("weight", "similarity", "cluster_size")  # numbers that are neither scores nor decisions
_TEXTS = ("source", "stage", "reason", "quadrant", "verdict", "duplicate_of")

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a run's number columns: `scores` of OUT/scores, and what selectors `decided`."""

    scores: tuple[str, ...]
    decided: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Scores first, then what selectors decided."""
        return (*self.scores, *self.decided)


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of OUT/train or OUT/dropped; `start` is the place of the first in its folder."""

    kept: bool
    start: int
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows drawn, of `of` rows that have a score, in id order.

    Attributes:
        table: id, source, stage, reason, quadrant, verdict, every number column, `kept` and `position`, the
            place in OUT/train or OUT/dropped.
        of: Rows of the run that have a score.
    """

    table: pa.Table
    of: int

    @property
    def states(self) -> npt.NDArray[np.int8]:
        """0 for a kept row, 1 for a dropped one, 2 for a suspect one; shape (rows,)."""
        states = np.where(self.table["kept"].to_numpy(zero_copy_only=False), 0, 1).astype(np.int8)
        states[pc.equal(self.table["verdict"], SUSPECT).fill_null(False).to_numpy(zero_copy_only=False)] = 2
        return states


@dataclass(slots=True)
class Spread:
    """How many rows have which values of a score.

    Attributes:
        edges: Ascending round values, shape (m,).
        rows: Shape (2, 2m + 1), dropped and kept rows: below the first edge, at it, between it and the
            second, at that, and so on to above the last.
        tokens: The same, of prompt and response tokens; a row without a count has none.
    """

    edges: Floats
    rows: Ints
    tokens: Ints

    @classmethod
    def at(cls, edges: Floats) -> Spread:
        """One without rows."""
        rows, tokens = (np.zeros((2, 2 * len(edges) + 1), np.int64) for _ in range(2))
        return cls(edges, rows, tokens)

    def add(self, values: Floats, tokens: Ints, kept: bool) -> None:
        """Counts the finite values of a part's rows."""
        known = np.isfinite(values)
        left, right = (np.searchsorted(self.edges, values[known], side) for side in ("left", "right"))
        places = left + right
        size = self.rows.shape[1]
        self.rows[int(kept)] += np.bincount(places, minlength=size)
        self.tokens[int(kept)] += np.bincount(places, tokens[known], size).astype(np.int64)

    def bars(self, wanted: int) -> tuple[Floats, Ints, int]:
        """Bounds of at most `wanted` + 1 bars; dropped and kept rows in each, (2, bars); rows outside."""
        step = -(-(len(self.edges) - 1) // wanted)
        at = np.append(np.arange(0, len(self.edges) - 1, step), len(self.edges) - 1)
        inner = self.rows[:, 1:-1]  # begins and ends at an edge
        counts = np.add.reduceat(inner, 2 * at[:-1], axis=1)
        return self.edges[at], counts, int(self.rows[:, [0, -1]].sum())


@dataclass(slots=True)
class Group:
    """The rows of one source or length: [dropped, kept] each, and for each score its sum and known rows."""

    rows: Ints
    duplicates: int
    tokens: Ints
    counted: Ints  # rows whose tokens are known
    sums: Floats  # (2, scores)
    known: Ints  # (2, scores)

    def mean(self, score: int, kept: bool) -> float | None:
        """Mean of a score by its place among the columns; None where no row has it."""
        known = int(self.known[int(kept), score])
        return float(self.sums[int(kept), score]) / known if known else None


@dataclass(slots=True)
class Plane:
    """Loss against entropy of all rows: the frame, the rows in each of TILES x TILES tiles, the corners kept.

    Attributes:
        x: Name of the score on the level axis; `y` on the upright one.
        frame: Least and greatest value shown, of x and of y.
        rows: Shape (2, TILES, TILES), dropped and kept rows inside the frame.
        corners: For Q-Tuning's quadrants Q2 and Q4 of the kept rows, the bounds of their values:
            least loss, greatest loss, least entropy, greatest entropy.
    """

    x: str
    y: str
    frame: tuple[tuple[float, float], tuple[float, float]]
    rows: Ints
    corners: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Numbers:
    """What all rows of a run add up to."""

    columns: Columns
    sample: Sample
    spreads: dict[str, Spread]
    sources: dict[str, Group]
    lengths: dict[int, Group]  # by the upper end of the class, in response tokens
    plane: Plane | None


def number_columns(out: str | Path) -> Columns:
    """The number columns of a run; no scores when it had no model and checked no text."""
    scores = _numbers(out, "scores")
    train = _numbers(out, "train")
    return Columns(scores, tuple(name for name in train if name not in (*scores, *TOKEN_COLUMNS, *_NEITHER)))


def _numbers(out: str | Path, folder: str) -> tuple[str, ...]:
    files = parquet_files(join(str(out), folder))
    fields = read_schema(files[0]) if files else ()
    return tuple(f.name for f in fields if pa.types.is_floating(f.type) or f.name in TOKEN_COLUMNS)


def read_numbers(out: str | Path) -> Numbers:
    """Both passes over OUT/train and OUT/dropped.

    Args:
        out: Folder of a run.
    """
    columns = number_columns(out)
    rare: dict[str, Floats] = {}
    sample = _draw(out, columns, rare)
    values = {name: _known(sample.table, name) for name in columns.scores}
    framed = {name: own if len(own) else rare.get(name, own) for name, own in values.items()}
    spreads = {name: Spread.at(stops(own)) for name, own in framed.items() if len(own)}
    numbers = Numbers(columns, sample, spreads, {}, {}, _plane_of(values))
    for part in parts(out, _schema(columns)):
        _count(numbers, part)
    return numbers


def stops(values: Floats) -> Floats:
    """Round values a step of 1, 2 or 5 times a power of ten apart, about STOPS, over the robust range.

    Args:
        values: Finite numbers, at least one. Whole numbers give whole numbers.

    Example:
        >>> stops(np.array([0.25, 0.75]))[:3]
        array([0.25 , 0.255, 0.26 ])
    """
    low, high = robust_range(values)
    raw = (high - low) / STOPS
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    whole = bool(np.all(values == np.round(values)))
    step = max(step, 1.0) if whole else step
    # The last bar of a whole number ends at the number after it
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9) + whole
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    # The nearest float of the decimal, which is also what a recipe with that decimal gets
    return np.unique([round(float(i * step), digits) for i in np.arange(first, last + 1)]) + 0.0


def parts(out: str | Path, schema: pa.Schema) -> Iterator[Part]:
    """The columns of `schema` of OUT/train, then of OUT/dropped; null where a file lacks one."""
    for folder in ("train", "dropped"):
        start = 0
        for path in parquet_files(join(str(out), folder)):
            with pq.ParquetFile(fetched(path)) as file:
                present = [name for name in schema.names if name in file.schema_arrow.names]
                for batch in file.iter_batches(PASS_ROWS, columns=present):
                    yield Part(folder == "train", start, completed(batch, schema))
                    start += batch.num_rows


def completed(batch: pa.RecordBatch | pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, cast to its types, null where `batch` lacks one."""
    columns = [
        batch[f.name].cast(f.type) if f.name in batch.schema.names else pa.nulls(batch.num_rows).cast(f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def finite(table: pa.Table, name: str) -> Floats:
    """A number column as float64, NaN where it has no finite value."""
    values = np.asarray(table[name].to_numpy(), dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def tokens_of(table: pa.Table) -> tuple[Ints, Bools]:
    """Prompt and response tokens of each row, 0 where not known, and where they are known."""
    counts = np.sum([finite(table, name) for name in TOKEN_COLUMNS], axis=0)
    known = np.isfinite(counts)
    return np.where(known, counts, 0).astype(np.int64), known


def _schema(columns: Columns) -> pa.Schema:
    numbers = dict.fromkeys([*TOKEN_COLUMNS, *columns.all], pa.float64())
    return pa.schema({"id": pa.string(), **dict.fromkeys(_TEXTS, pa.string()), **numbers})


def _draw(out: str | Path, columns: Columns, rare: dict[str, Floats]) -> Sample:
    """The rows of the least hashes among those that have a score.

    Args:
        out: Folder of a run.
        columns: Its number columns.
        rare: Gets the first values of each score: a score of few rows may be on none of the sample.
    """
    schema = _schema(columns)
    more = {"kept": pa.bool_(), "position": pa.int64(), "hash": pa.uint64()}
    drawn, of, highest = pa.schema([*schema, *pa.schema(more)]).empty_table(), 0, np.uint64(2**64 - 1)
    scores = [name for name in columns.scores if name not in TOKEN_COLUMNS] or list(columns.scores)
    for part in parts(out, schema) if scores else ():
        scored = np.any([np.isfinite(finite(part.table, name)) for name in scores], axis=0)
        of += int(scored.sum())
        for name in (name for name in columns.scores if len(rare.get(name, ())) < RARE_VALUES):
            rare[name] = np.append(rare.get(name, np.zeros(0)), _known(part.table, name))[:RARE_VALUES]
        hashes = np.full(len(scored), 2**64 - 1, np.uint64)
        hashes[scored] = id_order(part.table["id"].filter(pa.array(scored)), seed=0)
        near = np.flatnonzero(scored & (hashes <= highest))
        own = [pa.array(np.full(len(near), part.kept)), pa.array(near + part.start), pa.array(hashes[near])]
        rows = pa.table([*part.table.take(near).columns, *own], schema=drawn.schema)
        drawn = pa.concat_tables([drawn, rows]).sort_by("hash").slice(0, SAMPLE_ROWS).combine_chunks()
        if drawn.num_rows == SAMPLE_ROWS:
            highest = np.uint64(drawn["hash"][-1].as_py())
    return Sample(drawn.drop_columns(["hash"]).sort_by("id"), of)


def _known(table: pa.Table, name: str) -> Floats:
    values = finite(table, name)
    return values[np.isfinite(values)]


def axes(names: Iterable[str]) -> tuple[str, str] | None:
    """The two scores to draw: loss and entropy, else the first two, counts of tokens last; None of fewer."""
    ordered = sorted(names, key=lambda name: name in TOKEN_COLUMNS)
    if {"loss", "entropy"} <= set(ordered):
        return "loss", "entropy"
    return (ordered[0], ordered[1]) if len(ordered) > 1 else None


def _plane_of(values: dict[str, Floats]) -> Plane | None:
    found = axes(name for name, own in values.items() if len(own))
    if found is None:
        return None
    frame = robust_range(values[found[0]]), robust_range(values[found[1]])
    return Plane(*found, frame, np.zeros((2, TILES, TILES), np.int64))


def _count(numbers: Numbers, part: Part) -> None:
    table, kept = part.table, part.kept
    values = {name: finite(table, name) for name in (*numbers.columns.scores, *TOKEN_COLUMNS)}
    tokens, counted = tokens_of(table)
    for name, spread in numbers.spreads.items():
        spread.add(values[name], tokens, kept)
    if numbers.plane is not None:
        _count_plane(numbers.plane, part)
    duplicate = table["duplicate_of"].is_valid().to_numpy()
    facts = [duplicate, tokens, counted]
    scores = [values[name] for name in numbers.columns.scores]
    source = table["source"].fill_null("").combine_chunks().dictionary_encode()
    labels = source.dictionary.to_pylist()
    _add_groups(numbers.sources, labels, source.indices.to_numpy(), kept, facts, scores)
    response = values["response_tokens"]
    known = np.isfinite(response)
    ends = SHORTEST << np.ceil(np.log2(np.maximum(response[known], SHORTEST) / SHORTEST)).astype(np.int64)
    lengths, codes = np.unique(ends, return_inverse=True)
    own = [np.asarray(fact)[known] for fact in facts]
    _add_groups(numbers.lengths, lengths.tolist(), codes, kept, own, [v[known] for v in scores])


def _add_groups(
    groups: dict[Any, Group],
    labels: Sequence[Any],
    codes: Ints,
    kept: bool,
    facts: Sequence[npt.NDArray[Any]],
    scores: Sequence[Floats],
) -> None:
    """Adds a part's rows, of group `labels[codes]`; `facts`: duplicate, tokens, whether these are known."""
    size, at = len(labels), int(kept)
    rows = np.bincount(codes, minlength=size)
    duplicates, tokens, counted = (np.bincount(codes, fact, size).astype(np.int64) for fact in facts)
    sums = [np.bincount(codes, np.nan_to_num(values), size) for values in scores]
    known = [np.bincount(codes, np.isfinite(values), size).astype(np.int64) for values in scores]
    for code, label in enumerate(labels):
        if label not in groups:
            two, wide = np.zeros((3, 2), np.int64), (2, len(scores))
            groups[label] = Group(two[0], 0, two[1], two[2], np.zeros(wide), np.zeros(wide, np.int64))
        group = groups[label]
        group.rows[at] += rows[code]
        group.duplicates += int(duplicates[code])
        group.tokens[at] += tokens[code]
        group.counted[at] += counted[code]
        group.sums[at] += [own[code] for own in sums]
        group.known[at] += np.array([own[code] for own in known], np.int64)


def _count_plane(plane: Plane, part: Part) -> None:
    x, y = finite(part.table, plane.x), finite(part.table, plane.y)
    edges = [np.linspace(*bounds, TILES + 1) for bounds in plane.frame]
    both = np.isfinite(x) & np.isfinite(y)
    plane.rows[int(part.kept)] += np.histogram2d(x[both], y[both], edges)[0].astype(np.int64)
    if not part.kept or (plane.x, plane.y) != ("loss", "entropy"):
        return
    for name in ("Q2", "Q4"):
        inside = both & pc.equal(part.table["quadrant"], name).fill_null(False).to_numpy()
        if inside.any():
            found = (x[inside].min(), x[inside].max(), y[inside].min(), y[inside].max())
            old = plane.corners.get(name, (np.inf, -np.inf, np.inf, -np.inf))
            lows, highs = np.minimum(found, old), np.maximum(found, old)
            plane.corners[name] = (float(lows[0]), float(highs[1]), float(lows[2]), float(highs[3]))

"""What a finished run holds: which rows there are, where each one is, and their small columns.

Rows are numbered: the kept ones first, then the dropped, then the bad, each in stored order. This *position*
names a row as long as the run's files stay what they are. Columns of numbers and labels are read whole when
they are first asked for, and kept; texts never are.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import example_id
from connectors.manifest import MANIFEST, read_manifest
from connectors.shards import parquet_files
from connectors.storage import file_name, join
from pipelines.view.row_groups import READERS, RowGroups

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Made = TypeVar("Made")

PARTS: Mapping[str, str] = MappingProxyType({"kept": "train", "dropped": "dropped", "bad": "bad_rows"})
FACETS = (
    "source", "stage", "kind", "reason", "verdict", "quadrant", "status", "truncated", "control_text",
)  # fmt: skip
BAD = "bad:"  # begins the key of a bad row, which has no id of its own


@dataclass(frozen=True)
class Labels:
    """A column of texts that repeat.

    Attributes:
        values: The distinct ones.
        codes: Which of them each row has, -1 for none; int32, shape (rows,).
    """

    values: tuple[str, ...]
    codes: npt.NDArray[np.int32]

    def are(self, wanted: Sequence[str]) -> Bools:
        """Which rows have one of some values."""
        codes = [code for code, value in enumerate(self.values) if value in set(wanted)]
        return np.isin(self.codes, codes) if len(codes) != 1 else self.codes == codes[0]


class RunIndex:
    """The rows of a finished run.

    Args:
        out: Its output folder, on this machine or in a store.

    Attributes:
        manifest: The run's manifest.
        groups: The files of all rows, in the order of positions.
        bounds: First position of each of PARTS, and the number of rows.

    Raises:
        ValueError: If there is no finished run, or its files are not those that its manifest counts.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self.manifest: dict[str, Any] = read_manifest(out)
        files = [parquet_files(join(out, folder)) for folder in PARTS.values()]
        self.groups = RowGroups(path for part in files for path in part)
        ends = np.cumsum([0, *map(len, files)]).tolist()
        self._files = {part: range(*pair) for part, pair in zip(PARTS, itertools.pairwise(ends), strict=True)}
        self.bounds: tuple[int, ...] = tuple(int(self.groups.file_starts[end]) for end in ends)
        self._check_counts()
        self._kept_columns: dict[object, Any] = {}
        self._making: dict[object, threading.RLock] = {}
        self._lock = threading.Lock()

    def _check_counts(self) -> None:
        for part, rows in zip(PARTS, np.diff(self.bounds).tolist(), strict=True):
            counted = self.manifest["counts"][part]
            if rows != counted:
                raise ValueError(
                    f"{join(self.out, PARTS[part])} holds {rows:,} rows and {MANIFEST} says {part} = "
                    f"{counted:,}: the folder was changed after the run; run it again into an empty folder"
                )

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return self.bounds[-1]

    def range_of(self, part: str) -> range:
        """The positions of a part."""
        at = list(PARTS).index(part)
        return range(self.bounds[at], self.bounds[at + 1])

    def part_of(self, position: int) -> str:
        """The part that a position lies in."""
        return next(part for part in PARTS if position in self.range_of(part))

    def once(self, name: object, make: Callable[[], Made]) -> Made:
        """What `make` gives, kept under a name."""
        with self._lock:
            making = self._making.setdefault(name, threading.RLock())
        with making:  # one waits for what it asks for, and for nothing else
            if name not in self._kept_columns:
                self._kept_columns[name] = make()
            made: Made = self._kept_columns[name]
            return made

    def schema(self, part: str) -> pa.Schema:
        """The columns of a part; none for one without a file."""
        files = self._files[part]
        return self.groups.schema(files[0]) if files else pa.schema([])

    def number_names(self) -> list[str]:
        """Names of the columns of numbers, in stored order."""
        fields = [*self.schema("kept"), *self.schema("dropped")]
        numbers = [f.name for f in fields if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
        return list(dict.fromkeys(numbers))

    def numbers(self, name: str) -> Floats:
        """A column of numbers, NaN where a row has none; float64, shape (rows,).

        Raises:
            ValueError: If no row has such a column.
        """
        if name not in self.number_names():
            raise ValueError(
                f"no column of numbers is called {name!r}; there are {', '.join(self.number_names())}"
            )

        def make() -> Floats:
            column = self._read(pa.schema([(name, pa.float64())]))[name]
            values: Floats = column.to_numpy()
            return values

        return self.once(("numbers", name), make)

    def facets(self) -> dict[str, Labels]:
        """The columns of FACETS that the run has."""

        def make() -> dict[str, Labels]:
            table = self._read(pa.schema([(name, _LABEL) for name in FACETS])).unify_dictionaries()
            return {name: _labels(table[name]) for name in FACETS if table[name].null_count < self.rows}

        return self.once("facets", make)

    def labels(self, name: str) -> Labels:
        """Any column of texts as labels."""
        return self.once(
            ("labels", name),
            lambda: _labels(self._read(pa.schema([(name, _LABEL)])).unify_dictionaries()[name]),
        )

    def ids(self) -> pa.Array:
        """The id of every row; of a bad one `source/file:row`, which several may share."""

        def make() -> pa.Array:
            example_rows = self.bounds[2]
            ids = self._read(pa.schema([("id", pa.large_string())]))["id"][:example_rows]
            bad = [bad_id(row) for row in self._bad_places()]
            return pa.concat_arrays([*ids.chunks, pa.array(bad, pa.large_string())])

        return self.once("ids", make)

    def _bad_places(self) -> list[dict[str, Any]]:
        names = ["source", "path", "row"]
        return [row for file in self._files["bad"] for row in self.groups.file(file, names).to_pylist()]

    def key_of(self, position: int) -> str:
        """What names a row in an address: its id, or the number of a bad row."""
        bad = self.range_of("bad")
        return f"{BAD}{position - bad.start + 1}" if position in bad else str(self.ids()[position])

    def position_of(self, key: str) -> int | None:
        """The position of the row of a key; None when there is none."""
        bad, number = self.range_of("bad"), key.removeprefix(BAD)
        if key.startswith(BAD) and number.isdigit():
            return bad.start + int(number) - 1 if 0 < int(number) <= len(bad) else None
        found = int(pc.index(self.ids(), pa.scalar(key, pa.large_string())).as_py())
        return found if found >= 0 else None

    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        """The position of each of some ids."""
        wanted = pa.array(ids, pa.large_string())
        here = np.flatnonzero(pc.is_in(self.ids(), value_set=wanted).to_numpy(zero_copy_only=False))
        found = dict(zip(self.ids().take(here).to_pylist(), here.tolist(), strict=True))
        return [found.get(row_id) for row_id in ids]

    def _read(self, schema: pa.Schema) -> pa.Table:
        """Columns of all rows in the types of `schema`, null where a file lacks one."""

        def read(file: int) -> pa.Table:
            table = self.groups.file(file, schema.names)
            rows = int(self.groups.file_starts[file + 1] - self.groups.file_starts[file])
            columns = [
                table[f.name].cast(_plain(f.type)).cast(f.type)
                if f.name in table.column_names
                else pa.nulls(rows, _plain(f.type)).cast(f.type)
                for f in schema
            ]
            return pa.table(columns, schema=schema)

        with ThreadPoolExecutor(READERS) as pool:
            return pa.concat_tables([schema.empty_table(), *pool.map(read, range(len(self.groups.paths)))])


_LABEL = pa.dictionary(pa.int32(), pa.string())


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _labels(column: pa.ChunkedArray) -> Labels:
    whole = column.combine_chunks()
    parts = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
    codes = [np.asarray(part.indices.fill_null(-1), np.int32) for part in parts]
    values = tuple(parts[0].dictionary.to_pylist()) if parts else ()
    return Labels(values, np.concatenate(codes) if codes else np.zeros(0, np.int32))


def bad_id(row: Mapping[str, Any]) -> str:
    """A bad row's place, as `winnow explain` takes it; of a file that could not be read at all its name.

    Example:
        >>> bad_id({"source": "web", "path": "data/in.jsonl", "row": 7})
        'web/in.jsonl:00000007'
    """
    name = file_name(row["path"])
    return f"{row['source']}/{name}" if row["row"] is None else example_id(row["source"], name, row["row"])

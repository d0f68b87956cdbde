"""Rows in memory, as a person at a prompt or in a notebook wants them: an Arrow table that shows itself."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS = 5
SHOWN_COLUMNS = 12  # in HTML; as text as many as fit
CELL_CHARS = 48
FEW_COLUMNS, WIDE_CELL_CHARS = 4, 80  # cells of tables of few columns may be wider
TURN_CHARS = 28  # of the first and the last turn of a conversation
LINE_CHARS = 110


class Rows:
    """Rows of an Arrow table.

    `len`, iteration (a dict for each row), `rows[3]`, `rows[:10]`, `rows["loss"]`. Anything that takes Arrow
    data takes them as they are: `pyarrow.table(rows)`, `polars.DataFrame(rows)`, DuckDB.

    Args:
        table: The rows.
        name: What they are, in the plural, for the headline.
        shown: How many rows it shows of itself.

    Example:
        >>> print(Rows(pa.table({"id": ["a", "b"], "loss": [1.25, None]})))
        2 rows
        id  loss
        a   1.25
        b
    """

    def __init__(self, table: pa.Table, name: str = "rows", shown: int = SHOWN_ROWS) -> None:
        self.table = table
        self._name = name
        self._most = shown

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches():
            yield from batch.to_pylist()

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    @overload
    def __getitem__(self, at: str) -> pa.ChunkedArray: ...
    def __getitem__(self, at: int | slice | str) -> dict[str, Any] | Rows | pa.ChunkedArray:
        if isinstance(at, str):
            return self.table.column(at)
        if isinstance(at, slice):
            return self._of(self.table[at])
        place = range(len(self))[at]
        row: dict[str, Any] = self.table.slice(place, 1).to_pylist()[0]
        return row

    def _of(self, table: pa.Table) -> Rows:
        return Rows(table, self._name, self._most)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.table.column_names)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame; null is None or NaN there.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def headline(self) -> str:
        """What there is, in one line."""
        return f"{len(self):,} {self._name}"

    def __repr__(self) -> str:
        lines = _columns_of_text(self._shown())
        left = len(self) - self._most
        return "\n".join([self.headline(), *lines, *([f"... {left:,} more"] if left > 0 and lines else [])])

    def _shown(self) -> pa.Table:
        """The first rows, without columns that are null in all of them."""
        table = self.table.slice(0, self._most)
        return table.select([name for name in table.column_names if table[name].null_count < len(table)])

    def _repr_html_(self) -> str:
        table = self._shown()
        names = table.column_names[:SHOWN_COLUMNS]
        left = len(self.column_names) - len(names)
        headings = [*map(_short, names), *([f"+{left}"] if left else [])]
        head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
        most = WIDE_CELL_CHARS if len(names) <= FEW_COLUMNS else CELL_CHARS
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(row[name], most))}</td>" for name in names) + "</tr>"
            for row in table.select(names).to_pylist()
        )
        return (
            f"<p>{html.escape(self.headline())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _columns_of_text(table: pa.Table) -> list[str]:
    """A heading and a line for each row, of as many columns as fit."""
    if not table.num_rows:
        return []
    shown: list[list[str]] = []
    width = 0
    most = WIDE_CELL_CHARS if table.num_columns <= FEW_COLUMNS else CELL_CHARS
    for name in table.column_names:
        cells = [_short(name), *(_cell(value, most) for value in table.column(name).to_pylist())]
        size = max(map(len, cells))
        if shown and width + size > LINE_CHARS:
            shown.append([f"(+{table.num_columns - len(shown)} columns)", *([""] * table.num_rows)])
            break
        shown.append([cell.ljust(size) for cell in cells])
        width += size + 2
    return ["  ".join(cells).rstrip() for cells in zip(*shown, strict=True)]


def _cell(value: object, most: int = CELL_CHARS) -> str:
    r"""A value on one short line of printable text.

    Example:
        >>> _cell(0.123456), _cell(None), _cell("two\nlines"), _cell([1, 2, 3])
        ('0.1235', '', 'two lines', '[3 numbers]')
    """
    if value is None:
        return ""
    if isinstance(value, list):
        return _list_cell(value, most)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _short(str(value), most)


def _list_cell(values: list[Any], most: int) -> str:
    if values and all(isinstance(value, dict) and "content" in value for value in values):
        first, last = (_short(str(turn["content"]), TURN_CHARS) for turn in (values[0], values[-1]))
        return f"{first} → {last}"
    if values and all(isinstance(value, int | float | None) for value in values):
        return f"[{len(values):,} numbers]"
    return _short(json.dumps(values, ensure_ascii=False, default=str), most)


def _short(text: str, most: int = CELL_CHARS) -> str:
    text = " ".join(text[: 4 * most].split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"

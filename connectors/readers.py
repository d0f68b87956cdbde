"""Reading input files: rows as they are, and the canonical examples they hold.

`find_files` says which files an input of a recipe means; `read_rows` gives the rows of one file, whatever
kind of file it is; `read_examples` makes them into canonical rows. What cannot be read is given as a bad row
with a reason in the place where it stood, so every row of a file comes out as at least one item.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from connectors.chat_formats import parse_row
from connectors.csv_rows import csv_rows
from connectors.decompress import ByteSource
from connectors.examples import EXAMPLE_SCHEMA, EXCERPT_CHARS, BadRow, example_id, example_row
from connectors.fields import Layout, found, layout_of
from connectors.inputs import InputFile, InputSpec, find_files
from connectors.json_rows import json_file, json_lines
from connectors.line_ranges import LineCutter, LineRange, line_ranges
from connectors.lines import Numbered, Row, UnreadableRow
from connectors.storage import file_bytes
from connectors.tables import row_group_runs, table_rows

__all__ = [
    "InputFile", "InputSpec", "Item", "find_files", "in_reading_order", "line_cutter", "parse_rows",
    "read_examples", "read_rows", "read_target", "split_file",
]  # fmt: skip

PART_BYTES = 256 * 2**20  # of a part of a file, before compression
_DETAIL_CHARS = 1000  # names of fields stand in it, and a hostile one may be as long as a file
_PROGRESS_ROWS = 256  # asking where a file stands costs a system call
_BEFORE_BYTES = 2**20  # before a part, where the row before it is looked for


class Item(NamedTuple):
    """One thing read from a file.

    Attributes:
        kind: Whether `row` has the columns of EXAMPLE_SCHEMA or of BAD_ROW_SCHEMA.
        row: The row.
        position: Bytes of the stored file, or of its part, read so far; runs ahead of the rows, never
            backwards.
    """

    kind: Literal["example", "bad"]
    row: dict[str, Any]
    position: int


def read_rows(file: InputFile) -> Iterator[tuple[int | None, Row, int]]:
    """Rows of a file in order. Blank lines are not rows; bad data never raises.

    Yields:
        (row number, row or BadRow, bytes of the stored file or of its part read so far). The number is the
        line in JSON lines and the record elsewhere, from 1, also in a part; None where the whole file, or all
        that is left of it, is bad.

    Raises:
        OSError: If the file cannot be opened or read, as opposed to holding bad data.
    """
    if file.fault:
        yield None, BadRow("unsupported file", file.fault), file_bytes(file.path)
        return
    if file.kind == "parquet" or file.kind == "arrow":
        rows = table_rows(file.path, file.kind, file.compression, file.groups)
    else:
        rows = _text_rows(file)
    empty = True
    for item in rows:
        empty = False
        yield item
    if empty and not file.lines:  # a part may well be; a file that is has none
        yield None, BadRow("empty file", "the file holds no rows"), file_bytes(file.path)


def read_examples(file: InputFile) -> Iterator[Item]:
    """Canonical rows of a file, and bad rows in the place where they stood.

    A row may give several examples (message trees, nested instances, preference pairs).

    The parts of a file of JSON lines give together what the whole file does. A bad row may be told after the
    fields of the last good row before it: that one is looked for up to a MiB before a part, and in the part
    alone of a Parquet file.

    Raises:
        OSError: If the file cannot be opened or read, as opposed to holding bad data.
    """
    return parse_rows(file, read_rows(file))


def parse_rows(file: InputFile, rows: Iterable[tuple[int | None, Row, int]]) -> Iterator[Item]:
    """Canonical rows of what `read_rows` gives for a file, and bad rows in the place where they stood."""
    mapped = tuple(sorted(file.fields.items()))
    before = cache(partial(_layout_before, file))
    prevailing: Layout | None = None
    for number, row, position in rows:
        if isinstance(row, BadRow) or number is None:
            yield Item("bad", _bad(file, number, row), position)
            continue
        try:
            parts = _parts(file, number, row, mapped)
        except BadRow as bad:
            yield Item(
                "bad", _bad(file, number, row, _named_after(prevailing or before(), bad, row)), position
            )
            continue
        except RecursionError:
            deep = BadRow("nested too deeply", "a field holds too many nested values")
            yield Item("bad", _bad(file, number, row, deep), position)
            continue
        prevailing = layout_of(tuple(row), file.format, mapped)
        for kind, part in parts:
            yield Item(kind, part, position)


def line_cutter(file: InputFile) -> LineCutter | None:
    """What finds the parts of a file of lines while its bytes pass by; None for a file that has none."""
    return LineCutter(PART_BYTES) if _has_lines(file) else None


def split_file(file: InputFile, lines: Sequence[LineRange] | None = None) -> list[InputFile]:
    """The parts of a file that several workers can read, in order; the file itself where it has none.

    A part has about PART_BYTES, before compression, where a row group or a line is no larger. Parts depend
    on the file alone. Rows have the same numbers, and so the same ids, as in the whole file.

    Args:
        file: Any file. JSON lines that are not packed, and a Parquet file of several row groups that is not
            packed as a whole, have parts, here and remote.
        lines: The parts of a file of lines, where they are known; else a large one is read for its line ends.
    """
    parts = [file]
    if _has_lines(file):
        found = line_ranges(file.path, PART_BYTES) if lines is None else lines
        parts = [replace(file, lines=own) for own in found]
    elif file.kind == "parquet" and not file.compression and not file.fault:
        parts = [replace(file, groups=run) for run in row_group_runs(file.path, PART_BYTES)]
    return parts if len(parts) > 1 else [file]


def in_reading_order(
    files: Sequence[tuple[InputFile, ...]],
    limit: int | None = None,
    lines: Mapping[str, Sequence[LineRange]] | None = None,
) -> list[tuple[InputFile, ...]]:
    """Files in groups that are read one by one, in the order of their ids, whatever the order of the inputs.

    Args:
        files: Of each input.
        limit: Whether only the first rows of each input are wanted; its files are then one group.
        lines: The parts of files of lines, by path, where they are known.
    """
    groups: Sequence[tuple[InputFile, ...]] = files
    if limit is None:
        known = lines or {}
        flat = (file for of_input in files for file in of_input)
        groups = [(part,) for file in flat for part in split_file(file, known.get(file.path))]
    by_place = {(group[0].id_prefix, _part_of(group[0])): group for group in groups if group}
    return [group for _, group in sorted(by_place.items(), key=lambda item: item[0])]


def _has_lines(file: InputFile) -> bool:
    return file.kind == "jsonl" and not file.compression and not file.fault


def _part_of(file: InputFile) -> tuple[int, ...]:
    """Which part of a file it is; parts of one file sort by it as their rows do."""
    return file.groups or file.lines or (0, 0)


def read_target(path: str) -> pa.RecordBatch:
    """The examples of a task that a selector or a ranking aims at, in order, as canonical rows.

    Args:
        path: A file, folder or glob, from the current folder.

    Raises:
        ValueError: If nothing is there, or a row is unreadable: the examples are few, and each one counts.
    """
    files = find_files(InputSpec(path=path, source="target"), Path.cwd())
    items = [item for file in files for item in read_examples(file)]
    bad = [item.row for item in items if item.kind == "bad"]
    if bad:
        raise ValueError(
            f"{path}: row {bad[0]['row']} of the examples is unreadable ({bad[0]['reason']}); "
            f"{len(bad):,} of {len(items):,} rows are. Mend or remove them: every example counts."
        )
    return pa.RecordBatch.from_pylist([item.row for item in items], schema=EXAMPLE_SCHEMA)


def _text_rows(file: InputFile) -> Iterator[tuple[int | None, Row, int]]:
    first = file.lines.number if file.lines else 1
    readers: dict[str, Callable[[ByteSource], Iterator[Numbered]]] = {
        "jsonl": lambda source: json_lines(source, first),
        "csv": csv_rows,
        "tsv": lambda source: csv_rows(source, "\t"),
    }
    with ByteSource(file.path, file.compression, file.lines and file.lines[:2]) as source:
        if file.kind == "json":
            yield from json_file(source)
            return
        position = 0
        for count, (number, row) in enumerate(readers[file.kind](source)):
            if count % _PROGRESS_ROWS == 0:
                position = source.consumed()
            yield number, row, position


def _layout_before(file: InputFile) -> Layout | None:
    """The layout of the last good row before a part of a file of lines, if it is near."""
    if not file.lines or not file.lines.begin:
        return None
    begin = max(0, file.lines.begin - _BEFORE_BYTES)
    with ByteSource(file.path, None, (begin, file.lines.begin)) as source:
        if begin:
            source.stream.readline()  # the end of a line
        rows = [row for _, row in json_lines(source)]
    mapped = tuple(sorted(file.fields.items()))
    for row in reversed(rows):
        if not isinstance(row, BadRow):
            with contextlib.suppress(BadRow, RecursionError):
                _parts(file, 0, row, mapped)
                return layout_of(tuple(row), file.format, mapped)
    return None


def _parts(
    file: InputFile, number: int, row: dict[str, Any], mapped: tuple[tuple[str, str], ...]
) -> list[tuple[Literal["example", "bad"], dict[str, Any]]]:
    """All that one row gives; parts of it that cannot be read stand beside those that can."""
    parts: list[tuple[Literal["example", "bad"], dict[str, Any]]] = []
    seen: set[str] = set()
    for read in parse_row(row, file.format, mapped, file.pairs):
        if isinstance(read, BadRow):
            parts.append(("bad", _bad(file, number, row, read)))
            continue
        name = read.part
        while name in seen:  # a tree may name two messages alike; ids stay unique
            name += "_"
        seen.add(name)
        identity = example_id(file.source, file.name, number, name)
        parts.append(("example", example_row(read, file.source, identity)))
    # In the order of their ids, so that a whole file is; a bad row has none and comes last.
    return sorted(parts, key=lambda part: (part[0] == "bad", part[1].get("id", "")))


def _named_after(prevailing: Layout | None, bad: BadRow, row: dict[str, Any]) -> BadRow:
    """Says which field the rows before had, where a row lacks its response."""
    if prevailing is None or bad.reason not in ("missing response", "unknown format"):
        return bad
    wanted, prompt = prevailing.names.get("response"), prevailing.names.get("prompt")
    if wanted is None or wanted in row or prompt not in row:
        return bad
    return BadRow("missing response", f"wanted field '{wanted}', as in the rows before; {found(row)}")


def _bad(file: InputFile, number: int | None, row: Row, bad: BadRow | None = None) -> dict[str, Any]:
    """The bad row for `bad`, or for `row` where that is what is wrong."""
    if isinstance(row, BadRow):
        bad, excerpt = row, row.excerpt if isinstance(row, UnreadableRow) else ""
    else:
        excerpt = _excerpt(row)
    bad = bad or BadRow("unreadable")
    return {
        "source": file.source,
        "path": file.path.encode("utf-8", "backslashreplace").decode(),  # names need not be UTF-8
        "row": number,
        "reason": bad.reason,
        "detail": bad.detail[:_DETAIL_CHARS].encode("utf-8", "replace").decode(),
        "excerpt": excerpt[:EXCERPT_CHARS].encode("utf-8", "replace").decode() or None,
    }


def _excerpt(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=str)
    except RecursionError:
        return ", ".join(row)

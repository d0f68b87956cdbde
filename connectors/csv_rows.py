"""Records of CSV and TSV files with a header, as texts by column name.

Quoting is checked strictly: a stray quote would otherwise swallow the rows after it without a word.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterator

from connectors.decompress import ByteSource
from connectors.examples import BadRow
from connectors.lines import BOM, MAX_RECORD_BYTES, Numbered, Row, UnreadableRow, numbered_lines


def csv_rows(source: ByteSource, delimiter: str = "") -> Iterator[Numbered]:
    """Records with their numbers, the header not counted; blank lines are not rows.

    Args:
        source: The file.
        delimiter: Default the one of comma, semicolon and tab that is most frequent in the header.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)  # one setting for the process; the default is 128 KiB
    lines = _TextLines(source)
    first = next((line for line in lines if line.strip() or lines.problem), "")
    reader = csv.reader(
        itertools.chain([first] if first else [], lines),
        delimiter=delimiter or max(",;\t", key=first.count),
        strict=True,
    )
    header = _record(reader)
    problem = lines.take_problem() or _header_problem(header)
    if problem:
        yield None, problem
        return
    number = 0
    while header and (record := _record(reader)) is not None:
        problem = lines.take_problem()
        if record or problem:
            number += 1
            whole = problem is not None and problem.reason == "corrupt compressed file"
            yield None if whole else number, problem or _row(header, record)
    if problem := lines.take_problem():
        yield None, problem


class _TextLines:
    """Lines as text, remembering what was wrong with one until it is asked for."""

    def __init__(self, source: ByteSource) -> None:
        self._lines = numbered_lines(source)
        self.problem: BadRow | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        if isinstance(line, BadRow):
            self.problem = line
            if number is None:
                raise StopIteration
            return "\n"  # an empty record in the place of a line that is too long
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            text = line.decode("utf-8", "replace")
            detail = f"byte 0x{line[error.start]:02x} in line {number}; convert the file to UTF-8"
            self.problem = UnreadableRow("invalid UTF-8", detail, text)
            return text

    def take_problem(self) -> BadRow | None:
        """What was wrong with the lines since the last call."""
        problem, self.problem = self.problem, None
        return problem


def _record(reader: Iterator[list[str]]) -> list[str] | BadRow | None:
    """The next record, None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        hint = "; a quote is opened and never closed" if "end of data" in str(error) else ""
        return BadRow("not CSV", f"{error}{hint}")


def _header_problem(header: list[str] | BadRow | None) -> BadRow | None:
    if isinstance(header, BadRow):
        return header
    doubled = sorted(name for name, times in Counter(header).items() if times > 1)
    if doubled:
        names = ", ".join(repr(name[:60]) for name in doubled[:10])
        return BadRow("unusable CSV header", f"column names occur more than once: {names}")
    return None


def _row(header: list[str] | BadRow | None, record: list[str] | BadRow) -> Row:
    if isinstance(record, BadRow) or not isinstance(header, list):
        return record if isinstance(record, BadRow) else BadRow("unusable CSV header")
    if len(record) != len(header):
        detail = f"found {len(record)} values, wanted {len(header)} ({', '.join(header)[:200]})"
        return UnreadableRow("wrong number of columns", detail, ",".join(record))
    return dict(zip(header, record, strict=True))

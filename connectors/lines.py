"""Lines of a file with their numbers, and what a reader says of a row it cannot make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from connectors.decompress import ByteSource, PackedBomb
from connectors.examples import EXCERPT_CHARS, BadRow

MAX_RECORD_BYTES = 64 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 1024 * 1024

Row = dict[str, Any] | BadRow
Numbered = tuple[int | None, Row]
"""(row number from 1, None for the whole file; the row or what is wrong with it)."""


class UnreadableRow(BadRow):
    """A BadRow that shows the text it could not make a row of."""

    def __init__(self, reason: str, detail: str, excerpt: str) -> None:
        super().__init__(reason, detail)
        self.excerpt = excerpt[:EXCERPT_CHARS]


def numbered_lines(source: ByteSource, first: int = 1) -> Iterator[tuple[int | None, bytes | BadRow]]:
    """Lines from number `first`; a line that is too long, and the end of a damaged packed file, as BadRow."""
    for number in itertools.count(first):
        try:
            line = source.stream.readline(MAX_RECORD_BYTES + 1)
            too_long = len(line) > MAX_RECORD_BYTES
            while too_long and line and not line.endswith(b"\n"):
                line = source.stream.readline(_SKIP_BYTES)
        except OSError as error:
            yield None, packing_damage(source, error)
            return
        if too_long:
            yield number, BadRow("row too large", f"the line is longer than {MAX_RECORD_BYTES:,} bytes")
        elif not line:
            return
        else:
            yield number, line


def packing_damage(source: ByteSource, error: OSError) -> BadRow:
    """What a failed read says of a packed file.

    Raises:
        OSError: If the file is not packed: then the disk has failed, and not the data.
    """
    if not source.packed:
        raise error
    if isinstance(error, PackedBomb):
        return BadRow("unpacks to too much", f"{error}; the rows before are kept")
    return BadRow("corrupt compressed file", f"{error}; the rows before the damage are kept")

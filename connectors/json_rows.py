"""Rows of JSON lines, of a JSON list, and of a JSON object that holds rows.

orjson reads what is well formed. What it refuses is read again by the standard library, which says what is
wrong, knows NaN (read as null), and can take a list apart (json_list.py).
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import orjson

from connectors.chat_formats import is_one_row
from connectors.decompress import BLOCK_BYTES, ByteSource
from connectors.examples import EXCERPT_CHARS, BadRow
from connectors.fields import found
from connectors.json_list import ListElements
from connectors.lines import BOM, Numbered, Row, UnreadableRow, numbered_lines, packing_damage
from connectors.turns import LENIENT, check_unicode, is_turns, kind_of, same_length_lists

MAX_JSON_BYTES = 256 * 1024 * 1024  # of a JSON list or object that is read at once, unpacked
_CHUNK_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024  # of a damaged list: what went wrong in an element is looked for in its piece
# A value of two bytes ("[]") becomes an object of 60: what is full of them is not read at once.
MAX_VALUES = 10_000_000
_LONG_BYTES = MAX_VALUES  # no shorter text can hold more
_OF_THE_FILE = (  # reasons that are about the whole file, or all that is left of it
    "truncated JSON list",
    "malformed JSON list",
    "text after the JSON list",
    "not a table of rows",
    "not a JSON file",
)


def json_lines(source: ByteSource, first: int = 1) -> Iterator[Numbered]:
    """JSON lines with their line numbers, from number `first`; blank lines are not rows.

    What is said of a line depends on this line alone, so that a file can be read in parts.
    """
    loads = orjson.loads
    for number, line in numbered_lines(source, first):
        if isinstance(line, BadRow):
            yield number, line
            continue
        if line == b"\n":
            continue
        if len(line) > _LONG_BYTES and values_in(line) > MAX_VALUES:
            yield number, BadRow("row too large", f"the line holds more than {MAX_VALUES:,} values")
            continue
        try:
            row = loads(line)
        except orjson.JSONDecodeError:
            if not line.removeprefix(BOM).strip():
                continue
            row = _second_reading(line)
        yield number, row if isinstance(row, dict | BadRow) else _not_an_object(row)


def _second_reading(line: bytes) -> object:
    """What orjson refused: with a byte-order mark, NaN or half a surrogate pair, or not JSON at all."""
    excerpt = line[:1200].decode("utf-8", "replace")
    try:
        value = LENIENT.decode(line.decode("utf-8").lstrip("\ufeff").strip())
        check_unicode(value)
    except UnicodeDecodeError as error:
        return UnreadableRow(
            "invalid UTF-8", f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line", excerpt
        )
    except json.JSONDecodeError as error:
        return UnreadableRow("not JSON", f"{error.msg} at character {error.pos + 1} of the line", excerpt)
    except RecursionError:
        return UnreadableRow("nested too deeply", "", excerpt)
    except BadRow as bad:
        return UnreadableRow(bad.reason, bad.detail, excerpt)
    return value


def values_in(text: bytes) -> int:
    """At most as many values as a JSON text can hold; counts the commas inside texts too."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _not_an_object(value: object) -> BadRow:
    return UnreadableRow(
        "not an object", f"the row is {kind_of(value)}; wanted an object with fields", shown(value)
    )


def shown(value: object) -> str:
    """The beginning of a JSON value, for an excerpt."""
    try:
        return repr(value)[:EXCERPT_CHARS]
    except RecursionError:
        return kind_of(value)


def json_file(source: ByteSource) -> Iterator[tuple[int | None, Row, int]]:
    """Rows of a JSON list, or of an object that holds rows, with the bytes of the file they come up to."""
    data, damage = _read_up_to(source, MAX_JSON_BYTES)
    text = data.removeprefix(BOM).lstrip()
    if text[:1] == b"[":
        whole = len(data) < MAX_JSON_BYTES and not damage and values_in(text) <= MAX_VALUES
        yield from _numbered(_list_elements(text, source, whole), source, hide_end=damage is not None)
    elif len(data) >= MAX_JSON_BYTES:
        detail = f"a JSON file above {MAX_JSON_BYTES:,} bytes must be a list of rows"
        yield None, BadRow("file too large", detail), source.consumed()
    elif values_in(text) > MAX_VALUES:
        detail = f"a JSON file with more than {MAX_VALUES:,} values must be a list of rows"
        yield None, BadRow("file too large", detail), source.consumed()
    elif text and not damage:
        yield from _numbered(_object_rows(_read_json(text)), source, hide_end=False)
    if damage:
        yield None, damage, source.consumed()


def _numbered(
    elements: Iterable[object], source: ByteSource, hide_end: bool
) -> Iterator[tuple[int | None, Row, int]]:
    """Elements with their numbers; what is wrong with the whole file has none.

    Args:
        elements: Rows, or what was found in their place.
        source: The file, of which everything that has been read counts as spread evenly over the elements.
        hide_end: Leave out that a list is cut off, where the packing is to blame.
    """
    count = len(elements) if isinstance(elements, list) else None
    size = source.consumed()
    for number, row in enumerate(elements, start=1):
        position = size * number // count if count else source.consumed()
        if not isinstance(row, BadRow):
            yield number, row if isinstance(row, dict) else _not_an_object(row), position
        elif row.reason not in _OF_THE_FILE:
            yield number, row, position
        elif not hide_end:
            yield None, row, position


def _list_elements(text: bytes, source: ByteSource, whole: bool) -> Iterable[object]:
    if whole:
        with contextlib.suppress(orjson.JSONDecodeError):
            return cast(list[object], orjson.loads(text))
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    return ListElements(map(decoder.decode, itertools.chain(_pieces(text), _chunks(source))))


def _pieces(text: bytes) -> Iterator[bytes]:
    """The text in parts: the work on a damaged element grows with the text that is held."""
    view = memoryview(text)
    return (bytes(view[at : at + _PIECE_BYTES]) for at in range(0, len(text), _PIECE_BYTES))


def _chunks(source: ByteSource) -> Iterator[bytes]:
    """What is left of a file; damage to its packing ends it."""
    while chunk := _read_up_to(source, _CHUNK_BYTES)[0]:
        yield chunk


def _read_up_to(source: ByteSource, limit: int) -> tuple[bytes, BadRow | None]:
    """Up to `limit` bytes, and what is wrong with the packing if that ended the reading."""
    pieces: list[bytes] = []
    size = 0
    try:
        # read1, block by block: a larger read that fails in its middle would lose its beginning
        while size < limit and (piece := source.stream.read1(min(BLOCK_BYTES, limit - size))):
            pieces.append(piece)
            size += len(piece)
    except OSError as error:
        return b"".join(pieces), packing_damage(source, error)
    return b"".join(pieces), None


def _read_json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _second_reading(text)
    if isinstance(value, UnreadableRow):
        return UnreadableRow("not a JSON file", str(value), value.excerpt)
    return value


def _object_rows(value: object) -> Iterable[object]:
    """Rows of a JSON object: its columns, the list it holds, or the object itself where it is one row."""
    if not isinstance(value, dict):
        return [value]
    one_row = is_one_row(value)
    if any(map(is_turns, value.values())) and one_row:
        return [value]
    if same_length_lists(value.values()) and not (len(value) == 1 and _holds_objects(value)):
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if len(value) == 1 and _holds_objects(value):
        return cast(list[object], next(iter(value.values())))
    if one_row:
        return [value]
    detail = (
        "the file is one object; wanted a list of rows, JSON lines, lists of one length or one list of rows"
    )
    return [UnreadableRow("not a table of rows", f"{detail}; {found(value)}", shown(value))]


def _holds_objects(value: dict[str, Any]) -> bool:
    [rows] = value.values()
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict)

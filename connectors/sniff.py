"""What a file holds, told by its first bytes; its ending decides only what the content leaves open."""

from __future__ import annotations

from typing import Literal

import orjson

from connectors.decompress import ByteSource, Compression, compression_of
from connectors.storage import open_binary

Kind = Literal["jsonl", "json", "parquet", "csv", "tsv", "arrow"]

PACKED_ENDINGS = (".gz", ".zst", ".zstd")
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
DATA_ENDINGS = tuple(_KINDS)

_HEAD_BYTES = 64 * 1024
_LONG_HEAD_BYTES = 8 * 1024 * 1024  # rows can be long: look this far for the end of the first one
_BOM = b"\xef\xbb\xbf"
_UNREADABLE = (
    (b"PK\x03\x04", "a ZIP archive (or a file built on one, such as .xlsx or .npz)", "unpack it"),
    (b"BZh", "packed with bzip2", "unpack it, or pack it as .gz or .zst"),
    (b"\xfd7zXZ", "packed with xz", "unpack it, or pack it as .gz or .zst"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV or JSON lines"),
    (b"FEA1", "Feather version 1", "save it as Parquet"),
    (b"\x80\x02", "a Python pickle, which can run code when it is read", "save it as JSON lines or Parquet"),
    (b"\x80\x03", "a Python pickle, which can run code when it is read", "save it as JSON lines or Parquet"),
    (b"\x80\x04", "a Python pickle, which can run code when it is read", "save it as JSON lines or Parquet"),
    (b"\x80\x05", "a Python pickle, which can run code when it is read", "save it as JSON lines or Parquet"),
)


def sniff(path: str) -> tuple[Kind, Compression | None]:
    """What a file holds and what it is packed in.

    Raises:
        ValueError: If it is a known kind of file that is not read.
        OSError: If it cannot be opened.
    """
    with open_binary(path) as file:
        compression = compression_of(file.read(4))
    try:
        head = _head(path, compression)
    except OSError:
        if not compression:
            raise
        head = b""  # damaged packing is reported when the rows are read
    for magic, what, remedy in _UNREADABLE:
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}, which is not read; {remedy}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head[:64]:  # else a line that is not UTF-8
        remedy = "convert it to UTF-8, e.g. iconv -f UTF-16 -t UTF-8"
        raise ValueError(f"{path} is text in UTF-16, which is not read; {remedy}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive, which is not read; unpack it")
    return kind_of_content(head, _kind_by_name(path)), compression


def kind_of_content(head: bytes, named: Kind | None) -> Kind:
    """What a file with these first bytes holds.

    Args:
        head: The first bytes, unpacked; long enough for two rows where there are two.
        named: What the file's ending says, None if nothing.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    text = head.removeprefix(_BOM).lstrip()
    if not text:
        return named or "jsonl"
    lines = [line.strip() for line in text.split(b"\n", 50) if line.strip()]
    if text.startswith(b"{"):
        return _kind_of_object(lines, named)
    if text.startswith(b"["):
        return _kind_of_list(lines, named)
    if named == "json" and len(lines) > 1 and lines[1].startswith(b"{"):
        return "jsonl"  # the first line is damaged
    if named:
        return named
    if b"\t" in lines[0]:
        return "tsv"
    return "csv" if b"," in lines[0] else "jsonl"


def _kind_of_object(lines: list[bytes], named: Kind | None) -> Kind:
    """JSON lines, unless the object goes on after the first line or fills a file called .json."""
    if len(lines) > 1:
        return "jsonl" if lines[1].startswith(b"{") or _is_json(lines[0]) or named == "jsonl" else "json"
    return "json" if named == "json" else "jsonl"


def _kind_of_list(lines: list[bytes], named: Kind | None) -> Kind:
    """A JSON list, unless it is only the damaged first line of JSON lines."""
    own_line = not lines[0].endswith((b",", b"[", b"{"))
    damaged = named == "jsonl" and own_line and len(lines) > 1 and lines[1].startswith(b"{")
    return "jsonl" if damaged else "json"


def _kind_by_name(path: str) -> Kind | None:
    low = path.lower()
    for packed in PACKED_ENDINGS:
        low = low.removesuffix(packed)
    return next((kind for ending, kind in _KINDS.items() if low.endswith(ending)), None)


def _head(path: str, compression: Compression | None) -> bytes:
    """The first bytes, enough for the first line and the start of the second."""
    with ByteSource(path, compression) as source:
        head = source.stream.read(_HEAD_BYTES)
        while len(head) < _LONG_HEAD_BYTES and b"\n" not in head.strip():
            more = source.stream.read(len(head))
            if not more:
                break
            head += more
        return head


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True

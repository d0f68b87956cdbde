"""Opening input files as streams of bytes, whatever they are packed in and wherever they lie.

What a file is packed in is told by its first bytes, not by its name. Streams are unpacked as they are read,
so a small file that unpacks to a huge one costs time but no memory. A path with a scheme ("gs://bucket/a.jsonl")
is opened through Beam's filesystems.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO, Literal, Self, cast

import pyarrow as pa

Compression = Literal["gz", "zst"]

_MAGIC: tuple[tuple[bytes, Compression], ...] = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"))
_CODECS = {"gz": "gzip", "zst": "zstd"}
# What a reader asks for at a time. A cut-off file fails inside one such block and loses the rows in it.
BLOCK_BYTES = 64 * 1024


def compression_of(head: bytes) -> Compression | None:
    """The packing of a file that starts with these bytes."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def is_remote(path: str) -> bool:
    """Whether a path names a place of a Beam filesystem and not of this machine."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """Opens a file as it is, without unpacking; seekable.

    Raises:
        OSError: If it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb", buffering=0)
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return cast(BinaryIO, FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))


def file_bytes(path: str) -> int:
    """Size of a file as stored, in bytes.

    Raises:
        OSError: If there is no such file.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    from apache_beam.io.filesystems import FileSystems

    return int(FileSystems.match([path])[0].metadata_list[0].size_in_bytes)


class ByteSource:
    """A file read from start to end, unpacked on the way; a context manager.

    Attributes:
        stream: The unpacked bytes. Reading a damaged packed file raises OSError.
        packed: Whether the bytes are unpacked on the way.
    """

    def __init__(self, path: str, compression: Compression | None) -> None:
        self.packed = compression is not None
        self._raw: Any = open_binary(path)
        unpacked: Any = self._raw
        if compression:
            unpacked = pa.CompressedInputStream(pa.PythonFile(self._raw, "r"), _CODECS[compression])
        self.stream = io.BufferedReader(unpacked, BLOCK_BYTES)

    def consumed(self) -> int:
        """Bytes of the stored file read so far; runs ahead of the rows by up to one block."""
        return int(self._raw.tell())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

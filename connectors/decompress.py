"""Opening input files as streams of bytes, whatever they are packed in and wherever they lie.

What a file is packed in is told by its first bytes, not by its name. Streams are unpacked as they are read,
so a small file that unpacks to a huge one costs no memory, and one that unpacks to more than data does is
read no further. A path with a scheme ("gs://bucket/a.jsonl")
is opened through Beam's filesystems.
"""

from __future__ import annotations

import io
from typing import Any, Literal, Self

import pyarrow as pa

from connectors.storage import open_binary

Compression = Literal["gz", "zst"]

_MAGIC: tuple[tuple[bytes, Compression], ...] = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"))
_CODECS = {"gz": "gzip", "zst": "zstd"}
# What a reader asks for at a time. A cut-off file fails inside one such block and loses the rows in it.
BLOCK_BYTES = 64 * 1024
# Text packs to a tenth, repetitive text to a hundredth; zeros to a thousandth (gzip) and less (zstd).
MAX_RATIO = 300
MAX_UNPACKED_BYTES = 64 * 2**20  # below this no ratio is suspicious


def compression_of(head: bytes) -> Compression | None:
    """The packing of a file that starts with these bytes."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


class PackedBomb(OSError):  # noqa: N818 - reads as what it is
    """A packed file that unpacks to far more than data does."""


class _Bounded(io.RawIOBase):
    """Unpacked bytes, up to what a packed file of this size can honestly hold."""

    def __init__(self, unpacked: Any, raw: Any) -> None:  # noqa: ANN401 - streams of Arrow and of Beam
        super().__init__()
        self._unpacked, self._raw, self._done = unpacked, raw, 0

    def readable(self) -> bool:
        """True: it is read from."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fills the buffer as far as there is data.

        Raises:
            PackedBomb: If too much has come out of too little.
        """
        piece = self._unpacked.read(len(buffer))
        self._done += len(piece)
        if self._done > MAX_UNPACKED_BYTES and self._done > MAX_RATIO * self._raw.tell():
            raise PackedBomb(
                f"{self._raw.tell():,} packed bytes hold more than {self._done:,} unpacked ones, over "
                f"{MAX_RATIO} times as many; if that is right, unpack it and name the unpacked file"
            )
        buffer[: len(piece)] = piece
        return len(piece)


class _Cut(io.RawIOBase):
    """The next bytes of an open file, up to so many of them."""

    def __init__(self, raw: Any, size: int) -> None:  # noqa: ANN401 - a file, or a stream of Beam
        super().__init__()
        self._raw, self._left = raw, size

    def readable(self) -> bool:
        """True: it is read from."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        """Fills the buffer as far as there is data."""
        size = int(self._raw.readinto(memoryview(buffer)[: self._left]))
        self._left -= size
        return size


class ByteSource:
    """A file, or a range of its bytes, read from start to end, unpacked on the way; a context manager.

    Args:
        path: The file.
        compression: What it is packed in.
        within: First byte and the one after the last, of a file that is not packed; None for all of it.

    Attributes:
        stream: The unpacked bytes. Reading a damaged packed file raises OSError, and so does one that
            unpacks to more than data does.
        packed: Whether the bytes are unpacked on the way.
    """

    def __init__(
        self, path: str, compression: Compression | None, within: tuple[int, int] | None = None
    ) -> None:
        self.packed = compression is not None
        self._raw: Any = open_binary(path)
        self._begin = within[0] if within else 0
        unpacked: Any = self._raw
        if within:
            self._raw.seek(self._begin)
            unpacked = _Cut(self._raw, within[1] - self._begin)
        if compression:
            packed = pa.CompressedInputStream(pa.PythonFile(self._raw, "r"), _CODECS[compression])
            unpacked = _Bounded(packed, self._raw)
        self.stream = io.BufferedReader(unpacked, BLOCK_BYTES)

    def consumed(self) -> int:
        """Bytes of the stored file, or of the range, read so far; runs ahead of the rows by up to a block."""
        return int(self._raw.tell()) - self._begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

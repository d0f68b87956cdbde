"""Where a large file of lines can be cut, so that several workers read it and the lines keep their numbers.

The number of a line is known to the one who has seen all before it, so somebody sees all of them; but to
count line ends is cheap beside reading what the lines hold.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import NamedTuple

from connectors.storage import file_bytes, open_binary

_BLOCK_BYTES = 4 * 2**20
_PLACES = 64  # looked for in a part, so that parts can be of one size whatever the size of the file
# What blank lines consist of. More can be blank than is: a file of nothing else is not cut at all.
_BLANK = b" \t\r\n\v\f\xef\xbb\xbf"


class LineRange(NamedTuple):
    """Whole lines of a file.

    Attributes:
        begin: Byte where the first one begins.
        end: Byte after the last one.
        number: Of the first one, in a file whose first line is 1.
    """

    begin: int
    end: int
    number: int


class LineCutter:
    """Cuts a file into ranges of whole lines while its bytes pass by; remembers a few places, no bytes.

    Args:
        part: Bytes that a range has at most, to within a 64th and a line.
    """

    def __init__(self, part: int) -> None:
        self._part = part
        self._step = max(1, part // _PLACES)
        self._places = [(0, 1)]  # where a line begins, and its number; the first one of each step
        self._bytes, self._number = 0, 1  # seen so far, and the number of the line that comes next
        self._blank = True

    def add(self, block: bytes) -> None:
        """Takes the next bytes of the file, any number of them."""
        begin, counted = self._bytes, 0  # line ends of the block are counted up to there
        self._bytes += len(block)
        self._blank = self._blank and not block.strip(_BLANK)
        while (wanted := self._places[-1][0] + self._step) <= self._bytes:
            line_end = block.find(b"\n", max(0, wanted - begin - 1))  # the line before ends a byte earlier
            if line_end < 0:  # a long line: the next block may hold its end
                break
            self._number += block.count(b"\n", counted, line_end + 1)
            counted = line_end + 1
            self._places.append((begin + counted, self._number))
        self._number += block.count(b"\n", counted)

    def ranges(self) -> list[LineRange]:
        """Ranges of about one size that are the whole file together; one where there is nothing to cut.

        They depend on the bytes of the file alone, and not on the blocks in which these came. A file that may
        hold nothing but blank lines is one range: who reads a part of it could not tell that it is empty.
        """
        count = 1 if self._blank else -(-self._bytes // self._part)
        places = [place for place in self._places if place[0] < self._bytes]
        wanted = (self._bytes * nth // count for nth in range(1, count))
        found = {bisect_left(places, byte, key=itemgetter(0)) for byte in wanted}
        cuts = [(0, 1), *(places[at] for at in sorted(found) if at < len(places))]
        ends = [*(begin for begin, _ in cuts[1:]), self._bytes]
        return [LineRange(begin, end, number) for (begin, number), end in zip(cuts, ends, strict=True)]


def line_ranges(path: str, part: int) -> list[LineRange]:
    """Ranges of whole lines of a file of at most about `part` bytes; a file that is no larger is not read.

    Raises:
        OSError: If it cannot be read.
    """
    size = file_bytes(path)
    if size <= part:
        return [LineRange(0, size, 1)]
    cutter = LineCutter(part)
    with open_binary(path) as file:
        while block := file.read(_BLOCK_BYTES):
            cutter.add(block)
    return cutter.ranges()

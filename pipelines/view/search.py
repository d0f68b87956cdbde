"""Searching the texts of a run, a piece at a time, as far as somebody waits for it.

Texts are never all in memory: row groups are read, searched and let go. A search does nothing by itself;
`advance` works for a while and says how far it came, so to stop one is not to ask again, and to ask again
goes on where it was.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.view.index import Bools, RunIndex
from pipelines.view.row_groups import READERS, Int64s, RowGroups
from pipelines.view.texts import Texts

SEARCHED = ("messages", "prompt_excerpt", "response_excerpt", "excerpt", "detail")


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        searched: Rows of those asked for that were searched.
        rows: Rows asked for.
    """

    searched: int
    rows: int

    @property
    def done(self) -> bool:
        """Whether every row was searched."""
        return self.searched == self.rows


@dataclass(frozen=True)
class Chunk:
    """A row group, and the position in the run of each of its rows; -1 for one that is not asked for."""

    groups: RowGroups
    number: int
    positions: Int64s


class TextSearch:
    """Which rows hold a text, whatever its case.

    Args:
        index: The rows.
        texts: Where their conversations are.
        text: What to find; plain text.

    Attributes:
        found: bool, shape (rows,): rows that hold it, as far as they were searched.
    """

    def __init__(self, index: RunIndex, texts: Texts, text: str) -> None:
        self.text = text
        self.found: Bools = np.zeros(index.rows, np.bool_)
        self._searched: Bools = np.zeros(index.rows, np.bool_)
        self._index, self._texts = index, texts
        self._lock = threading.Lock()

    def advance(self, wanted: Bools, seconds: float) -> Progress:
        """Searches rows for about so long, or until all of them are.

        Args:
            wanted: Which rows are asked for, bool, shape (rows,).
            seconds: How long to go on; at least one chunk for each thread is searched.
        """
        until = time.monotonic() + seconds
        with self._lock, ThreadPoolExecutor(READERS) as pool:
            chunks = self._left(wanted)
            for start in range(0, len(chunks), READERS):
                some = chunks[start : start + READERS]
                for chunk, hits in zip(some, pool.map(self._search, some), strict=True):
                    inside = chunk.positions >= 0
                    self.found[chunk.positions[inside & hits]] = True
                    self._searched[chunk.positions[inside]] = True
                if time.monotonic() >= until:
                    break
            return Progress(int(np.count_nonzero(self._searched & wanted)), int(np.count_nonzero(wanted)))

    def _left(self, wanted: Bools) -> list[Chunk]:
        """The chunks that hold a row to search, in the order of their first rows."""
        left = wanted & ~self._searched
        if not left.any():
            return []
        chunks = [
            Chunk(groups, number, positions[first:end])
            for groups, positions in self._texts.places(left)
            for number, (first, end) in enumerate(zip(groups.starts[:-1], groups.starts[1:], strict=True))
        ]
        return [chunk for chunk in chunks if left[chunk.positions[chunk.positions >= 0]].any()]

    def _search(self, chunk: Chunk) -> Bools:
        table = chunk.groups.group(chunk.number, SEARCHED)
        hits = np.zeros(table.num_rows, np.bool_)
        for name in table.column_names:
            column = table[name].combine_chunks()
            hits |= holds(column, self.text) if name == "messages" else _matches(column, self.text)
        return hits


def holds(messages: pa.Array, text: str) -> Bools:
    """Which conversations hold a text in what is said or in a tool call.

    Args:
        messages: Conversations, a list of messages each.
        text: Plain text; case does not count.
    """
    hits = np.zeros(len(messages), np.bool_)
    turns, rows = pc.list_flatten(messages), pc.list_parent_indices(messages).to_numpy()
    hits[rows[_matches(turns.field("content"), text)]] = True
    calls = turns.field("tool_calls")
    if calls.null_count < len(calls):
        called = pc.list_flatten(calls).field("function")
        rows = rows[pc.list_parent_indices(calls).to_numpy()]
        for name in ("name", "arguments"):
            hits[rows[_matches(called.field(name), text)]] = True
    return hits


def _matches(values: pa.Array, text: str) -> Bools:
    found = pc.match_substring(values, text, ignore_case=True).fill_null(False)
    hits: Bools = found.to_numpy(zero_copy_only=False)
    return hits

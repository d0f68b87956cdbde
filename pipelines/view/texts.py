"""The conversations of rows: of kept ones as published, of dropped ones from the work of the run.

OUT/dropped has only the beginnings of texts. What the run read is still in OUT/.winnow, unless somebody
deleted it; then a dropped row shows its beginnings, and is searched in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.shards import parquet_files
from connectors.storage import join
from pipelines.view.index import Bools, RunIndex
from pipelines.view.row_groups import Int64s, RowGroups

WORK = ".winnow"
WHOLE = ("messages", "tools", "extra", "group")
EXCERPTS = ("prompt_excerpt", "response_excerpt")


class Texts:
    """Where the conversations of a run are.

    Args:
        index: The rows.
    """

    def __init__(self, index: RunIndex) -> None:
        self._index = index

    @property
    def whole(self) -> bool:
        """Whether the whole conversations of dropped rows are at hand."""
        return self._read_rows() is not None

    def places(self, wanted: Bools) -> Iterator[tuple[RowGroups, Int64s]]:
        """Files that hold the texts of some rows, with the position of each of their rows; -1 for others.

        Args:
            wanted: Which rows are asked for, bool, shape (rows,).
        """
        index, dropped = self._index, self._index.range_of("dropped")
        read = self._read_rows() if wanted[dropped.start : dropped.stop].any() else None
        positions = np.arange(index.rows, dtype=np.int64)
        if read is not None:  # it holds kept and dropped rows alike
            yield read
            positions[: dropped.stop] = -1
        yield index.groups, positions

    def conversations(self, positions: Sequence[int]) -> list[dict[str, Any] | None]:
        """The columns WHOLE of some rows; None for one of which only the beginnings are known."""
        kept = self._index.range_of("kept")
        found: dict[int, dict[str, Any]] = {}
        own = [position for position in positions if position in kept]
        found |= zip(own, self._index.groups.take(own, WHOLE), strict=True)
        read = self._read_rows() if len(own) < len(positions) else None
        if read is not None:
            groups, place_of = read[0], self._places_of()
            dropped = [position for position in positions if position in self._index.range_of("dropped")]
            found |= zip(dropped, groups.take(place_of[dropped].tolist(), WHOLE), strict=True)
        return [found.get(position) for position in positions]

    def rivals(self, position: int, group: str) -> list[int]:
        """Positions of the other rows with the same prompt; only kept ones where the work is gone."""
        read = self._read_rows()
        groups, positions = read or (self._index.groups, np.arange(self._index.rows, dtype=np.int64))
        same = [
            np.flatnonzero(pc.equal(table["group"], group).fill_null(False).to_numpy()) + start
            for file, start in enumerate(groups.file_starts[:-1].tolist())
            if "group" in (table := groups.file(file, ["group"])).column_names
        ]
        found = positions[np.concatenate([np.zeros(0, np.int64), *same])]
        return sorted(int(other) for other in found if other not in (position, -1))

    def _read_rows(self) -> tuple[RowGroups, Int64s] | None:
        """The examples as they were read, with the position of each; None when they are not all there."""
        return self._index.once("examples as read", self._find_read_rows)

    def _find_read_rows(self) -> tuple[RowGroups, Int64s] | None:
        stage = self._index.manifest.get("stages", {}).get("ingest", {}).get("key")
        if stage is None:
            return None
        folder = join(self._index.out, WORK, f"ingest-{stage}")
        groups = RowGroups(path for path in parquet_files(folder) if "/part-" in path)
        examples = self._index.bounds[2]
        if groups.rows != examples:
            return None
        files = [groups.file(file, ["id"])["id"] for file in range(len(groups.paths))]
        ids = pa.concat_arrays([chunk.cast(pa.large_string()) for column in files for chunk in column.chunks])
        positions = pc.index_in(ids, value_set=self._index.ids()[:examples]).fill_null(-1).to_numpy()
        return (groups, positions.astype(np.int64)) if (positions >= 0).all() else None

    def _places_of(self) -> Int64s:
        """For each position of an example its number among those that were read."""

        def make() -> Int64s:
            read = self._read_rows()
            places = np.full(self._index.bounds[2], -1, np.int64)
            if read is not None:
                places[read[1]] = np.arange(len(read[1]))
            return places

        return self._index.once("places of examples", make)

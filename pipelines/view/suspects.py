"""The list of likely wrong answers of a run: which rows are on it, and what speaks against each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from connectors.shards import parquet_files
from connectors.storage import join
from pipelines.view.index import RunIndex
from pipelines.view.row_groups import Int64s, RowGroups


@dataclass(frozen=True)
class Suspects:
    """The suspect rows, the most certain first.

    Attributes:
        positions: Their positions, int64.
        facts: For each position its rank, suspicion and why, and its place in the files.
    """

    positions: Int64s
    facts: dict[int, dict[str, Any]]
    groups: RowGroups

    def conversation(self, position: int) -> dict[str, Any] | None:
        """The messages and extra fields of a suspect row; None for any other row."""
        if position not in self.facts:
            return None
        return self.groups.take([self.facts[position]["place"]], ["messages", "extra"])[0]


def read_suspects(index: RunIndex) -> Suspects:
    """The list of suspects of a run, empty where the recipe gives no verdict."""
    groups = RowGroups(parquet_files(join(index.out, "suspects")))
    rows = [
        row
        for file in range(len(groups.paths))
        for row in groups.file(file, ["id", "rank", "suspicion", "why"]).to_pylist()
    ]
    places = index.positions_of([row["id"] for row in rows]) if rows else []
    facts = {
        position: {"rank": row["rank"], "suspicion": row["suspicion"], "why": row["why"], "place": place}
        for place, (row, position) in enumerate(zip(rows, places, strict=True))
        if position is not None
    }
    return Suspects(np.array(list(facts), np.int64), facts, groups)

"""Values of tokens for the selectors' tests: a list for each row, where the package has one for many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.number_lists import offsets_of
from pipelines.selectors.tokens import TokenBlock, TokenLists, TokenRows

ROWS_OF_A_BLOCK = 2  # so that most tests have more than one block

Rows = Sequence[Sequence[float]]


def stored(**rows: Rows) -> TokenRows:
    """Tokens as `select` reads them, by name; `token_ids` are whole numbers."""

    def read(wanted: npt.NDArray[np.int64]) -> Iterator[TokenBlock]:
        for start in range(0, len(wanted), ROWS_OF_A_BLOCK):
            part = wanted[start : start + ROWS_OF_A_BLOCK]
            arrays = {name: [list(lists[row]) for row in part.tolist()] for name, lists in rows.items()}
            yield block(part, arrays)

    return read


def block(rows: npt.NDArray[np.int64], arrays: dict[str, list[list[float]]]) -> TokenBlock:
    """A block of some rows out of a list for each."""
    lengths = [len(one) for one in next(iter(arrays.values()))]
    kinds = {name: np.int32 if name == "token_ids" else np.float32 for name in arrays}
    flat = {name: np.array(sum(lists, []), kinds[name]) for name, lists in arrays.items()}
    return TokenBlock(rows, offsets_of(np.array(lengths, np.int64)), flat)


def lists_of(rows: dict[int, list[Any]], kind: type[np.generic]) -> TokenLists:
    """A list for each row as one value."""
    lengths = np.array([len(values) for values in rows.values()], np.int64)
    return TokenLists(
        np.array(list(rows), np.int64), offsets_of(lengths), np.array(sum(rows.values(), []), kind)
    )


def by_row(found: Iterable[TokenLists]) -> dict[int, npt.NDArray[Any]]:
    """Candidate index → its values; each row in one part only."""
    rows: dict[int, npt.NDArray[Any]] = {}
    for part in found:
        for at, row in enumerate(part.rows.tolist()):
            assert row not in rows
            rows[row] = part.values[part.offsets[at] : part.offsets[at + 1]]
    return rows

"""What is stored of candidates beside their columns: arrays of tokens and vectors, read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from connectors.number_lists import flat, offsets_of
from connectors.storage import fetched
from pipelines.ahead import ahead
from pipelines.selectors.base import Vectors
from pipelines.selectors.tokens import TokenBlock
from scorers.models.settings import EmbeddingSettings

READERS = 3  # files read at a time; on two cores a tenth faster than two, as each waits for Python's lock

_Lists = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]  # offsets and values


@dataclass(frozen=True)
class TokenReader:
    """Reads what is stored of each token of candidates, one file at a time.

    Attributes:
        paths: The score files of each model by its role ("" is the target), in row order.
        starts: Candidate index of the first row of each, shape (files + 1,).
    """

    paths: Mapping[str, tuple[str, ...]]
    starts: npt.NDArray[np.int64]

    def read(
        self, rows: npt.NDArray[np.int64], names: npt.NDArray[np.int64], reads: Sequence[str]
    ) -> Iterator[TokenBlock]:
        """Yields the tokens of candidates `rows` (ascending), each under its own of `names`, file by file.

        Args:
            rows: Candidate indices; rows that have scores.
            names: Under which the candidates are given.
            reads: As `Selector.token_reads` says.

        Raises:
            ValueError: If two models see another number of tokens in one row.
        """
        bounds = np.searchsorted(rows, self.starts)
        files = np.flatnonzero(np.diff(bounds)).tolist()

        def block(file: int) -> TokenBlock:
            chosen = slice(bounds[file], bounds[file + 1])
            lists = self._lists(file, reads, rows[chosen] - self.starts[file])
            offsets = next(iter(lists.values()))[0]
            for read, (own, _) in lists.items():
                if not np.array_equal(own, offsets):
                    raise ValueError(
                        f"{self.paths[''][file]}: {read} has another number of tokens for some row; "
                        "delete the run's folder and run again"
                    )
            return TokenBlock(names[chosen], offsets, {read: values for read, (_, values) in lists.items()})

        yield from ahead(block, files, READERS)

    def _lists(self, file: int, reads: Sequence[str], rows: npt.NDArray[np.int64]) -> dict[str, _Lists]:
        """What is asked for of some rows of a file."""
        columns: dict[str, list[str]] = {}
        for read in reads:
            role, _, name = read.rpartition(".")
            columns.setdefault(role, []).extend(
                ["input_ids", "response_at"] if name == "token_ids" else [name]
            )
        stored = {role: _read_lists(self.paths[role][file], names) for role, names in columns.items()}
        found = {}
        for read in reads:
            role, _, name = read.rpartition(".")
            lists = _response_ids(stored[role]) if name == "token_ids" else stored[role][name]
            found[read] = _of_rows(*lists, rows)
        return found


def _read_lists(path: str, columns: Sequence[str]) -> dict[str, _Lists]:
    # Opened once: its footer takes a third of the time of a column.
    with pq.ParquetFile(fetched(path), pre_buffer=False) as file:
        table = file.read(columns=list(dict.fromkeys(columns)), use_threads=False)
    return {name: flat(table, name) for name in table.column_names}


def _response_ids(stored: Mapping[str, _Lists]) -> _Lists:
    (starts, ids), (offsets, at) = stored["input_ids"], stored["response_at"]
    return offsets, ids[at + np.repeat(starts[:-1], np.diff(offsets))]


def _of_rows(offsets: npt.NDArray[np.int64], values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> _Lists:
    """The lists of some rows, ascending."""
    lengths = np.diff(offsets)
    own = offsets_of(lengths[rows])
    if own[-1] < offsets[-1]:  # more than rows without scores, which have no values, is left out
        chosen = np.zeros(len(lengths), np.bool_)
        chosen[rows] = True
        values = values[np.repeat(chosen, lengths)]
    return own, values


@dataclass(frozen=True)
class VectorReader:
    """Reads the embeddings of candidates, and embeds the files that selectors aim at.

    Attributes:
        paths: Files of the embed stage, in row order.
        rows: Global row number of each candidate.
        settings: The embedding model.
    """

    paths: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    settings: EmbeddingSettings

    def read(self, candidates: npt.NDArray[np.int64], target: str | None) -> Vectors:
        """The vectors of some candidates, and of the examples of a file.

        Raises:
            ValueError: If the file cannot be read, or holds no example that can be embedded.
        """
        from pipelines.embed import EmbeddedRows, embed_file  # loads torch, which other selectors do not need

        embedded = EmbeddedRows(self.paths)
        wanted = self.rows[candidates]
        at = np.searchsorted(embedded.rows, wanted)
        known = np.zeros(len(wanted), np.bool_)
        inside = at < len(embedded)
        known[inside] = embedded.rows[at[inside]] == wanted[inside]
        found = embedded.vectors(at[known])
        rows = np.zeros((len(wanted), found.shape[1]), np.float32)
        rows[known] = found
        aims = np.zeros((0, rows.shape[1]), np.float32)
        if target is not None:
            aims = embed_file(target, self.settings)
        return Vectors(rows, known, aims)

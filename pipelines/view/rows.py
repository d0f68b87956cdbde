"""The rows that a page lists, and the files of them that can be downloaded."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from connectors.examples import EXCERPT_CHARS, prompt_text, response_text
from pipelines.view.index import PARTS, RunIndex
from pipelines.view.query import (
    PAGE_ROWS,
    SUSPECT,
    Query,
    all_of,
    conditions,
    facet_counts,
    ordered,
)
from pipelines.view.row_groups import Int64s
from pipelines.view.search import Progress, TextSearch
from pipelines.view.suspects import Suspects, read_suspects
from pipelines.view.texts import EXCERPTS, Texts

SEARCH_SECONDS = 0.4  # how long an answer waits for a search before it says how far it came
KEPT_ANSWERS = 6  # orders of rows and searches that are kept for the next question
LISTED = (
    "id",
    "source",
    "reason",
    "stage",
    "kind",
    "path",
    "row",
    "detail",
    "excerpt",
    "messages",
    *EXCERPTS,
)
DOWNLOADED_AT_ONCE = 10_000
BEFORE_MATCH = 80  # characters shown before what was searched for

Format = Literal["csv", "jsonl"]


class Rows:
    """Answers about the rows of a run.

    Args:
        index: The rows.
    """

    def __init__(self, index: RunIndex) -> None:
        self.index = index
        self.texts = Texts(index)
        self._searches: OrderedDict[Any, TextSearch] = OrderedDict()
        self._orders: OrderedDict[Any, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def suspects(self) -> Suspects:
        """The suspect rows."""
        return self.index.once("suspects", lambda: read_suspects(self.index))

    def parts(self) -> dict[str, int]:
        """How many rows each part has; "" for all, "suspect" where the run lists suspects."""
        counts = {"": self.index.rows, **{part: len(self.index.range_of(part)) for part in PARTS}}
        suspects = len(self.suspects.positions)
        return counts | ({SUSPECT: suspects} if suspects else {})

    def page(self, query: Query, number: int = 1) -> dict[str, Any]:
        """A page of the rows that a query asks for, as JSON; while a search goes on, of those found so far.

        Args:
            query: What is asked for.
            number: Which page, from 1; one behind the last gives the last.

        Raises:
            ValueError: If the run has no such column.
        """
        found = self.find(query, SEARCH_SECONDS)
        positions, progress = found["positions"], found["progress"]
        pages = max(1, -(-len(positions) // PAGE_ROWS))
        number = min(max(number, 1), pages)
        shown = positions[(number - 1) * PAGE_ROWS : number * PAGE_ROWS].tolist()
        return {
            "rows": self.listed(shown, query),
            "page": number,
            "pages": pages,
            "found": len(positions),
            "facets": found["facets"],
            "searched": progress.searched,
            "to_search": progress.rows,
            "done": progress.done,
        }

    def find(self, query: Query, seconds: float) -> dict[str, Any]:
        """The positions that a query asks for, in order, the counts of facets, and how far the search is."""
        with self._lock:
            if query.key in self._orders:
                self._orders.move_to_end(query.key)
                return self._orders[query.key]
        suspects = self.suspects.positions
        held = conditions(self.index, query, suspects)
        mask = all_of(self.index.rows, held)
        progress = Progress(0, 0)
        if query.text:
            search = self._search(query.text)
            progress = search.advance(mask, seconds)
            held["text"] = search.found
            mask &= search.found
        found = {
            "positions": ordered(self.index, query, mask, suspects),
            "facets": facet_counts(self.index, held, query),
            "progress": progress,
        }
        if progress.done:
            with self._lock:
                _keep(self._orders, query.key, lambda: found)
        return found

    def _search(self, text: str) -> TextSearch:
        with self._lock:
            search: TextSearch = _keep(self._searches, text, lambda: TextSearch(self.index, self.texts, text))
            return search

    def listed(self, positions: Sequence[int], query: Query) -> list[dict[str, Any]]:
        """Rows as a list shows them: what they are, and the beginnings of their texts or what was found."""
        rows = self.index.groups.take(positions, LISTED)
        whole = self.texts.conversations(positions) if query.text else [None] * len(rows)
        return [
            self._listed(position, {**row, **(conversation or {})}, query)
            for position, row, conversation in zip(positions, rows, whole, strict=True)
        ]

    def _listed(self, position: int, row: Mapping[str, Any], query: Query) -> dict[str, Any]:
        index, part = self.index, self.index.part_of(position)
        shown = {
            "key": index.key_of(position) if part == "bad" else row["id"],
            "part": part,
            "source": row["source"],
            "reason": row["reason"],
        }
        if part == "bad":
            texts = {"id": str(index.ids()[position]), "detail": row["detail"] or ""}
            texts["excerpt"] = excerpt(row["excerpt"] or "", query.text)
        else:
            prompt, response = texts_of(row)
            texts = {"prompt": excerpt(prompt, query.text), "response": excerpt(response, query.text)}
            texts |= {"id": row["id"], "stage": row.get("stage") or ""}
        suspect = self.suspects.facts.get(position)
        return {
            **shown,
            **texts,
            "numbers": {name: _number(index.numbers(name)[position]) for name in self.shown_numbers(query)},
            "suspect": suspect and {"rank": suspect["rank"], "why": suspect["why"]},
        }

    def shown_numbers(self, query: Query) -> list[str]:
        """Which numbers a list shows beside its rows: those asked for, then the usual scores."""
        known = self.index.number_names()
        usual = [name for name in ("suspicion", "loss", "entropy", "ifd_ppl", "similarity") if name in known]
        asked = [name for name in (query.sort, *(bounds.column for bounds in query.bounds)) if name in known]
        return list(dict.fromkeys([*asked, *usual]))[: max(3, len(asked))]

    def download(self, query: Query, kind: Format) -> Iterator[bytes]:
        """Every row that a query asks for as a file: its id, what became of it, and its numbers.

        Args:
            query: What is asked for; a search is finished first.
            kind: "csv", in which no cell begins as a spreadsheet's formula, or "jsonl".

        Raises:
            ValueError: If the run has no such column.
        """
        positions: Int64s = self.find(query, float("inf"))["positions"]
        return self._written(positions, kind)  # nothing is sent before what may fail is done

    def _written(self, positions: Int64s, kind: Format) -> Iterator[bytes]:
        for start in range(0, max(1, len(positions)), DOWNLOADED_AT_ONCE):
            table = self._facts(positions[start : start + DOWNLOADED_AT_ONCE])
            yield _csv(table, header=start == 0) if kind == "csv" else _json_lines(table)

    def _facts(self, positions: Int64s) -> pa.Table:
        index = self.index
        part = np.searchsorted(index.bounds[1:], positions, "right")
        columns: dict[str, Any] = {
            "id": index.ids().take(positions).cast(pa.string()),
            "part": pa.array(list(PARTS)).take(pa.array(part)),
        }
        for name, labels in index.facets().items():
            codes = labels.codes[positions]
            columns[name] = pa.array(labels.values, pa.string()).take(pa.array(codes, mask=codes < 0))
        for name in index.number_names():
            columns[name] = pa.array(index.numbers(name)[positions], from_pandas=True)  # NaN is null
        return pa.table(columns)


def texts_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and response of a row, or their beginnings where it has no conversation."""
    if row.get("messages"):
        return prompt_text(row["messages"]), response_text(row["messages"])
    return row.get("prompt_excerpt") or "", row.get("response_excerpt") or ""


def excerpt(text: str, wanted: str, limit: int = EXCERPT_CHARS) -> str:
    """The beginning of a text, or the part of it where `wanted` is, whatever its case.

    Example:
        >>> excerpt("a" * 200 + " Needle in hay", "needle", limit=30)[-17:]
        'aaa Needle in hay'
    """
    match = re.search(re.escape(wanted), text, re.IGNORECASE) if wanted else None
    start = 0
    if match is not None and match.end() > limit:
        start = max(0, match.start() - min(BEFORE_MATCH, limit // 3))
    cut = text[start : start + limit]
    return ("…" if start else "") + cut + ("…" if start + limit < len(text) else "")


def _keep(kept: OrderedDict[Any, Any], key: object, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - any value
    """The value of a key, made if need be; the least recently used ones are let go."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > KEPT_ANSWERS:
        kept.popitem(last=False)
    return kept[key]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _csv(table: pa.Table, *, header: bool) -> bytes:
    """Rows as CSV in which no cell is one that a spreadsheet computes."""
    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(at, field.name, unlike_formulas(table[field.name]))
    written = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, written, pyarrow.csv.WriteOptions(include_header=header))
    return bytes(written.getvalue())


def unlike_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts with a quote in front of those that begin like a formula.

    Example:
        >>> unlike_formulas(pa.chunked_array([["=HYPERLINK(1)", "a=b"]])).to_pylist()
        ["'=HYPERLINK(1)", 'a=b']
    """
    return pc.replace_substring_regex(texts, r"\A([=+\-@\t\r\n])", r"'\1")


def _json_lines(table: pa.Table) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist())

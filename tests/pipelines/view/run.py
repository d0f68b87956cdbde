"""A finished run made by hand with all that a page can show: the work of the run, suspects, contamination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import EXAMPLE_SCHEMA, message
from tests.pipelines.fake_run import make_run

REST = " …and the rest of the answer"  # of a dropped row, behind its excerpt
SPAN = "ducks and buys"
LONG = "one long prompt"
KEY = "0123456789abcdef"
ROWS_PER_GROUP = 32
ADDED = {
    "kind": pa.string(), "duplicate_in": pa.string(), "cluster_size": pa.int32(), "eval_set": pa.string(),
    "eval_item": pa.string(), "eval_match": pa.string(), "eval_span": pa.string(),
    "status": pa.string(), "truncated": pa.bool_(),
}  # fmt: skip


def make_view_run(out: Path, rows: int = 300, *, work: bool = True) -> Path:
    """Writes a run of small row groups.

    Args:
        out: Folder to make.
        rows: Rows read.
        work: Whether what was read is still there.
    """
    make_run(out, rows)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["stages"]["ingest"]["key"] = KEY
    (out / "manifest.json").write_text(json.dumps(manifest))
    kept, dropped = (
        _rewritten(out / name, change) for name, change in (("train", _scored), ("dropped", _more))
    )
    _rewritten(out / "bad_rows", _same)
    _write_suspects(out / "suspects", kept, dropped)
    if work:
        _write_work(out / ".winnow" / f"ingest-{KEY}", kept, dropped)
    return out


def _same(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _scored(row: dict[str, Any]) -> dict[str, Any]:
    is_scored = row["loss"] is not None
    return row | {"status": "ok" if is_scored else None, "truncated": False if is_scored else None}


def _more(row: dict[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = dict.fromkeys(ADDED)
    if row["duplicate_of"] is not None:
        more |= {"kind": row["reason"].split()[0], "cluster_size": 2}
    elif SPAN in (row["prompt_excerpt"] or ""):
        found = {"set": "gsm8k", "item": "test.jsonl:7", "match": "ngram", "span": SPAN}
        more |= {f"eval_{name}": value for name, value in found.items()}
    return _scored(row | more)


def _rewritten(folder: Path, change: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - row to row
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        changed = [change(row) for row in table.to_pylist()]
        names = changed[0].keys() - set(table.schema.names) if changed else ()
        fields = [*table.schema, *(pa.field(name, ADDED[name]) for name in ADDED if name in names)]
        table = pa.Table.from_pylist(changed, schema=pa.schema(fields))
        pq.write_table(table, path, row_group_size=ROWS_PER_GROUP)
        rows += changed
    return rows


def _write_suspects(folder: Path, kept: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
    folder.mkdir()
    chosen = [dropped[3], kept[1], dropped[7]]
    rows = [
        {
            "rank": at + 1,
            "suspicion": 2.0 - at,
            "why": f"doubt {at}",
            "kept": at == 1,
            "extra": '{"label": "x"}',
        }
        | {"id": row["id"], "source": row["source"], "messages": _messages(row)}
        for at, row in enumerate(chosen)
    ]
    types = {"rank": pa.int32(), "id": pa.string(), "source": pa.string(), "suspicion": pa.float64()}
    types |= {"why": pa.string(), "kept": pa.bool_(), "messages": EXAMPLE_SCHEMA.field("messages").type}
    table = pa.Table.from_pylist(rows, schema=pa.schema(types | {"extra": pa.string()}))
    pq.write_table(table, folder / "suspects.parquet")


def _messages(row: dict[str, Any]) -> list[Any]:
    whole = row.get("messages")
    return whole or [
        message("user", row["prompt_excerpt"]),
        message("assistant", row["response_excerpt"] + REST),
    ]


def _group(row: dict[str, Any]) -> str:
    """Rows too long to score share a prompt; an exact copy has that of the row it repeats."""
    if row.get("stage") == "score":
        return LONG
    if row["reason"] == "exact duplicate":
        return f"g{int(row['duplicate_of'].rsplit(':')[-1])}"
    return row.get("group") or str(row["id"])


def _write_work(folder: Path, kept: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"id": row["id"], "source": row["source"], "messages": _messages(row), "tools": None,
         "group": _group(row), "content_hash": "", "extra": '{"label": "x"}'}
        for row in sorted([*kept, *dropped], key=lambda row: str(row["id"]))
    ]  # fmt: skip
    half = len(rows) // 2
    for part, some in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(some, schema=EXAMPLE_SCHEMA)
        pq.write_table(table, folder / f"part-{part:05d}.parquet", row_group_size=ROWS_PER_GROUP)

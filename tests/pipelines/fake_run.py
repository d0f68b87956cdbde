"""A finished run folder made by hand: every kind of row, and texts that try to break a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA, ROWS_PER_BATCH, message

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "</pre></svg><img src=http://evil.example/x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "מה בירת צרפת? \u202eevil\u202c",
    "🦆" * 30,
    "x" * 5_000,
    "one\ntwo\n\n" * 40,
    "nul \x00 bell \x07",
    "| a | b |\n```\nfence",
)
SOURCES = ("maths", "general", "chat <b>bold</b> | pipe")
SCORES = ("loss", "perplexity", "entropy", "top1_agreement", "direct_loss", "ifd_loss", "ifd_ppl")
Q_REASONS = {
    "Q1": "q_tuning: Q1 high loss, high entropy",
    "Q2": "q_tuning: Q2 high loss, low entropy",
    "Q3": "q_tuning: Q3 low loss, low entropy",
    "Q4": "q_tuning: Q4 low loss, high entropy",
}


def make_run(
    out: Path, rows: int = 300, *, scored: bool = True, keep: bool = True, labels: bool = False
) -> Path:
    """Writes a run of `rows` read rows under `out`.

    Args:
        out: Folder to make.
        rows: Rows read; below 10 all of them reach selection.
        scored: Whether the run had a model.
        keep: False for a run that keeps nothing.
        labels: Whether kept rows carry input_ids and labels.
    """
    bad, duplicates, overflow = (0, 0, 0) if rows < 10 else (rows // 30, rows // 10, rows // 60 * scored)
    candidates = _candidates(rows - bad - duplicates - overflow, scored)
    kept = [row for row in candidates if keep and row["quadrant"] in ("Q2", "Q4")]
    lost = [row for row in candidates if not (keep and row["quadrant"] in ("Q2", "Q4"))]
    dropped = [_dropped(row, "select", Q_REASONS[row["quadrant"]]) for row in lost]
    dropped += [_duplicate(i, candidates[i % len(candidates)]) for i in range(duplicates)]
    dropped += [_dropped(_bare(f"maths/long.jsonl:{i:08d}", i), "score", "overflow") for i in range(overflow)]
    more = {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())} if labels else {}
    scores = dict.fromkeys(SCORES, pa.float64()) if scored else {}
    counted = dict.fromkeys(("prompt_tokens", "response_tokens"), pa.int32()) if scored else {}
    decided = {"reason": pa.string(), "quadrant": pa.string(), "q_tuning_level": pa.float64()}
    numbers = counted | scores
    train = (
        {field.name: field.type for field in EXAMPLE_SCHEMA}
        | numbers
        | {"weight": pa.float64()}
        | decided
        | more
    )
    texts = dict.fromkeys(
        ("id", "source", "stage", "reason", "duplicate_of", "prompt_excerpt", "response_excerpt"), pa.string()
    )
    _write(out / "train", kept, pa.schema(train))
    _write(out / "dropped", dropped, pa.schema(texts | {"similarity": pa.float64()} | numbers | decided))
    _write(out / "bad_rows", [_bad_row(i) for i in range(bad)], BAD_ROW_SCHEMA)
    if scored:
        _write(out / "scores", candidates, pa.schema({"id": pa.string(), "status": pa.string()} | numbers))
    write_manifest(out, _manifest(rows, bad, duplicates, len(dropped), len(kept), scored))
    return out


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Writes OUT/manifest.json."""
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def _candidates(count: int, scored: bool) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    shared = random.normal(size=count)
    loss = np.exp(0.2 + 0.45 * (0.6 * shared + 0.8 * random.normal(size=count)))
    entropy = np.exp(0.1 + 0.35 * (0.6 * shared + 0.8 * random.normal(size=count)))
    u, v = (np.argsort(np.argsort(values)) / max(count - 1, 1) for values in (loss, entropy))
    level = np.minimum(np.maximum(1 - u, v), np.maximum(u, 1 - v))
    kept = level <= np.median(level)
    rows = []
    for i in range(count):
        row = _bare(f"{SOURCES[i % 3]}/part.jsonl:{i:08d}", i)
        if kept[i]:
            row["quadrant"] = "Q2" if u[i] > v[i] else "Q4"
        else:
            row["quadrant"] = "Q1" if u[i] + v[i] > 1 else "Q3"
        row |= {
            "q_tuning_level": level[i],
            "weight": 1.0,
            "reason": Q_REASONS[row["quadrant"]],
            "status": "ok",
        }
        if scored:
            direct = float(loss[i] * random.uniform(1.0, 1.6) - 0.1)
            values = (loss[i], np.exp(loss[i]), entropy[i], random.uniform(), direct, loss[i] / direct, 0.9)
            row |= dict(zip(SCORES, map(float, values), strict=True))
            row |= {"prompt_tokens": 10 + i % 90, "response_tokens": int(random.gamma(2, 60)) + 1}
        rows.append(row)
    return rows


def _bare(row_id: str, i: int) -> dict[str, Any]:
    text = (
        HOSTILE[i % len(HOSTILE)] if i % 2 else f"A farmer has {i} ducks and buys {i % 7} more. How many now?"
    )
    turns = [message("user", text), message("assistant", f"He has {i + i % 7} ducks. {text}")]
    return {
        "id": row_id,
        "source": SOURCES[i % 3],
        "messages": turns,
        "group": f"g{i}",
        "content_hash": f"c{i}",
        "input_ids": [1, 2, 3],
        "labels": [-100, 2, 3],
    }


def _dropped(row: dict[str, Any], stage: str, reason: str) -> dict[str, Any]:
    prompt, response = (turn["content"][:300] for turn in row["messages"])
    return row | {"stage": stage, "reason": reason, "prompt_excerpt": prompt, "response_excerpt": response}


def _duplicate(i: int, original: dict[str, Any]) -> dict[str, Any]:
    kind, similarity = ("near", 0.83) if i % 3 else ("exact", 1.0)
    row = _dropped(_bare(f"general/copies.jsonl:{i:08d}", i), "dedupe", f"{kind} duplicate")
    return row | {"duplicate_of": original["id"], "similarity": similarity}


def _bad_row(i: int) -> dict[str, Any]:
    reason = "not JSON" if i % 3 else "row without a response"
    row = {"source": SOURCES[i % 3], "path": "data/in.jsonl", "row": i + 1 if i else None}
    return row | {
        "reason": reason,
        "detail": f"found {SCRIPT}",
        "excerpt": '{"text": ' + HOSTILE[i % len(HOSTILE)][:300],
    }


def _manifest(rows: int, bad: int, duplicates: int, dropped: int, kept: int, scored: bool) -> dict[str, Any]:
    exact = (duplicates + 2) // 3
    counts = {
        "input_rows": rows,
        "read": rows,
        "bad": bad,
        "contaminated": 0,
        "dropped": dropped,
        "kept": kept,
    }
    model = {
        "name": "toy/llama-1M",
        "weights_hash": "ab" * 32,
        "dtype": "float32",
        "template_hash": "cd" * 8,
    }
    recipe = {"name": "toy", "seed": 0, "inputs": [{"path": "data/in.jsonl", "source": SOURCES[0]}]}
    if scored:
        recipe |= {"model": {"path": "toy/llama-1M"}, "score": ["loss", "entropy", "ifd"]}
    return {
        "winnow_version": "0.1.0",
        "name": f"toy {SCRIPT}",
        "recipe": recipe
        | {
            "dedupe": {"exact": True, "minhash": {"threshold": 0.8, "ngram": 5}},
            "select": [{"q_tuning": {"keep": 0.5, "token_keep": 0.7}}],
        },
        "recipe_hash": "ef" * 32,
        "seed": 0,
        "inputs": [{"source": "maths", "path": "data/in.jsonl", "bytes": 12345, "hash": "01" * 32}],
        "models": [model] if scored else [],
        "counts": counts | {"duplicates": {"exact": exact, "near": duplicates - exact, "semantic": 0}},
        "tokens": {"scored": 45678, "kept": 12345} if scored else {"scored": 0, "kept": 0},
        "stages": {
            "ingest": {"seconds": 1.25, "rows": rows, "rows_per_s": rows / 1.25, "reused": True},
            "score": {
                "seconds": 3.5,
                "rows": rows,
                "rows_per_s": rows / 3.5,
                "tokens_per_s": 13050.8,
                "reused": False,
            },
        },
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
    }


def _write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sorted(rows, key=lambda row: str(row.get("id")))
    half = (len(wanted) + 1) // 2 or 1
    for shard, start in enumerate(range(0, max(len(wanted), 1), half)):
        table = pa.Table.from_pylist(wanted[start : start + half], schema=schema)
        pq.write_table(table, folder / f"{shard:05d}.parquet", row_group_size=ROWS_PER_BATCH)

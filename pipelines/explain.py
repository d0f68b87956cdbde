"""`winnow explain`: every fact about one row, from the published files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.manifest import read_manifest
from connectors.shards import parquet_files
from connectors.storage import fetched, join
from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import columns_of

TEXT_CHARS = 600
_HIDDEN = {"id", "source", "messages", "tools", "extra", "group", "content_hash", "input_ids", "labels"}
_SAID = {
    "prompt_tokens", "response_tokens", "truncated", "status", "weight", "reason", "stage", "duplicate_of",
    "similarity", "prompt_excerpt", "response_excerpt", "kind", "duplicate_in", "cluster_size",
    "eval_set", "eval_item", "eval_match", "eval_span",
}  # fmt: skip


def explain_text(out: str | Path, row_id: str) -> str:
    """All that a finished run knows about a row, as text.

    Args:
        out: Output folder of the run.
        row_id: Id of a kept or dropped row, or `source/file:row` of a bad one.

    Raises:
        ValueError: If no row of the run has this id.
    """
    out = str(out)
    manifest = read_manifest(out)
    for output in ("train", "dropped"):
        row = _find(join(out, output), row_id)
        if row is not None:
            lines = _kept(row) if output == "train" else _dropped(row)
            lines += [f"  {name:<9} {sentence}" for name, sentence in selector_sentences(row, manifest)]
            lines += _scores(out, row, manifest) + _decision_columns(row, manifest)
            lines += _relatives(out, row, output)
            return "\n".join([f"{row_id}", *lines])
    bad = _find_bad(out, row_id)
    if bad is not None:
        return "\n".join([row_id, *bad])
    raise ValueError(f"{out}: no row has the id {row_id!r}. Ids look like {_some_id(out)!r} (column `id`)")


def _find(folder: str, row_id: str) -> dict[str, Any] | None:
    for path in parquet_files(folder):
        table = pq.read_table(fetched(path), filters=[("id", "==", row_id)])
        if table.num_rows:
            first: dict[str, Any] = table.slice(0, 1).to_pylist()[0]
            return first
    return None


def _find_bad(out: str, row_id: str) -> list[str] | None:
    place, _, number = row_id.partition(":")
    number = number.split("/", 1)[0]
    if not number.isdigit():
        return None
    for path in parquet_files(join(out, "bad_rows")):
        for row in pq.read_table(fetched(path), filters=[("row", "==", int(number))]).to_pylist():
            source, _, name = place.partition("/")
            if row["source"] == source and row["path"].endswith(name):
                return [
                    f"  bad row: {row['reason']}" + (f" ({row['detail']})" if row["detail"] else ""),
                    f"  from     {row['path']}, row {row['row']}",
                    f"  excerpt  {row['excerpt']}",
                ]
    return None


def _some_id(out: str) -> str:
    for output in ("train", "dropped"):
        for path in parquet_files(join(out, output)):
            ids = pq.read_table(fetched(path), columns=["id"])["id"]
            if len(ids):
                return str(ids[0])
    return "source/file.jsonl:00000001"


def _kept(row: dict[str, Any]) -> list[str]:
    lines = ["  KEPT", f"  why       {row['reason']}", f"  weight    {row['weight']:g}"]
    labels = row.get("labels")
    if labels is not None:
        trained = sum(label >= 0 for label in labels)
        lines.append(f"  tokens    {trained} of {row['response_tokens']} response tokens are trained on")
    lines += [f"  from      {place_of(row)}", f"  group     {row['group']}"]
    for turn in row["messages"]:
        lines.append(f"  {turn['role'] + ':':<10}{_shorten(_said(turn))}")
    if row["extra"]:
        extra = json.loads(row["extra"])
        lines += [
            f"  extra     {key}: {_shorten(json.dumps(value, ensure_ascii=False))}"
            for key, value in extra.items()
        ]
    return lines


def _said(turn: dict[str, Any]) -> str:
    calls = [
        f"{call['function']['name']}({call['function']['arguments']})" for call in turn["tool_calls"] or []
    ]
    return "\n".join(part for part in (turn["content"], *calls) if part)


def _dropped(row: dict[str, Any]) -> list[str]:
    lines = [f"  DROPPED at stage {row['stage']}", f"  why       {row['reason']}"]
    lines += _copy_of(row) + _eval_item(row)
    return [
        *lines,
        f"  from      {place_of(row)}",
        f"  prompt:   {_shorten(row['prompt_excerpt'])}",
        f"  response: {_shorten(row['response_excerpt'])}",
    ]


def selector_sentences(row: dict[str, Any], manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """What the selectors of a run say of a row: the name of each that says something, and its sentence."""
    sentences = []
    for step, facts in zip(manifest["recipe"]["select"], manifest.get("selection") or (), strict=False):
        (name,) = step
        known = {key: float("inf") if value is None else value for key, value in facts.items()}
        sentence = SELECTORS[name].explain(row, known) if name in SELECTORS else ""
        sentences += [(name, sentence)] if sentence else []
    return sentences


def _copy_of(row: dict[str, Any]) -> list[str]:
    if row["duplicate_of"] is None:
        return []
    measure = "cosine" if row["kind"] == "semantic" else "Jaccard"
    lines = [f"  copy of   {row['duplicate_of']} ({measure} similarity {row['similarity']:.3f})"]
    if row["duplicate_in"] is not None:
        lines.append(f"  which is in the earlier output {row['duplicate_in']}")
    return [*lines, f"  cluster   {row['cluster_size']:,} rows, the one that stays included"]


def _eval_item(row: dict[str, Any]) -> list[str]:
    if row["eval_set"] is None:
        return []
    lines = [
        f"  set       {row['eval_set']}, item {row['eval_item']}",
        f"  match     {row['eval_match']}: {eval_match(row)}",
    ]
    return [*lines, f"  shared    {_shorten(row['eval_span'])}"] if row["eval_span"] else lines


def eval_match(row: dict[str, Any]) -> str:
    """How a contaminated row matches the item of the evaluation set."""
    what = {
        "prompt": "its prompt is the item's prompt",
        "embedding": f"the cosine of their embeddings is {row['similarity'] or 0:.3f}",
        "ngram": f"it has {100 * (row['similarity'] or 0):.1f} % of the distinct n-grams of the item's text",
    }
    return what[row["eval_match"]]


def place_of(row: dict[str, Any]) -> str:
    """Where a kept or dropped row came from: its source, its file and its number there."""
    file, _, number = row["id"].removeprefix(row["source"] + "/").rpartition(":")
    number, _, part = number.partition("/")
    return f"source {row['source']}, file {file}, row {int(number)}" + (f", part {part}" if part else "")


def _shorten(text: str) -> str:
    text = text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + " [...]"
    return text.replace("\n", "\n            ")


def _scores(out: str, row: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    if row.get("status") is None:
        return ["  scores    none: the row was not scored"] if manifest["models"] else []
    lines = [
        f"  tokens    {row['prompt_tokens']} prompt + {row['response_tokens']} response"
        + (", response cut to fit" if row["truncated"] else ""),
        f"  status    {row['status']}",
    ]
    for column in columns_of(manifest["recipe"]["score"]):
        value = row.get(column.name)
        if value is None:
            lines.append(f"  {column.name:<15} null")
            continue
        below, count = _rank(out, column.name, value)
        unit = f" {column.unit}" if column.unit else ""
        rank = f"higher than {100 * below / max(count, 1):.1f} % of {count:,} rows"
        lines.append(f"  {column.name:<15} {value:.4f}{unit}  {rank}; {column.doc}")
    return lines


def _rank(out: str, column: str, value: float) -> tuple[int, int]:
    """How many rows score less, of how many that have this score."""
    below = count = 0
    for path in parquet_files(join(out, "scores")):
        values = pc.drop_null(pq.read_table(fetched(path), columns=[column])[column]).to_numpy()
        below += int(np.count_nonzero(values < value))
        count += len(values)
    return below, count


def decision_values(row: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """What selectors and checks wrote of a row beside its scores and what its sentences say."""
    known = {column.name for column in columns_of(manifest["recipe"].get("score", ()))} | _HIDDEN | _SAID
    known |= {"verdict"} if row["reason"].startswith("verdict: ") else set()  # in its sentence
    return {
        name: value
        for name, value in row.items()
        if name not in known and value is not None and not isinstance(value, list)
    }


def _decision_columns(row: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    return [
        f"  {name:<15} {value:.6g}" if isinstance(value, float) else f"  {name:<15} {value}"
        for name, value in decision_values(row, manifest).items()
    ]


def _relatives(out: str, row: dict[str, Any], output: str) -> list[str]:
    """Rows of the same prompt, and copies of this row."""
    lines = []
    if output == "train":
        copies = _ids_where(join(out, "dropped"), "duplicate_of", row["id"])
        if copies:
            lines.append(f"  copies    {len(copies)} dropped: {_some(copies)}")
        rivals = [i for i in _ids_where(join(out, "train"), "group", row["group"]) if i != row["id"]]
        if rivals:
            lines.append(f"  rivals    {len(rivals)} other kept answers to the same prompt: {_some(rivals)}")
    return lines


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")


def _ids_where(folder: str, column: str, value: str) -> list[str]:
    tables = [
        pq.read_table(fetched(path), columns=["id"], filters=[(column, "==", value)])
        for path in parquet_files(folder)
    ]
    return pa.concat_tables(tables)["id"].to_pylist() if tables else []

"""All that a finished run knows about one row, as JSON: what `winnow explain` says, and its relatives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.explain import decision_values, eval_match, place_of, selector_sentences
from pipelines.view.index import RunIndex, bad_id
from pipelines.view.query import Query
from pipelines.view.rows import Rows
from pipelines.view.spans import shared_pieces
from scorers.catalog import SCORERS

MOST_RELATIVES = 50
MOST_CHARS = 500_000  # of one message that are sent to the page
_SIMILARITY = {"near": "Jaccard similarity", "semantic": "cosine similarity"}
_TOKEN_LISTS = ("input_ids", "labels", "token_weights")
_NOTES = {
    "prompt_tokens": "tokens of the prompt, by the target model's tokenizer",
    "response_tokens": "tokens of the response, by the target model's tokenizer",
    "weight": "weight of the row in training",
    "similarity": "to the row it repeats, or to the item of an evaluation set",
    "cluster_size": "rows of the duplicate cluster, the one that stays included",
    "suspicion": "how much speaks against the answer",
    "wrong_calculations": "calculations written out in the response that do not hold",
    "prompt_overlap": "share of the response's words that are in the prompt",
    "correct": "1 where the answer is the right one",
}


def column_notes(index: RunIndex) -> dict[str, dict[str, str]]:
    """Unit, preferred direction and meaning of each column of numbers, empty where they are not known."""
    known = {
        column.name: {"unit": column.unit, "better": column.better, "doc": column.doc}
        for scorer in SCORERS.values()
        for column in scorer.columns
    }
    plain = {name: {"unit": "", "better": "neither", "doc": doc} for name, doc in _NOTES.items()}
    nothing = {"unit": "", "better": "neither", "doc": ""}
    return {name: known.get(name) or plain.get(name, nothing) for name in index.number_names()}


def row_facts(rows: Rows, position: int) -> dict[str, Any]:
    """What a row is, why it was kept or dropped, and its whole conversation.

    Args:
        rows: The run.
        position: Of the row.
    """
    index, part = rows.index, rows.index.part_of(position)
    (row,) = index.groups.take([position], index.schema(part).names)
    facts = {"key": index.key_of(position), "part": part, "source": row["source"], "reason": row["reason"]}
    if part == "bad":
        return facts | _bad(row)
    facts |= {"id": row["id"], "place": place_of(row), "stage": row.get("stage"), "kind": row.get("kind")}
    facts |= {"sentences": _sentences(row, index.manifest), "suspect": rows.suspects.facts.get(position)}
    facts |= _conversation(rows, position, row)
    facts |= {
        "tokens": _tokens(row),
        "scores": _scores(index, position),
        "contamination": _contamination(row),
    }
    decisions = decision_values(row, index.manifest)
    facts["decisions"] = {
        name: value for name, value in decisions.items() if name not in index.number_names()
    }
    facts["masked"] = _is_masked(row)
    return facts


def _bad(row: Mapping[str, Any]) -> dict[str, Any]:
    row_number = "the whole file" if row["row"] is None else f"row {row['row']}"
    return {
        "id": bad_id(row),
        "place": f"source {row['source']}, file {row['path']}, {row_number}",
        "detail": row["detail"] or "",
        "excerpt": row["excerpt"] or "",
    }


def _sentences(row: dict[str, Any], manifest: dict[str, Any]) -> list[dict[str, str]]:
    if "select" not in manifest["recipe"]:
        return []
    return [{"selector": name, "text": text} for name, text in selector_sentences(row, manifest)]


def _conversation(rows: Rows, position: int, row: dict[str, Any]) -> dict[str, Any]:
    """The turns of a row, in pieces; of a dropped one whose conversation is gone, its beginnings."""
    whole = rows.texts.conversations([position])[0] or rows.suspects.conversation(position)
    if whole is None:
        turns = [{"role": role, "content": row[f"{name}_excerpt"] or ""} for role, name in _EXCERPTS.items()]
        whole = {"messages": turns}
    span = row.get("eval_span") or ""
    return {
        "turns": [_turn(turn, span) for turn in whole["messages"]],
        "whole": "group" in whole or "extra" in whole,
        "tools": whole.get("tools"),
        "extra": _extra(whole.get("extra")),
    }


_EXCERPTS = {"prompt": "prompt", "response": "response"}


def _turn(turn: Mapping[str, Any], span: str) -> dict[str, Any]:
    content, calls = turn["content"] or "", turn.get("tool_calls") or []
    return {
        "role": turn["role"],
        "name": turn.get("name"),
        "pieces": shared_pieces(content[:MOST_CHARS], span),
        "left_out": max(0, len(content) - MOST_CHARS),
        "calls": [call["function"] for call in calls],
    }


def _extra(text: str | None) -> dict[str, str]:
    """The fields of the input that were not read: texts as they are, all else as JSON."""
    if not text:
        return {}
    fields: dict[str, Any] = json.loads(text)
    shown = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in fields.items()}
    return {name: value[:MOST_CHARS] for name, value in shown.items()}


def _tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of tokens; what was not counted is absent."""
    names = ("status", "prompt_tokens", "response_tokens", "truncated", "control_text", "weight")
    counts = {name: row[name] for name in names if row.get(name) is not None}
    if row.get("labels") is not None:
        counts["trained"] = sum(label >= 0 for label in row["labels"])
    return counts


def _is_masked(row: Mapping[str, Any]) -> bool:
    """Whether some tokens of a kept row are not trained on, or weigh other than 1."""
    labels, count = row.get("labels"), row.get("response_tokens")
    if labels is None or row.get("input_ids") is None or count is None:
        return False
    weights = row.get("token_weights") or ()
    return sum(label >= 0 for label in labels) < count or any(weight not in (0, 1) for weight in weights)


def _scores(index: RunIndex, position: int) -> list[dict[str, Any]]:
    """Each number of a row, and how many of the rows that have it have a lower or a higher one."""
    scores = []
    for name, note in column_notes(index).items():
        values = index.numbers(name)
        value = values[position]
        if np.isnan(value):
            continue
        below, above = int(np.count_nonzero(values < value)), int(np.count_nonzero(values > value))
        rank = {"below": below, "above": above, "rows": int(np.count_nonzero(~np.isnan(values)))}
        scores.append({"name": name, "value": float(value), **note, **rank})
    return scores


def _contamination(row: dict[str, Any]) -> dict[str, Any] | None:
    if row.get("eval_set") is None:
        return None
    names = ("eval_set", "eval_item", "eval_match", "eval_span")
    return {name.removeprefix("eval_"): row[name] for name in names} | {"how": eval_match(row)}


def relatives(rows: Rows, position: int) -> dict[str, Any]:
    """The duplicates of a row and the other answers to its prompt.

    Args:
        rows: The run.
        position: Of a kept or dropped row.
    """
    index = rows.index
    if index.part_of(position) == "bad":
        return {"cluster": None, "rivals": None}
    return {"cluster": _cluster(rows, position), "rivals": _rivals(rows, position)}


def _cluster(rows: Rows, position: int) -> dict[str, Any] | None:
    """The row that stays and those that repeat it, the most alike first; None without duplicates."""
    index = rows.index
    repeats = index.labels("duplicate_of")
    keeper = _stays(index, position)
    members = np.flatnonzero(repeats.are([keeper])) if keeper in repeats.values else np.zeros(0, np.int64)
    if not len(members):
        return None
    alike = index.numbers("similarity")[members]
    members = members[np.argsort(-alike, kind="stable")]
    kept = index.position_of(keeper)
    earlier = index.labels("duplicate_in")
    inside = earlier.codes[position]
    return {
        "keeper": keeper,
        "keeper_in": earlier.values[inside] if inside >= 0 else None,
        "measure": _SIMILARITY.get(_kind(index, members[0]), "equal but for case and white space"),
        "rows": len(members) + 1,
        "kept": _shown(rows, [kept])[0] if kept is not None else None,
        "members": _shown(rows, members[:MOST_RELATIVES].tolist()),
    }


def _stays(index: RunIndex, position: int) -> str:
    """The id of the row that stays of a row's duplicates; its own where it has none."""
    repeats = index.labels("duplicate_of")
    code = int(repeats.codes[position])
    return repeats.values[code] if code >= 0 else str(index.ids()[position])


def _kind(index: RunIndex, position: int) -> str:
    kinds = index.facets().get("kind")
    return kinds.values[kinds.codes[position]] if kinds is not None and kinds.codes[position] >= 0 else ""


def _rivals(rows: Rows, position: int) -> dict[str, Any] | None:
    """The other rows with the prompt of a row; None when they cannot be told or there are none."""
    conversation = rows.texts.conversations([position])[0]
    if conversation is None or conversation.get("group") is None:
        return None
    same = rows.texts.rivals(position, conversation["group"])
    own = _stays(rows.index, position)
    others = [other for other in same if _stays(rows.index, other) != own]  # copies are no rivals
    if not others:
        return None
    return {
        "rows": len(others),
        "only_kept": not rows.texts.whole,
        "shown": _shown(rows, others[:MOST_RELATIVES]),
    }


def _shown(rows: Rows, positions: Sequence[int]) -> list[dict[str, Any]]:
    similarity = rows.index.numbers("similarity") if "similarity" in rows.index.number_names() else None
    listed = rows.listed(positions, Query())
    for row, position in zip(listed, positions, strict=True):
        alike = similarity[position] if similarity is not None else np.nan
        row["similarity"] = None if np.isnan(alike) else float(alike)
    return listed


def token_pieces(rows: Rows, position: int) -> dict[str, Any]:
    """The responses of a kept row in pieces that say which tokens are trained on, by the number of the turn.

    Raises:
        ValueError: If the row has no tokens, or its tokenizer is not at hand.
    """
    from pipelines.view.tokens import COLUMNS, marked_turns, renderer_of  # loads transformers

    index = rows.index
    (row,) = index.groups.take([position], COLUMNS)
    if index.part_of(position) != "kept" or row.get("input_ids") is None:
        raise ValueError("this row has no tokens")
    renderer = index.once("renderer", lambda: renderer_of(index.out, index.manifest))
    return {"turns": {str(at): pieces for at, pieces in marked_turns(renderer, row).items()}}


def run_facts(rows: Rows) -> dict[str, Any]:
    """What a page says of the whole run."""
    manifest = rows.index.manifest
    return {
        "name": manifest.get("name") or "Run",
        "out": rows.index.out,
        "parts": rows.parts(),
        "columns": column_notes(rows.index),
        "created": manifest.get("created"),
    }

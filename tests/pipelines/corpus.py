"""A small corpus and recipe for tests that run the whole pipeline."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MODEL = Path(__file__).resolve().parents[2] / "quickstart" / "model"
DATA_FOLDERS = ("train", "dropped", "bad_rows", "scores")

_NOUNS = ("apple", "river", "engine", "teacher", "garden", "window", "planet", "letter", "market", "bridge")
_VERBS = ("describe", "compare", "count", "explain", "list", "measure", "translate", "summarise", "rank")


def sentence(draw: random.Random, words: int) -> str:
    """Words that no other call with another state gives."""
    return " ".join(draw.choice(_NOUNS) + str(draw.randrange(1000)) for _ in range(words))


def example(draw: random.Random, number: int) -> dict[str, Any]:
    """One Alpaca row; every prompt is different, lengths vary."""
    return {
        "instruction": f"{draw.choice(_VERBS).title()} the {draw.choice(_NOUNS)} number {number}.",
        "input": "" if number % 3 else sentence(draw, 6),
        "output": sentence(draw, 3 + number % 17),
        "label": number % 5,
    }


def write_corpus(folder: Path, rows: int = 240) -> None:
    """Three files of three formats, with exact and near copies, empty answers and broken lines."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    alpaca = [example(draw, i) for i in range(rows)]
    copies = [dict(row) for row in alpaca[10:20]]
    near = [
        {**row, "output": row["output"] + " indeed"}
        for row in alpaca[30:40]
        if len(row["output"].split()) > 8
    ]
    lines = [json.dumps(row) for row in [*alpaca, *copies, *near]]
    lines[5:5] = ["{not json", json.dumps({"instruction": "say nothing", "output": "  "})]
    (folder / "alpaca.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    chats = [
        {
            "conversations": [
                {"from": "human", "value": f"Question {i} about the {draw.choice(_NOUNS)}?"},
                {"from": "gpt", "value": sentence(draw, 2 + i % 9)},
            ]
        }
        for i in range(rows // 4)
    ]
    with gzip.open(folder / "chat.json.gz", "wt", encoding="utf-8") as file:
        json.dump(chats, file)
    rivals = [
        {"prompt": f"What is {i} times two?", "completion": answer}
        for i in range(rows // 12)
        for answer in (
            f"It is {2 * i}.",
            f"{i} times two is {2 * i}, because {i} + {i} = {2 * i}.",
            sentence(draw, 5),
        )
    ]
    (folder / "rivals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rivals), "utf-8")


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any part of a recipe
    """A recipe over `write_corpus` with the bundled model."""
    plain: dict[str, Any] = {
        "name": "test",
        "inputs": [
            {"path": str(folder / "alpaca.jsonl"), "source": "alpaca"},
            {"path": str(folder / "chat.json.gz"), "source": "chat"},
            {"path": str(folder / "rivals.jsonl"), "source": "rivals"},
        ],
        "max_bad_fraction": 0.05,
        "model": {"path": str(MODEL), "max_tokens": 256},
        "dedupe": {"exact": True, "minhash": {"threshold": 0.7, "ngram": 3}},
        "score": ["loss", "entropy", "top1_agreement", "ifd"],
        "select": [{"q_tuning": {"keep": 0.5, "token_keep": 0.7}}],
    }
    return {**plain, **changes}


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every published data file of a run."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in DATA_FOLDERS
        for path in sorted((out / folder).glob("*"))
    }


def rows_of(out: Path, folder: str) -> list[dict[str, Any]]:
    """All rows of one output of a run."""
    rows: list[dict[str, Any]] = []
    for path in sorted((out / folder).glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows

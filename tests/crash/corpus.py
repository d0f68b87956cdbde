"""A small set and a recipe with every kind of stage."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines.corpus import MODEL

INPUTS = ("chats.json.gz", "rivals.jsonl", "sums.jsonl")
Row = dict[str, Any]


def write_recipe(folder: Path) -> Path:
    """Writes about 300 rows, an evaluation set and the recipe into a folder; returns the recipe's path."""
    data = folder / "data"
    data.mkdir(parents=True)
    draw = random.Random(11)
    sums = [_sum(number) for number in range(150)]
    near = [{**row, "answer": f"{row['answer']} Yes."} for row in sums[40:52]]
    lines = [json.dumps(row) for row in [*sums, *sums[10:22], *near]]
    lines[7:7] = ["[1, 2", '{"question": "unanswered", "answer": ""}']
    (data / "sums.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    with gzip.open(data / "chats.json.gz", "wt", encoding="utf-8") as file:
        json.dump([_chat(draw, number) for number in range(60)], file)
    rivals = [row for number in range(25) for row in _rivals(draw, number)]
    _write_lines(data / "rivals.jsonl", rivals)
    _write_lines(
        folder / "eval.jsonl", [{k: sums[i][k] for k in ("question", "answer")} for i in (3, 70, 99)]
    )
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(_recipe(folder)), "utf-8")
    return path


def _write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _sum(number: int) -> Row:
    answer = 3 * number + (number % 9 == 0)  # every ninth is wrong
    return {
        "question": f"What is three times {number}, in words of one line?",
        "answer": f"We take 3 * {number} = {answer}, as asked. The answer is {answer}.",
        "gold": str(3 * number),
    }


def _chat(draw: random.Random, number: int) -> Row:
    words = " ".join(draw.choice(("river", "apple", "garden", "old", "the")) for _ in range(2 + number % 9))
    turns = [
        {"from": "human", "value": f"Say line {number}."},
        {"from": "gpt", "value": f"{words} {number}."},
    ]
    return {"conversations": turns}


def _rivals(draw: random.Random, number: int) -> list[Row]:
    answers = (f"It is {2 * number}.", f"Twice {number} is {2 * number}.", f"Perhaps {draw.randrange(99)}.")
    return [{"prompt": f"What is {number} times two?", "completion": answer} for answer in answers]


def _recipe(folder: Path) -> dict[str, Any]:
    return {
        "name": "crash",
        "inputs": [{"path": str(folder / "data" / name), "source": name.split(".")[0]} for name in INPUTS],
        "max_bad_fraction": 0.05,
        "decontaminate": {"against": [{"name": "sums_eval", "path": str(folder / "eval.jsonl")}]},
        "model": {"path": str(MODEL), "max_tokens": 64, "on_overflow": "drop"},
        "dedupe": {"exact": True, "minhash": {"threshold": 0.7, "ngram": 3}},
        "check": {"gold": "gold"},
        "score": ["loss", "entropy", "ifd"],
        "select": [{"verdict": {"suspect": 0.1}}, {"q_tuning": {"keep": 0.6, "token_keep": 0.7}}],
    }

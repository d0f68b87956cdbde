"""Writes the sample corpus: six sources in six formats, with planted defects and their answer key.

    python -m quickstart.make_corpus [--output FOLDER] [--seed 0]

The same seed gives the same bytes. A planted row says so in its field `planted`, which no part of
the pipeline reads; `planted.json` lists all defects, also those of lines too broken to say anything.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quickstart import knowledge, maths, snippets, writing
from quickstart.planting import Record, jaccard, plant, shingles
from quickstart.rows import Row

Generator = Callable[[random.Random], Row]

# How many clean rows each generator gives to each file.
PLAN: dict[str, tuple[tuple[Generator, int], ...]] = {
    "maths.jsonl": ((maths.problem, 400),),
    "general.json": (
        (writing.conversion, 60),
        (writing.date_question, 60),
        (writing.grammar, 60),
        (writing.list_request, 50),
        (writing.summary, 40),
        (writing.email, 50),
        (writing.rewriting, 40),
    ),
    "chat.json": (
        (knowledge.trip_dialogue, 70),
        (knowledge.trouble_dialogue, 60),
        (knowledge.recipe_dialogue, 40),
    ),
    "assistant.jsonl.gz": ((snippets.code, 70), (snippets.text_tool, 60), (snippets.tool_use, 40)),
    "facts.csv": ((knowledge.country_fact, 70), (knowledge.thing_fact, 60)),
}
RIVAL_FILE, RIVAL_GROUPS = "rivals.jsonl", 40
TOO_SIMILAR = 0.6  # two clean rows stay below this Jaccard similarity; rivals of one prompt may not
MALFORMED = {
    "maths.jsonl": (
        b'{"question": "How many legs have three spiders?", "answer": "3 * 8 = 24',
        b"question: 7 + 5?",
    ),
    "assistant.jsonl.gz": (b'{"messages": [{"role": "user", "content": "Sort: b a"}', b"<html>504</html>"),
    "rivals.jsonl": (
        b'{"prompt": "What is caf\xe9 au lait?", "completion": "Coffee with hot milk."}',
        b'{"prompt": "Describe a kite.", "completion": "A toy \xff\xfe that flies."}',
    ),
}


class FreshRows:
    """Gives rows that are not near duplicates of any row given before."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.seen: dict[tuple[str, ...], list[frozenset[tuple[str, ...]]]] = {}

    def take(self, generator: Generator, count: int) -> list[Row]:
        """`count` new rows of a generator.

        Raises:
            ValueError: If the generator has too little variety.
        """
        return [rows[0] for rows in self._take(lambda rng: [generator(rng)], count, generator.__name__)]

    def take_groups(self, count: int) -> list[list[Row]]:
        """`count` new groups of rival answers."""
        return self._take(knowledge.rival_answers, count, knowledge.rival_answers.__name__)

    def _take(
        self, generator: Callable[[random.Random], list[Row]], count: int, name: str
    ) -> list[list[Row]]:
        groups: list[list[Row]] = []
        for _ in range(count * 200):
            if len(groups) == count:
                return groups
            group = generator(self.rng)
            if all(self._is_fresh(row) for row in group):
                groups.append(group)
                self._remember(group)
        raise ValueError(f"{name}: {len(groups)} sufficiently different rows, {count} wanted")

    def _is_fresh(self, row: Row) -> bool:
        own = shingles(row)
        others = {id(other): other for shingle in own for other in self.seen.get(shingle, [])}
        return all(jaccard(own, other) < TOO_SIMILAR for other in others.values())

    def _remember(self, rows: list[Row]) -> None:
        for own in map(shingles, rows):
            for shingle in own:
                self.seen.setdefault(shingle, []).append(own)


def clean_records(rng: random.Random) -> list[Record]:
    """The rows of all files before anything is planted."""
    fresh = FreshRows(rng)
    records = [
        Record(row, file)
        for file, parts in PLAN.items()
        for generator, count in parts
        for row in fresh.take(generator, count)
    ]
    return records + [Record(row, RIVAL_FILE) for group in fresh.take_groups(RIVAL_GROUPS) for row in group]


def build(seed: int = 0) -> dict[str, list[Record]]:
    """All records of the corpus by file, in the order of the file, malformed lines left out."""
    rng = random.Random(seed)  # noqa: S311 - a corpus that comes out the same each time, no secret
    records = clean_records(rng)
    records += plant(records, rng)
    rng.shuffle(records)
    return {file: [r for r in records if r.file == file] for file in [*PLAN, RIVAL_FILE]}


def clean_rows(seed: int = 0) -> list[Row]:
    """The rows of the corpus without a planted defect; of duplicates, the original."""
    return [r.row for records in build(seed).values() for r in records if r.planted is None]


def question_answer(record: Record) -> dict[str, Any]:
    """As GSM8K has it."""
    question, answer = record.row.messages
    return {"question": question["content"], "answer": answer["content"]}


def prompt_completion(record: Record) -> dict[str, Any]:
    """As TRL has it."""
    prompt, completion = record.row.messages
    return {"prompt": prompt["content"], "completion": completion["content"]}


def alpaca(record: Record) -> dict[str, Any]:
    """As Alpaca has it."""
    row = record.row
    instruction = row.messages[0]["content"].removesuffix(row.input).rstrip("\n")
    return {"instruction": instruction, "input": row.input, "output": row.response}


def sharegpt(record: Record) -> dict[str, Any]:
    """As ShareGPT has it."""
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in record.row.messages]
    return {"conversations": turns}


def openai(record: Record) -> dict[str, Any]:
    """As OpenAI's fine-tuning files have it."""
    turns: list[dict[str, Any]] = []
    for turn in record.row.messages:
        calls = turn["tool_calls"]
        turns.append({"role": turn["role"], "content": None if calls else turn["content"]})
        if calls:
            turns[-1]["tool_calls"] = calls
        if turn["role"] == "tool":
            turns[-1]["tool_call_id"] = "call_1"
    tools = record.row.tools
    return {"messages": turns, "tools": tools} if tools else {"messages": turns}


FORMATS: dict[str, Callable[[Record], dict[str, Any]]] = {
    "maths.jsonl": question_answer,
    "general.json": alpaca,
    "chat.json": sharegpt,
    "assistant.jsonl.gz": openai,
    "facts.csv": question_answer,
    "rivals.jsonl": prompt_completion,
}


def encoded(file: str, rows: Sequence[dict[str, Any]], malformed: dict[int, bytes]) -> bytes:
    """Content of a file before compression; malformed lines by their row number."""
    if file.endswith(".csv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, ["question", "answer", "planted"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return text.getvalue().encode()
    if file.endswith(".json"):
        return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    for number in sorted(malformed):
        lines.insert(number - 1, malformed[number])
    return b"\n".join(lines) + b"\n"


def write(folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Writes all files and the answer key, and returns the key.

    Args:
        folder: Made if it is not there.
        seed: Of the corpus.

    Returns:
        One entry per defect: kind, file, row (1-based line, or record where a file has no lines of
        its own; a CSV's header is not counted), and for duplicates the original's file and row.
    """
    files = build(seed)
    places: dict[int, tuple[str, int]] = {}
    key: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for file, records in files.items():
        lines = len(records) + len(MALFORMED.get(file, ()))
        spots = random.Random(f"{seed} {file}").sample(range(1, lines + 1), len(MALFORMED.get(file, ())))  # noqa: S311
        malformed = dict(zip(spots, MALFORMED.get(file, ()), strict=True))
        numbers = [number for number in range(1, lines + 1) if number not in malformed]
        places |= {id(record): (file, number) for record, number in zip(records, numbers, strict=True)}
        key += [{"kind": "malformed", "file": file, "row": number} for number in spots]
        rows = [FORMATS[file](r) | ({"planted": r.planted} if r.planted else {}) for r in records]
        content = encoded(file, rows, malformed)
        (folder / file).write_bytes(gzip.compress(content, mtime=0) if file.endswith(".gz") else content)
    for record in (r for records in files.values() for r in records if r.planted):
        file, number = places[id(record)]
        entry: dict[str, Any] = {"kind": record.planted, "file": file, "row": number}
        if record.original:
            entry["original"] = dict(zip(("file", "row"), places[id(record.original)], strict=True))
        key.append(entry)
    key.sort(key=lambda entry: (entry["file"], entry["row"]))
    (folder / "planted.json").write_text(json.dumps(key, indent=1) + "\n", "utf-8")
    return key


def main() -> None:
    """Writes the corpus and says what is in it."""
    parser = argparse.ArgumentParser(description="Write the quickstart's sample corpus.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    key = write(options.output, options.seed)
    rows = sum(map(len, build(options.seed).values())) + sum(map(len, MALFORMED.values()))
    print(f"{rows} rows in {options.output}, {len(key)} of them planted:")
    for kind, count in sorted(Counter(entry["kind"] for entry in key).items()):
        print(f"  {kind:18} {count:4}")


if __name__ == "__main__":
    main()

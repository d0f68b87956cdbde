"""Instruction data for a run on a cluster: many rows, most of them copies, all short."""

from __future__ import annotations

import json
import random
from pathlib import Path

FILES = 5
_THINGS = ("cat", "tree", "ball", "river", "bird", "house", "boat", "flower", "star", "stone")
_DOES = ("sees", "finds", "likes", "hides", "draws", "takes", "paints", "hears")


def write_corpus(folder: Path, rows: int = 50_000, distinct: int = 10_000) -> int:
    """Writes Alpaca rows into `FILES` files; some rows are exact copies, some near ones, a few unreadable.

    Args:
        folder: Where to; made if absent.
        rows: Readable rows.
        distinct: How many of them differ by more than a word.

    Returns:
        The number of lines, unreadable ones included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(11)
    texts = [_example(draw, number) for number in range(distinct)]
    copies = [_copy(draw, draw.choice(texts)) for _ in range(rows - distinct)]
    lines = [json.dumps(row) for row in texts + copies]
    draw.shuffle(lines)
    lines[100:100] = ["{not json", json.dumps({"instruction": "Say nothing.", "output": " "})]
    for number in range(FILES):
        text = "".join(f"{line}\n" for line in lines[number::FILES])
        (folder / f"rows-{number}.jsonl").write_text(text, "utf-8")
    return len(lines)


def _example(draw: random.Random, number: int) -> dict[str, str]:
    actor, thing = draw.sample(_THINGS, 2)
    answer = f"The {actor} {draw.choice(_DOES)} {draw.randrange(2, 90)} {thing}s."
    return {"instruction": f"{number}: {actor} and {thing}?", "output": answer}


def _copy(draw: random.Random, row: dict[str, str]) -> dict[str, str]:
    if draw.random() < 0.8:
        return row
    return {**row, "output": row["output"].replace("The ", "The  ").upper()}  # equal but for case and spaces

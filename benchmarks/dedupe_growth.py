"""How the time and memory of near-duplicate removal grow with the number of rows.

    python benchmarks/dedupe_growth.py --rows 25000 250000 2000000

Makes synthetic instruction rows, signs them and finds their duplicates, in one process for each size; begin
the command with `taskset -c 0` for one core. Prints CPU seconds by step, text per CPU second, peak memory,
and the exponent of the growth from size to size. Rows: words drawn by Zipf's law, log-normal lengths with a
mean of about 300 characters, one of 200 prompt templates, 12 % near copies (some words changed) and 8 % exact
copies of another row.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import EXAMPLE_SCHEMA, Conversation, example_id, example_row, message
from connectors.shards import write_arrow
from pipelines.dedupe.find_duplicates import Search, steps
from pipelines.dedupe.settings import DedupeSettings, MinHashSettings
from pipelines.dedupe.signatures import SignatureFile, signature_table

CHUNK = 16_384  # rows made, signed and written at a time
VOCABULARY = 50_000
SETTINGS = DedupeSettings(minhash=MinHashSettings(threshold=0.8, ngram=5))


def texts(chunk: int, rows: int) -> list[tuple[str, str]]:
    """(prompt, response) pairs of one chunk; they depend on its number only, save for copies of chunk 0."""
    draw = np.random.default_rng([7, chunk])
    words = np.array([f"{'bcdfglmnprst'[n % 12]}{n:x}" for n in range(VOCABULARY)])
    chance = 1 / (np.arange(VOCABULARY) + 10.0)
    chance /= chance.sum()
    templates = [
        f"Please {' '.join(words[np.random.default_rng(n).integers(0, 500, 8)])}:" for n in range(200)
    ]
    sizes = np.clip(draw.lognormal(3.7, 0.8, rows), 3, 2000).astype(int)
    drawn = words[draw.choice(VOCABULARY, size=int(sizes.sum()), p=chance)]
    ends = np.cumsum(sizes)
    made: list[tuple[str, str]] = []
    kinds = draw.random(rows)
    for row in range(rows):
        if row and kinds[row] < 0.2:
            prompt, response = made[int(draw.integers(0, row))]
            if kinds[row] < 0.12:
                parts = response.split(" ")
                for at in draw.integers(0, len(parts), 1 + len(parts) // 100):
                    parts[at] = words[int(draw.integers(0, VOCABULARY))]
                response = " ".join(parts)
        else:
            own = drawn[ends[row] - sizes[row] : ends[row]]
            prompt = f"{templates[int(draw.integers(0, 200))]} {' '.join(own[: len(own) // 4])}"
            response = " ".join(own[len(own) // 4 :])
        made.append((prompt, response))
    return made


def examples(rows: int) -> Iterator[pa.Table]:
    """Canonical rows, a chunk at a time."""
    for start in range(0, rows, CHUNK):
        made = [
            example_row(
                Conversation([message("user", prompt), message("assistant", response)]),
                "synthetic",
                example_id("synthetic", "rows", start + n + 1),
            )
            for n, (prompt, response) in enumerate(texts(start // CHUNK, min(CHUNK, rows - start)))
        ]
        yield pa.Table.from_pylist(made, schema=EXAMPLE_SCHEMA)


def measure(rows: int, folder: Path) -> dict[str, float]:
    """CPU seconds of each step for one size; making the rows is not counted."""
    files = []
    sign = text = 0.0
    for number, table in enumerate(examples(rows)):
        turns = table["messages"].combine_chunks().flatten().field("content")
        text += sum(len(turn) for turn in turns.to_pylist())
        began = time.process_time()
        path = folder / f"{number:05d}.arrow"
        write_arrow(path, signature_table(table, SETTINGS, number * CHUNK))
        sign += time.process_time() - began if number else 0.0  # the first compiles
        files.append(SignatureFile(str(path), number * CHUNK, table.num_rows))
    sign *= len(files) / max(1, len(files) - 1)
    np.save(folder / "excluded.npy", np.zeros(0, np.int64))
    search = Search(
        tuple(files), (), str(folder / "excluded.npy"), SETTINGS, str(folder), "duplicates.parquet"
    )
    spent = {}
    for step in steps(search):
        began = time.process_time()
        for task in step.tasks:
            step.write(task, search)
        spent[step.name] = time.process_time() - began
    return {
        "rows": rows,
        "text_mb": text / 1e6,
        "sign_s": sign,
        "copies_s": spent["join copies"] + spent["leave out copies"],
        "near_s": spent["join near"],
        "merge_s": sum(time for name, time in spent.items() if name.startswith(("merge", "write"))),
        "dropped": pq.read_metadata(folder / search.file).num_rows,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Runs every size in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description="growth of near-duplicate removal")
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 250_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(given.one, Path(folder))))
        return
    print(f"{'rows':>10} {'text MB':>8} {'sign':>7} {'copies':>7} {'near':>7} {'merge':>7} {'CPU s':>7}"
          f" {'MB/CPU s':>9} {'peak MB':>8} {'dropped':>9} {'exponent':>9}")  # fmt: skip
    before: tuple[float, float] | None = None
    for rows in given.rows:
        command = [sys.executable, __file__, "--one", str(rows)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(out.splitlines()[-1])
        steps = [found[f"{name}_s"] for name in ("sign", "copies", "near", "merge")]
        total = sum(steps)
        exponent = f"{np.log(total / before[1]) / np.log(rows / before[0]):.2f}" if before else ""
        before = (rows, total)
        print(f"{rows:>10,} {found['text_mb']:>8.1f} " + " ".join(f"{step:>7.2f}" for step in steps)
              + f" {total:>7.2f} {found['text_mb'] / total:>9.1f} {found['peak_mb']:>8,.0f}"
              f" {found['dropped']:>9,} {exponent:>9}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

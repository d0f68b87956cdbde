"""What happens to a run when one prompt, one cluster of duplicates or one row is out of all proportion.

    python -m benchmarks.skew --rows 1000000 --megabytes 50 --model quickstart/model

Each case is a file of lopsided rows beside 1,000 ordinary ones (benchmarks/instructions.py), run from reading
to the report in a process of its own; `benchmarks/scaling.py` says what the columns mean. Cases:

- rivals: one prompt with so many different answers
- exact: one row repeated word for word
- near: one row repeated with one word of 80 replaced, each time another
- large: one row of so many megabytes, which the model reads to its limit
- long: rows of 100 kilobytes each, as many as fill 20 times those megabytes

The first of the lopsided rows is explained at last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.instructions import write_instructions
from benchmarks.scaling import measure, recipe, table

ORDINARY_ROWS = 1_000
PROMPT, ANSWER = 20, 60  # words of a lopsided row
LONG_ROW_BYTES = 100_000
FIRST_ROW = "lopsided/rows.jsonl:00000001"


def rivals(rows: int, _: int) -> Iterator[tuple[str, str]]:
    """One prompt, and answers that share no five words in a row."""
    for row in range(rows):
        random = np.random.default_rng(row)
        yield _words(PROMPT), " ".join(f"w{word:x}" for word in random.integers(0, 2**20, 12).tolist())


def exact(rows: int, _: int) -> Iterator[tuple[str, str]]:
    """One row, again and again."""
    for _row in range(rows):
        yield _words(PROMPT), _words(ANSWER)


def near(rows: int, _: int) -> Iterator[tuple[str, str]]:
    """One row, with one word of its answer replaced by a new one."""
    words = _words(ANSWER).split()
    for row in range(rows):
        at = row % ANSWER
        yield _words(PROMPT), " ".join([*words[:at], f"x{row}", *words[at + 1 :]])


def large(_: int, megabytes: int) -> Iterator[tuple[str, str]]:
    """One row whose answer has so many bytes."""
    yield _words(PROMPT), _text(megabytes * 1_000_000)


def long(_: int, megabytes: int) -> Iterator[tuple[str, str]]:
    """Many rows that are long."""
    for row in range(20 * megabytes * 1_000_000 // LONG_ROW_BYTES):
        yield f"{row} {_words(PROMPT)}", f"{row} {_text(LONG_ROW_BYTES, row)}"


CASES: Mapping[str, Callable[[int, int], Iterator[tuple[str, str]]]] = MappingProxyType(
    {case.__name__: case for case in (rivals, exact, near, large, long)}
)


def _words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


def _text(size: int, seed: int = 0) -> str:
    """Text of words that hardly repeat, of `size` bytes."""
    numbers = np.random.default_rng(seed).integers(16**5, 16**6, size // 7 + 1).tolist()
    return " ".join(f"{number:x}" for number in numbers)[:size]


def write_case(folder: Path, case: str, rows: int, megabytes: int, ordinary: int = ORDINARY_ROWS) -> None:
    """Writes the rows of a case as one more source beside the ordinary ones."""
    write_instructions(folder, ordinary)
    (folder / "lopsided").mkdir()
    with (folder / "lopsided" / "rows.jsonl").open("w", encoding="utf-8") as file:
        for prompt, answer in CASES[case](rows, megabytes):
            file.write(json.dumps({"instruction": prompt, "output": answer}) + "\n")


def case_recipe(data: Path, case: str, model: str | None) -> dict[str, Any]:
    """The recipe of a case; only that of the large row has a model."""
    plain = recipe(data, model if case == "large" else None)
    plain["inputs"].append({"path": str(data / "lopsided/*.jsonl"), "source": "lopsided"})
    return plain


def _measure_case(case: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = Path(folder, "data")
        write_case(data, case, options.rows, options.megabytes)
        plain = case_recipe(data, case, options.model)
        return measure(plain, Path(folder), options.workers, explained=FIRST_ROW)


def main() -> None:
    """Runs the cases and prints their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", help="folder of a model for the large rows")
    parser.add_argument("--folder", type=Path, help="where temporary folders go")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure_case(options.case[0], options)))
        return
    for case in options.case:
        command = [sys.executable, "-m", "benchmarks.skew", *sys.argv[1:], "--case", case, "--one"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{case}: FAILED with {done.returncode}: {done.stderr[-1500:]}\n", flush=True)
            continue
        print(f"**{case}**: {table(json.loads(done.stdout.splitlines()[-1]))}", flush=True)


if __name__ == "__main__":
    main()

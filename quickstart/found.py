"""Counts how many planted defects a run of the quickstart found, beside the clean rows it dropped.

    python quickstart/found.py OUT

Of the list of suspect answers, where the run has one, it says how many are planted.

A duplicate is found when the copy or its original was dropped as a duplicate, a malformed line or
an empty answer when it is a bad row, any other defect when it was dropped, for whatever reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

Place = tuple[str, int]  # file name, row
KEY = Path(__file__).parent / "data" / "planted.json"
KINDS = (
    "exact_duplicate",
    "near_duplicate",
    "malformed",
    "empty_answer",
    "mismatched_answer",
    "wrong_arithmetic",
    "truncated_answer",
)
DUPLICATES, UNREADABLE = KINDS[:2], KINDS[2:4]


def place_of(example_id: str) -> Place:
    """File name and row in an example's id.

    Example:
        >>> place_of("maths/maths.jsonl:00000017")
        ('maths.jsonl', 17)
    """
    path, _, row = example_id.rpartition(":")
    return PurePosixPath(path).name, int(row)


def rows_of(folder: Path, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Values of the columns, row by row, over all Parquet files of a folder."""
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=columns)
        yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


def count_found(key: list[dict[str, Any]], out: Path) -> list[tuple[str, int, int]]:
    """For each kind of defect, and for "clean rows dropped": name, how many there are, how many were found.

    A row that a duplicate repeats is neither a defect nor counted as clean: either of the two may be kept.

    Args:
        key: The answer key, planted.json.
        out: Folder of a finished run.
    """
    dropped = {place_of(example_id): stage for example_id, stage in rows_of(out / "dropped", ["id", "stage"])}
    kept = {place_of(example_id) for (example_id,) in rows_of(out / "train", ["id"])}
    bad = {(PurePosixPath(path).name, row) for path, row in rows_of(out / "bad_rows", ["path", "row"])}
    duplicates = {place for place, stage in dropped.items() if stage == "dedupe"}

    planted: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    not_clean: set[Place] = set()
    for entry in key:
        pair = {(place["file"], place["row"]) for place in (entry, entry.get("original", entry))}
        not_clean |= pair
        removed = (
            duplicates if entry["kind"] in DUPLICATES else bad if entry["kind"] in UNREADABLE else dropped
        )
        planted[entry["kind"]].append(not pair.isdisjoint(removed))
    clean = (kept | dropped.keys() | bad) - not_clean
    lost = len(clean - kept)
    return [
        *((kind, len(hits), sum(hits)) for kind, hits in planted.items()),
        ("clean rows dropped", len(clean), lost),
    ]


def suspects_text(key: list[dict[str, Any]], out: Path, first: int = 75) -> str:
    """How many of the suspect answers, and of the first of them, have a planted defect; "" without a list."""
    listed = [place_of(example_id) for (example_id,) in rows_of(out / "suspects", ["id"])]
    if not listed:
        return ""
    planted = {(entry["file"], entry["row"]) for entry in key}
    hits = [place in planted for place in listed]
    return (
        f"Suspect answers listed: {len(hits)}, {sum(hits)} of them planted; "
        f"of the first {len(hits[:first])}, {sum(hits[:first])}."
    )


def table(counts: list[tuple[str, int, int]]) -> str:
    """The counts as aligned text, the clean rows below a line."""
    lines = [f"{'planted defect':20}{'planted':>8}{'found':>8}{'share':>8}"]
    for name, total, found in counts:
        if name not in KINDS:
            lines.append("-" * len(lines[0]))
        percent = f"{found / total:.0%}" if total else "-"
        lines.append(f"{name.replace('_', ' '):20}{total:8}{found:8}{percent:>8}")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Count the planted defects that a run found.")
    parser.add_argument("out", type=Path, help="folder of a finished run")
    parser.add_argument("--key", type=Path, default=KEY, help="answer key (default: the sample corpus')")
    options = parser.parse_args()
    if not (options.out / "manifest.json").is_file():
        parser.error(
            f"{options.out} has no manifest.json: not a finished run. Run the quickstart recipe first."
        )
    key = json.loads(options.key.read_text("utf-8"))
    print(table(count_found(key, options.out)))
    print("Dropping rows at random would find each defect as often as it drops clean rows.")
    if suspects := suspects_text(key, options.out):
        print(suspects)


if __name__ == "__main__":
    main()

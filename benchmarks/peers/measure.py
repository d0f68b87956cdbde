"""What the scripts in this folder share: command line, clock, report, shingles and union-find.

Standard library only, because each script runs in the environment of its own tool. Every script reads a
Parquet file with the column `text`, whose texts are already lower case and without punctuation, words
separated by single blanks (see benchmarks/corpus.py), so that every tool's way of splitting words agrees. It
leaves a report: a JSON file, and beside it the numbers of the rows that it would keep.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What one script is to do.

    Attributes:
        corpus: Parquet file with the column `text`.
        report: JSON file to write.
        scratch: Empty folder for whatever the tool wants to store.
        variant: Which way of using the tool, where there are several.
        ngram: Words in a shingle.
        permutations: Numbers in a MinHash signature.
        threshold: Lowest Jaccard similarity of duplicates.
        bands: Bands of a signature.
        band_rows: Numbers in a band.
    """

    corpus: str
    report: str
    scratch: str
    variant: str = ""
    ngram: int = 5
    permutations: int = 128
    threshold: float = 0.8
    bands: int = 16
    band_rows: int = 8


def read_job() -> Job:
    """The job that the command line describes."""
    parser = argparse.ArgumentParser()
    for name, default in Job("", "", "").__dict__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default or None)
    return Job(**vars(parser.parse_args()))


class Clock:
    """CPU and wall seconds by phase, from the moment it is made, with those of finished child processes."""

    def __init__(self) -> None:
        self.start_cpu_s = _cpu_seconds()  # interpreter and imports
        self.phases: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what runs inside to a phase."""
        cpu, wall = _cpu_seconds(), time.perf_counter()
        yield
        spent = self.phases.setdefault(name, {"cpu_s": 0.0, "wall_s": 0.0})
        spent["cpu_s"] += _cpu_seconds() - cpu
        spent["wall_s"] += time.perf_counter() - wall


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def write_report(job: Job, clock: Clock, distribution: str, kept: Iterable[int]) -> None:
    """Writes the report and the rows kept.

    Args:
        job: The job.
        clock: Its clock.
        distribution: Name of the tool in the package registry.
        kept: Numbers of the rows kept, ascending.
    """
    peak_mb = _peak_mb()  # before anything is written
    rows = Path(job.report).with_suffix(".kept")
    rows.write_bytes(array("q", kept).tobytes())
    report = {
        "version": version(distribution),
        "job": job.__dict__,
        "start_cpu_s": clock.start_cpu_s,
        "phases": clock.phases,
        "peak_mb": peak_mb,
        "kept": str(rows),
    }
    Path(job.report).write_text(json.dumps(report, indent=1), "utf-8")


def _peak_mb() -> float:
    """Largest resident memory of this process or of a finished child, in MB of 10**6 bytes."""
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    # ru_maxrss of this process would start with the size of the process that started it
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, child) * 1024 / 1e6


def shingles(text: str, ngram: int) -> list[str]:
    """The word n-grams of a text, repeats included, in the quickest plain Python we know."""
    words = text.split(" ")
    return list(map(" ".join, zip(*(words[start:] for start in range(ngram)), strict=False)))


def byte_shingles(text: bytes, ngram: int) -> list[bytes]:
    """As `shingles`, of UTF-8 bytes."""
    words = text.split(b" ")
    return list(map(b" ".join, zip(*(words[start:] for start in range(ngram)), strict=False)))


def first_of_clusters(candidates: Iterable[Iterable[int]]) -> list[int]:
    """The smallest row of each cluster, ascending.

    Args:
        candidates: For each row those it is joined with; itself may be among them.
    """
    parents: list[int] = []

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    lists = [list(others) for others in candidates]
    parents.extend(range(len(lists)))
    for row, others in enumerate(lists):
        for other in others:
            if other != row:
                one, two = root(row), root(other)
                parents[max(one, two)] = min(one, two)
    return [row for row, parent in enumerate(parents) if parent == row]

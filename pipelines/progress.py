"""Progress of a running stage: how far, how fast, how long still.

Runners block while they run, and their metrics come at the end. So workers leave their counts in small files
of the run folder, one for each process, and the command reads and draws them. Workers that do not see that
folder, on other machines with the outputs in an object store, count nothing: the command then counts the
files of the stage that are done.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pipelines.run_log import CONTEXT, in_stage, say

_LOG = logging.getLogger(__name__)

WRITE_SECONDS = 0.25
PLAIN_LINE_SECONDS = 5.0
SHARE_SECONDS = 10.0  # between listings of a stage's folder in an object store


class ProgressCounter:
    """Adds up what one worker process has done; picklable, the counts stay behind.

    Args:
        folder: Where the count files of the stage go; without it nothing is counted.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._reset()

    def _reset(self) -> None:
        self._counts = {"rows": 0, "tokens": 0, "bytes": 0}
        self._written = 0.0
        self._lock = threading.Lock()
        self._file: Path | None = None

    def __reduce__(self) -> tuple[type[ProgressCounter], tuple[str]]:
        return (ProgressCounter, (self.folder,))

    def __call__(self, rows: int = 0, tokens: int = 0, size: int = 0) -> None:
        """Counts finished rows, model tokens and input bytes; writes at most four times a second."""
        with self._lock:
            self._counts["rows"] += rows
            self._counts["tokens"] += tokens
            self._counts["bytes"] += size
            now = time.monotonic()
            if now - self._written < WRITE_SECONDS:
                return
            self._written = now
            if self._file is None:
                # The machine's name too: containers have the same few process numbers. And id(self): two
                # steps of one process each have a counter.
                self._file = Path(self.folder) / f"{platform.node()}-{os.getpid()}-{id(self)}"
            if not self._file.parent.is_dir():
                return  # another machine's, and the command cannot see this one's
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._counts), "utf-8")
            temporary.replace(self._file)


def read_counts(folder: Path) -> dict[str, int]:
    """Sum of the counts of all worker processes."""
    total = {"rows": 0, "tokens": 0, "bytes": 0}
    for path in folder.glob("*"):
        if path.suffix == ".tmp":
            continue
        try:
            counts = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:  # the stage just ended and cleaned up
            continue
        for key, value in counts.items():
            total[key] += value
    return total


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    Example:
        >>> clock(75), clock(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(stage: str, counts: dict[str, int], total: int, unit: str, elapsed: float) -> str:
    """One line of progress: done of total, share, rate, tokens per second, time left."""
    done = min(counts[unit], total) if total else counts[unit]
    rate = counts[unit] / elapsed if elapsed > 0 else 0.0
    parts = [stage.ljust(10)]
    if unit == "bytes":
        parts.append(
            f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB  {counts['rows'] / max(elapsed, 1e-9):,.0f} rows/s"
        )
    else:
        parts.append(f"{done:,} of {total:,} rows  {rate:,.0f} rows/s")
    if total:
        parts.append(f"{100 * done / total:.0f} %")
    if counts["tokens"]:
        parts.append(f"{counts['tokens'] / max(elapsed, 1e-9):,.0f} tokens/s")
    if rate > 0 and total:
        parts.append(f"{clock((total - done) / rate)} left")
    return "  ".join(parts)


def numbers(counts: dict[str, int], total: int, unit: str, elapsed: float) -> dict[str, float]:
    """What `describe` says, for programs: counts, rates per second, seconds gone and left.

    Example:
        >>> numbers({"rows": 50, "tokens": 0, "bytes": 0}, 100, "rows", elapsed=10.0)
        {'rows': 50, 'seconds': 10.0, 'rows_per_second': 5.0, 'rows_total': 100, 'seconds_left': 10.0}
    """
    found: dict[str, float] = {name: count for name, count in counts.items() if count or name == unit}
    found |= {"seconds": round(elapsed, 1)}
    found |= {f"{n}_per_second": round(counts[n] / elapsed, 1) for n in counts if counts[n] and elapsed > 0}
    if total:
        found[f"{unit}_total"] = total
        if counts[unit] and elapsed > 0:
            left = max(0, total - counts[unit])
            found["seconds_left"] = round(left * elapsed / counts[unit], 1)
    return found


class Progress:
    """Draws the progress of one stage after the other: a live line on a terminal, plain lines elsewhere.

    Args:
        console: Where to draw; nothing is drawn without one.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)

    def say(self, text: str, stage: str = "", numbers: Mapping[str, float] | None = None) -> None:
        """Prints a line of its own, or logs it as JSON where the command logs so.

        Args:
            text: The line.
            stage: Of which it speaks; the running one when empty.
            numbers: What the line counts, for the JSON.
        """
        if CONTEXT.as_json:
            say(logging.INFO, " ".join(text.split()), stage, numbers=dict(numbers or {}))
        else:
            self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(
        self,
        name: str,
        folder: Path,
        total: int,
        unit: str = "rows",
        share_done: Callable[[], float] | None = None,
    ) -> Iterator[None]:
        """Watches a stage's count files until the block ends.

        Args:
            name: Stage name.
            folder: Where its workers count; made, and emptied before and after.
            total: Rows (or bytes) to do; 0 when unknown.
            unit: What `total` counts, "rows" or "bytes".
            share_done: Says from 0 to 1 how much is done, as far as files tell; asked every SHARE_SECONDS,
                and believed where the counts say less. None where all workers can reach the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _empty(folder)
        stop = threading.Event()
        watched = _Watched(name, folder, total, unit, share_done)
        thread = threading.Thread(target=self._draw, args=(watched, stop), daemon=True)
        thread.start()
        try:
            with in_stage(name):
                yield
        finally:
            stop.set()
            thread.join()
            _empty(folder)

    def _draw(self, stage: _Watched, stop: threading.Event) -> None:
        if self.console.is_terminal and not CONTEXT.as_json:
            with self.console.status(stage.name) as status:
                while not stop.wait(WRITE_SECONDS):
                    status.update(stage.line()[0])
        else:
            while not stop.wait(PLAIN_LINE_SECONDS):
                text, counted = stage.line()
                self.say(text, stage.name, counted)


@dataclass
class _Watched:
    """A running stage, as `Progress.stage` is told of it."""

    name: str
    folder: Path
    total: int
    unit: str
    share_done: Callable[[], float] | None
    began: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)
    share: float = 0.0

    def line(self) -> tuple[str, dict[str, float]]:
        """How far it is, for people and for programs."""
        counts, now = read_counts(self.folder), time.monotonic()
        if self.share_done is not None and now - self.asked >= SHARE_SECONDS:
            self.asked = now
            try:
                self.share = self.share_done()
            except OSError as error:  # the run does not need it, and the next time may be better
                _LOG.debug("stage %s: how much is done cannot be told: %s", self.name, error)
        counts[self.unit] = max(counts[self.unit], int(self.share * self.total))
        about = self.total, self.unit, now - self.began
        return describe(self.name, counts, *about), numbers(counts, *about)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)

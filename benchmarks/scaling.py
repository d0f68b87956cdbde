"""How each stage's time, memory and bytes grow with rows and workers, and what law they follow.

    python -m benchmarks.scaling --rows 100000 300000 1000000 --workers 1 2 4
    python -m benchmarks.scaling --rows 100000 1000000 10000000 --workers 1 --data FOLDER

Rows are those of benchmarks/instructions.py, 100,000 in an input file. A run reads them, finds exact and near
duplicates, keeps half at random and writes; it has no model, because tokens a second say what scoring costs
(`--model PATH` scores the first rows of each source and prints that). Each run is a process of its own:

- CPU s: of the command and of its workers together while the stage's pipeline runs; shared cores lengthen
  wall time, hardly CPU time
- after s: CPU seconds of the command alone after the stage and before the next: summaries, plans, the report
- driver, worker: most memory of the command, and of the largest worker process, within the stage, looked at
  twenty times a second: anonymous memory, without the files that are mapped, which the system takes back when
  it needs room
- written: bytes in the stage's folder at its end
- shuffled: bytes of all elements that cross Beam's coordinator between two steps, counted as they are
  appended to its buffers: names of files and of row groups, no text. What stages hand over through files
  is in `written`.

After the table comes the law of each stage at the fewest workers: the exponent of CPU seconds from the
smallest size to the largest, seconds for a million rows at the largest, and bytes of the command's memory for
each further row.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.instructions import NAMES, write_instructions
from pipelines.explain import explain_text
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import choose_runner

ROWS_PER_FILE = 100_000
SAMPLE_SECONDS = 0.05
SCORED_ROWS = 1000  # of each source

Measured = dict[str, Any]


# --- in the process that is measured ----------------------------------------------------------------------


class StageWatch(Progress):
    """Takes the measures of each stage where a run would draw its progress.

    Attributes:
        stages: One for each stage, in order.
    """

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.stages: list[Measured] = []
        self._work = work
        self._shuffled = _count_shuffled_bytes()
        self._cpu = 0.0

    @contextmanager
    def stage(
        self,
        name: str,
        folder: Path,
        total: int,
        unit: str = "rows",
        share_done: Callable[[], float] | None = None,
    ) -> Iterator[None]:
        """Measures what happens in the block."""
        self._end_of_last()
        measured: Measured = {"stage": name}
        before = _cpu_seconds(), time.monotonic(), self._shuffled[0]
        with _memory_watch() as most:
            yield
        measured["cpu"], measured["wall"] = _cpu_seconds() - before[0], time.monotonic() - before[1]
        measured["shuffled"] = self._shuffled[0] - before[2]
        measured |= most
        measured["written"] = sum(_folder_bytes(path) for path in self._work.glob(f"{name}-*"))
        self.stages.append(measured)
        self._cpu = time.process_time()

    def _end_of_last(self) -> None:
        if self.stages:
            self.stages[-1]["after"] = time.process_time() - self._cpu

    def end(self) -> list[Measured]:
        """All measures, once the run has ended."""
        self._end_of_last()
        return self.stages


def _count_shuffled_bytes() -> list[int]:
    """Lets Beam's local coordinator count what it is given to hold; the count is the list's one number."""
    from apache_beam.runners.portability.fn_api_runner import execution

    count = [0]

    def counting(append: Any) -> Any:  # noqa: ANN401 - Beam ships no types
        def counted(self: object, elements: bytes) -> None:
            count[0] += len(elements)
            append(self, elements)

        return counted

    for buffer in (execution.ListBuffer, execution.GroupingBuffer):
        buffer.append = counting(buffer.append)
    return count


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


@contextmanager
def _memory_watch() -> Iterator[dict[str, int]]:
    """Fills in the most memory of this process and of a child of it while the block runs."""
    most = {"driver": _anonymous_bytes(os.getpid()), "worker": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            most["driver"] = max(most["driver"], _anonymous_bytes(os.getpid()))
            for child in psutil.Process().children(recursive=True):
                most["worker"] = max(most["worker"], _anonymous_bytes(child.pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def _anonymous_bytes(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text("ascii", "replace")
    except OSError:  # it ended meanwhile
        return 0
    return next(
        (1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0
    )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def recipe(data: Path, model: str | None = None) -> dict[str, Any]:
    """The recipe that is measured."""
    plain: dict[str, Any] = {
        "name": "scaling",
        "inputs": [{"path": f"{data / name}/*.jsonl", "source": name} for name in NAMES],
        "dedupe": {"exact": True, "minhash": {"threshold": 0.8, "ngram": 5}},
        "select": [{"random": {"keep": 0.5}}],
    }
    if model:
        plain |= {"model": {"path": model, "max_tokens": 512, "on_overflow": "keep"}}
        plain["score"] = ["loss", "entropy"]
    return plain


def measure(
    plain: dict[str, Any], folder: Path, workers: int, limit: int | None = None, explained: str = ""
) -> dict[str, Any]:
    """Runs a recipe once in this process; the measures of every stage and of the whole run.

    Args:
        plain: The recipe.
        folder: Where the output folder is made, and removed again.
        workers: Worker processes.
        limit: Rows to read of each input.
        explained: Id of a row to be explained afterwards, as one more stage; none if empty.
    """
    with tempfile.TemporaryDirectory(dir=folder) as out:
        watch = StageWatch(Path(out, ".winnow"))
        began, spent = time.monotonic(), _cpu_seconds()
        done = run(parse_recipe(plain), Path(out), choose_runner(workers, []), watch, limit)
        if explained:
            with watch.stage("explain", Path(out, "explain"), 0):
                explain_text(out, explained)
        stages = watch.end()
    return {
        "stages": stages,
        "workers": workers,
        "wall": time.monotonic() - began,
        "cpu": _cpu_seconds() - spent,
        "counts": done.manifest["counts"],
        "tokens": done.manifest["tokens"]["scored"],
    }


# --- in the process that prints ---------------------------------------------------------------------------


def main() -> None:
    """Measures every size and number of workers and prints tables and laws."""
    options = _options()
    if options.one:
        limit = SCORED_ROWS if options.model else None
        plain = recipe(options.one, options.model)
        print(json.dumps(measure(plain, options.one.parent, options.workers[0], limit)))
        return
    print(f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}\n")
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for rows in options.rows:
            data = Path(folder) / "data"
            write_instructions(data, rows, rows_per_file=ROWS_PER_FILE)
            for workers in options.workers:
                found[rows, workers] = _in_own_process(data, workers)
                print(table(found[rows, workers]), flush=True)
            if options.model and rows == options.rows[0]:
                print(scoring_line(_in_own_process(data, 1, options.model)))
            shutil.rmtree(data)
    if len(options.rows) > 1:
        fewest = options.workers[0]
        print(laws([(rows, found[rows, fewest]) for rows in options.rows]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--model", help="folder of a model, to measure tokens a second")
    parser.add_argument("--folder", type=Path, help="where temporary folders go")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(data: Path, workers: int, model: str | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", str(data), "--workers", str(workers)]
    done = subprocess.run(
        [*command, *(["--model", model] if model else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{data}, {workers} workers: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(found: dict[str, Any]) -> str:
    """The measures of one run, as Markdown."""
    rows, copies = found["counts"]["read"], found["counts"]["duplicates"]
    lines = [
        f"{rows:,} rows, workers {found['workers']}: {found['wall']:.1f} s, {found['cpu']:.1f} CPU s, "
        f"{copies['exact']:,} exact and {copies['near']:,} near duplicates\n",
        "| stage | CPU s | wall s | after s | driver MB | worker MB | written MB | shuffled kB |",
        "|---|" + "--:|" * 7,
    ]
    for own in found["stages"]:
        times = f"{own['cpu']:.2f} | {own['wall']:.1f} | {own['after']:.2f}"
        peaks = f"{own['driver'] / 1e6:,.0f} | {own['worker'] / 1e6:,.0f}"
        size = f"{own['written'] / 1e6:,.1f} | {own['shuffled'] / 1e3:,.1f}"
        lines.append(f"| {own['stage']} | {times} | {peaks} | {size} |")
    return "\n".join(lines) + "\n"


def laws(runs: Sequence[tuple[int, dict[str, Any]]]) -> str:
    """How the measures of each stage grow from the smallest run to the largest, as Markdown."""
    lines = [
        "| stage | exponent of CPU | CPU s for a million rows | driver, bytes a row | written, bytes a row |"
        " shuffled, bytes a row |",
        "|---|" + "--:|" * 5,
    ]
    (few, first), (many, last) = runs[0], runs[-1]
    for small, large in zip(first["stages"], last["stages"], strict=True):
        exponent = growth(few, small["cpu"] + small["after"], many, large["cpu"] + large["after"])
        seconds = (large["cpu"] + large["after"]) / many * 1e6
        slopes = " | ".join(
            f"{(large[name] - small[name]) / (many - few):,.1f}" for name in ("driver", "written", "shuffled")
        )
        lines.append(f"| {large['stage']} | {exponent:.2f} | {seconds:.1f} | {slopes} |")
    return "\n".join(lines)


def growth(few: int, before: float, many: int, after: float) -> float:
    """The exponent e of a law cost = c * rows ** e through two measures.

    Example:
        >>> growth(10, 3.0, 1000, 300.0), growth(10, 1.0, 100, 100.0)
        (1.0, 2.0)
    """
    return math.log(after / before) / math.log(many / few)


def scoring_line(found: dict[str, Any]) -> str:
    """What scoring took."""
    (scored,) = [own for own in found["stages"] if own["stage"] == "score"]
    rate, rows = found["tokens"] / scored["cpu"], found["counts"]["read"]
    return (
        f"scoring a sample: {rows:,} rows, {found['tokens']:,} tokens, {rate:,.0f} tokens/CPU s, "
        f"written {scored['written'] / rows:,.0f} bytes a row, worker {scored['driver'] / 1e6:,.0f} MB\n"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()

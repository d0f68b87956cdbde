"""Near-duplicate removal side by side: ours and five others, on one corpus, on one core, against the truth.

    python -m benchmarks.near_duplicates --environments CACHE --output OUT --real PATH...
    python -m benchmarks.near_duplicates --environments CACHE --output OUT --synthetic 250000 --repeats 1

Each tool runs in an environment of its own, made in CACHE at the first use, with the versions given here. All
get the same texts, already normalised (benchmarks/corpus.py), word 5-grams, 128 permutations, a threshold of
0.8 and 16 bands of 8, which winnow chooses; bands that suit a tool that checks its candidates are hard on one
that does not, so those run with the bands of their own choice too.

They run one after the other, in turns, pinned to one core; the first turn, on a few rows, fills caches and is
not counted. CPU seconds are from opening the corpus to knowing which rows stay, without starting Python and
importing, and again without reading, where a tool reads by itself; medians of the turns. What is true,
benchmarks/exact_pairs.py says. Prints one table and writes OUT/near_duplicates.json with every run, the
machine and all versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.corpus import write_real, write_synthetic
from benchmarks.exact_pairs import Truth
from benchmarks.peers.measure import Job

REPOSITORY = Path(__file__).resolve().parent.parent
PHASES = ("read", "signatures", "read and signatures", "clustering")  # what the table adds up
SEARCH = ("signatures", "clustering")
WARM_UP_ROWS = 2000
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Tool:
    """One row of the table.

    Attributes:
        name: What the table calls it.
        module: The script in benchmarks/peers.
        requirements: What pip installs in its environment; none means this one.
        variant: Which way of using it.
        bands: Bands and rows of a band that it would choose itself; none means those of the command line.
    """

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    variant: str = ""
    bands: tuple[int, int] | None = None


RENSA = ("rensa==0.5.0", "pyarrow==25.0.1")
DATASKETCH = ("datasketch==2.0.0", "pyarrow==25.0.1", "xxhash==4.1.0")
TEXT_DEDUP = ("text-dedup==0.4.0", "datasets==5.2.0")
# the last three are needed by what it imports, but not asked for by it
DATA_JUICER = (
    "py-data-juicer==1.6.1", "datasets==5.2.0", "aiohttp==3.14.5", "ray==2.60.0", "transformers==5.23.0",
)  # fmt: skip
DATATROVE = ("datatrove[io,processing]==0.10.1",)
# For 0.8 and 128 three of them choose these bands, which give fewer candidates: fewer false ones and fewer
# true ones. 14 x 8 is datatrove's default. rensa asks for a number of bands that divides 128.
CHOSEN, DATATROVE_DEFAULT = (9, 13), (14, 8)
TOOLS = (
    Tool("winnow", "winnow_near"),
    Tool("rensa inline", "rensa_near", RENSA, "inline"),
    Tool("rensa LSH, union-find", "rensa_near", RENSA, "lsh"),
    Tool("datasketch bulk", "datasketch_bulk", DATASKETCH),
    Tool("datasketch bulk, own bands", "datasketch_bulk", DATASKETCH, bands=CHOSEN),
    Tool("text-dedup", "text_dedup_minhash", TEXT_DEDUP),
    Tool("text-dedup, own bands", "text_dedup_minhash", TEXT_DEDUP, bands=CHOSEN),
    Tool("data-juicer", "data_juicer_minhash", DATA_JUICER),
    Tool("data-juicer, own bands", "data_juicer_minhash", DATA_JUICER, bands=CHOSEN),
    Tool("datatrove", "datatrove_minhash", DATATROVE),
    Tool("datatrove, own bands", "datatrove_minhash", DATATROVE, bands=DATATROVE_DEFAULT),
)


def main() -> None:
    """Runs the benchmark of the command line."""
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    tools = [tool for tool in TOOLS if not options.tools or any(part in tool.name for part in options.tools)]
    pythons = {tool: environment(tool.requirements, options.environments) for tool in tools}
    corpus = _corpus(options)
    few = options.output / "few.parquet"
    pq.write_table(pq.read_table(corpus).slice(0, WARM_UP_ROWS), few)
    runs: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in tools}
    for turn in range(options.repeats + 1):
        for tool in tools:
            report = run(tool, pythons[tool], corpus if turn else few, options)
            if turn:
                runs[tool.name].append(report)
            if turn or "failed" in report:
                _say(f"turn {turn}, {tool.name}: {report.get('failed') or json.dumps(report['phases'])}")
    texts = pq.read_table(corpus, columns=["text"])["text"]
    truth = None if options.no_truth else _truth(corpus, options)
    size = {"rows": len(texts), "text_mb": (pc.sum(pc.binary_length(texts)).as_py() or 0) / 1e6}
    rows = [table_row(tool, runs[tool.name], size, truth) for tool in tools]
    text = markdown(rows)
    print(
        f"\n{_machine()['processor']}, core {options.core}; {size['rows']:,} rows, {size['text_mb']:.1f} MB\n"
    )
    print(text)
    result = {
        "command": sys.argv,
        "machine": _machine(),
        "corpus": {"path": str(corpus), **size},
        "truth": None if truth is None else {"pairs": truth.pairs.shape[1], "removable": truth.removable},
        "settings": _settings(options),
        "versions": {tool.name: _versions(pythons[tool]) for tool in tools},
        "table": rows,
        "runs": runs,
    }
    (options.output / "near_duplicates.json").write_text(json.dumps(result, indent=1), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, required=True, help="folder for the tools' environments")
    parser.add_argument("--output", type=Path, required=True, help="folder for corpus, reports and result")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, help="Parquet file that benchmarks/corpus.py wrote")
    source.add_argument("--real", nargs="+", metavar="PATH", help="files or folders to make the corpus of")
    source.add_argument("--synthetic", type=int, metavar="ROWS", help="rows to make the corpus of")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic corpus")
    parser.add_argument("--tools", nargs="+", help="only tools whose names hold one of these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="core to run on")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run of one tool")
    parser.add_argument("--no-truth", action="store_true", help="only speed and memory")
    for name in ("ngram", "permutations", "threshold", "bands", "band_rows"):
        default = getattr(Job, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> dict[str, float]:
    names = ("ngram", "permutations", "threshold", "bands", "band_rows")
    return {name: getattr(options, name) for name in names}


def environment(requirements: Sequence[str], folder: Path) -> Path:
    """The interpreter of the environment that holds some requirements, which is made if it is not there."""
    if not requirements:
        return Path(sys.executable)
    home = folder.resolve() / re.sub(r"\[.*\]", "", requirements[0]).replace("==", "-")
    python, ready = home / "bin" / "python", home / "requirements.txt"
    wanted = "\n".join(requirements)
    if not ready.exists() or ready.read_text("utf-8") != wanted:
        _say(f"making {home}")
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        ready.write_text(wanted, "utf-8")
    return python


def _corpus(options: argparse.Namespace) -> Path:
    if options.corpus:
        return Path(options.corpus)
    path = Path(options.output, "corpus.parquet")
    if options.real:
        write_real(path, options.real)
    else:
        write_synthetic(path, options.synthetic, options.seed)
    return path


def run(tool: Tool, python: Path, corpus: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of one tool: its report, or under "failed" the last it said."""
    report = options.output.resolve() / f"{re.sub('[^a-z]+', '-', tool.name.lower())}.json"
    report.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=options.output) as scratch:
        settings = {
            "corpus": corpus.resolve(), "report": report, "scratch": Path(scratch).resolve(),
            "variant": tool.variant, **_settings(options),
        }  # fmt: skip
        if tool.bands:
            settings |= dict(zip(("bands", "band_rows"), tool.bands, strict=True))
        command = [str(python), "-m", f"benchmarks.peers.{tool.module}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        taskset = shutil.which("taskset")
        if taskset:
            command = [taskset, "--cpu-list", str(options.core), *command]
        variables = os.environ | dict.fromkeys(ONE_THREAD, "1")
        variables |= {"HF_HOME": scratch, "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": ""}
        load = os.getloadavg()[0]
        try:
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=variables,
                capture_output=True,
                text=True,
                timeout=options.timeout,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {options.timeout:,.0f} s"}
    if done.returncode != 0 or not report.exists():
        return {"failed": f"exit {done.returncode}", "said": done.stderr[-2000:]}
    return {**json.loads(report.read_text("utf-8")), "load_before": load}


def _truth(corpus: Path, options: argparse.Namespace) -> Truth:
    """The truth of the corpus, found in a process of its own, or as it was stored by an earlier run."""
    stored = options.output / f"truth-{corpus.stem}-{options.ngram}-{options.threshold:g}.npz"
    if not stored.exists() or stored.stat().st_mtime < corpus.stat().st_mtime:
        command = [sys.executable, "-m", "benchmarks.exact_pairs", str(corpus.resolve())]
        command += [f"--output={stored.resolve()}", f"--ngram={options.ngram}"]
        subprocess.run([*command, f"--threshold={options.threshold}"], cwd=REPOSITORY, check=True)
    return Truth.load(stored)


def table_row(
    tool: Tool, reports: Sequence[dict[str, Any]], size: dict[str, float], truth: Truth | None
) -> dict[str, Any]:
    """What the table says of a tool: medians of its runs, and what its last run removed."""
    failed = next((report for report in reports if "failed" in report), None)
    if failed or not reports:
        return {"tool": tool.name, "failed": failed["failed"] if failed else "not run"}
    seconds = [
        sum(spent["cpu_s"] for name, spent in report["phases"].items() if name in PHASES)
        for report in reports
    ]
    cpu = statistics.median(seconds)
    searches = [
        sum(report["phases"][name]["cpu_s"] for name in SEARCH)
        for report in reports
        if report["phases"].keys() >= set(SEARCH)
    ]
    search = statistics.median(searches) if searches else None  # some read and sign at once
    row = {
        "tool": tool.name,
        "version": reports[-1]["version"],
        "cpu_s": cpu,
        "cpu_s_range": [min(seconds), max(seconds)],
        "rows_per_s": size["rows"] / cpu,
        "mb_per_s": size["text_mb"] / cpu,
        "search_cpu_s": search,
        "search_mb_per_s": size["text_mb"] / search if search else None,
        "peak_mb": statistics.median(report["peak_mb"] for report in reports),
    }
    kept = np.fromfile(reports[-1]["kept"], np.int64)
    if truth is None:
        return row | {"removed": int(size["rows"]) - len(kept)}
    return row | asdict(truth.judge(kept))


COLUMNS = (
    ("CPU s", "cpu_s", ".2f"),
    ("rows/s per core", "rows_per_s", ",.0f"),
    ("MB/s per core", "mb_per_s", ".2f"),
    ("CPU s after reading", "search_cpu_s", ".2f"),
    ("MB/s after reading", "search_mb_per_s", ".2f"),
    ("peak MB", "peak_mb", ",.0f"),
    ("removed", "removed", ",d"),
    ("recall", "recall", ".4f"),
    ("precision", "precision", ".4f"),
    ("texts lost", "lost", ",d"),
)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| tool | version | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---|---|" + "--:|" * len(COLUMNS),
    ]
    for row in rows:
        if "failed" in row:
            cells = [row["failed"]] + [""] * len(COLUMNS)
        else:
            values = [(row.get(name), form) for _, name, form in COLUMNS]
            cells = [row["version"]] + ["" if v is None else format(v, form) for v, form in values]
        lines.append(f"| {row['tool']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _versions(python: Path) -> list[str]:
    command = [str(python), "-m", "pip", "freeze"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

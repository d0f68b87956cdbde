"""Seconds and peak memory of the selectors that choose by embeddings, on random vectors in clusters.

    python -m benchmarks.diversity --rows 10000 50000 --dimensions 128 --keep 0.1

The vectors have length one and lie about random centres, of which few have many rows; a fifth of the rows is
a near copy of another. Each selector decides in a process of its own, once, on `--threads` threads; the
vectors' own memory is counted in. Rows a second count the rows that are decided about.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.selectors.base import Vectors, VectorSelector

METHODS = ("deita", "k_center", "facility_location", "semdedup", "d4")
NOISE = 0.7  # length of what is added to a centre, so that rows of a cluster have cosines about 2/3
COPY_NOISE = 0.15  # of a near copy: cosines about 0.99


def main() -> None:
    """Runs the benchmark of the command line."""
    options = _options()
    if options.one:
        print(
            json.dumps(
                run_one(options.one, options.rows[0], options.dimensions, options.keep, options.threads)
            )
        )
        return
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, ", end="")
    print(f"d = {options.dimensions}, keep = {options.keep:g}\n")
    print("| selector | rows | kept | seconds | rows/s | peak MB |")
    print("|---|---|---|---|---|---|")
    for rows in options.rows:
        for method in options.methods:
            print(line(method, rows, _in_own_process(method, rows, options)), flush=True)


def line(method: str, rows: int, found: dict[str, Any]) -> str:
    """One row of the table."""
    seconds = found["seconds"]
    return (
        f"| {method} | {rows:,} | {found['kept']:,} | {seconds:.1f} | {rows / seconds:,.0f} "
        f"| {found['peak_mb']:,.0f} |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 50_000])
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--keep", type=float, default=0.1, help="fraction of the rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(method: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.diversity", "--one", method, "--rows", str(rows)]
    command += ["--dimensions", str(options.dimensions), "--keep", str(options.keep)]
    command += ["--threads", str(options.threads)]
    variables = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_one(method: str, rows: int, dimensions: int, keep: float, threads: int) -> dict[str, Any]:
    """Decides once in this process; seconds without making the vectors, memory with them."""
    import torch

    torch.set_num_threads(threads)
    no_target = np.zeros((0, dimensions), np.float32)
    vectors = Vectors(clustered(rows, dimensions, 0), np.ones(rows, np.bool_), no_target)
    table, step = candidates(rows), selector(method, keep)
    began = time.perf_counter()
    decisions = step.decide_with(table, vectors, 0)
    return {
        "seconds": time.perf_counter() - began,
        "kept": int(decisions.keep.sum()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def selector(method: str, keep: float) -> VectorSelector:
    """A selector with its defaults; DEITA's filter takes rows by their number of response tokens."""
    from pipelines.selectors.d4 import D4
    from pipelines.selectors.deita_diversity import DeitaDiversity
    from pipelines.selectors.facility_location import FacilityLocation
    from pipelines.selectors.k_center import KCenter
    from pipelines.selectors.semdedup import SemDeDup

    if method == "deita":
        return DeitaDiversity(column="response_tokens", keep=keep)
    others: dict[str, type[D4] | type[FacilityLocation] | type[KCenter] | type[SemDeDup]] = {
        "d4": D4, "facility_location": FacilityLocation, "k_center": KCenter, "semdedup": SemDeDup
    }  # fmt: skip
    return others[method](keep=keep)


def candidates(rows: int) -> pa.Table:
    """Rows with ids and random numbers of tokens."""
    tokens = np.random.default_rng(1).integers(1, 500, (2, rows)).astype(np.int32)
    ids = [f"row{row:09d}" for row in range(rows)]
    return pa.table({"id": ids, "prompt_tokens": tokens[0], "response_tokens": tokens[1]})


def clustered(rows: int, dimensions: int, seed: int) -> npt.NDArray[np.float32]:
    """Vectors of length one about random centres, a fifth of them near copies, float32, shape (rows, d)."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, rows // 200), dimensions), np.float32)
    result = centres[random.zipf(1.5, rows) % len(centres)]
    result /= np.linalg.norm(result, axis=1, keepdims=True)
    result += NOISE / dimensions**0.5 * random.standard_normal(result.shape, np.float32)
    copies = random.choice(rows, rows // 5, replace=False)
    noise = random.standard_normal((len(copies), dimensions), np.float32)
    result[copies] = result[random.integers(0, rows, len(copies))] + COPY_NOISE / dimensions**0.5 * noise
    result /= np.linalg.norm(result, axis=1, keepdims=True)
    return result


if __name__ == "__main__":
    main()

"""Seconds and memory of GOT-D: learning potentials by Sinkhorn, then scoring every candidate with them.

    python -m benchmarks.got_d --candidates 20000 52000 200000 --targets 1000
    python -m benchmarks.got_d --data alpaca.json.gz --target gsm8k.jsonl --model potion-base-4m-int8

Each size runs in a process of its own; begin the command with `taskset -c 0,1` for two cores. Without data
the vectors are random: of length one, in 100 clusters, of which the target has ten. Time grows with
candidates x targets x (iterations + 1), so the last column, nanoseconds for each of these, says what other
sizes of the same dimensions would take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipelines.runner import RunnerChoice
from pipelines.selectors.got_d import Sinkhorn, candidate_potentials, learn_potentials
from scorers.models.settings import EmbeddingSettings

Rows = npt.NDArray[np.float32]

CLUSTERS, TARGET_CLUSTERS = 100, 10
SPREAD = 1.0  # of a cluster, beside the distance between clusters


def main() -> None:
    """Runs every size in a process of its own and prints the table."""
    options = _options()
    if options.one:
        print(json.dumps(measure(*_vectors(options), options)))
        return
    print(f"{RunnerChoice().threads} threads, torch {torch.__version__}, epsilon {options.epsilon:g}")
    print(
        f"{'candidates':>10} {'targets':>7} {'dim':>5} {'iterations':>10} {'error':>8} {'learn s':>8} "
        f"{'score s':>8} {'peak MB':>8} {'ns/pair':>8}"
    )
    for count in options.candidates if options.data is None else [0]:
        command = [sys.executable, "-m", "benchmarks.got_d", *sys.argv[1:]]
        command += ["--candidates", str(count), "--one"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        print(row(json.loads(done.stdout.splitlines()[-1])), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, nargs="+", default=[20_000, 52_000])
    parser.add_argument("--targets", type=int, default=1000, help="of the random ones, and at most of a file")
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--data", help="file of candidates, instead of random vectors")
    parser.add_argument("--target", help="file of target examples, with --data")
    parser.add_argument("--model", help="folder of an embedding model, with --data")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _vectors(options: argparse.Namespace) -> tuple[Rows, Rows]:
    """Candidates and target."""
    if options.data is None:
        return clustered(options.candidates[0], options.targets, options.dimensions)
    settings = EmbeddingSettings(path=options.model)
    return _embed(options.data, settings), _embed(options.target, settings)[: options.targets]


def _embed(path: str, settings: EmbeddingSettings) -> Rows:
    """Vectors of the readable examples of a file."""
    from connectors.examples import EXAMPLE_SCHEMA  # these import Beam, which is slow and has warnings
    from connectors.inputs import InputSpec, find_files
    from connectors.readers import read_examples
    from scorers.models.embedding import load_embedder
    from scorers.models.embedding_handler import embed_examples

    files = find_files(InputSpec(path=path, source="data"), Path())
    rows = [item.row for file in files for item in read_examples(file) if item.kind != "bad"]
    batch = pa.RecordBatch.from_pylist(rows, schema=EXAMPLE_SCHEMA)
    found = embed_examples(load_embedder(settings), batch)[0].column("embedding").drop_null()
    return np.asarray(found.flatten().to_numpy().reshape(len(found), -1), np.float32)


def clustered(candidates: int, targets: int, dimensions: int) -> tuple[Rows, Rows]:
    """Vectors of length one: candidates of all clusters, target of some of them."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(CLUSTERS, dimensions)).astype(np.float32)

    def of(clusters: int, count: int) -> Rows:
        rows = draw.standard_normal((count, dimensions), np.float32) * SPREAD
        rows += centres[draw.integers(0, clusters, count)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    return of(CLUSTERS, candidates), of(TARGET_CLUSTERS, targets)


def measure(vectors: Rows, target: Rows, options: argparse.Namespace) -> dict[str, float]:
    """Learns and scores once; what is done once in a process comes before."""
    how = Sinkhorn(options.epsilon, options.tolerance)
    learn_potentials(vectors[:1000], target, how, options.device)
    began = time.perf_counter()
    found = learn_potentials(vectors, target, how, options.device)
    learnt = time.perf_counter()
    candidate_potentials(vectors, target, found, options.device)
    return {
        "candidates": len(vectors),
        "targets": len(target),
        "dimensions": target.shape[1],
        "iterations": found.iterations,
        "error": found.error,
        "learn_s": learnt - began,
        "score_s": time.perf_counter() - learnt,
        "peak_mb": _peak_mb(options.device),
    }


def _peak_mb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def row(found: dict[str, float]) -> str:
    """A line of the table."""
    passes = found["iterations"] + 1  # the last one finds that it has converged
    pair = found["learn_s"] / (passes * found["candidates"] * found["targets"]) * 1e9
    return (
        f"{found['candidates']:>10,} {found['targets']:>7,} {found['dimensions']:>5} "
        f"{found['iterations']:>10} {found['error']:>8.1e} {found['learn_s']:>8.2f} "
        f"{found['score_s']:>8.2f} {found['peak_mb']:>8,.0f} {pair:>8.2f}"
    )


if __name__ == "__main__":
    main()

"""Seconds and memory of deciding again over stored scores, for every selector that needs no vectors.

    python -m benchmarks.reselect --rows 1000000
    python -m benchmarks.reselect --keep-run FOLDER --selector q_tuning top_k

A finished run is made up first, in the layout of a real one: examples of five sources in units of 2,048 rows,
one in twenty a duplicate, the score files of four models with every score column and the losses of tokens,
files of compared scores and of checked answers. Answers to one prompt have about the same length, and nine
in ten of their tokens are the prompt's own. Each selector then decides:

- gather: stored columns into one table
- decide: the selector, and where it has any the masks or weights of tokens
- write: the file of decisions
- stage: all of that within Beam's local runner, as `winnow select` runs it, with peak memory

Parts and stage are timed in processes of their own, once. Files are in the page cache, as for one who
tries several selections. Begin the command with `taskset -c 0,1` for two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.examples import EXAMPLE_SCHEMA, ROWS_PER_BATCH, example_id, message
from connectors.number_lists import numpy_type, offsets_of, pack
from connectors.shards import Unit, plan_units, read_unit, write_json, write_parquet
from pipelines.candidates import gather
from pipelines.check import CHECK_SCHEMA
from pipelines.decide import Known, decide, readers, select, select_task, write_decisions
from pipelines.drops import DROP_SCHEMA
from pipelines.progress import Progress
from pipelines.recipe import Recipe, parse_recipe
from pipelines.runner import choose_runner
from pipelines.stages import StageResult, Workspace, load_stage
from scorers.base import ROLES
from scorers.catalog import SCORERS, columns_of, comparing, stored_for
from scorers.models.columns import scores_schema

SELECTIONS: dict[str, dict[str, Any]] = {
    "q_tuning": {"q_tuning": {"keep": 0.5}},
    "q_tuning bisection": {"q_tuning": {"keep": 0.5, "method": "bisection"}},
    "q_tuning batch": {"q_tuning": {"keep": 0.5, "batch": 8}},
    "glow": {"glow": {}},
    "dart": {"dart": {"k": 2}},
    "dart examples": {"dart": {"examples": 100_000}},
    "pass_rate": {"pass_rate": {"low": 0.2, "high": 0.8}},
    "grape": {"grape": {}},
    "source_fit": {"source_fit": {"keep_sources": 2}},
    "donod": {"donod": {"keep": 0.3}},
    "perplexity_band": {"perplexity_band": {"low": 0.25, "high": 0.75}},
    "top_k": {"top_k": {"column": "ifd_ppl", "order": "highest", "keep": 0.1}},
    "top_k tokens": {"top_k": {"column": "ifd_ppl", "order": "highest", "keep_tokens": 10_000_000}},
    "mixture": {
        "mixture": {"column": "loss", "order": "lowest", "keep": 0.5, "floors": {"code": 0.2, "math": 0.1}}
    },
    "stratified": {"stratified": {"column": "loss", "order": "highest", "keep": 0.5}},
    "stratified drawn": {"stratified": {"keep": 0.5}},
    "stratified field": {"stratified": {"by": "extra.topic", "keep": 0.5}},
    "threshold": {"threshold": {"column": "loss", "max": 2.0}},
    "random": {"random": {"keep": 0.5}},
    "verdict": {"verdict": {"token_keep": 1.0}},
    "q_tuning tokens": {"q_tuning": {"keep": 0.5, "token_keep": 0.7}},
    "verdict tokens": {"verdict": {}},
    "rho1": {"rho1": {}},
    "dft": {"dft": {}},
    "fait": {"fait": {}},
}
SOURCES = ("chat", "code", "facts", "math", "stories")
WORDS = (
    "a", "the", "farmer", "duck", "lake", "price", "sum", "of", "and", "is", "with", "under", "many", "how",
    "far", "train", "red", "blue", "every", "left",
)  # fmt: skip
MOST_ANSWERS = 8  # to one prompt
VOCABULARY = 50_000


def main() -> None:
    """Makes the run, times every selector and prints the table."""
    options = _options()
    if options.one:
        print(json.dumps(_measure(Path(options.run), options.one, options.what)))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(options.keep_run or folder)
        if not (run / "reselect.json").exists():
            began = time.monotonic()
            make_run(run, options.rows, options.tokens)
            print(f"made the run in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        print(
            f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, ",
            end="",
        )
        print(f"pyarrow {pa.__version__}; {json.loads((run / 'reselect.json').read_text('utf-8'))}")
        print("| selector | gather s | decide s | write s | stage s | its CPU s | peak MB |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for name in options.selector:
            parts, stage = (_in_own_process(run, name, what) for what in ("parts", "stage"))
            seconds = " | ".join(f"{parts[part]:.2f}" for part in ("gather", "decide", "write"))
            whole = f"{stage['stage']:.2f} | {stage['cpu']:.2f} | {stage['peak_mb']:,.0f}"
            print(f"| {name} | {seconds} | {whole} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="scored rows")
    parser.add_argument("--tokens", type=int, default=60, help="mean response tokens")
    parser.add_argument("--selector", nargs="+", choices=SELECTIONS, default=list(SELECTIONS), metavar="NAME")
    parser.add_argument("--keep-run", help="folder in which the run is made, or found")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=("parts", "stage"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(run: Path, name: str, what: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.reselect", "--run", str(run), "--one", name, "--what", what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- measuring --------------------------------------------------------------------------------------------


def _measure(run: Path, name: str, what: str) -> dict[str, float]:
    """Times one selector in this process: its parts, or the stage that they make."""
    import apache_beam  # noqa: F401 - its two seconds are those of the command, not of the stage

    recipe = recipe_of(SELECTIONS[name])
    stages = {stage.name: stage for stage in map(load_stage, sorted((run / ".winnow").iterdir())) if stage}
    measure = _parts if what == "parts" else _stage
    seconds = measure(recipe, plan_units(stages["ingest"].paths), stages, run)
    return {**seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _known(stages: dict[str, StageResult]) -> Known:
    roles = {"": "score"} | {role: f"score-{role}" for role in ROLES}
    scored = tuple(stages[name] for name in ("score", "compare", "check"))
    return Known(scored, {role: stages[name] for role, name in roles.items()})


def _parts(
    recipe: Recipe, units: Sequence[Unit], stages: dict[str, StageResult], run: Path
) -> dict[str, float]:
    """Seconds of each part, without Beam."""
    task = select_task(recipe, units, [stages["clusters"]], _known(stages))
    times = [time.monotonic()]
    candidates = gather(task.units, task.drops, task.scored, task.reads)
    times.append(time.monotonic())
    decided = decide(candidates.table, task.selectors, task.seed, *readers(task, candidates))
    times.append(time.monotonic())
    with tempfile.TemporaryDirectory(dir=run) as folder:
        write_decisions(Path(folder) / task.file, decided, candidates)
        times.append(time.monotonic())
    return dict(zip(("gather", "decide", "write"), np.diff(times).tolist(), strict=True))


def _stage(
    recipe: Recipe, units: Sequence[Unit], stages: dict[str, StageResult], run: Path
) -> dict[str, float]:
    """Seconds of the whole stage, by Beam's local runner."""
    space = Workspace(run, choose_runner(1, []), Progress())
    began, worked = time.monotonic(), time.process_time()
    done = select(space, recipe, units, [stages["clusters"]], _known(stages))
    seconds, cpu = time.monotonic() - began, time.process_time() - worked
    shutil.rmtree(done.folder)
    return {"stage": seconds, "cpu": cpu}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


# --- a finished run ---------------------------------------------------------------------------------------


def recipe_of(selection: dict[str, Any] | None = None) -> Recipe:
    """The recipe of the run, with a selection."""
    return parse_recipe(
        {
            "name": "made up",
            "inputs": [{"path": f"{source}.jsonl", "source": source} for source in SOURCES],
            "model": {"path": "model"},
            "models": {role: {"path": role} for role in ROLES},
            "check": {"gold": "gold"},
            "score": list(SCORERS),
            "select": [selection] if selection else [],
            "emit": {"tokens": "always"},
        }
    )


def make_run(run: Path, rows: int, tokens: int) -> None:
    """Writes the stages of a finished run that reselection reads.

    Args:
        run: The run's folder, made if absent.
        rows: Rows that have been scored or refused by the model; for each 19 there is one duplicate.
        tokens: Mean response tokens of a row.
    """
    work = run / ".winnow"
    total = rows + rows // 19
    is_duplicate = np.zeros(total, np.bool_)
    is_duplicate[np.random.default_rng(0).permutation(total)[: total - rows]] = True
    ingested = _stage_of(work, "ingest", _examples(work / "ingest-made", total))
    units = plan_units(ingested)
    drops = work / "clusters-made" / "duplicates.parquet"
    drops.parent.mkdir()
    write_parquet(drops, _drops(np.flatnonzero(is_duplicate)), DROP_SCHEMA)
    _stage_of(work, "clusters", [str(drops)])

    passes = {f"score-{one.role}" if one.role else "score": one for one in recipe_of().passes()}
    schemas = {
        name: scores_schema(one.scorers, one.tokens, [*stored_for(SCORERS, one.role)])
        for name, one in passes.items()
    }
    compared = columns_of(scorer.name for scorer in comparing(SCORERS))
    schemas["compare"] = pa.schema(
        [("id", pa.string()), *((column.name, pa.float64()) for column in compared)]
    )
    schemas["check"] = CHECK_SCHEMA
    for name, schema in schemas.items():
        _stage_of(
            work, name, list(_columns(work / f"{name}-made", name, schema, units, is_duplicate, tokens))
        )
    write_json(run / "reselect.json", {"rows": rows, "mean response tokens": tokens, "units": len(units)})


def _stage_of(work: Path, name: str, paths: Sequence[str]) -> list[str]:
    record = {"name": name, "key": "made", "files": [Path(path).name for path in paths]}
    write_json(work / f"{name}-made" / "done.json", {**record, "seconds": 1.0, "stats": {}, "resumed": False})
    return list(paths)


def _examples(folder: Path, total: int) -> list[str]:
    """One file for each source; rival answers to one prompt follow each other."""
    folder.mkdir(parents=True)
    paths = []
    for index, source in enumerate(SOURCES):
        random = np.random.default_rng(index)
        rows = len(range(index, total, len(SOURCES)))
        prompt = np.repeat(np.arange(rows), random.integers(1, MOST_ANSWERS + 1, rows))[:rows]
        paths.append(str(folder / f"part-{index:05d}.parquet"))
        batches = (
            _batch(source, start, prompt[start : start + ROWS_PER_BATCH], random)
            for start in range(0, rows, ROWS_PER_BATCH)
        )
        write_parquet(paths[-1], batches, EXAMPLE_SCHEMA)
    return paths


def _batch(source: str, start: int, prompt: npt.NDArray[np.int64], random: np.random.Generator) -> pa.Table:
    words = np.array(WORDS)[random.integers(0, len(WORDS), (len(prompt), 12))]
    rows = []
    for row, (number, said) in enumerate(zip(prompt.tolist(), words.tolist(), strict=True), start + 1):
        turns = [message("user", f"{' '.join(said[:6])} {number}?"), message("assistant", " ".join(said[6:]))]
        rows.append(
            {
                "id": example_id(source, f"{source}.jsonl", row),
                "source": source,
                "messages": turns,
                "group": f"{source:0>8}{number * 0x9E3779B97F4A7C15 % 2**96:024x}",
                "content_hash": f"{row * 0x9E3779B97F4A7C15 % 2**128:032x}",
                "extra": json.dumps({"topic": said[0], "gold": str(number % 100)}),
            }
        )
    return pa.Table.from_pylist(rows, EXAMPLE_SCHEMA)


def _drops(rows: npt.NDArray[np.int64]) -> pa.Table:
    named = {"stage": "dedupe", "kind": "near", "reason": "near duplicate"}
    columns = {name: pa.repeat(pa.scalar(value, pa.string()), len(rows)) for name, value in named.items()}
    columns |= {"row": pa.array(rows), "id": pa.array([f"duplicate of {row}" for row in rows.tolist()])}
    return pa.table(
        [columns.get(field.name, pa.nulls(len(rows), field.type)) for field in DROP_SCHEMA], DROP_SCHEMA
    )


def _columns(
    folder: Path,
    name: str,
    schema: pa.Schema,
    units: Sequence[Unit],
    is_duplicate: npt.NDArray[np.bool_],
    tokens: int,
) -> Iterator[str]:
    """One file of made-up columns for each unit."""
    folder.mkdir()
    for number, unit in enumerate(units):
        left = ~is_duplicate[unit.row_start : unit.row_start + unit.rows]
        rows = read_unit(unit, ["id", "group"]).filter(pa.array(left)).combine_chunks()
        path = folder / f"{name}-{unit.name}.parquet"
        table = pack(pa.table(_made_up(schema, rows, number, tokens), schema))
        write_parquet(path, table, table.schema)
        yield str(path)


def _made_up(schema: pa.Schema, rows: pa.Table, unit: int, tokens: int) -> list[pa.Array]:
    """Columns drawn at random; lengths and statuses are the same for all schemas of a unit."""
    random, count = np.random.default_rng(unit), rows.num_rows
    ids, group = rows["id"].chunk(0), rows["group"].to_numpy()
    prompts = np.cumsum(np.append(True, group[1:] != group[:-1])) - 1  # rows of one prompt lie side by side
    status = np.where(random.random(count) < 0.99, "ok", "overflow")
    prompt, response = (1 + random.poisson(random.gamma(2, tokens / 2, count)[prompts]) for _ in range(2))
    ok = status == "ok"
    at = np.concatenate([np.arange(p, p + r) for p, r in zip(prompt[ok], response[ok], strict=True)])
    known = {
        "id": ids,
        "status": pa.array(status),
        "prompt_tokens": pa.array(prompt, pa.int32()),
        "response_tokens": pa.array(response, pa.int32()),
        "truncated": pa.array(random.random(count) < 0.01),
        "input_ids": _lists(
            _alike(prompts[ok], (prompt + response)[ok], random), prompt + response, ok, pa.int32()
        ),
        "response_at": _lists(at, response, ok, pa.int32()),
        "answer": pa.array(
            [str(answer) for answer in random.integers(0, 100, count)], mask=random.random(count) < 0.1
        ),
        "correct": pa.array((random.random(count) < 0.6).astype(float), mask=random.random(count) < 0.1),
        "wrong_calculations": pa.array((random.random(count) < 0.02).astype(float)),
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in known:
            return known[field.name]
        if pa.types.is_list(field.type):
            return _lists(random.gamma(0.5, 4, int(response[ok].sum())), response, ok, field.type.value_type)
        if pa.types.is_string(field.type):  # a text that shows what a number counts
            return pa.nulls(count, pa.string())
        return pa.array(random.gamma(2, 1, count), field.type, mask=~ok)

    return [column(field) for field in schema]


def _alike(
    prompts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Token ids of rows of these lengths: at each place the prompt's own, and in one of ten another."""
    longest = np.zeros(prompts[-1] + 1, np.int64)
    np.maximum.at(longest, prompts, lengths)
    own, starts = random.integers(0, VOCABULARY, longest.sum()), offsets_of(longest)[prompts]
    found = np.concatenate([own[at : at + length] for at, length in zip(starts, lengths, strict=True)])
    changed = random.random(len(found)) < 0.1
    found[changed] = random.integers(0, VOCABULARY, changed.sum())
    return found


def _lists(
    values: npt.NDArray[Any], lengths: npt.NDArray[np.int64], known: npt.NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    """Lists of these lengths, null where not known."""
    offsets = np.concatenate(([0], np.cumsum(np.where(known, lengths, 0)))).astype(np.int32)
    flat = pa.array(values.astype(numpy_type(kind)))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~known))


if __name__ == "__main__":
    main()

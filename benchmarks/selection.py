"""Does selection help? GSM8K with exchanged answers, several selectors, the same model trained on each set.

    python -m benchmarks.selection --gsm8k FOLDER --work WORK [--noise 0.2 0.4 0.1] [--workers 2]

The model is the quickstart's in size and tokenizer, trained from random weights on WARM_ROWS clean rows of
GSM8K's train split that take no further part, and taken after 500 of WARM_STEPS steps, before its learning
rate has fallen: its signals mean something, no row of the pool is known to it, and further training still
teaches it. The pool is POOL_ROWS other rows of that split, of which a share has passed its answers round.
Every selector chooses about a sixth of the pool's trained tokens, within 1 %. Loss is measured on clean rows
of GSM8K's test split. `clean rows only` chooses at random among the rows that were not exchanged: what a
perfect filter would give, for comparison.

Everything is kept under WORK and not done again: call it a second time to go on, or to print the tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from transformers import AutoTokenizer

from benchmarks.planted import Answer, exchange_answers
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import reselect, run
from pipelines.runner import RunnerChoice
from quickstart.train_model import encode, gsm8k, new_model, train

TOKENIZER = Path(__file__).parent.parent / "quickstart" / "model"
WARM_ROWS, WARM_STEPS, WARM_RATE = 3500, 800, 3e-3
POOL_ROWS, HELD_OUT_ROWS = 1000, 300
SHARE, SAME_TOKENS, MOST_TRIES = 1 / 6, 0.01, 6
STEP_TOKENS, RATE = 512, 5e-4

Select = list[dict[str, Any]]

# What each selector is asked for, by the share of the rows that it keeps.
SELECTORS: dict[str, Callable[[float], Select]] = {
    "Q-Tuning": lambda keep: [{"q_tuning": {"keep": keep, "token_keep": 0.7}}],
    "GRAPE's loss, lowest": lambda keep: [{"top_k": {"column": "loss", "order": "lowest", "keep": keep}}],
    "middle perplexity": lambda keep: [{"perplexity_band": {"low": 0.5 - keep / 2, "high": 0.5 + keep / 2}}],
    "highest perplexity": lambda keep: [{"perplexity_band": {"low": 1 - keep, "high": 1.0}}],
    "IFD": lambda keep: [
        {"threshold": {"column": "ifd_ppl", "max": 1.0}},
        {"top_k": {"column": "ifd_ppl", "order": "highest", "keep": keep}},
    ],
    "DONOD": lambda keep: [{"donod": {"keep": keep}}],
    "verdict": lambda keep: [{"verdict": {"keep": keep, "token_keep": 0.7}}],
    "verdict, suspect 0.5": lambda keep: [{"verdict": {"keep": keep, "token_keep": 0.7, "suspect": 0.5}}],
    "clean rows only": lambda keep: [
        {"threshold": {"column": "extra.planted", "max": 0}},
        {"random": {"keep": keep}},
    ],
}


def warm_model(folder: Path, conversations: Sequence[Any], seed: int) -> Path:
    """Trains the target model from random weights, once; the folder gets it as it is after 500 steps."""
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        model = new_model(tokenizer)
        train(model, encode(tokenizer, conversations), WARM_STEPS, seed, WARM_RATE, folder)
        tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, answers: Sequence[Answer]) -> None:
    """JSON lines of question, answer and whether the answer was exchanged."""
    rows = [{"question": a.prompt, "answer": a.response, "planted": int(a.wrong)} for a in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def recipe(pool: Path, model: Path, name: str, select: Select) -> Any:  # noqa: ANN401 - a Recipe
    """A recipe on the pool; all scores that some selector reads."""
    plain = {
        "name": name,
        "inputs": [{"path": str(pool), "source": "gsm8k"}],
        "dedupe": {"exact": False, "minhash": None},
        "model": {"path": str(model), "max_tokens": 512},
        "score": ["loss", "entropy", "ifd", "donod"],
        "emit": {"tokens": "always"},
        "select": select,
    }
    return parse_recipe(plain)


def trained_tokens(out: Path) -> int:
    """Tokens of a run's training set that have a label."""
    labels = [pq.read_table(path, columns=["labels"])["labels"] for path in sorted((out / "train").glob("*"))]
    return sum(int((np.asarray(part.flatten()) != -100).sum()) for own in labels for part in own.chunks)


def choose(base: Path, out: Path, pool: Path, model: Path, name: str, tokens: int) -> None:
    """Lets a selector choose again with another share until it keeps about as many trained tokens."""
    make, keep = SELECTORS[name], SHARE
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(base, out)
    for _ in range(MOST_TRIES):
        reselect(out, recipe(pool, model, name, make(keep)), RunnerChoice(), Progress())
        found = trained_tokens(out)
        print(f"  {name}: keeps {keep:.4f} of the rows, {found:,} of {tokens:,} trained tokens", flush=True)
        if abs(found - tokens) <= SAME_TOKENS * tokens:
            return
        keep = min(1.0, keep * tokens / found)


def planted_share(out: Path) -> float:
    """Share of the kept rows whose answers were exchanged."""
    extra = [
        row for path in sorted((out / "train").glob("*")) for row in pq.read_table(path)["extra"].to_pylist()
    ]
    return float(np.mean([json.loads(row)["planted"] for row in extra]))


def planted_among_longest(base: Path, tokens: int) -> float:
    """Share of exchanged answers among the longest responses up to a number of tokens."""
    table = pq.read_table(sorted((base / "train").glob("*"))[0].parent)
    order = np.argsort(-table["response_tokens"].to_numpy(), kind="stable")
    so_far = np.cumsum(table["response_tokens"].to_numpy()[order])
    longest = order[: int(np.searchsorted(so_far, tokens)) + 1]
    extra = table["extra"].to_pylist()
    return float(np.mean([json.loads(extra[at])["planted"] for at in longest]))


@dataclass(frozen=True)
class Study:
    """The results at one share of exchanged answers.

    Attributes:
        noise: That share.
        results: As `evaluate` gives them.
        exchanged: Share of exchanged answers in each set.
    """

    noise: float
    results: dict[str, Any]
    exchanged: dict[str, float]


def study(
    noise: float,
    work: Path,
    model: Path,
    pool: Sequence[Answer],
    held_out: Path,
    options: Any,  # noqa: ANN401
) -> Study:
    """Selections at one share of exchanged answers, measured."""
    folder = work / f"noise-{100 * noise:.0f}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pool.jsonl"
    write_rows(file, exchange_answers(pool, noise, options.seed))
    base = folder / "everything"
    run(recipe(file, model, "everything", [{"random": {"keep": 1.0}}]), base, RunnerChoice(), Progress())
    tokens = round(SHARE * trained_tokens(base))
    outs = {name: folder / name.replace(" ", "-").replace("'", "").replace(",", "") for name in SELECTORS}
    for name, out in outs.items():
        if not (out / "chosen").exists():
            choose(base, out, file, model, name, tokens)
            (out / "chosen").touch()
    settings = EvaluateSettings(
        held_out=str(held_out), held_out_rows=HELD_OUT_ROWS, seeds=options.seeds, epochs=1.0,
        step_tokens=STEP_TOKENS, learning_rate=RATE,
        curve_points=0, workers=options.workers, threads=1,
    )  # fmt: skip
    console = Console(highlight=False)
    done = evaluate(list(outs.values()), folder / "evaluation", settings, Progress(console))
    shares = {name: planted_share(out) for name, out in outs.items()}
    shares |= {"random": noise, "everything": noise, "longest": planted_among_longest(base, tokens)}
    return Study(noise, done.results, shares)


def overview(studies: Sequence[Study]) -> str:
    """One Markdown table of all: how much exchanged each set holds, and its loss less that of random rows.

    A difference is bold where its interval does not hold 0.
    """
    heads = [f"{100 * own.noise:.0f} % exchanged: kept | loss less random's" for own in studies]
    lines = [f"| trained on | {' | '.join(heads)} |", "|---|" + "--:|---|" * len(studies)]
    for label in [arm["label"] for arm in studies[0].results["arms"]]:
        lines.append(f"| {label} | {' | '.join(_cells(own, label) for own in studies)} |")
    return "\n".join(lines)


def _cells(own: Study, label: str) -> str:
    """The two cells of a set; the sets that are no selection have a difference without an interval."""
    share = f"{100 * own.exchanged[label]:.0f} %" if label in own.exchanged else ""
    against_random = [
        one["loss"] for one in own.results["comparisons"] if (one["run"], one["against"]) == (label, "random")
    ]
    if against_random:
        return f"{share} | {_difference(against_random[0])}"
    losses = {arm["label"]: arm["loss"] for arm in own.results["arms"]}
    return f"{share} | " + ("" if label == "random" else f"{losses[label] - losses['random']:+.3f}")


def table(own: Study) -> str:
    """One Markdown table: each set, its exchanged rows, its loss, and what it differs by from the others."""
    against = ("random", "longest", "everything")
    heads = " | ".join(f"less {name}" for name in against)
    lines = [
        f"### {100 * own.noise:.0f} % exchanged",
        "",
        f"| trained on | rows | exchanged kept | loss | {heads} |",
        "|---|--:|--:|--:|" + "---|" * len(against),
    ]
    comparisons = own.results["comparisons"]
    for arm in sorted(own.results["arms"], key=lambda one: float(one["loss"])):
        label = arm["label"]
        found = {one["against"]: one["loss"] for one in comparisons if one["run"] == label}
        share = f"{100 * own.exchanged[label]:.0f} %" if label in own.exchanged else ""
        cells = " | ".join(
            f"{_difference(found[name])} {found[name]['verdict']}" if name in found else ""
            for name in against
        )
        lines.append(f"| {label} | {arm['rows']:,} | {share} | {arm['loss']:.4f} | {cells} |")
    return "\n".join(lines)


def _difference(found: dict[str, Any]) -> str:
    sure = {"helps": "**", "does not help": "**", "cannot tell": ""}[found["verdict"]]
    interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
    return f"{sure}{found['difference']:+.3f}{sure} ({interval})"


def main() -> None:
    """Runs the study, or what is left of it, and prints the tables."""
    parser = argparse.ArgumentParser(description="Whether selection helps, on GSM8K with exchanged answers.")
    parser.add_argument("--gsm8k", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="shares exchanged")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each set")
    parser.add_argument("--workers", type=int, default=2, help="models trained side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of what is exchanged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = gsm8k(options.gsm8k / "train.jsonl")
    order = np.random.default_rng(options.seed).permutation(len(rows))
    model = warm_model(options.work / "model", [rows[at] for at in order[:WARM_ROWS]], options.seed)
    answers = [
        Answer(rows[at][0]["content"], rows[at][1]["content"], number)
        for number, at in enumerate(order[WARM_ROWS : WARM_ROWS + POOL_ROWS])
    ]
    studies = [
        study(noise, options.work, model, answers, options.gsm8k / "test.jsonl", options)
        for noise in options.noise
    ]
    print("\n\n".join(["", overview(studies), *map(table, studies)]))


if __name__ == "__main__":
    main()

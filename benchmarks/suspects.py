"""How well each signal finds wrong answers, on real data: area under the ROC curve, printed as a table.

    python -m benchmarks.suspects --data DIR [--model PATH ...] [--rows N] [--seed 0]

A cell is the probability that a wrong answer has a higher value than a right one, ties counted half: 0.5 is
chance. What is suspicious, high or low, is fixed beforehand for every signal and is the same in every column.
Of a signal that some rows lack, the share of rows that have it stands beside the number. Columns:

- exchanged: answers of some rows passed round among them (Alpaca; GSM8K)
- miscalculated: one digit of the last result of some GSM8K answers changed, wherever it stands after that
- model answers: answers of three Abel models to GSM8K's test questions, some wrong
- hallucinated: ChatGPT's answers of HaluEval that people found to hold a hallucination
- worse of two, and pairs: LLMBar's worse answers among all answers; among the two of each pair

The signals are those of the project's scorers and of its verdict (pipelines/selectors/suspicion.py), and the
usual baselines. Rows longer than a model's context are left out. Two things to know when reading: the model
of the quickstart was trained on GSM8K's train split (`--split test` plants in rows it never saw), and a
planted miscalculation is by construction a calculation that does not hold.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks.planted import Answer, read_sets
from connectors.examples import EXAMPLE_SCHEMA, Conversation, example_row, message
from pipelines.selectors.id_order import id_order
from pipelines.selectors.suspicion import quantiles, rivals_that_differ, suspicion
from scorers.base import Output
from scorers.calculations import wrong_calculations
from scorers.correctness import answer_of
from scorers.models.loading import LoadedModel, load_model
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from scorers.prompt_overlap import prompt_overlap

QUICKSTART_MODEL = Path(__file__).parent.parent / "quickstart" / "model"
SCORERS = ("loss", "entropy", "top1_agreement", "ifd", "el2n", "donod")
STORED: tuple[Output, ...] = ("rank",)
TOP_SHARE = 0.1  # of the response tokens

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A labelled set with what a model says of it.

    Attributes:
        answers: The rows.
        scores: Columns of the scorers, and the stored numbers of each response token, one row an answer.
    """

    answers: Sequence[Answer]
    scores: pa.RecordBatch

    def __getitem__(self, column: str) -> Floats:
        """A column of the scores, NaN where it is null."""
        return np.array(self.scores.column(column).to_pylist(), dtype=np.float64)

    def per_row(self, reduce: Callable[[Floats], float], column: str) -> Floats:
        """A number for each row from the stored numbers of its tokens."""
        return np.array([reduce(np.array(row, np.float64)) for row in self.scores.column(column).to_pylist()])

    @cached_property
    def misfit(self) -> Floats:
        """How much less likely the prompt makes the response, nats."""
        return (self["loss"] - self["direct_loss"]) * self["response_tokens"]

    @cached_property
    def overlap(self) -> Floats:
        """Share of the response's words that the prompt has, NaN for a response without words."""
        return np.array([prompt_overlap(one.prompt, one.response) for one in self.answers], np.float64)

    @cached_property
    def wrong(self) -> Floats:
        """Calculations that do not hold."""
        return np.array([len(wrong_calculations(one.response)) for one in self.answers], np.float64)

    @cached_property
    def rivals(self) -> Floats:
        """Share of the rivals that end otherwise, NaN without rivals."""
        table = pa.table(
            {
                "group": [str(one.group) for one in self.answers],
                "answer": pa.array([answer_of(one.response, "math") for one in self.answers], pa.string()),
            }
        )
        return rivals_that_differ(table, np.ones(len(self.answers), np.bool_))

    def suspicion(self, misfit: Floats) -> Floats:
        """The verdict's order of answers."""
        known = np.ones(len(self.answers), np.bool_)
        return suspicion(misfit, self.overlap, self.wrong, self.rivals, known)


def _top_mean(values: Floats) -> float:
    return float(np.sort(values)[-int(np.ceil(TOP_SHARE * len(values))) :].mean())


def _random(s: Scored) -> Floats:
    return id_order((answer.prompt + answer.response for answer in s.answers), seed=0).astype(np.float64)


# Higher is more suspect.
SIGNALS: dict[str, Callable[[Scored], Floats]] = {
    "random": _random,
    "response tokens": lambda s: s["response_tokens"],
    "loss (= perplexity)": lambda s: s["loss"],
    "ifd_ppl": lambda s: s["ifd_ppl"],
    "ifd_loss": lambda s: s["ifd_loss"],
    "entropy": lambda s: s["entropy"],
    "1 - top1_agreement": lambda s: 1 - s["top1_agreement"],
    "el2n": lambda s: s["el2n"],
    "g_norm": lambda s: s["g_norm"],
    "loss - entropy (= wg_inner)": lambda s: s["loss"] - s["entropy"],
    "mean log(1 + rank)": lambda s: s.per_row(lambda rank: float(np.log1p(rank).mean()), "token_rank"),
    "highest 10 % of token losses": lambda s: s.per_row(_top_mean, "token_nll"),
    "misfit: (loss - direct_loss) x tokens": lambda s: s.misfit,
    "text: 1 - overlap with the prompt": lambda s: 1 - s.overlap,
    "text: a calculation does not hold": lambda s: (s.wrong > 0).astype(np.float64),
    "text: rivals end otherwise": lambda s: s.rivals,
    "suspicion, text and rivals only": lambda s: s.suspicion(np.full(len(s.answers), np.nan)),
    "suspicion, without overlap": lambda s: quantiles(s.misfit) + (s.wrong > 0) + np.nan_to_num(s.rivals),
    "suspicion, as the verdict has it": lambda s: s.suspicion(s.misfit),
}


def auc(values: Floats, wrong: npt.NDArray[np.bool_]) -> float:
    """Probability that a wrong answer's value exceeds a right one's, ties counted half (rank sum).

    Rows whose value is NaN do not count; NaN where no wrong or no right row is left.

    Example:
        >>> auc(np.array([3.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False]))
        0.875
    """
    known = np.isfinite(values)
    ranks, labels = quantiles(values[known]) * known.sum() + 0.5, wrong[known]
    ones, zeros = int(labels.sum()), int((~labels).sum())
    if not ones or not zeros:
        return float("nan")
    return float((ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def pair_accuracy(values: Floats, answers: Sequence[Answer]) -> float:
    """Share of the pairs whose wrong answer has the higher value, ties counted half; NaN without pairs."""
    wins = []
    for rows in _members([answer.group for answer in answers]):
        worse = [values[at] for at in rows if answers[at].wrong]
        better = [values[at] for at in rows if not answers[at].wrong]
        if len(worse) == len(better) == 1 and np.isfinite([*worse, *better]).all():
            wins.append((worse[0] > better[0]) + 0.5 * (worse[0] == better[0]))
    return float(np.mean(wins)) if wins else float("nan")


def _members(groups: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Places of each group's rows."""
    places: dict[int, list[int]] = defaultdict(list)
    for at, group in enumerate(groups):
        places[group].append(at)
    return [np.array(rows) for rows in places.values()]


def score(model: LoadedModel, answers: Sequence[Answer], threads: int) -> Scored:
    """Scores the answers; keeps what fits the model's context."""
    scores, _ = score_examples(
        model, _examples(answers), SCORERS, store_tokens=True, store_outputs=STORED, threads=threads
    )
    fits = np.array([status == "ok" for status in scores.column("status").to_pylist()])
    kept = [answer for answer, fit in zip(answers, fits, strict=True) if fit]
    return Scored(kept, scores.filter(pa.array(fits)))


def _examples(answers: Sequence[Answer]) -> pa.RecordBatch:
    rows = [
        example_row(
            Conversation([message("user", one.prompt), message("assistant", one.response)]), "", f"{at:06d}"
        )
        for at, one in enumerate(answers)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=EXAMPLE_SCHEMA)


def measure(scored: Scored, with_pairs: bool) -> dict[str, tuple[float, float, float]]:
    """(AUC, pair accuracy, share of the rows that have a value) of every signal."""
    wrong = np.array([answer.wrong for answer in scored.answers])
    found = {}
    for name, signal in SIGNALS.items():
        values = signal(scored)
        accuracy = pair_accuracy(values, scored.answers) if with_pairs else float("nan")
        found[name] = auc(values, wrong), accuracy, float(np.isfinite(values).mean())
    return found


def report(sets: dict[str, Scored]) -> str:
    """The table of one model."""
    names = list(sets)
    measured = {name: measure(scored, name.startswith("worse")) for name, scored in sets.items()}
    heads, chance = [], []
    for name, scored in sets.items():
        wrong = sum(answer.wrong for answer in scored.answers)
        rows = len(scored.answers)
        heads.append(f"{name}<br>{rows:,} rows, {wrong / max(1, rows):.0%} wrong")
        both = wrong * (rows - wrong)
        chance.append(_cell(np.sqrt((rows + 1) / (12 * both)) if both else np.nan, 1.0))
    lines = [f"| higher is more suspect | {' | '.join(heads)} | pairs |", f"|---|{'--:|' * (len(names) + 1)}"]
    lines.append(f"| one standard error of chance | {' | '.join(chance)} | |")
    for signal in SIGNALS:
        row = [measured[name][signal] for name in names]
        cells = [_cell(area, share) for area, _, share in row]
        accuracies = [accuracy for _, accuracy, _ in row if np.isfinite(accuracy)]
        cells.append(_cell(accuracies[0], 1.0) if accuracies else "")
        lines.append(f"| {signal} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float, share: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.3f}" if share > 0.995 else f"{value:.3f} ({share:.0%})"


def main() -> None:
    """Runs the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--model", nargs="+", help="folders of models; default: the two small ones")
    parser.add_argument("--rows", type=int, default=1500, help="most rows of each set")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="of GSM8K, to plant in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sets = read_sets(options.data, options.rows, options.seed, options.split)
    for path in options.model or [str(QUICKSTART_MODEL), str(options.data / "models" / "stories260K")]:
        began = time.perf_counter()
        model = load_model(ModelSettings(path=path, device="cpu", dtype="float32"))
        table = report({name: score(model, answers, options.threads) for name, answers in sets.items()})
        machine = f"{_processor()}, Python {platform.python_version()}, torch {torch.__version__}"
        seconds = f"{options.threads} threads, {time.perf_counter() - began:.0f} s"
        drawn = f"{options.rows} rows a set, seed {options.seed}, GSM8K {options.split}"
        print(f"\n{Path(path).name}, {drawn}; {machine}, {seconds}\n\n{table}", flush=True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()

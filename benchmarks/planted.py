"""Answers with labels, on real data: planted mismatches and miscalculations, and labels that people gave."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from connectors.examples import normalise
from scorers.calculations import holds

PLANTED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a label.

    Attributes:
        prompt: What was asked.
        response: What was answered.
        group: Number of the question; rival answers share it.
        wrong: The label.
    """

    prompt: str
    response: str
    group: int
    wrong: bool = False


def exchange_answers(answers: Sequence[Answer], share: float, seed: int) -> list[Answer]:
    """Passes the answers of a share of the rows round in one ring, so that none keeps its own.

    Only rows whose answer no other row gives take part: a twin's answer would be right.

    Raises:
        ValueError: If fewer than two rows would take part.
    """
    twins = Counter(normalise(answer.response) for answer in answers)
    free = [at for at, answer in enumerate(answers) if twins[normalise(answer.response)] == 1]
    ring = np.random.default_rng(seed).permutation(free)[: round(share * len(answers))]
    if len(ring) < 2:
        raise ValueError(f"{len(ring)} of {len(answers)} rows to exchange answers; give more rows")
    planted = list(answers)
    for at, donor in zip(ring, np.roll(ring, 1), strict=True):
        planted[at] = replace(answers[at], response=answers[donor].response, wrong=True)
    return planted


def miscalculate(answers: Sequence[Answer], share: float, seed: int) -> list[Answer]:
    """Makes the last calculation, and with it the final answer, of a share of GSM8K's rows wrong.

    Raises:
        ValueError: If too few rows end in a calculation of a whole number.
    """
    rng = np.random.default_rng(seed)
    planted, wanted = list(answers), round(share * len(answers))
    for at in rng.permutation(len(answers)):
        changed = with_wrong_result(answers[at].response, rng) if wanted else None
        if changed is not None:
            planted[at] = replace(answers[at], response=changed, wrong=True)
            wanted -= 1
    if wanted:
        raise ValueError(f"{wanted} rows short: too few of {len(answers)} end in a calculation")
    return planted


_CALCULATION = re.compile(r"<<([^<>=]+)=(\d+)>>")
_WHOLE = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?=(?:\.0+)?(?!\d|[.,]\d))")


def with_wrong_result(response: str, rng: np.random.Generator) -> str | None:
    """A GSM8K answer with one digit of its final result changed, as long as before.

    The result changes in the last calculation and wherever it stands after that, in the same notation
    (1200, 1,200, 1200.00); all that comes before stays. None where the last calculation does not hold, or
    does not give the final answer as a whole number.
    """
    calculations = list(_CALCULATION.finditer(response))
    final = re.search(r"#### ([\d,]+)$", response)
    if not calculations or final is None:
        return None
    expression, result = calculations[-1].groups()
    if final[1].replace(",", "") != result or not holds(expression, result):
        return None
    place = int(rng.integers(len(result)))
    digits = [d for d in "0123456789" if d != result[place] and (d != "0" or place > 0)]
    wrong = result[:place] + digits[int(rng.integers(len(digits)))] + result[place + 1 :]

    def rewrite(number: re.Match[str]) -> str:
        if number[0].replace(",", "") != result:
            return number[0]
        digit = iter(wrong)
        return re.sub(r"\d", lambda _: next(digit), number[0])

    start = calculations[-1].start(2)
    return response[:start] + _WHOLE.sub(rewrite, response[start:])


def read_sets(data: Path, rows: int, seed: int, split: str = "train") -> dict[str, list[Answer]]:
    """The labelled sets, each of at most `rows` rows, drawn and planted by the seed."""
    alpaca = [
        (f"{row['instruction']}\n{row['input']}".strip(), row["output"])
        for row in json.loads(gzip.decompress((data / "alpaca/alpaca_data.json.gz").read_bytes()))
        if row["output"].strip()
    ]
    gsm8k = [(row["question"], row["answer"]) for row in _lines(data / f"gsm8k/{split}.jsonl")]
    models = [_lines(data / f"gsm8k_answers/abel_gsm8k_{size}.jsonl.gz") for size in ("7b", "13b", "70b")]
    questions = _draw(list(zip(*models, strict=True)), rows // len(models), seed)
    hallucinated = _draw(_lines(data / "halueval/general_data.json.gz"), rows, seed)
    parts = [json.loads(file.read_bytes()) for file in sorted(data.glob("llmbar/**/dataset.json"))]
    pairs = _draw([pair for part in parts for pair in part], rows // 2, seed)

    def number(drawn: list[tuple[str, str]]) -> list[Answer]:
        return [
            Answer(prompt, response, at) for at, (prompt, response) in enumerate(_draw(drawn, rows, seed))
        ]

    return {
        "exchanged, Alpaca": exchange_answers(number(alpaca), PLANTED_SHARE, seed),
        "exchanged, GSM8K": exchange_answers(number(gsm8k), PLANTED_SHARE, seed),
        "miscalculated, GSM8K": miscalculate(number(gsm8k), PLANTED_SHARE, seed),
        "model answers, GSM8K": [
            Answer(rival["prompt"], rival["response"], at, not rival["result"])
            for at, rivals in enumerate(questions)
            for rival in rivals
        ],
        "hallucinated, HaluEval": [
            Answer(row["user_query"], row["chatgpt_response"], at, row["hallucination"] == "yes")
            for at, row in enumerate(hallucinated)
        ],
        "worse of two, LLMBar": [
            Answer(pair["input"], pair[f"output_{side}"], at, pair["label"] != side)
            for at, pair in enumerate(pairs)
            for side in (1, 2)
        ],
    }


def _lines(path: Path) -> list[Any]:
    packed = path.read_bytes()
    return list(map(json.loads, (gzip.decompress(packed) if path.suffix == ".gz" else packed).splitlines()))


def _draw(rows: list[Any], count: int, seed: int) -> list[Any]:
    return [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))[:count]]

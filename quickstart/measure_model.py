"""Measures the quickstart's model on rows it has not seen, and prints the model card's table.

    python -m quickstart.measure_model [--gsm8k GSM8K_FOLDER]

Loss is the mean negative log-probability in nats of the tokens of the response, its end mark included.
The conditional loss reads the response after its prompt, the direct loss after the bare header of
an assistant turn. It is an independent computation: nothing of the pipeline is used.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from connectors.examples import message
from quickstart.make_corpus import build
from quickstart.planting import with_response
from quickstart.rows import Row, single_turn
from quickstart.train_model import CONTEXT, gsm8k, held_out

MODEL = Path(__file__).parent / "model"
GSM8K_ROWS = 300


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one response, nats per token: after its prompt, alone, and with its words shuffled."""

    conditional: float
    direct: float
    shuffled: float


Measured = tuple[str, Losses]  # file, losses of one of its rows


def load(folder: Path = MODEL) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32, ready to score) and tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def token_ids(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """Token ids of the prompt (with the header of the answer) and of the response (all that follows)."""
    whole = tokenizer.apply_chat_template(row.messages, tools=row.tools, tokenize=False)
    before = tokenizer.apply_chat_template(
        row.messages[:-1], tools=row.tools, tokenize=False, add_generation_prompt=True
    )
    ids, prompt = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, before))
    return prompt, ids[len(prompt) :]


def header_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the start of the text and the bare header of an assistant's turn."""
    turns = [message("user", "")]
    before = tokenizer.apply_chat_template(turns, tokenize=False)
    with_header = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    header = tokenizer.bos_token + with_header.removeprefix(before)
    ids: list[int] = tokenizer(header, add_special_tokens=False)["input_ids"]
    return ids


@torch.inference_mode()
def mean_loss(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> float:
    """Mean negative log-probability of the response tokens after the prompt, in nats."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()  # (T, V)
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(response)))


def losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: Row) -> Losses | None:
    """The three losses of a row; None when it is longer than the model's context."""
    alone = header_ids(tokenizer)
    prompt, response = token_ids(tokenizer, row)
    words = row.response.split(" ")
    random.Random(0).shuffle(words)  # noqa: S311 - the same shuffle each time, no secret
    _, mixed = token_ids(tokenizer, with_response(row, " ".join(words)))
    if len(prompt) + max(len(response), len(mixed)) > CONTEXT:
        return None
    return Losses(
        mean_loss(model, prompt, response), mean_loss(model, alone, response), mean_loss(model, prompt, mixed)
    )


def auc(higher: Mapping[str, Sequence[float]], lower: Mapping[str, Sequence[float]]) -> float:
    """Probability that a value of the first group exceeds one of the second, ties counted half.

    Values are by file, and only values of one file are compared: files differ more than good and bad.

    Example:
        >>> auc({"a": [3.0, 2.0], "b": [0.0]}, {"a": [1.0, 2.0], "b": [1.0]})
        0.7
    """
    pairs = [(x, y) for file, values in higher.items() for x in values for y in lower.get(file, ())]
    return sum((x > y) + 0.5 * (x == y) for x, y in pairs) / len(pairs)


def share(truths: Iterable[bool]) -> float:
    """Fraction of true values."""
    values = list(truths)
    return sum(values) / len(values)


def print_quality(groups: Mapping[str, Sequence[Measured]]) -> None:
    """The first table: is it a language model, and does the prompt help?"""
    print("| rows | number | conditional loss | direct loss | real below shuffled | IFD below 1 |")
    print("|---|---|---|---|---|---|")
    for name, rows in groups.items():
        conditional = sum(x.conditional for _, x in rows) / len(rows)
        direct = sum(x.direct for _, x in rows) / len(rows)
        real = share(x.conditional < x.shuffled for _, x in rows)
        helped = share(x.conditional < x.direct for _, x in rows)
        print(f"| {name} | {len(rows)} | {conditional:.2f} | {direct:.2f} | {real:.1%} | {helped:.1%} |")


def print_detection(good: Sequence[Measured], defects: Mapping[str, Sequence[Measured]]) -> None:
    """The second table: how well two scores tell planted rows from good rows of the same file."""

    def by_file(rows: Sequence[Measured], score: Callable[[Losses], float]) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        for file, x in rows:
            values.setdefault(file, []).append(score(x))
        return values

    print("\n| planted defect | rows | AUC of loss | AUC of IFD |\n|---|---|---|---|")
    for kind, rows in defects.items():
        loss, ifd = (
            auc(by_file(rows, score), by_file(good, score))
            for score in (lambda x: x.conditional, lambda x: x.conditional - x.direct)
        )
        print(f"| {kind.replace('_', ' ')} | {len(rows)} | {loss:.2f} | {ifd:.2f} |")


def main() -> None:
    """Prints the tables of the model card."""
    parser = argparse.ArgumentParser(description="Measure the quickstart's language model.")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--gsm8k", type=Path, help="folder with test.jsonl; left out, GSM8K is not measured")
    options = parser.parse_args()
    torch.set_num_threads(1)  # for a model this small, more threads wait for each other
    model, tokenizer = load(options.model)

    def measure(rows: Iterable[tuple[str, Row]]) -> list[Measured]:
        return [(file, x) for file, row in rows if (x := losses(model, tokenizer, row))]

    records = [record for file in build().values() for record in file]
    clean = [(r.file, r.row) for r in records if r.planted is None]
    good = measure((file, row) for file, row in clean if held_out(row.messages))
    seen = measure((file, row) for file, row in clean if not held_out(row.messages))
    groups = {"corpus, held out": good, "corpus, trained on": seen}
    if options.gsm8k:
        turns = gsm8k(options.gsm8k / "test.jsonl")[:GSM8K_ROWS]
        pairs = ((question["content"], answer["content"]) for question, answer in turns)
        groups["GSM8K test"] = measure(("gsm8k", single_turn("gsm8k", *pair)) for pair in pairs)
    print_quality(groups)
    kinds = ("mismatched_answer", "wrong_arithmetic", "truncated_answer")
    print_detection(good, {k: measure((r.file, r.row) for r in records if r.planted == k) for k in kinds})


if __name__ == "__main__":
    main()

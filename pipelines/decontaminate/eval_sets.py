"""Evaluation sets: where they are, which of their fields are the prompt and the response, and their items.

A set is named by what it is (`gsm8k`) and read from a file, or from the Hugging Face hub when no path is
given; or it is any file of the user's, with its fields stated or found as those of an input are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from connectors.examples import BadRow, prompt_text, response_text
from connectors.readers import InputFile, InputSpec, find_files, read_examples, read_rows
from pipelines.decontaminate.settings import EvalSet


@dataclass(frozen=True)
class KnownSet:
    """A published evaluation set.

    Attributes:
        doc: What it asks.
        dataset: Its id on the Hugging Face hub.
        subset: Configuration there, None for the only one.
        split: The split that is evaluated on.
        prompt: Fields that may hold the prompt, by falling preference.
        response: Fields that may hold the answer.
    """

    doc: str
    dataset: str
    subset: str | None
    split: str
    prompt: tuple[str, ...]
    response: tuple[str, ...]


KNOWN_SETS = {
    "gsm8k": KnownSet(
        "grade school maths", "openai/gsm8k", "main", "test", ("question",), ("answer",)
    ),
    "gsm_hard": KnownSet(
        "GSM8K with large numbers", "reasoning-machines/gsm-hard", None, "train", ("input",), ("code",)
    ),
    "math500": KnownSet(
        "500 problems of MATH", "HuggingFaceH4/MATH-500", None, "test", ("problem",), ("solution",)
    ),
    "humaneval": KnownSet(
        "Python functions", "openai/openai_humaneval", None, "test", ("prompt",), ("canonical_solution",)
    ),
    "mbpp": KnownSet(
        "short Python programs", "google-research-datasets/mbpp", None, "test", ("text", "prompt"), ("code",)
    ),
    "truthfulqa": KnownSet(
        "questions with popular false answers", "truthfulqa/truthful_qa", "generation", "validation",
        ("Question", "question"), ("Best Answer", "best_answer"),
    ),
    "mt_bench": KnownSet(
        "80 two-turn tasks", "HuggingFaceH4/mt_bench_prompts", None, "train", ("turns", "prompt"),
        ("reference",),
    ),
}  # fmt: skip


class EvalItem(NamedTuple):
    """One item of an evaluation set; a text is empty where the item has none."""

    eval_set: str
    item: str  # "file:row"
    prompt: str
    response: str


def set_files(eval_set: EvalSet, base: Path) -> list[InputFile]:
    """The files of an evaluation set.

    Raises:
        ValueError: If there are none, or the set is on the hub and the package `datasets` is missing.
    """
    if eval_set.path is not None:
        return find_files(InputSpec(path=eval_set.path, source=eval_set.set_name), base)
    known = KNOWN_SETS[eval_set.set_name]
    spec = InputSpec(dataset=known.dataset, subset=known.subset, split=known.split, source=eval_set.set_name)
    return find_files(spec, base)


def read_items(eval_set: EvalSet, files: list[InputFile]) -> Iterator[EvalItem]:
    """The items of an evaluation set.

    Raises:
        ValueError: If a row cannot be read, or has none of the fields: what is not read is not searched for,
            so that a set with such a row is refused.
    """
    known = KNOWN_SETS.get(eval_set.set_name)
    if eval_set.fields:
        prompt: tuple[str, ...] = (eval_set.fields["prompt"],) if "prompt" in eval_set.fields else ()
        response: tuple[str, ...] = (eval_set.fields["response"],) if "response" in eval_set.fields else ()
    elif known is not None:
        prompt, response = known.prompt, known.response
    else:
        for file in files:
            yield from _detected_items(eval_set, file)
        return
    for file in files:
        for number, row, _ in read_rows(file):
            where = f"decontaminate: set {eval_set.set_name}, {file.path}, row {number}"
            if isinstance(row, BadRow):
                raise ValueError(f"{where}: {row}. Mend or remove the row.")
            asked, answered = _field(row, prompt), _field(row, response)
            if asked is None and answered is None:
                raise ValueError(
                    f"{where}: found the fields {', '.join(row)}, wanted one of "
                    f"{', '.join((*prompt, *response))}. Give `fields: {{prompt: ..., response: ...}}`."
                )
            yield EvalItem(eval_set.set_name, f"{file.name}:{number}", asked or "", answered or "")


def _detected_items(eval_set: EvalSet, file: InputFile) -> Iterator[EvalItem]:
    for read in read_examples(file):
        if read.kind == "bad":
            raise ValueError(
                f"decontaminate: set {eval_set.set_name}, {file.path}, row {read.row['row']}: "
                f"{read.row['reason']} ({read.row['detail']}). "
                "Give `fields: {prompt: ..., response: ...}`, or mend the row."
            )
        name = read.row["id"].removeprefix(f"{file.source}/")
        turns = read.row["messages"]
        yield EvalItem(eval_set.set_name, name, prompt_text(turns), response_text(turns))


def _field(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The text of the first of the fields that is there; the texts of a list one per line."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list):
            value = "\n".join(str(part) for part in value)
        if value is not None:
            return str(value)
    return None

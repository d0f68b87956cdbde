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
from connectors.fields import layout_of
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


def stated_fields(eval_set: EvalSet) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The names that the prompt and the response may have; None: found as those of an input are."""
    if eval_set.fields:
        prompt, response = (eval_set.fields.get(part) for part in ("prompt", "response"))
        return (prompt,) if prompt else (), (response,) if response else ()
    known = KNOWN_SETS.get(eval_set.set_name)
    return (known.prompt, known.response) if known else None


def chosen_fields(eval_set: EvalSet, files: list[InputFile]) -> str:
    """Which fields of a set are read, in words, by its first row that can be read."""
    row = next((row for file in files for _, row, _ in read_rows(file) if not isinstance(row, BadRow)), {})
    stated = stated_fields(eval_set)
    if stated is None:
        try:
            layout = layout_of(tuple(row))
        except BadRow:
            return "no known fields"  # reading the items says what is wrong
        pair = [layout.names.get(part) for part in ("prompt", "response")]
        if None in pair or layout.format not in ("alpaca", "prompt_completion", "question_answer"):
            return f"read as format {layout.format}"
    else:
        pair = [next((name for name in names if name in row), None) for names in stated]
    texts = zip(("prompt", "response"), pair, strict=True)
    return ", ".join(f"{part} from `{name}`" if name else f"no {part}" for part, name in texts)


def read_items(eval_set: EvalSet, files: list[InputFile]) -> Iterator[EvalItem]:
    """The items of an evaluation set.

    Raises:
        ValueError: If a row cannot be read, or has no text in the fields: what is not read is not searched
            for, so that a set with such a row is refused.
    """
    stated = stated_fields(eval_set)
    if stated is None:
        for file in files:
            yield from _detected_items(eval_set, file)
        return
    prompt, response = stated
    for file in files:
        for number, row, _ in read_rows(file):
            where = _where(eval_set, file, number)
            if isinstance(row, BadRow):
                raise ValueError(f"{where}: {row}. Mend or remove the row.")
            asked, answered = _field(row, prompt, where), _field(row, response, where)
            if not asked and not answered:
                raise ValueError(
                    f"{where}: found the fields {', '.join(row)}, wanted one of "
                    f"{', '.join((*prompt, *response))} with a text in it. "
                    "Give `fields: {prompt: ..., response: ...}`, or mend the row."
                )
            yield EvalItem(eval_set.set_name, f"{file.name}:{number}", asked, answered)


def _detected_items(eval_set: EvalSet, file: InputFile) -> Iterator[EvalItem]:
    for read in read_examples(file):
        if read.kind == "bad":
            raise ValueError(
                f"{_where(eval_set, file, read.row['row'])}: {read.row['reason']} ({read.row['detail']}). "
                "Give `fields: {prompt: ..., response: ...}`, or mend the row."
            )
        # an id fills the row number up with zeros, and may name a part of the row
        number, slash, part = read.row["id"].removeprefix(f"{file.source}/{file.name}:").partition("/")
        turns = read.row["messages"]
        item = f"{file.name}:{int(number)}{slash}{part}"
        yield EvalItem(eval_set.set_name, item, prompt_text(turns), response_text(turns))


def _where(eval_set: EvalSet, file: InputFile, number: int | None) -> str:
    place = "" if number is None else f", row {number}"
    return f"decontaminate: set {eval_set.set_name}, {file.path}{place}"


def _field(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """The text of the first of the fields that is there, else ""; the texts of a list one per line."""
    for name in names:
        value = row.get(name)
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, dict | list) for part in parts):
            raise ValueError(
                f"{where}: field {name!r} holds nested values, wanted a text or a list of texts. "
                "Leave out `fields` and `name` a set of your own to have its format found."
            )
        if value is not None:
            return "\n".join(str(part) for part in parts if part is not None)
    return ""

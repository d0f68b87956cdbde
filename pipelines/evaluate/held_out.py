"""The rows that models are compared on: nobody's training set holds them.

Two ways. A file of rows that are known to be good, of which those are left out that the data holds too (the
same prompt, or the same conversation). Or, where no file is given, a share of the prompts of the data itself,
by the hash of the prompt, taken out of every training set before anything is trained, with all answers to
them. Such rows were not checked by anybody: wrong answers among them count like right ones, which a selection
that removes wrong answers is then measured against. The result says which way it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import response_text
from connectors.readers import read_target
from pipelines.training.token_rows import TokenRows, token_rows
from scorers.correctness import Kind, answer_of
from scorers.models.rendering import Renderer

FEWEST_PROMPTS = 10
SMALL = 100  # prompts; below that the intervals are wide


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure on.

    Attributes:
        rows: Their tokens; all response tokens have a label.
        prompt: Number of each row's prompt: rows with the same number are drawn together, int64, (rows,).
        gold: The final answer of each row, None where none could be read.
        groups: The prompts taken out of the training sets; empty for rows of a file.
        facts: What is said of them: where from, how many, what was left out and why.
        notes: Sentences of caution.
    """

    rows: TokenRows
    prompt: npt.NDArray[np.int64]
    gold: tuple[str | None, ...]
    groups: frozenset[str]
    facts: dict[str, object]
    notes: tuple[str, ...]


def from_file(path: str, pool: pa.Table, renderer: Renderer, most: int, kind: Kind | None) -> HeldOut:
    """Rows of a file, less those that the data holds.

    Args:
        path: A file, folder or glob of examples in any format that an input may have.
        pool: The rows that training sets are drawn from, columns `group` and `content_hash`.
        renderer: Of the model.
        most: Most rows; a sample by hash above that.
        kind: How final answers are read, if they are.

    Raises:
        ValueError: If rows cannot be read, or too few are left.
    """
    table = pa.Table.from_batches([read_target(path)])
    known = {name: pool[name].combine_chunks() for name in ("group", "content_hash")}
    seen = pc.or_(*(pc.is_in(table[name], value_set=values) for name, values in known.items()))
    left = table.filter(pc.invert(seen))
    facts = {
        "from": path,
        "read": table.num_rows,
        "left_out": {"in the data": table.num_rows - left.num_rows},
    }
    if not left.num_rows:
        raise ValueError(
            f"--held-out {path}: all {table.num_rows:,} rows are in the data that was selected from, so "
            "models may have been trained on them; give rows that the recipe does not read"
        )
    return _measured(left, renderer, most, kind, frozenset(), facts, ())


def split(pool: pa.Table, renderer: Renderer, share: float, most: int, kind: Kind | None) -> HeldOut:
    """A share of the prompts of the data, by the hash of the prompt; the same for any selection.

    Args:
        pool: The rows that training sets are drawn from.
        renderer: Of the model.
        share: Of the prompts, above 0 and below 1.
        most: Most rows to measure on; the others are taken out of the training sets all the same.
        kind: How final answers are read, if they are.

    Raises:
        ValueError: If the share is none, or too few prompts are in it.
    """
    if not 0 < share < 1:
        raise ValueError(f"--held-out-share: {share} found, a number above 0 and below 1 is needed")
    groups = frozenset(group for group in pool["group"].to_pylist() if _place(group) < share)
    table = pool.filter(pc.is_in(pool["group"], value_set=pa.array(sorted(groups), pa.string())))
    facts: dict[str, object] = {
        "from": f"{100 * share:g} % of the prompts of the data, by hash",
        "read": table.num_rows,
        "left_out": {},
    }
    note = (
        "The held-out rows are of the same data, wrong answers included, and nobody checked them: a "
        "selection that removes wrong answers is measured on them too. Rows known to be good: --held-out."
    )
    return _measured(table, renderer, most, kind, groups, facts, (note,))


def _place(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") / 2**64


def _measured(
    table: pa.Table,
    renderer: Renderer,
    most: int,
    kind: Kind | None,
    groups: frozenset[str],
    facts: dict[str, object],
    notes: tuple[str, ...],
) -> HeldOut:
    places = np.array([_place(text) for text in table["id"].to_pylist()])
    chosen = np.sort(np.argsort(places, kind="stable")[:most])
    table = table.take(pa.array(chosen))
    rows = token_rows(table.select(["id", "messages", "tools"]), renderer)
    table = table.filter(pc.is_in(table["id"], value_set=rows.table["id"].combine_chunks()))
    _, prompt = np.unique(np.array(table["group"].to_pylist(), dtype=object).astype(str), return_inverse=True)
    prompts = int(prompt.max()) + 1 if len(prompt) else 0
    if prompts < FEWEST_PROMPTS:
        raise ValueError(
            f"{prompts} prompts are left to measure on ({_reasons(rows)}), and at least {FEWEST_PROMPTS} are "
            "needed: give more rows with --held-out, or a larger --held-out-share"
        )
    if prompts < SMALL:
        notes = (*notes, f"Only {prompts} prompts are held out: the intervals are wide, and rough.")
    gold = [
        answer_of(response_text(turns), kind) if kind else None for turns in table["messages"].to_pylist()
    ]
    left_out = {**facts["left_out"], **rows.left_out}  # type: ignore[dict-item]  # it is a dict
    facts = {**facts, "rows": len(prompt), "prompts": prompts, "tokens": int(rows.trained.sum())}
    return HeldOut(rows, prompt, tuple(gold), groups, facts | {"left_out": left_out}, notes)


def _reasons(rows: TokenRows) -> str:
    return (
        "; ".join(f"{count:,} left out: {reason}" for reason, count in rows.left_out.items())
        or "no more given"
    )


def without_groups(table: pa.Table, groups: frozenset[str]) -> pa.Table:
    """The rows whose prompt is not held out."""
    return table.filter(pc.invert(pc.is_in(table["group"], value_set=pa.array(sorted(groups), pa.string()))))

"""Rows of a training set as token ids, with the labels and weights that the selection gave them.

Rows that carry `input_ids` and `labels` (a run that prunes tokens, the export `trl-tokenised`) are taken as
they are. The others are rendered from their messages by what renders for scoring, so that the model is
trained on the very tokens it was scored on: the same template, and the same border between prompt and
response.

A token or row of weight 0 is not trained on at all: its label becomes -100, and a row without a label left
is left out. Leaving a row out, pruning all of its tokens and giving it the weight 0 are one and the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import EXAMPLE_SCHEMA, ROWS_PER_BATCH
from connectors.number_lists import flat_lists, offsets_of
from pipelines.training.token_losses import IGNORED
from scorers.models.rendering import Renderer
from scorers.models.tokenising import RowTokens, tokenise_rows

Ints = npt.NDArray[np.int64]

TOKEN_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("weight", pa.float32()),
        ("token_weights", pa.list_(pa.float32())),
    ]
)
NOTHING_TO_TRAIN_ON = "nothing to train on: every token is pruned, or has the weight 0"


@dataclass(frozen=True)
class TokenRows:
    """Rows ready for training.

    Attributes:
        table: Columns of TOKEN_ROWS, in the order of the data; every row has a label.
        left_out: Rows that cannot be trained on, by reason.
        first: The id of the first row of each reason.
    """

    table: pa.Table
    left_out: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens of each row, shape (rows,)."""
        return _lengths(self.table["input_ids"])

    @cached_property
    def trained(self) -> Ints:
        """Tokens of each row that are trained on, at least 1, shape (rows,)."""
        return _count(self.table["labels"])

    def take(self, rows: Ints) -> TokenRows:
        """Some of the rows, by position."""
        return TokenRows(self.table.take(pa.array(rows)))


def token_rows(table: pa.Table, renderer: Renderer) -> TokenRows:
    """The rows of a table as token ids, in order.

    Args:
        table: Column `id`, and either `messages` and `tools` or `input_ids`; `labels`, `weight` and
            `token_weights` where the table has them. A null `input_ids` is rendered from the messages.
        renderer: Of the model that will be trained.

    Raises:
        ValueError: If the table has neither conversations nor tokens, has labels or weights that do not fit
            the tokens, a weight below 0, or ids that the model does not know.
    """
    parts = [_part(table.slice(start, ROWS_PER_BATCH), renderer) for start in _starts(table.num_rows)]
    left_out, first = Counter[str](), dict[str, str]()
    for part in parts:
        left_out.update(part.left_out)
        first = {**part.first, **first}
    tables = [TOKEN_ROWS.empty_table(), *(part.table for part in parts)]
    return TokenRows(pa.concat_tables(tables), dict(left_out), first)


def _starts(rows: int) -> Iterator[int]:
    return iter(range(0, rows, ROWS_PER_BATCH))


def _part(table: pa.Table, renderer: Renderer) -> TokenRows:
    names = set(table.column_names)
    if "input_ids" not in names and not {"messages", "tools"} <= names:
        raise ValueError(
            f"the training rows have the columns {', '.join(table.column_names)}; wanted: id, and either "
            f"{', '.join(EXAMPLE_SCHEMA.names)} (a run's train folder) or input_ids and labels (the export "
            "trl-tokenised)"
        )
    columns = [name for name in ("id", "messages", "tools", *TOKEN_ROWS.names[1:]) if name in names]
    rows = table.select(columns).to_pylist()
    unseen = [at for at, row in enumerate(rows) if row.get("input_ids") is None]
    conversations = [rows[at]["messages"] for at in unseen]
    rendered = tokenise_rows(renderer, conversations, [rows[at]["tools"] for at in unseen], with_direct=False)
    reasons = dict.fromkeys(range(len(rows)), "")
    for at, tokens in zip(unseen, rendered, strict=True):
        reasons[at] = "" if tokens.status == "ok" else tokens.message or tokens.status
        rows[at] |= _of_rendered(tokens) if not reasons[at] else {}
    made, left_out, first = [], Counter[str](), dict[str, str]()
    for at, row in enumerate(rows):
        reason = reasons[at] or _prepare(row, renderer)
        if reason:
            left_out[reason] += 1
            first.setdefault(reason, str(row.get("id")))
        else:
            made.append({name: row.get(name) for name in TOKEN_ROWS.names})
    return TokenRows(pa.Table.from_pylist(made, TOKEN_ROWS), dict(left_out), first)


def _of_rendered(tokens: RowTokens) -> dict[str, Any]:
    """Token ids and labels of a row that was rendered."""
    sequence = tokens.conditional
    assert sequence is not None  # noqa: S101 - a row with the status "ok" has one
    labels = np.full(len(sequence.ids), IGNORED)
    labels[sequence.targets] = sequence.ids[sequence.targets]
    return {"input_ids": sequence.ids.tolist(), "labels": labels.tolist()}


def _prepare(row: dict[str, Any], renderer: Renderer) -> str:
    """Checks a row with tokens and takes labels off what has no weight; says why it is left out, or ""."""
    ids = row["input_ids"]
    labels = ids if row.get("labels") is None else row["labels"]
    weight = 1.0 if row.get("weight") is None else row["weight"]
    weights = row.get("token_weights")
    _check(row, ids, labels, [weight, *(weights or ())], renderer)
    if weights is not None:
        labels = [label if own > 0 else IGNORED for label, own in zip(labels, weights, strict=True)]
    if weight == 0 or all(label == IGNORED for label in labels[1:]):
        return NOTHING_TO_TRAIN_ON
    if len(ids) > renderer.max_tokens:
        return f"longer than {renderer.max_tokens:,} tokens"
    row |= {"labels": [IGNORED, *labels[1:]], "weight": weight}  # the first token has nothing before it
    return ""


def _check(
    row: dict[str, Any], ids: list[int], labels: list[int], weights: list[float], renderer: Renderer
) -> None:
    for name, values in (("labels", labels), ("token_weights", row.get("token_weights"))):
        if values is not None and len(values) != len(ids):
            raise ValueError(f"row {row.get('id')}: {len(values)} {name} for {len(ids)} tokens; one for each")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"row {row.get('id')}: a weight is negative or not finite; wanted 0 or more")
    highest = max(ids, default=0)
    if highest >= renderer.vocabulary or min(ids, default=0) < 0:
        raise ValueError(
            f"row {row.get('id')}: token id {highest} is outside the model's {renderer.vocabulary:,} "
            "embeddings, so these tokens are another model's; give the model that the run was made for"
        )
    if any(label not in (IGNORED, token) for label, token in zip(labels, ids, strict=True)):
        raise ValueError(
            f"row {row.get('id')}: a label is neither its token nor {IGNORED}; labels are not shifted here"
        )


def _lengths(lists: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.list_value_length(lists).to_numpy(), np.int64)


def _count(labels: pa.ChunkedArray) -> Ints:
    offsets, values = flat_lists(labels)
    return np.diff(offsets_of(values != IGNORED)[offsets])

"""From what the model gave for each row to the columns of its scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.number_lists import numpy_type
from scorers.base import (
    TOKEN_OUTPUTS,
    Need,
    Output,
    Outputs,
    RowValues,
    Scorer,
    TokenValues,
    View,
    output_column,
)
from scorers.catalog import columns_of, resolve
from scorers.models.forward import RowOutputs
from scorers.models.tokenising import RowTokens

Results = dict[tuple[View, int], RowOutputs]
"""What the model gave for each view and row (its index in the batch)."""

Floats = npt.NDArray[np.float32]


def scores_schema(
    scorers: Sequence[str], store_tokens: bool = False, store_outputs: Collection[Output] = ()
) -> pa.Schema:
    """Columns of the scores of these scorers, in order.

    Args:
        scorers: Names in the catalog.
        store_tokens: Whether token ids and the loss of each response token are stored.
        store_outputs: Outputs of the conditional view that are stored as they are.
    """
    fields = [
        ("id", pa.string()),
        ("status", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("control_text", pa.bool_()),
        *((column.name, pa.float64()) for column in columns_of(scorers)),
    ]
    if store_tokens or store_outputs:
        fields += [("input_ids", pa.list_(pa.int32())), ("response_at", pa.list_(pa.int32()))]
    if store_tokens:
        fields += [("token_nll", pa.list_(pa.float32()))]
    fields += [(output_column(output), _stored_type(output)) for output in sorted(store_outputs)]
    return pa.schema(fields)


def _stored_type(output: Output) -> pa.DataType:
    """Ranks go beyond what half precision counts exactly."""
    return pa.list_(pa.int32() if output == "rank" else pa.float16())


def next_texts(needs: Sequence[Need], view: View) -> list[str]:
    """The texts of which `next_logprob` gives the log-probabilities in one view, in order."""
    return sorted({text for need in needs if need.view == view for text in need.tokens})


def score_columns(
    rows: Sequence[RowTokens], results: Results, needs: Sequence[Need], scorers: Sequence[str]
) -> dict[str, RowValues]:
    """The columns of all scorers, each of shape (rows,); NaN where a row has no result or no value."""
    outputs = Outputs({}, {})
    for need in needs:
        values = {at: row[need.output] for (view, at), row in results.items() if view == need.view}
        if need.output in TOKEN_OUTPUTS:
            counted = {at: own[getattr(rows[at], need.view).counted] for at, own in values.items()}
            outputs.tokens[need] = _ragged(counted, len(rows))
        else:
            outputs.rows[need] = _table(values, len(rows))
            if need.tokens and values:
                texts = next_texts(needs, need.view)
                outputs.rows[need] = outputs.rows[need][:, [texts.index(text) for text in need.tokens]]
    columns: dict[str, RowValues] = {}
    for scorer in resolve(scorers):
        columns |= _declared(scorer, scorer.score(outputs), len(rows))
    return columns


def _declared(scorer: Scorer, columns: dict[str, RowValues], rows: int) -> dict[str, RowValues]:
    """What a scorer gave, if that is what it declares; one of another package may not.

    Raises:
        ValueError: If columns are missing or too many, of another length, or hold infinity.
    """
    wanted = [column.name for column in scorer.columns]
    if sorted(columns) != sorted(wanted):
        raise ValueError(f"scorer {scorer.name!r} declares the columns {wanted} and gave {sorted(columns)}")
    for name, values in columns.items():
        if np.shape(values) != (rows,) or np.isinf(values).any():
            raise ValueError(
                f"scorer {scorer.name!r}: column {name!r} has the shape {np.shape(values)}, wanted ({rows},) "
                "of finite numbers, and NaN where there is no value"
            )
    return columns


def _ragged(values: Mapping[int, Floats], rows: int) -> TokenValues:
    """Numbers per token, row after row; rows without scores have none."""
    empty = np.zeros(0, np.float32)
    parts = [values.get(at, empty) for at in range(rows)]
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    return TokenValues(np.concatenate([empty, *parts]), offsets)


def _table(values: Mapping[int, Floats], rows: int) -> Floats:
    """Arrays per row as one table; NaN for rows without scores."""
    width = len(next(iter(values.values()))) if values else 1
    table = np.full((rows, width), np.nan, np.float32)
    for at, own in values.items():
        table[at] = own
    return table


def scores_batch(
    ids: pa.Array,
    rows: Sequence[RowTokens],
    columns: dict[str, RowValues],
    results: Results,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """The scores as `scores_schema` says."""
    is_rendered = [row.conditional is not None for row in rows]
    sequences = [row.conditional if row.status == "ok" else None for row in rows]
    given = [results.get(("conditional", at)) for at in range(len(rows))]
    arrays: dict[str, Any] = {
        "id": ids,
        "status": [row.status for row in rows],
        "prompt_tokens": _where(is_rendered, [row.prompt_tokens for row in rows]),
        "response_tokens": _where(is_rendered, [row.response_tokens for row in rows]),
        "truncated": [row.truncated for row in rows],
        "control_text": [row.control_text for row in rows],
        "input_ids": [None if own is None else own.ids for own in sequences],
        "response_at": [None if own is None else own.targets for own in sequences],
        **columns,
    }
    for field in schema:
        if field.name not in arrays:
            arrays[field.name] = [None if own is None else _stored(field, own) for own in given]
    return pa.RecordBatch.from_arrays(
        [pa.array(arrays[field.name], field.type, from_pandas=True) for field in schema],  # NaN is null
        schema=schema,
    )


def _stored(field: pa.Field, outputs: RowOutputs) -> npt.NDArray[Any]:
    """An output of one row as its column holds it."""
    if field.name == "token_nll":
        return 0.0 - outputs["logprob"]
    name: Any = field.name.removeprefix("token_")
    return outputs[name].astype(numpy_type(field.type.value_type))


def _where(known: Sequence[bool], values: Sequence[int]) -> list[int | None]:
    return [value if is_known else None for is_known, value in zip(known, values, strict=True)]

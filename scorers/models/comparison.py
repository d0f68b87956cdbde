"""Scores that take a second model beside the target: arithmetic on what both stored of response tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.number_lists import flat_lists
from scorers.base import Need, Outputs, Role, Scorer, TokenValues, output_column


class DifferentTokens(ValueError):  # noqa: N818 - reads as what happened
    """Two models cut the texts into different tokens, so their numbers cannot be compared."""


def compare(
    files: Mapping[Role | str, pa.Table], scorers: Sequence[Scorer]
) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """The columns of scorers that read several models.

    Args:
        files: Stored scores of the target ("") and of each role, row by row of the same examples.
        scorers: What to compute.

    Returns:
        The columns, null where a model that a scorer reads has no scores for a row or cut it into other
        tokens; and counts: rows, and over all scorers compared and different_tokens.
    """
    target = files[""]
    scored = {role: _is_scored(table) for role, table in files.items()}
    same = {role: _same_tokens(target, table) for role, table in files.items()}
    columns: dict[str, pa.Array] = {}
    counts = {"rows": target.num_rows, "compared": 0, "different_tokens": 0}
    for scorer in scorers:
        both = np.logical_and.reduce([scored[role] for role in ("", *scorer.roles)])
        valid = np.logical_and.reduce([both, *(same[role] for role in scorer.roles)])
        needs = {need: _token_values(files[need.model], need, valid) for need in scorer.needs}
        for name, values in scorer.score(Outputs(needs, {})).items():
            columns[name] = pa.array(values, pa.float64(), from_pandas=True)
        counts["compared"] += int(valid.sum())
        counts["different_tokens"] += int((both & ~valid).sum())
    return columns, counts


def _is_scored(table: pa.Table) -> npt.NDArray[np.bool_]:
    return np.array(table["status"].to_numpy(zero_copy_only=False) == "ok", np.bool_)


def _same_tokens(one: pa.Table, other: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have the same token ids and response positions in both tables."""
    same = np.ones(one.num_rows, np.bool_)
    for name in ("input_ids", "response_at"):
        pairs = zip(one[name], other[name], strict=True)
        same &= np.fromiter((a.equals(b) for a, b in pairs), np.bool_, one.num_rows)
    return same


def _token_values(table: pa.Table, need: Need, valid: npt.NDArray[np.bool_]) -> TokenValues:
    """A stored output, ragged; rows that are not valid have no tokens."""
    name = "token_nll" if need.output == "logprob" else output_column(need.output)
    offsets, values = flat_lists(pc.if_else(pa.array(valid), table[name], None))
    losses: npt.NDArray[np.float32] = values.astype(np.float32)
    return TokenValues(0.0 - losses if need.output == "logprob" else losses, offsets)


def check_compared(counts: Mapping[str, int], roles: Iterable[str]) -> None:
    """Refuses a comparison in which no row could be compared because of its tokens.

    Args:
        counts: As `compare` gives them.
        roles: The models that the target was compared with.

    Raises:
        DifferentTokens: If every row was cut into other tokens.
    """
    if counts["different_tokens"] and not counts["compared"]:
        raise DifferentTokens(
            f"the models {', '.join(sorted(roles))} cut every text into other tokens than the target, so "
            "nothing can be compared token by token. They need the target's tokenizer, chat template and "
            "max_tokens."
        )

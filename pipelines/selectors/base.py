"""What a selector is: a corpus-level method that gives one decision, with a reason, per candidate.

Scores and decisions are kept apart: scorers write columns, selectors read them. A selector sees all
candidates at once as an Arrow table in id order and never a row's text, so deciding again needs no model.

The table has these columns (scores only when the recipe computes them; null where a row has none):

| column | type | |
|---|---|---|
| id, source | string | identity |
| group | string or dictionary of such | rows with one prompt share it |
| prompt_tokens, response_tokens | int32 | of the target model's tokenizer |
| truncated | bool | the response was cut to fit the model |
| status | string | "ok", or why the row has no scores |
| every score column | float64 | see scorers/catalog.py |
| extra.NAME | float64 or string | a field of the input that a selector names: numbers and booleans as \
numbers, if all are; else texts, with what is no string as JSON |
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.number_lists import one_chunk
from pipelines.selectors.tokens import TokenLists, TokenRows

FIELD = "extra."  # begins the name of a column that is a field of the input


@dataclass(frozen=True)
class Decisions:
    """One decision for each candidate, in the order of the candidates.

    Attributes:
        keep: bool, shape (n,).
        reason: Short and countable text for each candidate, kept or dropped; object array of str, (n,).
        columns: Further decision columns to store ("quadrant", "grape_rank"), each of length n.
        prune_tokens: bool, shape (n,): kept rows whose response loses tokens. None when no token does.
        weigh_tokens: bool, shape (n,): kept rows whose tokens get weights. None when no token does.
        weights: Weight of each row in training, float64, (n,), finite and >= 0. None for 1 each.
        facts: Numbers of the whole decision (thresholds), for the manifest and for `Selector.explain`.
    """

    keep: npt.NDArray[np.bool_]
    reason: npt.NDArray[np.object_]
    columns: dict[str, pa.Array] = field(default_factory=dict)
    prune_tokens: npt.NDArray[np.bool_] | None = None
    weigh_tokens: npt.NDArray[np.bool_] | None = None
    weights: npt.NDArray[np.float64] | None = None
    facts: dict[str, float] = field(default_factory=dict)


class Selector(BaseModel, ABC):
    """Base of every selector: its pydantic fields are its options in a recipe.

    A subclass sets `name` (as written in a recipe) and `source` (who published it, "ours" for what nobody
    did), lists in `reads` the score columns it needs,
    and implements `decide`. It must decide the same for any order of the rows given the same ids:
    ties break by id, randomness is `id_order(ids, seed)`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: ClassVar[str]
    source: ClassVar[str]

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Columns of the candidates that this selector needs beyond id, source, group and counts."""

    @abstractmethod
    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Decides for every candidate.

        Args:
            candidates: The rows still in play, in id order; may be empty.
            seed: The run's seed.
        """

    @classmethod
    def explain(cls, row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """One sentence on a row with its numbers, "" where the reason says all.

        Args:
            row: Its scores and decision columns, as published.
            facts: `Decisions.facts` of the decision.
        """
        return ""

    @property
    def token_reads(self) -> tuple[str, ...]:
        """What `token_masks` and `token_weights` read of each response token, and so has to be stored.

        "token_nll" (nats, float32) and "token_ids" (int32) of the target, and "ROLE.token_nll" of another
        model; nothing for a selector of whole rows.
        """
        return ()

    @property
    def weighs_tokens(self) -> bool:
        """Whether tokens of kept rows get weights."""
        return False

    def token_masks(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields masks over the response tokens (True = train on it) of pruned rows, in ascending order.

        Args:
            candidates: The table that was decided on.
            decisions: What `decide` returned for it; `prune_tokens` says which rows lose tokens.
            tokens: Reads the tokens of given candidates.
        """
        raise TypeError(f"{self.name} does not prune tokens")

    def token_weights(
        self, candidates: pa.Table, decisions: Decisions, tokens: TokenRows
    ) -> Iterator[TokenLists]:
        """Yields the weight of each response token, >= 0, of rows of `weigh_tokens`.

        The rows of one part ascend; those of the parts may not. A row that is left out has weights of 1.

        Args:
            candidates: The table that was decided on.
            decisions: What `decide` returned for it.
            tokens: Reads the tokens of given candidates.
        """
        raise TypeError(f"{self.name} does not weigh tokens")


@dataclass(frozen=True)
class Vectors:
    """The embeddings of the candidates, and of the examples that a selector aims at.

    Attributes:
        rows: float32, shape (n, d), one for each candidate; zeros where a text could not be embedded.
        known: bool, shape (n,): candidates whose text could be embedded.
        target: float32, shape (m, d), of the target examples; m is 0 for a selector without a target.
    """

    rows: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    target: npt.NDArray[np.float32]


class VectorSelector(Selector):
    """A selector that reads what the recipe's `embed:` model makes of each candidate.

    A subclass implements `decide_with`; a row without a vector gets a decision and a reason too.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the candidates that this selector needs: none, unless a subclass says so."""
        return ()

    @property
    def target_file(self) -> str | None:
        """The file of examples that the selector aims at, embedded as the candidates are; None for none."""
        return None

    @abstractmethod
    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Decides for every candidate, as `decide` does, with their vectors."""

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Refuses: this selector decides with vectors."""
        raise TypeError(f"{self.name} decides with vectors: call decide_with")


class Budget(BaseModel):
    """How much a selector keeps: exactly one of a fraction, a number of examples, a number of tokens."""

    keep: float | None = Field(
        default=None, ge=0, le=1, description="share of the candidates to keep, rounded down"
    )
    keep_examples: int | None = Field(default=None, ge=0, description="number of rows to keep at most")
    keep_tokens: int | None = Field(
        default=None,
        ge=0,
        description="tokens to keep at most, prompt and response, of the target's tokenizer",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [k for k in ("keep", "keep_examples", "keep_tokens") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of keep, keep_examples, keep_tokens (got {', '.join(given) or 'none'})"
            )
        return self

    def take(self, order: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64], total: int) -> int:
        """How many of the best-first `order` fit the budget.

        A fraction is of `total` candidates and rounds down; more than there are is all of them. A token
        budget is filled from the front and stops before the first row that would exceed it, so the
        kept rows are always a prefix of the order and never exceed the budget.

        Args:
            order: Indices of the rows that may be kept, best first.
            tokens: Tokens of every candidate (prompt + response), shape (n,).
            total: Number of candidates the fraction refers to.
        """
        if self.keep is not None:
            # 1e-9: 0.29 * 100 is 28.999999999999996 in floating point and means 29
            return min(len(order), int(np.floor(self.keep * total + 1e-9)))
        if self.keep_examples is not None:
            return min(len(order), self.keep_examples)
        return int(np.searchsorted(np.cumsum(tokens[order]), self.keep_tokens or 0, side="right"))

    def spending(self, candidates: pa.Table) -> tuple[npt.NDArray[np.int64], int]:
        """What keeping each candidate costs, int64, shape (n,), and how much there is to spend."""
        if self.keep_tokens is not None:
            return total_tokens(candidates), self.keep_tokens
        ones = np.ones(candidates.num_rows, np.int64)
        if self.keep_examples is not None:
            return ones, self.keep_examples
        return ones, int(np.floor((self.keep or 0.0) * len(ones) + 1e-9))  # 0.29 * 100 means 29

    def can_count(self, candidates: pa.Table) -> npt.NDArray[np.bool_]:
        """Which candidates the budget can count, bool, shape (n,).

        All of them, except that a token budget cannot hold a row whose number of tokens is unknown.
        """
        if self.keep_tokens is None:
            return np.ones(candidates.num_rows, dtype=np.bool_)
        columns = [_column(candidates, name, "keep_tokens") for name in ("prompt_tokens", "response_tokens")]
        known: npt.NDArray[np.bool_] = pc.and_(*(pc.is_valid(column) for column in columns)).to_numpy()
        return known

    def keep_first(self, order: npt.NDArray[np.int64], candidates: pa.Table) -> npt.NDArray[np.bool_]:
        """Which candidates the budget keeps when it is filled from the front of `order`, bool, shape (n,).

        Args:
            order: Indices of the rows that may be kept, best first; all of them `can_count`.
            candidates: All rows in play; a fraction is a fraction of these.
        """
        total = candidates.num_rows
        tokens = total_tokens(candidates) if self.keep_tokens is not None else np.zeros(total, dtype=np.int64)
        keep = np.zeros(total, dtype=np.bool_)
        keep[order[: self.take(order, tokens, total)]] = True
        return keep


def scores(candidates: pa.Table, column: str, selector: str) -> npt.NDArray[np.float64]:
    """A number column as float64, shape (n,), NaN where the row has no finite value.

    Args:
        candidates: The rows in play.
        column: Name of the column; integers and booleans are read as numbers.
        selector: Who asks, for the error.

    Raises:
        ValueError: If there is no such column or it does not hold numbers.
    """
    values = _column(candidates, column, selector)
    kind = values.type
    if not any(is_kind(kind) for is_kind in _NUMBERS):
        raise ValueError(f"{selector}: the column {column!r} holds {kind}, and a number is needed")
    # Unsafe only for integers beyond 2**53, which lose their last digits; nothing else can go wrong here.
    numbers = pc.cast(values, pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)


_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)


def counts(candidates: pa.Table, column: str, selector: str) -> npt.NDArray[np.int64]:
    """A count column as int64, shape (n,), 0 where it is null.

    Raises:
        ValueError: If there is no such column.
    """
    values: npt.NDArray[np.int64] = (
        pc.cast(_column(candidates, column, selector), pa.int64()).fill_null(0).to_numpy()
    )
    return values


def total_tokens(candidates: pa.Table) -> npt.NDArray[np.int64]:
    """Prompt and response tokens of each candidate, int64, shape (n,), null counts as 0."""
    return counts(candidates, "prompt_tokens", "tokens") + counts(candidates, "response_tokens", "tokens")


def _column(candidates: pa.Table, column: str, selector: str) -> pa.ChunkedArray:
    names = candidates.column_names
    if column in names:
        return candidates.column(column)
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"{selector}: there is no column {column!r} (there are {', '.join(names)}){hint} "
        "A score column exists when its scorer is listed under `score` in the recipe"
    )


def id_ranks(candidates: pa.Table) -> npt.NDArray[np.int64]:
    """Place of each row in the order of ids, int64, shape (n,): the last key of every sort."""
    ids = candidates.column("id")
    rows = np.arange(len(ids), dtype=np.int64)
    if pc.all(pc.less(ids.slice(0, max(len(ids) - 1, 0)), ids.slice(1)), min_count=0).as_py():
        return rows  # in order already, as the contract says; sorting a million ids takes a second
    ranks = np.empty_like(rows)
    ranks[pc.sort_indices(ids).to_numpy()] = rows
    return ranks


def group_codes(candidates: pa.Table) -> npt.NDArray[np.int64]:
    """A number from 0 for the group of each candidate, int64, shape (n,); some may stand for no candidate."""
    encoded = one_chunk(candidates.column("group")).dictionary_encode()
    codes: npt.NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
    return codes


def choose(texts: Sequence[str], index: npt.NDArray[np.generic]) -> npt.NDArray[np.object_]:
    """`texts[i]` for each i of `index` (False is 0, True is 1): an object array that shares the strings."""
    chosen: npt.NDArray[np.object_] = np.array(texts, dtype=object)[index.astype(np.intp)]
    return chosen


def without_score(text: str, candidates: pa.Table, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    """Reasons of the candidates in `rows`: `text`, with the status where that says why.

    Example:
        >>> table = pa.table({"id": ["a", "b", "c"], "status": ["ok", "overflow", None]})
        >>> without_score("top_k: no loss", table, np.array([True, True, True])).tolist()
        ['top_k: no loss', 'top_k: no loss (status overflow)', 'top_k: no loss']
    """
    if "status" not in candidates.column_names:
        return choose([text], np.zeros(int(rows.sum()), dtype=np.int64))
    status = candidates.column("status").filter(pa.array(rows)).combine_chunks().dictionary_encode()
    names = status.dictionary.to_pylist()
    texts = [text if name == "ok" else f"{text} (status {name})" for name in names]
    return choose([*texts, text], status.indices.fill_null(len(names)).to_numpy())

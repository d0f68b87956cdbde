"""What a scorer is: columns it declares, token outputs it needs, and a function from one to the other.

A scorer never sees the model. The *plan* is the union of the needs of all scorers asked for, so each
view runs once per batch however many scorers read it. A view is the response tokens in a context:
`conditional` after its prompt, `direct` with no prompt before them; `whole` counts the tokens of the prompt
as the response's. An output is a number for each of those
tokens, kept *ragged* (all rows end to end in one array, with offsets), or an array for each row.

Most scorers read the target model alone. One that compares it with another model names that model's *role*;
it is computed from what both models stored, so the target is not run again when the other one changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

View = Literal["conditional", "direct", "whole"]
TokenOutput = Literal[
    "logprob", "entropy", "top1", "top1_logprob", "rank", "el2n", "logit_gap", "log_partition"
]
RowOutput = Literal["grad_norm", "hidden_mean", "hidden_last", "next_logprob"]
Output = TokenOutput | RowOutput
Better = Literal["higher", "lower", "neither"]
Role = Literal["reference", "base", "previous"]
RowValues = npt.NDArray[np.float64]
"""One value per row, shape (rows,); NaN means *cannot be computed* and is stored as null."""


@dataclass(frozen=True, slots=True)
class Column:
    """A score as it is stored.

    Attributes:
        name: Column name in the scores' Parquet files.
        unit: Physical unit, "" for a ratio.
        low: Least possible value.
        high: Greatest possible value.
        better: The direction the published method prefers; "neither" when there is no single one.
        doc: One line that says what the number means.
    """

    name: str
    unit: str
    low: float
    high: float
    better: Better
    doc: str


TOKEN_OUTPUTS: dict[Output, str] = {
    "logprob": "log-probability of the response token, nats",
    "entropy": "entropy of the model's prediction, nats",
    "top1": "1 where the response token is the most probable one, else 0",
    "top1_logprob": "log-probability of the most probable token, nats",
    "rank": "how many tokens the model finds more probable than the response token",
    "el2n": "Euclidean norm of the predicted probabilities less the one-hot response token",
    "logit_gap": "expected logit under the prediction less that of the response token",
    "log_partition": "logarithm of the sum of the exponentials of all logits",
}
"""Outputs that are one number for each response token."""

ROW_OUTPUTS: dict[Output, str] = {
    "grad_norm": "Frobenius norm of the gradient of the mean loss by the output layer's weights",
    "hidden_mean": "mean of the last hidden states over all tokens of the view",
    "hidden_last": "last hidden state at the last token of the view",
    "next_logprob": "log-probabilities of given tokens as the first of the response, nats",
}
"""Outputs that are one array for each row."""


ROLES: dict[Role, str] = {
    "reference": "the target's base, tuned on data known to be good",
    "base": "the model that the target was fine-tuned from",
    "previous": "an earlier checkpoint of the target: an epoch, or a version, before",
}
"""Models beside the target that a scorer may compare it with; all share the target's tokenizer."""


def output_column(output: Output) -> str:
    """The column in which an output is stored as it is."""
    return f"token_{output}" if output in TOKEN_OUTPUTS else output


OUTPUT_COLUMNS = tuple(map(output_column, (*TOKEN_OUTPUTS, *ROW_OUTPUTS)))
TOKEN_COLUMNS = ("input_ids", "response_at", "token_nll", *OUTPUT_COLUMNS)
"""Columns of stored scores that are arrays, not scores."""


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """One output of one view.

    Attributes:
        view: The view.
        output: A key of TOKEN_OUTPUTS or ROW_OUTPUTS.
        tokens: Of next_logprob: texts that are one token each for the model's tokenizer.
        model: Whose output it is: a key of ROLES, "" for the target.
        after: What every prompt has to end with, white space aside; a model whose chat template ends prompts
            otherwise is refused.
    """

    view: View
    output: Output
    tokens: tuple[str, ...] = ()
    model: Role | Literal[""] = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class TokenValues:
    """One number per response token, for many rows.

    Attributes:
        values: float32, shape (tokens of all rows,).
        offsets: int64, shape (rows + 1,); row i is `values[offsets[i]:offsets[i + 1]]`, and a row
            without scores has no values.
    """

    values: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model gave for many rows.

    Attributes:
        tokens: The outputs that are numbers per response token.
        rows: The outputs that are arrays per row: float32, shape (rows, width), width 1 for one number;
            NaN in a row without scores.
    """

    tokens: dict[Need, TokenValues]
    rows: dict[Need, npt.NDArray[np.float32]]


STATUSES: dict[str, str] = {
    "ok": "scored",
    "overflow": "longer than the model takes, and the recipe drops such rows",
    "all_truncated": "the prompt alone fills the model, so no response token is left",
    "empty_response": "the response has no text and no tool call",
    "template_error": "the chat template refuses or garbles the conversation",
    "control_text": "the data holds the text of a control token, and the recipe or the tokenizer refuses it",
    "nonfinite": "the model gave NaN or infinity",
    "error": "the model failed on this row alone",
}
"""What the `status` column says; every score of a row whose status is not "ok" is null."""

FAILURES = ("nonfinite", "error")
"""Statuses that are failures of the model, of which a run bears few; all others are facts about the data."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A published method, declared as data.

    Attributes:
        name: Published name, the key in the catalog and in a recipe.
        columns: What it writes, in order.
        needs: The token outputs it reads; the model produces nothing else.
        score: From the outputs to one array per column, NaN where a row has no value. Without state,
            and independent of the other rows.
        source: Where the method was published.
        version: Of a scorer that does not come with winnow: stored scores of another version are not used.
    """

    name: str
    columns: tuple[Column, ...]
    needs: tuple[Need, ...]
    score: Callable[[Outputs], dict[str, RowValues]]
    source: str
    version: str = ""

    @property
    def roles(self) -> tuple[Role, ...]:
        """The models beside the target that it reads, sorted; none for most scorers."""
        return tuple(sorted({need.model for need in self.needs if need.model}))


def row_means(tokens: TokenValues) -> RowValues:
    """Mean over each row's tokens, summed in float64; NaN for a row without tokens.

    Example:
        >>> row_means(TokenValues(np.float32([1, 2, 6]), np.array([0, 2, 2, 3]))).tolist()
        [1.5, nan, 6.0]
    """
    lengths = np.diff(tokens.offsets)
    means = np.full(len(lengths), np.nan)
    filled = lengths > 0
    if filled.any():
        # Rows without tokens take no values, so the starts of the others still delimit them.
        sums = np.add.reduceat(tokens.values.astype(np.float64), tokens.offsets[:-1][filled])
        means[filled] = sums / lengths[filled]
    return means


def exp_or_nan(values: RowValues) -> RowValues:
    """`exp`, NaN where it overflows float64 (above 709.78) or where the value is NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.exp(values)
    return np.where(np.isfinite(result), result, np.nan)

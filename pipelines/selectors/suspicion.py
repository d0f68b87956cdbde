"""Suspicion: an order of answers by how likely they are wrong, out of text, rivals and the model.

    suspicion = [a calculation does not hold] + share of rivals that end otherwise
                + mean of the quantiles of misfit and of 1 - overlap,    from 0 to 3
    misfit = (loss - direct_loss) * response tokens, nats

Misfit is how much less likely its prompt makes the response; overlap the share of the response's words that
the prompt has. So it is *confident disagreement*: of the text with itself, of rivals, or of the model with
the pairing of prompt and response. Above 1 there is evidence in the text; below 1 the order is that of
misfit and overlap, which finds answers to another question far better than loss or perplexity, and does not
find plausible falsehoods: benchmarks/suspects.py measures it on labels. Ours; no published method.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.selectors.base import group_codes

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def suspicion(misfit: Floats, overlap: Floats, wrong: Floats, rivals: Floats, known: Bools) -> Floats:
    """How likely an answer is wrong, as an order: from 0 to 3, shape (n,); NaN for rows that are not known.

    Args:
        misfit: (loss - direct_loss) * response tokens, nats, NaN where unknown.
        overlap: Share of the response's words that the prompt has, NaN where unknown.
        wrong: Calculations that do not hold.
        rivals: Share of rivals that end otherwise, NaN without rivals: no evidence.
        known: Rows that have scores; quantiles are among these.
    """
    parts = (np.where(known, values, np.nan) for values in (misfit, -overlap))
    base = np.nan_to_num(mean_of_known(*map(quantiles, parts)))
    total: Floats = base + (np.nan_to_num(wrong) > 0) + np.nan_to_num(rivals)
    return np.where(known, total, np.nan)


def rivals_that_differ(candidates: pa.Table, known: Bools) -> Floats:
    """Share of each row's rivals, of those with an answer, that end in another one; NaN without rivals.

    Args:
        candidates: Columns `group` and `answer` (text; numbers compare by value).
        known: Rows that count.
    """
    answer = candidates.column("answer").combine_chunks().dictionary_encode()
    plain = [_plain(text) for text in answer.dictionary.to_pylist()]
    names = {value: at for at, value in enumerate(dict.fromkeys(plain))}
    codes = np.array([names[value] for value in plain], np.int64)
    valid = known & answer.is_valid().to_numpy(zero_copy_only=False)
    result = np.full(candidates.num_rows, np.nan)
    if not valid.any():
        return result
    of = codes[pc.fill_null(answer.indices, 0).to_numpy()[valid]]
    group = group_codes(candidates)[valid]
    _, pair, alike = np.unique(group * len(names) + of, return_inverse=True, return_counts=True)
    members = np.bincount(group)[group]
    others = members - 1
    result[valid] = np.where(others > 0, (members - alike[pair]) / np.maximum(others, 1), np.nan)
    return result


def _plain(answer: str) -> str | float:
    try:
        return float(answer.replace(",", "").strip("$% "))
    except ValueError:
        return " ".join(answer.lower().split())


def quantiles(values: Floats) -> Floats:
    """Share of the values below each one, ties counted half, from 0 to 1; NaN stays and does not count.

    Example:
        >>> quantiles(np.array([3.0, 1.0, np.nan, 1.0, 2.0])).tolist()
        [0.875, 0.25, nan, 0.25, 0.625]
    """
    rows = np.flatnonzero(np.isfinite(values))
    rows = rows[np.argsort(values[rows])]
    ordered = values[rows]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(rows)])
    bounds = np.append(first, len(rows))  # where each run of equal values begins
    shares = np.full(len(values), np.nan)
    shares[rows] = np.repeat((bounds[:-1] + bounds[1:]) / (2 * max(1, len(rows))), np.diff(bounds))
    return shares


def mean_of_known(one: Floats, other: Floats) -> Floats:
    """Mean of two numbers for each row, the one that is known where only one is; NaN where none is."""
    return np.where(
        np.isfinite(one) & np.isfinite(other), (one + other) / 2, np.where(np.isfinite(one), one, other)
    )

"""What the scripts of a report get: the sample's rows, and how many of all rows lie between thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.examples import prompt_text, response_text
from connectors.storage import join
from pipelines.charts import MARKS, Region
from pipelines.report_examples import iter_rows_at, visible
from pipelines.report_numbers import Numbers, Sample, Spread, finite
from pipelines.report_page import embedded

SAMPLE_BYTES = 2_000_000  # of the embedded rows; a page with all else stays below 4 MB
EXCERPT_CHARS = 160  # of a prompt, and of a response
DIGITS = 6


def script_data(
    out: str | Path, numbers: Numbers, regions: list[Region], units: Mapping[str, str]
) -> dict[str, Any]:
    """The data of a report's scripts.

    Args:
        out: Folder of the run, for the texts of the sample.
        numbers: Its numbers.
        regions: What to outline in the plane.
        units: Units of the columns that have one.
    """
    plane = numbers.plane
    return {
        "states": [(name, name, path) for name, path in MARKS.items()],
        "sample": sample_rows(out, numbers.sample, numbers.columns.all),
        "units": {name: units[name] for name in numbers.columns.all if units.get(name)},
        "spreads": {name: _spread(spread) for name, spread in numbers.spreads.items()},
        "plane": plane and {
            "x": plane.x,
            "y": plane.y,
            "regions": [_region(region) for region in regions],
        },
    }  # fmt: skip


def sample_rows(out: str | Path, sample: Sample, columns: tuple[str, ...]) -> dict[str, Any]:
    """The sample column by column, at most SAMPLE_BYTES as JSON: excerpts get shorter, then rows fewer.

    Args:
        out: Folder of the run.
        sample: The rows drawn.
        columns: Number columns to give with each row.
    """
    texts = _texts(out, sample.table)
    return fitted(lambda chars, every: _rows(sample, columns, texts, chars, every))


def fitted(rows: Callable[[int, int], dict[str, Any]]) -> dict[str, Any]:
    """What `rows(chars, every)` gives for the longest excerpts and the most rows that fit SAMPLE_BYTES.

    Args:
        rows: Gives each `every`th row, with `chars` characters of its texts.
    """
    chars, every = EXCERPT_CHARS, 1
    while True:
        found = rows(chars, every)
        if _size(found) <= SAMPLE_BYTES:
            return found
        if chars > EXCERPT_CHARS // 8:
            chars //= 2
        else:
            every *= 2


def _rows(
    sample: Sample, columns: tuple[str, ...], texts: list[tuple[str, str]], chars: int, every: int
) -> dict[str, Any]:
    """Each `every`th row of the sample with `chars` characters of its texts."""
    table = sample.table.take(np.arange(0, sample.table.num_rows, every))
    shown = texts[::every]
    return {
        "of": sample.of,
        "id": [visible(row_id) for row_id in table["id"].to_pylist()],
        "state": sample.states[::every].tolist(),
        "source": _coded(table["source"]),
        "reason": _coded(table["reason"]),
        "prompt": [visible(prompt, chars) for prompt, _ in shown],
        "response": [visible(response, chars) for _, response in shown],
        "numbers": {name: short(finite(table, name)) for name in columns},
    }


def _texts(out: str | Path, table: pa.Table) -> list[tuple[str, str]]:
    """Prompt and response of each row, the beginnings of long ones."""
    kept, at = table["kept"].to_pylist(), table["position"].to_pylist()
    wanted = {name: [p for p, k in zip(at, kept, strict=True) if k == own] for name, own in _FOLDERS.items()}
    columns = {"train": ["messages"], "dropped": ["prompt_excerpt", "response_excerpt"]}
    texts = {
        own: {p: excerpts(row) for p, row in iter_rows_at(join(str(out), name), wanted[name], columns[name])}
        for name, own in _FOLDERS.items()
    }
    return [texts[k][p] for p, k in zip(at, kept, strict=True)]


_FOLDERS = {"train": True, "dropped": False}


def excerpts(row: Mapping[str, Any]) -> tuple[str, str]:
    """The beginnings of a stored row's prompt and response."""
    if "messages" in row:
        texts = prompt_text(row["messages"] or []), response_text(row["messages"] or [])
    else:
        texts = row.get("prompt_excerpt") or "", row.get("response_excerpt") or ""
    return texts[0][: EXCERPT_CHARS + 1], texts[1][: EXCERPT_CHARS + 1]


def _coded(column: pa.ChunkedArray) -> dict[str, Any]:
    """Texts that repeat, as codes into a list of them; null is ""."""
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    return {
        "names": [visible(v) for v in encoded.dictionary.to_pylist()],
        "codes": encoded.indices.to_pylist(),
    }


def short(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float | int | None]:
    """DIGITS significant digits; None where there is no value."""
    rounded = (float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in values.tolist())
    return [int(v) if v is not None and v.is_integer() and abs(v) < 2**53 else v for v in rounded]


def _spread(spread: Spread) -> dict[str, Any]:
    rows, tokens = spread.rows.tolist(), spread.tokens.tolist()
    return {"edges": spread.edges.tolist(), "rows": rows, "tokens": tokens}


def _region(region: Region) -> dict[str, Any]:
    bounds = {"x": _bounds(region.x_low, region.x_high), "y": _bounds(region.y_low, region.y_high)}
    return {**bounds, "name": region.name, "kept": region.kept}


def _bounds(low: float, high: float) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in (low, high)]


def _size(rows: dict[str, Any]) -> int:
    return len(embedded(rows).encode())

"""The rows of two runs on one plane: where what each run alone keeps lies, by two scores that they share.

The scores are A's, and B's where A has none. The rows are those of the least hashes, as in a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.charts import CELL_MARKS, Floats, Frame, Picture, plane, robust_range
from pipelines.report_examples import visible
from pipelines.report_matched import CELLS, Matched, Names, rows_stored
from pipelines.report_numbers import SAMPLE_ROWS, axes
from pipelines.report_sample import excerpts, fitted, short

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The sample of the matched rows.

    Attributes:
        at: Places among the matched rows, of ascending hashes, shape (rows,).
        of: How many matched rows have both scores.
        x: Name of the score on the level axis, `y` on the upright one.
        points: Both scores of the drawn rows, shape (2, rows).
        values: Every shared score of the drawn rows; to be filled in, so that each is read once.
    """

    at: Ints
    of: int
    x: str
    y: str
    points: Floats
    values: dict[str, Floats] = field(default_factory=dict)


def draw(matched: Matched, columns: Sequence[str]) -> Drawn | None:
    """The first SAMPLE_ROWS rows that have both scores to draw; None when no row has both."""
    found = axes(columns)
    if found is None:
        return None
    scores = (matched.score(name) for name in found)
    points = np.array([np.where(np.isfinite(a), a, b) for a, b in scores])
    both = np.flatnonzero(np.isfinite(points).all(axis=0))
    at = both[:SAMPLE_ROWS]
    return Drawn(at, len(both), *found, points[:, at]) if len(at) else None


def picture(matched: Matched, drawn: Drawn, units: Mapping[str, str]) -> Picture:
    """The plane as it is without scripts: a mark for each drawn row, by its cell."""
    x, y = (f"{name} ({units[name]})" if units.get(name) else name for name in (drawn.x, drawn.y))
    bounds = [robust_range(own) for own in drawn.points]
    return plane(drawn.points, matched.cell[drawn.at], Frame(x, y, bounds[0], bounds[1]), marks=CELL_MARKS)


def script_data(
    matched: Matched, drawn: Drawn, sources: Names, reasons: Names, units: Mapping[str, str]
) -> dict[str, Any]:
    """The data of the plane's script.

    Args:
        matched: The rows of both runs.
        drawn: The sample, with its values.
        sources: What the codes of sources mean.
        reasons: What the codes of reasons mean.
        units: Units of the scores that have one.
    """
    in_a, in_b = matched.in_a[drawn.at], matched.in_b[drawn.at]
    stored = rows_stored(matched.a, in_a, ["id", "messages", "prompt_excerpt", "response_excerpt"])
    texts = {which: (visible(row["id"]), *excerpts(row)) for which, row in stored}
    cell, given = matched.cell[drawn.at], list(reasons.codes)
    pairs, reason = np.unique(
        np.stack([matched.a.reason[in_a], matched.b.reason[in_b]]), axis=1, return_inverse=True
    )
    told = [f"A: {visible(given[one])}\nB: {visible(given[two])}" for one, two in pairs.T.tolist()]
    known, source = np.unique(matched.a.source[in_a], return_inverse=True)
    named = [visible(list(sources.codes)[code]) for code in known.tolist()]

    def rows(chars: int, every: int) -> dict[str, Any]:
        own = range(0, len(drawn.at), every)
        return {
            "of": drawn.of,
            "id": [texts[i][0] for i in own],
            "state": cell[::every].tolist(),
            "source": {"names": named, "codes": source[::every].tolist()},
            "reason": {"names": told, "codes": reason.ravel()[::every].tolist()},
            "prompt": [visible(texts[i][1], chars) for i in own],
            "response": [visible(texts[i][2], chars) for i in own],
            "numbers": {name: short(values[::every]) for name, values in drawn.values.items()},
        }

    return {
        "states": [(name, *mark) for name, mark in zip(CELLS, CELL_MARKS.items(), strict=True)],
        "units": {name: units[name] for name in drawn.values if units.get(name)},
        "sample": fitted(rows),
        "plane": {"x": drawn.x, "y": drawn.y, "regions": []},
    }

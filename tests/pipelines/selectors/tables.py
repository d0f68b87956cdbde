"""Tables of candidates for the selectors' tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipelines.selectors.base import Decisions
from tests.draws import draws

Numbers = Sequence[float | None]

# scores that a selector reads alone
ONE_COLUMN = ("whole_loss", "whole_entropy", "dft_weight", "rho1_excess", "glow_gain")

# No deadline: a busy machine is no fault of a selector.
FEW_EXAMPLES = draws(15)  # for claims that are tested on every selector
EXAMPLES = draws(50)


def candidates(
    loss: Numbers,
    entropy: Numbers | None = None,
    *,
    ids: Sequence[str] | None = None,
    group: Sequence[str] | None = None,
    prompt_tokens: Sequence[int | None] | None = None,
    response_tokens: Sequence[int | None] | None = None,
    truncated: Sequence[bool] | None = None,
    status: Sequence[str | None] | None = None,
    correct: Numbers | None = None,
) -> pa.Table:
    """A table as a selector sees it; each row is a group of its own and has 10 + 10 tokens unless said."""
    rows = len(loss)
    columns = {
        "id": pa.array(ids or [f"row{i:03d}" for i in range(rows)], pa.large_string()),
        "source": pa.array(["toy"] * rows, pa.large_string()),
        "group": pa.array(group or [f"group{i}" for i in range(rows)], pa.large_string()),
        "prompt_tokens": pa.array(prompt_tokens or [10] * rows, pa.int32()),
        "response_tokens": pa.array(response_tokens or [10] * rows, pa.int32()),
        "truncated": pa.array(truncated or [False] * rows, pa.bool_()),
        "status": pa.array(
            status or ["ok" if x is not None else "overflow" for x in loss], pa.large_string()
        ),
        "loss": pa.array(loss, pa.float64()),
        "entropy": pa.array(loss if entropy is None else entropy, pa.float64()),
        "wg_inner": pa.array(loss, pa.float64()),
        "g_norm": pa.array(loss if entropy is None else entropy, pa.float64()),
        "direct_loss": pa.array([None if x is None else x + 1 for x in loss], pa.float64()),
        "ifd_ppl": pa.array([None if x is None else 0.5 for x in loss], pa.float64()),
        "answer": pa.array([None] * rows, pa.large_string()),
        "wrong_calculations": pa.array([0.0] * rows, pa.float64()),
        "prompt_overlap": pa.array([None if x is None else 0.5 for x in loss], pa.float64()),
        "correct": pa.array(
            [None if x is None else float(x > 1) for x in loss] if correct is None else correct, pa.float64()
        ),
        **{name: pa.array(loss, pa.float64()) for name in ONE_COLUMN},
    }
    return pa.table(columns)


def kept_rows(decisions: Decisions) -> list[int]:
    """Indices of the kept candidates."""
    return [i for i, keep in enumerate(decisions.keep) if keep]


@st.composite
def any_candidates(draw: st.DrawFn) -> pa.Table:
    """Tables of 0 to 25 rows with ties, nulls, shared groups and truncated rows."""
    rows = draw(st.integers(0, 25))
    random = np.random.default_rng(
        draw(st.integers(0, 2**32 - 1))
    )  # a hundred times faster than drawing cells

    def score() -> pa.Array:
        values = np.where(random.random(rows) < 0.5, random.integers(0, 6, rows), random.gamma(1, 3, rows))
        return pa.array(values, mask=random.random(rows) < draw(st.sampled_from([0.0, 0.2])))

    return pa.table(
        {
            "id": pa.array([f"row{i:03d}" for i in range(rows)], pa.large_string()),
            "source": pa.array(random.choice(["toy", "toy2"], rows), pa.large_string()),
            "group": pa.array(random.choice(list("abcd"), rows), pa.large_string()),
            "prompt_tokens": pa.array(
                random.integers(0, 30, rows), pa.int32(), mask=random.random(rows) < 0.1
            ),
            "response_tokens": pa.array(random.integers(0, 30, rows), pa.int32()),
            "truncated": pa.array(random.random(rows) < 0.3, pa.bool_()),
            "status": pa.array(random.choice(["ok", "overflow"], rows), pa.large_string()),
            "loss": score(),
            "entropy": score(),
            "wg_inner": score(),
            "g_norm": score(),
            "direct_loss": score(),
            "ifd_ppl": score(),
            "answer": pa.array(random.choice(["1", "1.0", "two"], rows), mask=random.random(rows) < 0.3),
            "wrong_calculations": pa.array((random.random(rows) < 0.1).astype(float)),
            "prompt_overlap": score(),
            "correct": pa.array(random.integers(0, 2, rows).astype(float), mask=random.random(rows) < 0.2),
            **{name: score() for name in ONE_COLUMN},
        }
    )

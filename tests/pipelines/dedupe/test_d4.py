"""D4, and which row is named for a row that is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.shards import write_arrow
from pipelines.dedupe.d4 import drop_prototypes
from pipelines.dedupe.semantic import SIMILARITY_SCHEMA
from pipelines.dedupe.semantic_drops import COPY_OF_PROTOTYPICAL, DUPLICATE, PROTOTYPICAL, drop_table
from pipelines.dedupe.semantic_settings import D4Settings, SemanticSettings
from pipelines.dedupe.semdedup import max_similarity
from pipelines.embed import EmbeddedRows

Floats = npt.NDArray[np.float32]


def at_angles(*degrees: float) -> Floats:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def drops(vectors: Floats, folder: Path, **rule: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of a recipe
    """What is dropped of rows 10, 12, 14 and so on, compared in the order in which they are given."""
    count = len(vectors)
    rows, ids = pa.array(10 + 2 * np.arange(count)), [f"r{n}" for n in range(count)]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2)
    path = str(folder / f"{abs(hash(vectors.tobytes()))}.arrow")
    write_arrow(path, pa.table({"row": rows, "id": ids, "embedding": lists}))
    best, where = max_similarity(vectors)
    table = pa.table(
        {
            "row": rows, "id": ids, "cluster_id": [0] * count, "cos_to_centroid": [0.0] * count,
            "rank_in_cluster": list(range(count)), "max_sim_before": pa.array(best, mask=where < 0),
            "nearest_before": pa.array(10 + 2 * where, mask=where < 0),
        },
        schema=SIMILARITY_SCHEMA,
    )  # fmt: skip
    settings = SemanticSettings.model_validate({"model": {"path": "x"}, **rule})
    found, stats = drop_table(table, EmbeddedRows([path]), settings, seed=0)
    assert stats["semantic"] == found.num_rows
    return list(found.to_pylist())


def test_the_worked_example_drops_the_most_prototypical() -> None:
    # points 0, .1, .2, 1 about a centroid of .325; distances .325, .225, .125, .675
    closeness = -np.array([0.325, 0.225, 0.125, 0.675], np.float32)
    assert np.flatnonzero(~drop_prototypes(closeness, np.arange(4), keep=2)).tolist() == [0, 3]
    assert not drop_prototypes(closeness, np.arange(4), keep=4).any()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.integers(0, 40))
def test_what_stays_is_farther_than_all_that_goes(cosine: list[float], keep: int) -> None:
    values = np.array(cosine, np.float32)
    drop = drop_prototypes(values, np.arange(len(values)), keep)
    assert (~drop).sum() == min(keep, len(values))
    if drop.any() and not drop.all():
        assert values[drop].min() >= values[~drop].max()


def test_keeping_more_than_dedupe_leaves_is_refused() -> None:
    with pytest.raises(ValueError, match="above dedupe_keep"):
        D4Settings(keep=0.9, dedupe_keep=0.75)


def test_a_duplicate_names_the_row_that_stays_and_the_cosine_to_it(tmp_path: Path) -> None:
    first, second = drops(at_angles(0, 15, 30, 90), tmp_path, threshold=0.95)
    assert (first["row"], first["id"], first["duplicate_of"]) == (12, "r1", "r0")
    assert (second["row"], second["duplicate_of"]) == (14, "r0")  # through r1, which is dropped itself
    assert second["similarity"] == pytest.approx(np.cos(np.radians(30)), abs=1e-6)
    assert first["cluster_size"] == second["cluster_size"] == 3


def test_d4_names_no_row_that_it_drops_later(tmp_path: Path) -> None:
    # r1 repeats r0, and r0 is the nearest to the mean direction of what is left (0, 60, -50 degrees)
    vectors = at_angles(0, 1, 60, -50)
    dropped = {row["id"]: row for row in drops(vectors, tmp_path, d4={"keep": 0.5, "dedupe_keep": 0.75})}
    assert {name: row["reason"] for name, row in dropped.items()} == {
        "r0": PROTOTYPICAL,
        "r1": COPY_OF_PROTOTYPICAL,
    }
    for row in dropped.values():
        assert (row["duplicate_of"], row["similarity"], row["cluster_size"]) == (None, None, None)


def test_d4_is_one_of_its_steps_when_the_other_drops_nothing(tmp_path: Path) -> None:
    vectors = at_angles(0, 3, 50, 51, 120, 200, 201.5, 300)
    only_first = drops(vectors, tmp_path, d4={"keep": 0.75, "dedupe_keep": 0.75})
    assert only_first == drops(vectors, tmp_path, keep=0.75)
    assert {row["reason"] for row in only_first} == {DUPLICATE}
    only_second = drops(vectors, tmp_path, d4={"keep": 0.5, "dedupe_keep": 1})
    assert [row["reason"] for row in only_second] == [PROTOTYPICAL] * 4


@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(0.1, 1), st.floats(0.1, 1))
def test_every_named_row_stays_and_d4_keeps_its_fraction(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, keep: float, dedupe_keep: float
) -> None:
    vectors = at_angles(*np.random.default_rng(seed).uniform(0, 360, count))
    d4 = {"keep": min(keep, dedupe_keep), "dedupe_keep": dedupe_keep}
    found = drops(vectors, tmp_path_factory.mktemp("d4"), d4=d4)
    dropped = {row["id"] for row in found}
    assert count - len(dropped) == min(round(d4["keep"] * count), count)
    assert not dropped & {row["duplicate_of"] for row in found}

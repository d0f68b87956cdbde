"""Duplicate clusters over signature files: classes, clusters, keepers and the table of the result."""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from connectors.examples import (
    EXAMPLE_SCHEMA,
    Conversation,
    example_id,
    example_row,
    message,
    normalise,
    prompt_text,
    response_text,
)
from pipelines import duplicates
from pipelines.duplicates import (
    DUPLICATE_SCHEMA,
    DedupeSettings,
    SignatureBlocks,
    band_keys,
    exact_edges,
    find_duplicates,
    index_blocks,
    label_clusters,
    signature_schema,
    signature_table,
)
from pipelines.minhash import MinHashSettings, UInt64s, hash_shingles, jaccard

EXACT = DedupeSettings()
NEAR = DedupeSettings(minhash=MinHashSettings(threshold=0.7, ngram=1))
Pairs = Sequence[tuple[str, str]]


def examples(pairs: Pairs) -> pa.Table:
    """Canonical examples of (prompt, response) pairs, ids in order."""
    rows = [
        example_row(
            Conversation([message("user", prompt), message("assistant", response)]),
            "s",
            example_id("s", "f", n + 1),
        )
        for n, (prompt, response) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)


def write_signatures(
    folder: Path, table: pa.Table, options: DedupeSettings, cuts: Sequence[int] = (), group: int = 2048
) -> list[str]:
    """Signature files of a table, cut at the given rows."""
    paths: list[str] = []
    for start, end in itertools.pairwise([0, *sorted(cuts), table.num_rows]):
        path = folder / f"{len(paths):03d}.parquet"
        pq.write_table(
            signature_table(table.slice(start, end - start), options, start), path, row_group_size=group
        )
        paths.append(str(path))
    return paths


def found(folder: Path, pairs: Pairs, options: DedupeSettings) -> pa.Table:
    return find_duplicates(write_signatures(folder, examples(pairs), options), options)


def row_of(identity: str | None) -> int | None:
    return None if identity is None else int(identity.rsplit(":", 1)[1]) - 1


def keepers(table: pa.Table) -> dict[int, int | None]:
    """{row: row of the example it duplicates, None for a keeper}."""
    return {row["row"]: row_of(row["duplicate_of"]) for row in table.to_pylist()}


def test_signatures_count_the_response_and_number_the_rows() -> None:
    table = signature_table(examples([("p", "four"), ("p", "")]), EXACT, row_start=100)
    assert table.schema == signature_schema(EXACT)
    assert table["row"].to_pylist() == [100, 101]
    assert table["response_chars"].to_pylist() == [4, 0]


def test_shingles_are_of_all_turns_and_are_made_for_minhash_only() -> None:
    table = examples([("one two", "three")])
    assert "shingles" not in signature_table(table, EXACT, 0).column_names
    signed = signature_table(table, NEAR, 0)
    assert signed.schema == signature_schema(NEAR)
    assert signed["shingles"][0].as_py() == hash_shingles("one two three", 1).tolist()


@pytest.mark.parametrize("options", [EXACT, NEAR])
def test_a_table_without_rows_has_signatures_without_rows(options: DedupeSettings, tmp_path: Path) -> None:
    assert signature_table(examples([]), options, 0).schema == signature_schema(options)
    assert found(tmp_path, [], options).equals(DUPLICATE_SCHEMA.empty_table())
    assert find_duplicates([], options).equals(DUPLICATE_SCHEMA.empty_table())


def test_copies_name_the_keeper_and_single_rows_are_absent(tmp_path: Path) -> None:
    table = found(tmp_path, [("p", "same"), ("q", "other"), ("P", " same "), ("p", "Same")], EXACT)
    assert table.schema == DUPLICATE_SCHEMA
    # " same " is the longest response by its characters as given
    assert keepers(table) == {0: 2, 2: None, 3: 2}
    assert table["kind"].to_pylist() == ["exact", None, "exact"]
    assert table["similarity"].to_pylist() == [1.0, None, 1.0]
    assert table["cluster_size"].to_pylist() == [3, 3, 3]


def test_exact_alone_leaves_near_duplicates(tmp_path: Path) -> None:
    assert found(tmp_path, [("a b c d", "e"), ("a b c d", "e!")], EXACT).num_rows == 0


def test_with_neither_method_nothing_is_a_duplicate(tmp_path: Path) -> None:
    assert found(tmp_path, [("p", "same"), ("p", "same")], DedupeSettings(exact=False)).num_rows == 0


def test_minhash_alone_still_finds_exact_copies(tmp_path: Path) -> None:
    options = DedupeSettings(exact=False, minhash=MinHashSettings())
    table = found(tmp_path, [("p", "same"), ("p", "same")], options)
    assert table["kind"].to_pylist() == [None, "exact"]


def test_a_near_duplicate_has_its_true_similarity(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(20)]
    one, other = " ".join(words), " ".join([*words[:-1], "new"])
    table = found(tmp_path, [("prompt", one), ("prompt", other)], NEAR)
    # 21 words each, 20 of them shared, 22 in all; "w19" is as long as "new", so the smaller id stays
    assert table["similarity"].to_pylist() == [None, 20 / 22]
    assert table["kind"].to_pylist() == [None, "near"]
    assert keepers(table) == {0: None, 1: 0}


def test_pairs_below_the_threshold_are_kept(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(10)]
    pairs = [("x", " ".join(words)), ("x", " ".join([*words[:6], "a", "b", "c", "d"]))]  # 7 of 15
    assert found(tmp_path, pairs, NEAR).num_rows == 0


def test_a_chain_of_near_pairs_is_one_cluster(tmp_path: Path) -> None:
    words = [f"w{n:02d}" for n in range(60)]
    chain = [("", " ".join(words[start : start + 40])) for start in (0, 3, 6, 9, 12)]
    table = found(tmp_path, chain, NEAR)
    assert keepers(table) == {0: None, 1: 0, 2: 0, 3: 0, 4: 0}
    # neighbours share 37 of 43, the ends of the chain 28 of 52: below the threshold, and said so
    assert table["similarity"].to_pylist() == [None, 37 / 43, 34 / 46, 31 / 49, 28 / 52]


def test_the_longest_response_stays_then_the_smallest_id(tmp_path: Path) -> None:
    pairs = [("a b c d e f", "g h"), ("a b c d e f", "g  h!!"), ("a b c d e f", "g h !!")]
    assert keepers(found(tmp_path, pairs, NEAR)) == {0: 1, 1: None, 2: 1}
    first = NEAR.model_copy(update={"keep": "first"})
    assert keepers(found(tmp_path, pairs, first)) == {0: None, 1: 0, 2: 0}


def test_kind_is_exact_only_for_the_content_of_the_keeper(tmp_path: Path) -> None:
    pairs = [("a b", "c"), ("a b", "c"), ("a b", "c, longer?!")]
    options = DedupeSettings(minhash=MinHashSettings(threshold=0.5, ngram=1))
    # the copies 0 and 1 equal each other, but not the keeper 2
    assert found(tmp_path, pairs, options)["kind"].to_pylist() == ["near", "near", None]


def test_short_texts_are_compared_whole(tmp_path: Path) -> None:
    options = DedupeSettings(minhash=MinHashSettings())
    pairs = [
        ("", ""),
        ("", ""),
        ("hi", ""),
        ("Hi!", ""),
        ("你好", ""),
        ("你好。", ""),
        ("你", "们"),
        ("", "?"),
    ]
    assert keepers(found(tmp_path, pairs, options)) == {0: None, 1: 0, 2: None, 3: 2, 4: None, 5: 4}


def test_a_hundred_thousand_copies_are_one_candidate(tmp_path: Path) -> None:
    """All pairs of them would be five thousand million comparisons."""
    one = signature_table(examples([("a b c d e", "same")]), NEAR, 0)
    copies = pa.concat_tables([one] * 100_000).combine_chunks()
    ids = [example_id("s", "f", n + 1) for n in range(100_000)]
    copies = copies.set_column(0, "row", pa.array(range(100_000))).set_column(1, "id", pa.array(ids))
    pq.write_table(copies, tmp_path / "copies.parquet", row_group_size=2048)
    table = find_duplicates([str(tmp_path / "copies.parquet")], NEAR)
    assert table["duplicate_of"].null_count == 1
    assert set(table["duplicate_of"].to_pylist()) == {None, ids[0]}
    assert set(table["cluster_size"].to_pylist()) == {100_000}


def test_copies_stay_out_of_banding(tmp_path: Path) -> None:
    [path] = write_signatures(tmp_path, examples([("p", "same"), ("p", "same"), ("q", "other")]), NEAR)
    keys = band_keys(path, copies=np.array([1]))
    bands = len(pq.read_table(path)["bands"][0])
    assert keys[1].tolist() == [0] * bands + [2] * bands


WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(st.sampled_from(["", "p"]), WORDS), max_size=25)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_every_duplicate_names_a_kept_row_and_every_copy_is_found(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = found(Path(folder), pairs, NEAR)
    of = keepers(table)
    dropped = {row for row, keeper in of.items() if keeper is not None}
    assert all(keeper is None or of[keeper] is None for keeper in of.values())
    kept = [normalise(f"{p}\n{r}") for row, (p, r) in enumerate(pairs) if row not in dropped]
    assert len(kept) == len(set(kept))
    for row in table.filter(pa.compute.is_valid(table["duplicate_of"])).to_pylist():
        a, b = (hash_shingles("\n".join(pairs[n]), 1) for n in (row["row"], of[row["row"]] or 0))
        assert row["similarity"] == jaccard(a, b)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.data())
def test_the_result_does_not_depend_on_the_cut_or_order_of_files(
    pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(pairs)), max_size=4))
    table = examples(pairs)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        whole = find_duplicates(write_signatures(Path(one), table, NEAR), NEAR)
        paths = data.draw(st.permutations(write_signatures(Path(many), table, NEAR, cuts, group=3)))
        assert find_duplicates(paths, NEAR).equals(whole)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_rows(
    pairs: list[tuple[str, str]],
    random: Any,  # noqa: ANN401 - hypothesis' own Random
) -> None:
    table = examples(pairs)
    order = random.sample(range(len(pairs)), len(pairs))
    columns = ["id", "duplicate_of", "kind", "similarity", "cluster_size"]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        before = find_duplicates(write_signatures(Path(one), table, NEAR), NEAR)
        after = find_duplicates(
            write_signatures(Path(other), table.take(pa.array(order, pa.int64())), NEAR), NEAR
        )
    assert after.select(columns).sort_by("id").equals(before.select(columns).sort_by("id"))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_exact_edges_join_to_the_smallest_row_of_the_class(hashes: list[tuple[int, int]]) -> None:
    keys = np.array([(a, b, row) for row, (a, b) in enumerate(hashes)], dtype=np.uint64).reshape(-1, 3).T
    edges = exact_edges(keys[:, ::-1])
    assert {(int(a), int(b)) for a, b in edges.T} == {
        (row, hashes.index(key)) for row, key in enumerate(hashes) if hashes.index(key) != row
    }


def test_a_cluster_is_labelled_by_its_smallest_row() -> None:
    rows, labels = label_clusters(np.array([[9, 4, 7, 30], [4, 7, 20, 31]]))
    assert rows.tolist() == [4, 7, 9, 20, 30, 31]
    assert labels.tolist() == [4, 4, 4, 4, 30, 30]


def test_shingles_are_the_same_with_a_cache_of_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_signatures(tmp_path, examples([("p", str(n)) for n in range(10)]), NEAR, cuts=[4], group=3)
    blocks = [block for path in paths for block in index_blocks(path)]
    assert [(block.first, block.rows) for block in blocks] == [(0, 3), (3, 1), (4, 3), (7, 3)]
    rows = np.array([0, 2, 3, 6, 9])
    plenty = SignatureBlocks(blocks).shingles(rows)
    monkeypatch.setattr(duplicates, "CACHE_BYTES", 1)
    scarce = SignatureBlocks(blocks[::-1])
    for _ in range(2):
        again = scarce.shingles(rows)
        assert list(again) == rows.tolist()
        assert all(np.array_equal(again[row], plenty[row]) for row in rows.tolist())
        assert len(scarce._shingles) == 1


def test_signature_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    [path] = write_signatures(tmp_path, examples([("p", "a"), ("p", "b")]), EXACT)
    with pytest.raises(ValueError, match=r"row 0 is in two signature files.*000\.parquet"):
        find_duplicates([path, path], EXACT)
    pq.write_table(pq.read_table(path).take([1, 0]), path)
    with pytest.raises(ValueError, match=r"000\.parquet, row group 0: row numbers are not consecutive"):
        find_duplicates([path], EXACT)


def test_a_row_without_a_signature_is_named(tmp_path: Path) -> None:
    [path] = write_signatures(tmp_path, examples([("p", "a")]), EXACT)
    with pytest.raises(ValueError, match="row 5 is in no signature file"):
        SignatureBlocks(index_blocks(path)).rows(np.array([0, 5]), ["id"])


def similar_pairs(sets: Sequence[UInt64s], threshold: float) -> npt.NDArray[np.int64]:
    """All pairs at the threshold or above, by exact Jaccard over every pair; shape (2, m)."""
    vocabulary, columns = np.unique(np.concatenate(sets), return_inverse=True)
    sizes = np.array([len(numbers) for numbers in sets])
    starts = np.r_[0, np.cumsum(sizes)]
    matrix = csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(sets), len(vocabulary)))
    found_pairs = []
    for start in range(0, len(sets), 500):
        shared = (matrix[start : start + 500] @ matrix.T).tocoo()
        a, b = shared.row + start, shared.col
        alike = (a < b) & (shared.data / (sizes[a] + sizes[b] - shared.data) >= threshold)
        found_pairs.append(np.vstack([a[alike], b[alike]]))
    return np.hstack(found_pairs).astype(np.int64)


@pytest.mark.realdata
def test_nearly_all_real_near_duplicates_are_found_and_nothing_else(realdata: Path, tmp_path: Path) -> None:
    file = realdata / "near_duplicates" / "toolformer-dedupe-only-dataset.json.gz"
    raw = json.loads(gzip.decompress(file.read_bytes()))[:3000]  # of 7,673
    table = examples([(f"{row['instruction']}\n{row['input']}", row["response"]) for row in raw])
    options = DedupeSettings(minhash=MinHashSettings(threshold=0.8, ngram=3))
    result = find_duplicates(write_signatures(tmp_path, table, options), options)

    texts = (f"{prompt_text(m)}\n{response_text(m)}" for m in table["messages"].to_pylist())
    rows, labels = label_clusters(similar_pairs([hash_shingles(text, 3) for text in texts], 0.8))
    true = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    removable = len(rows) - len(np.unique(labels))
    dropped = {row: keeper for row, keeper in keepers(result).items() if keeper is not None}
    assert all(true[row] == true[keeper] for row, keeper in dropped.items())
    assert removable > 300
    assert len(dropped) >= 0.97 * removable

"""Duplicate clusters over signature files: copies, near pairs, keepers and the table of the result."""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.examples import EXAMPLE_SCHEMA, Conversation, example_id, example_row, message, normalise
from connectors.shards import write_arrow
from pipelines.dedupe import clusters
from pipelines.dedupe.find_duplicates import Search, find_duplicates
from pipelines.dedupe.settings import DedupeSettings, KeepBy, MinHashSettings
from pipelines.dedupe.signatures import SignatureFile, signature_table
from pipelines.drops import DROP_SCHEMA
from tests.draws import draws
from tests.pipelines.dedupe.reference import jaccard_of

EXACT = DedupeSettings()
NEAR = DedupeSettings(minhash=MinHashSettings(threshold=0.7, ngram=1))
Pairs = Sequence[tuple[str, str]]


def examples(pairs: Pairs, sources: Sequence[str] = (), extra: Sequence[dict[str, Any]] = ()) -> pa.Table:
    """Canonical examples of (prompt, response) pairs, ids in order."""
    rows = [
        example_row(
            Conversation(
                [message("user", prompt), message("assistant", response)], extra=extra[n] if extra else {}
            ),
            sources[n] if sources else "s",
            example_id("s", "f", n + 1),
        )
        for n, (prompt, response) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA)


def search_in(
    folder: Path,
    table: pa.Table,
    options: DedupeSettings,
    cuts: Sequence[int] = (),
    excluded: Sequence[int] = (),
) -> Search:
    """Signature files of a table, cut at the given rows, ready to be searched."""
    files = []
    for start, end in itertools.pairwise(sorted({0, *cuts, table.num_rows})):
        path = folder / f"{start:05d}.arrow"
        write_arrow(path, signature_table(table.slice(start, end - start), options, start))
        files.append(SignatureFile(str(path), start, end - start))
    np.save(folder / "excluded.npy", np.array(excluded, np.int64))
    return Search(tuple(files), (), str(folder / "excluded.npy"), options, str(folder), "duplicates.parquet")


def found(folder: Path, table: pa.Table | Pairs, options: DedupeSettings, **more: Any) -> pa.Table:  # noqa: ANN401
    table = table if isinstance(table, pa.Table) else examples(table)
    own = Path(tempfile.mkdtemp(dir=folder))  # pairs that are there are not looked for again
    return pq.read_table(own / find_duplicates(search_in(own, table, options, **more)))


def row_of(identity: str) -> int:
    return int(identity.rsplit(":", 1)[1]) - 1


def keepers(table: pa.Table) -> dict[int, int]:
    """{dropped row: row of the example it duplicates}."""
    return {row["row"]: row_of(row["duplicate_of"]) for row in table.to_pylist()}


@pytest.mark.parametrize("options", [EXACT, NEAR])
def test_without_rows_there_is_no_duplicate(options: DedupeSettings, tmp_path: Path) -> None:
    assert found(tmp_path, [], options).equals(DROP_SCHEMA.empty_table())


def test_copies_name_the_keeper_and_single_rows_are_absent(tmp_path: Path) -> None:
    table = found(tmp_path, [("p", "same"), ("q", "other"), ("P", " same "), ("p", "Same")], EXACT)
    assert table.schema == DROP_SCHEMA
    # " same " is the longest response by its characters as given
    assert keepers(table) == {0: 2, 3: 2}
    assert table["id"].to_pylist() == [example_id("s", "f", 1), example_id("s", "f", 4)]
    assert table["stage"].to_pylist() == ["dedupe"] * 2
    assert table["kind"].to_pylist() == ["exact"] * 2
    assert table["reason"].to_pylist() == ["exact duplicate"] * 2
    assert table["similarity"].to_pylist() == [1.0, 1.0]
    assert table["cluster_size"].to_pylist() == [3, 3]


def test_exact_alone_leaves_near_duplicates(tmp_path: Path) -> None:
    assert found(tmp_path, [("a b c d", "e"), ("a b c d", "e!")], EXACT).num_rows == 0


def test_with_neither_method_nothing_is_a_duplicate(tmp_path: Path) -> None:
    assert found(tmp_path, [("p", "same"), ("p", "same")], DedupeSettings(exact=False)).num_rows == 0


def test_minhash_alone_still_finds_exact_copies(tmp_path: Path) -> None:
    options = DedupeSettings(exact=False, minhash=MinHashSettings())
    assert found(tmp_path, [("p", "same"), ("p", "same")], options)["kind"].to_pylist() == ["exact"]


def test_rows_left_out_are_neither_dropped_nor_kept_for_others(tmp_path: Path) -> None:
    pairs = [("p", "same"), ("p", "same"), ("p", "same")]
    assert keepers(found(tmp_path, pairs, NEAR, excluded=[0])) == {2: 1}


def test_a_near_duplicate_has_its_true_similarity(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(20)]
    one, other = " ".join(words), " ".join([*words[:-1], "new"])
    table = found(tmp_path, [("prompt", one), ("prompt", other)], NEAR)
    # 21 words each, 20 of them shared, 22 in all; "w19" is as long as "new", so the smaller id stays
    assert table["similarity"].to_pylist() == [20 / 22]
    assert table["kind"].to_pylist() == ["near"]
    assert keepers(table) == {1: 0}


def test_pairs_below_the_threshold_are_kept(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(10)]
    pairs = [("x", " ".join(words)), ("x", " ".join([*words[:6], "a", "b", "c", "d"]))]  # 7 of 15
    assert found(tmp_path, pairs, NEAR).num_rows == 0


def test_the_scope_is_what_is_compared(tmp_path: Path) -> None:
    pairs = [("one two three", "a b c"), ("one two three", "d e f"), ("four five six", "a b c")]
    for scope, expected in (("prompt", {1: 0}), ("response", {2: 0}), ("both", {})):
        options = DedupeSettings(minhash=MinHashSettings(scope=scope, ngram=2))  # type: ignore[arg-type]
        assert keepers(found(tmp_path, pairs, options)) == expected


def test_character_shingles_see_a_misspelling(tmp_path: Path) -> None:
    pairs = [("", "necessary accommodation"), ("", "neccessary acommodation")]
    assert (
        found(tmp_path, pairs, DedupeSettings(minhash=MinHashSettings(threshold=0.6, ngram=2))).num_rows == 0
    )
    options = DedupeSettings(minhash=MinHashSettings(threshold=0.6, ngram=2, unit="char"))
    assert keepers(found(tmp_path, pairs, options)) == {1: 0}


def test_a_chain_of_near_pairs_is_one_cluster(tmp_path: Path) -> None:
    words = [f"w{n:02d}" for n in range(60)]
    chain = [("", " ".join(words[start : start + 40])) for start in (0, 3, 6, 9, 12)]
    table = found(tmp_path, chain, NEAR)
    assert keepers(table) == {1: 0, 2: 0, 3: 0, 4: 0}
    # neighbours share 37 of 43, the ends of the chain 28 of 52: below the threshold, and said so
    assert table["similarity"].to_pylist() == [37 / 43, 34 / 46, 31 / 49, 28 / 52]


def test_a_chain_of_ten_thousand_near_pairs_is_one_cluster(tmp_path: Path) -> None:
    # neighbours share 39 of 41 words, rows 40 apart none; each link is found with a chance of 1 - 1e-5
    options = DedupeSettings(minhash=MinHashSettings(threshold=0.7, ngram=1))
    chain = [("", " ".join(f"w{n}" for n in range(start, start + 40))) for start in range(10_000)]
    table = found(tmp_path, chain, options)
    assert table.num_rows == 9_999
    assert set(table["cluster_size"].to_pylist()) == {10_000}


def test_the_longest_response_stays_then_the_smallest_id(tmp_path: Path) -> None:
    pairs = [("a b c d e f", "g h"), ("a b c d e f", "g  h!!"), ("a b c d e f", "g h !!")]
    assert keepers(found(tmp_path, pairs, NEAR)) == {0: 1, 2: 1}
    first = NEAR.model_copy(update={"keep": ("first",)})
    assert keepers(found(tmp_path, pairs, first)) == {1: 0, 2: 0}


def test_the_first_source_of_the_list_stays_then_the_next_rule(tmp_path: Path) -> None:
    table = examples(
        [("p", "a"), ("p", "a "), ("p", "a"), ("p", " a  ")], sources=["web", "gold", "gold", "x"]
    )
    options = DedupeSettings(keep=(KeepBy(source=("gold", "web")), "longest_response"))
    assert keepers(found(tmp_path, table, options)) == {0: 1, 2: 1, 3: 1}


def test_the_highest_field_stays_and_a_row_without_it_does_not(tmp_path: Path) -> None:
    extra: list[dict[str, Any]] = [{"score": 1}, {}, {"score": 2.5}, {"score": "high"}, {"score": True}]
    table = examples([("p", "a")] * 5, extra=extra)
    options = DedupeSettings.model_validate({"keep": {"highest": "score"}})
    assert options.keep == (KeepBy(highest="score"),)
    assert set(keepers(found(tmp_path, table, options)).values()) == {2}


def test_kind_is_exact_only_for_the_content_of_the_keeper(tmp_path: Path) -> None:
    pairs = [("a b", "c"), ("a b", "c"), ("a b", "c, longer?!")]
    options = DedupeSettings(minhash=MinHashSettings(threshold=0.5, ngram=1))
    # the copies 0 and 1 equal each other, but not the keeper 2
    assert found(tmp_path, pairs, options)["kind"].to_pylist() == ["near", "near"]


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
    assert keepers(found(tmp_path, pairs, options)) == {1: 0, 3: 2, 5: 4}


def test_a_hundred_thousand_copies_are_one_candidate(tmp_path: Path) -> None:
    """All pairs of them would be five thousand million comparisons."""
    copies = pa.concat_tables([examples([("a b c d e", "same")])] * 100_000).combine_chunks()
    ids = [example_id("s", "f", n + 1) for n in range(100_000)]
    table = found(tmp_path, copies.set_column(0, "id", pa.array(ids)), NEAR)
    assert table.num_rows == 99_999
    assert set(table["duplicate_of"].to_pylist()) == {ids[0]}
    assert set(table["cluster_size"].to_pylist()) == {100_000}


def test_a_hundred_thousand_rows_that_differ_in_punctuation_are_one_candidate(tmp_path: Path) -> None:
    pairs = [("a b c d e", "same" + "!" * (n % 7) + "?" * (n // 7 % 5)) for n in range(100_000)]
    table = found(tmp_path, pairs, NEAR)
    assert table.num_rows == 99_999


def test_pairs_are_the_same_with_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{n}" for n in range(30)]
    pairs = [("x", " ".join(words[n % 5 : n % 5 + 20 + n % 3])) for n in range(60)]
    plenty = found(tmp_path, pairs, NEAR)
    monkeypatch.setattr(clusters, "SHINGLES_IN_MEMORY", 50)
    assert plenty.num_rows > 20
    assert found(tmp_path, pairs, NEAR).equals(plenty)


WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(st.sampled_from(["", "p"]), WORDS), max_size=25)


@draws(40)
@given(PAIRS)
def test_every_duplicate_names_a_kept_row_and_every_copy_is_found(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = found(Path(folder), pairs, NEAR)
    of = keepers(table)
    assert not set(of) & set(of.values())
    kept = [normalise(f"{p}\n{r}") for row, (p, r) in enumerate(pairs) if row not in of]
    assert len(kept) == len(set(kept))
    for row in table.to_pylist():
        a, b = ("\n".join(pairs[n]) for n in (row["row"], of[row["row"]]))
        assert row["similarity"] == jaccard_of(a, b, 1)


@draws(40)
@given(
    PAIRS, st.lists(st.integers(0, 25), max_size=4), st.sampled_from([8, 2**20]), st.sampled_from([3, 2**20])
)
def test_the_result_does_not_depend_on_how_the_rows_are_cut(
    pairs: list[tuple[str, str]], cuts: list[int], rows_in_task: int, keys_sorted: int
) -> None:
    table = examples(pairs)
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as many,
        pytest.MonkeyPatch.context() as patch,
    ):
        whole = found(Path(one), table, NEAR)
        patch.setattr("pipelines.dedupe.find_duplicates.ROWS_IN_TASK", rows_in_task)
        patch.setattr("pipelines.dedupe.find_duplicates.FAN_IN", 1 + rows_in_task)
        patch.setattr("pipelines.dedupe.clusters.KEYS_SORTED", keys_sorted)
        patch.setattr("pipelines.dedupe.clusters.ROWS_AT_ONCE", keys_sorted)
        assert found(Path(many), table, NEAR, cuts=[cut for cut in cuts if cut <= len(pairs)]).equals(whole)


@draws(40)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_rows(
    pairs: list[tuple[str, str]],
    random: Any,  # noqa: ANN401 - hypothesis' own Random
) -> None:
    table = examples(pairs)
    order = random.sample(range(len(pairs)), len(pairs))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        before = found(Path(one), table, NEAR)
        after = found(Path(other), table.take(pa.array(order, pa.int64())), NEAR)
    columns = [name for name in DROP_SCHEMA.names if name != "row"]
    assert after.select(columns).sort_by("id").equals(before.select(columns).sort_by("id"))


def components_of(texts: list[str], ngram: int, threshold: float) -> list[int]:
    """Smallest row of each text's true cluster, by the similarity of every pair that shares a shingle."""
    from tests.pipelines.dedupe.reference import grams_of

    sets = [set(grams_of(text, ngram)) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    labels = list(range(len(texts)))

    def root(row: int) -> int:
        while labels[row] != row:
            row = labels[row]
        return row

    for row, grams in enumerate(sets):
        common = Counter(other for gram in grams for other in holders.get(gram, ()))
        for other, shared in common.items():
            if shared / (len(grams) + len(sets[other]) - shared) >= threshold:
                a, b = sorted((root(row), root(other)))
                labels[b] = a
        for gram in grams:
            holders.setdefault(gram, []).append(row)
    return [root(row) for row in range(len(texts))]


@pytest.mark.realdata
def test_nearly_all_real_near_duplicates_are_found_and_nothing_else(realdata: Path, tmp_path: Path) -> None:
    file = realdata / "near_duplicates" / "toolformer-dedupe-only-dataset.json.gz"
    raw = json.loads(gzip.decompress(file.read_bytes()))[:3000]  # of 7,673
    pairs = [(f"{row['instruction']}\n{row['input']}", row["response"]) for row in raw]
    result = found(tmp_path, pairs, DedupeSettings(minhash=MinHashSettings(threshold=0.8, ngram=3)))
    true = components_of(["\n".join(pair) for pair in pairs], 3, 0.8)
    removable = len(pairs) - len(set(true))
    dropped = keepers(result)
    assert all(true[row] == true[keeper] for row, keeper in dropped.items())
    assert removable > 300
    assert len(dropped) >= 0.98 * removable

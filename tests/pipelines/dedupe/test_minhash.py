"""MinHash: signatures are datasketch's, bands are where equal parts meet."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from pydantic import ValidationError

from pipelines.dedupe import minhash
from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.minhash import band_shape, hash_bands, hash_sets, signatures
from pipelines.dedupe.settings import MinHashSettings
from pipelines.dedupe.shingles import hash_texts


def sets(*numbers: set[int] | range) -> tuple[UInt64s, Int64s]:
    values = [np.array(sorted(members), np.uint64) for members in numbers]
    return np.concatenate(values), np.r_[0, np.cumsum([len(v) for v in values])]


@pytest.mark.parametrize("permutations", [16, 128])
def test_signatures_are_those_of_datasketch(permutations: int) -> None:
    texts = [" ".join(map(str, range(start, start + 60))) for start in (0, 5, 40)]
    values, bounds = hash_texts(pa.array(texts), None, 3)
    reference = [MinHash(num_perm=permutations, hashfunc=int, scheme="affine32") for _ in texts]
    for sketch, first, end in zip(reference, bounds, bounds[1:], strict=False):
        sketch.update_batch([int(shingle) & 0xFFFFFFFF for shingle in values[first:end]])
    ours = signatures(values, bounds, permutations)
    assert np.array_equal(ours, [sketch.hashvalues for sketch in reference])
    for (a, one), (b, other) in itertools.combinations(zip(ours, reference, strict=True), 2):
        assert np.mean(a == b) == one.jaccard(other)


def test_a_signature_estimates_the_jaccard_similarity() -> None:
    one, other = signatures(*sets(range(9000), range(1000, 10_000)), 1024)  # 8000 of 10000 shared
    assert np.mean(one == other) == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 1024))


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("permutations", [16, 128])
def test_bands_are_datasketchs_choice(threshold: float, permutations: int) -> None:
    lsh = MinHashLSH(threshold, permutations, weights=minhash.BAND_WEIGHTS)
    assert band_shape(threshold, permutations) == (lsh.b, lsh.r)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_nine_in_ten_pairs_at_the_threshold_become_candidates(threshold: float) -> None:
    bands, rows = band_shape(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.9


def test_bands_are_equal_where_their_part_of_the_signature_is() -> None:
    signature = np.arange(12, dtype=np.uint32).reshape(1, 12).repeat(2, axis=0)
    signature[1, 5] = 99  # in the second of four bands of three
    assert [bool(a == b) for a, b in hash_bands(signature, 4, 3)] == [True, False, True, True]


def test_sets_are_hashed_as_a_whole() -> None:
    one, same, other, shorter = hash_sets(*sets({1, 2, 3}, {1, 2, 3}, {1, 2, 4}, {1, 2}))
    assert one == same
    assert len({one, other, shorter}) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"ngram": 0},
        {"permutations": 8},
        {"unit": "line"},
        {"scope": "x"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MinHashSettings.model_validate(wrong)

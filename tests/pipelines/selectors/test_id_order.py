"""The pseudo-random number of an id: SipHash, and what must hold for any ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.id_order import _INITIAL, id_order
from pipelines.selectors.siphash import siphash

KEY = np.frombuffer(bytes(range(16)), "<u8").astype(np.uint64)


@pytest.mark.parametrize(
    ("length", "number"), [(0, 0x726FDB47DD0E0E31), (1, 0x74F839C593DC67FD), (15, 0xA129CA6149BE45E5)]
)
def test_it_is_siphash_by_the_vectors_of_its_authors(length: int, number: int) -> None:
    text = np.frombuffer(bytes(range(16)), np.uint8)
    bounds = np.array([0, length])
    assert siphash(text, bounds, KEY ^ _INITIAL[:2], KEY ^ _INITIAL[2:]).tolist() == [number]


@given(st.lists(st.text(), max_size=20), st.integers(-(2**40), 2**40), st.integers(0, 20))
def test_a_number_depends_on_seed_and_id_alone_however_the_ids_are_held(
    ids: list[str], seed: int, cut: int
) -> None:
    alone = [int(id_order([one], seed)[0]) for one in ids]
    assert id_order(ids, seed).tolist() == alone
    whole = pa.array(["before", *ids], pa.string())[1:]  # a slice has an offset
    assert id_order(whole, seed).tolist() == alone
    assert id_order(pa.chunked_array([whole[:cut], whole[cut:]]), seed).tolist() == alone


def test_another_seed_gives_other_numbers_spread_over_the_range() -> None:
    ids = [f"source/file:{number:08d}" for number in range(10_000)]
    one, other = id_order(ids, 0), id_order(ids, 1)
    assert len(np.unique(np.concatenate([one, other]))) == 20_000
    shares = np.bincount((one >> np.uint64(60)).astype(np.int64), minlength=16) / len(ids)
    assert np.abs(shares - 1 / 16).max() < 0.012  # five standard deviations

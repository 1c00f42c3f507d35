"""The hash index against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.join.index import HashIndex
from tests.core.join_cases import EACH_WAY, up_to

EQUAL_LOW_BITS = [i << 40 for i in range(3_000)]
EQUAL_HIGH_BITS = list(range(3_000))
FAMILIES = {
    "equal low bits": EQUAL_LOW_BITS,
    "equal high bits": EQUAL_HIGH_BITS,
    "halves equal": [(i << 32) | i for i in range(3_000)],
    "near the top": [2**64 - 1 - i for i in range(3_000)],
}


def keys_of(values):
    return np.array(values, np.uint64)


@pytest.mark.parametrize("family", FAMILIES)
def test_adversarial_keys_are_found_through_growth_and_removal(family):
    column = keys_of(FAMILIES[family])
    rows = np.arange(column.size)
    index = HashIndex()
    for start in range(0, column.size, 100):
        part = rows[start : start + 100]
        assert (index.add(column[part], part, column) == part).all()
    assert (index.find(column, column) == rows).all()
    index.remove(rows[::2], column)
    found = index.find(column, column)
    assert (found[::2] == -1).all()
    assert (found[1::2] == rows[1::2]).all()
    assert len(index) == column.size // 2


def test_first_of_equal_keys_in_one_call_wins():
    column = keys_of([5, 9, 5, 5, 9, 7])
    owner = HashIndex().add(column, np.arange(6), column)
    assert owner.tolist() == [0, 1, 0, 0, 1, 5]


def test_key_zero_is_a_key_like_any_other():
    column = keys_of([0, 3])
    index = HashIndex()
    assert index.find(column, np.resize(column, 16)).tolist() == [-1, -1]
    index.add(column, np.arange(2), column)
    assert index.find(column, column).tolist() == [0, 1]


def test_slots_stay_bounded_when_as_many_keys_come_as_go():
    rng = np.random.default_rng(3)
    column = np.zeros(4_000, np.uint64)
    index, sizes = HashIndex(), []
    for turn in range(400):
        rows = np.arange(1_000) + 1_000 * (turn % 4)
        if turn >= 4:
            index.remove(rows, column)
        column[rows] = rng.integers(0, 2**63, 1_000)
        index.add(column[rows], rows, column)
        sizes.append(index.nbytes)
    assert len(index) == 4_000
    assert max(sizes) <= 4 * 4_000 / 0.3


operations = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 60), max_size=40)), max_size=20
)


@EACH_WAY
def test_index_agrees_with_a_dict(few):
    with up_to(few):
        check_against_a_dict()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(operations, st.sampled_from([1, 1 << 32, 1 << 58]))
def check_against_a_dict(steps, spread):
    index, truth = HashIndex(), {}
    column = np.zeros(1_000, np.uint64)
    used = 0
    for is_addition, names in steps:
        keys = keys_of([n * spread % 2**64 for n in names])
        if is_addition:
            rows = np.arange(used, used + keys.size)
            used += keys.size
            column[rows] = keys
            owner = index.add(keys, rows, column)
            assert owner.tolist() == [
                truth.setdefault(k, r) for k, r in zip(keys.tolist(), rows.tolist(), strict=True)
            ]
        else:
            gone = [k for k in dict.fromkeys(keys.tolist()) if k in truth]
            index.remove(np.array([truth.pop(k) for k in gone], np.int64), column)
        assert len(index) == len(truth)
        every = keys_of([n * spread % 2**64 for n in range(61)])
        assert index.find(every, column).tolist() == [truth.get(k, -1) for k in every.tolist()]

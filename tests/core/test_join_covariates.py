"""The covariates of units against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.join import CovariateTable


def keys(values):
    return np.array(values, np.uint64)


def test_newest_value_counts_also_within_one_call():
    table = CovariateTable()
    table.learn(keys([7, 7, 9]), np.array([1.0, 2.0, 3.0]))
    table.learn(keys([9]), np.array([4.0]))
    assert table.find(keys([7, 9, 7])).tolist() == [2.0, 4.0, 2.0]
    assert len(table) == 2


def test_unknown_units_and_requests_without_unit_have_no_value():
    table = CovariateTable()
    assert np.isnan(table.find(keys([1, 0]))).all()
    table.learn(keys([0, 5]), np.array([1.0, 2.0]))
    assert np.isnan(table.find(keys([0, 6]))).all()
    assert table.find(keys([])).size == 0


def test_memory_follows_the_units_not_the_events():
    table = CovariateTable()
    for _ in range(20):
        table.learn(keys(range(1, 10_001)), np.ones(10_000))
    assert table.nbytes < 60 * 10_000


calls = st.lists(st.lists(st.tuples(st.integers(0, 30), st.floats(-1e6, 1e6)), max_size=20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(calls)
def test_it_agrees_with_a_dict_and_survives_restarts(batches):
    table, truth, every = CovariateTable(), {}, keys(range(31))
    for batch in batches:
        table.learn(keys([u for u, _ in batch]), np.array([v for _, v in batch], np.float64))
        truth |= {u: v for u, v in batch if u}
        expected = np.array([truth.get(u, np.nan) for u in range(31)])
        np.testing.assert_array_equal(table.find(every), expected)
        table = CovariateTable.from_arrays(table.to_arrays())
        np.testing.assert_array_equal(table.find(every), expected)

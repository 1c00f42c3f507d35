"""The covariates of units against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.join import CovariateTable, covariates


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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(calls, st.integers(1, 25))
def test_of_units_beyond_the_first_so_many_nothing_is_learnt(batches, most):
    table, truth, every = CovariateTable(), {}, keys(range(31))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariates, "MOST_UNITS", most)
        for batch in batches:
            units, values = [u for u, _ in batch], np.array([v for _, v in batch], np.float64)
            beyond = []
            for unit, value in batch:
                is_beyond = unit != 0 and unit not in truth and len(truth) >= most
                beyond.append(is_beyond)
                if unit != 0 and not is_beyond:
                    truth[unit] = value
            assert table.learn(keys(units), values).tolist() == beyond
            expected = np.array([truth.get(u, np.nan) for u in range(31)])
            np.testing.assert_array_equal(table.find(every), expected)
            table = CovariateTable.from_arrays(table.to_arrays())
            assert len(table) == len(truth) <= most

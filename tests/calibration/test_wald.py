"""The test that stops when it is sure: its two errors, counted."""

import numpy as np
import pytest
from scipy.stats import binom

from tests.calibration import wald

TRIES = 3_000
ERRORS = {"alpha": 0.01, "broken": 0.12, "wrong": 0.01, "missed": 0.02}


def kept(level):
    """How many of TRIES are judged to be kept where alarms come at this level, and their runs."""
    rng, runs, found = np.random.default_rng(3), 0, 0

    def alarms():
        nonlocal runs
        while True:
            runs += 1
            yield bool(rng.random() < level)

    for _ in range(TRIES):
        found += wald.is_kept(alarms(), **ERRORS)
    return found, runs / TRIES


def test_a_level_that_is_kept_is_seldom_refused_and_one_that_is_not_seldom_let_through():
    # Allowed: what the stated errors exceed once in a million.
    assert TRIES - kept(ERRORS["alpha"])[0] <= binom.isf(1e-6, TRIES, ERRORS["wrong"])
    assert kept(ERRORS["broken"])[0] <= binom.isf(1e-6, TRIES, ERRORS["missed"])


def test_it_takes_less_than_half_the_runs_of_a_number_fixed_in_advance():
    fixed = next(
        n
        for n in range(1, 1_000)
        if binom.cdf(binom.isf(ERRORS["wrong"], n, ERRORS["alpha"]), n, ERRORS["broken"])
        <= ERRORS["missed"]
    )
    _, runs = kept(0.0)
    assert runs < fixed / 2


def test_runs_that_end_before_it_is_sure_are_an_error():
    with pytest.raises(AssertionError, match="too few"):
        wald.is_kept([False] * 5, **ERRORS)

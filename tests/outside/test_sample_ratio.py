"""Whether arms get their traffic and rewards come, against exact binomial laws of scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from controller.core.estimate.health import (
    LOG_THRESHOLD,
    JoinRate,
    fell,
    log_sample_ratio,
    start,
    update,
    update_join_rate,
)
from controller.core.model import Cells


def log_e(n0: float, n1: float, pi: float) -> float:
    one, none = np.ones(1), np.zeros(1, np.int64)
    cells = Cells(none, none, none, pi * one, n0 * one, 0 * one, n1 * one, 0 * one)
    return float(log_sample_ratio(update(start(1), cells))[0])


@pytest.mark.parametrize(("n", "pi"), [(40, 0.5), (40, 0.05), (200, 0.25), (500, 0.01)])
def test_the_e_value_has_the_mean_one_under_the_split(n: int, pi: float):
    """Source: scipy, binom.pmf, all outcomes enumerated."""
    k = np.arange(n + 1)
    logs = np.array([log_e(float(n - i), float(i), pi) for i in k])
    assert np.exp(binom.logpmf(k, n, pi) + logs).sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("n0", "n1", "pi"), [(600, 400, 0.5), (821_588, 815_482, 0.5), (990, 30, 0.01)]
)
def test_the_e_value_is_less_than_the_greatest_likelihood_ratio(n0: int, n1: int, pi: float):
    """Source: scipy: no mixture of binomial laws beats the best of them."""
    n = n0 + n1
    most = binom.logpmf(n1, n, n1 / n) - binom.logpmf(n1, n, pi)
    assert log_e(n0, n1, pi) <= most


def test_six_hundred_to_four_hundred_is_a_mismatch():
    """Source: the example of Wikipedia's article "Sample ratio mismatch": p = 2.54e-10."""
    assert chisquare([600, 400]).pvalue == pytest.approx(2.54e-10, rel=2e-3)
    assert log_e(600, 400, 0.5) > LOG_THRESHOLD
    assert log_e(510, 490, 0.5) < 0


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.5), (0.4, 0.5), (0.9, 0.8)])
def test_a_fall_of_the_join_rate_is_called_when_it_is_no_chance(share: float, least: float):
    """Source: scipy, binom.logpmf. Page (1954): called once some stretch up to now is a million
    times as likely under a lower rate as under `least` times what it was: here by trying all."""
    rate = JoinRate()
    for _ in range(300):
        rate = update_join_rate(rate, 1_000.0, 1_000.0 * share, least=least)
    assert fell(rate) is None
    line = least * rate.history_joined / rate.history_n
    low = line * np.array([0.02, 0.3, 0.6, 0.8])
    joined = np.random.default_rng(8).binomial(20, 0.3 * share * least, 400)
    gains = binom.logpmf(joined[:, None], 20, low) - binom.logpmf(joined[:, None], 20, line)
    sums = np.concatenate([np.zeros((1, 4)), np.cumsum(gains, axis=0)])
    best = [(sums[n] - sums[: n + 1].min(axis=0)).max() for n in range(1, len(sums))]
    called = next(n for n, value in enumerate(best) if value >= math.log(1e6))
    for n in range(called):
        rate = update_join_rate(rate, 20.0, float(joined[n]), least=least)
        assert fell(rate) is None
    # The history fades a little meanwhile, so the call may come some batches later.
    for n in range(called, called + 1 + called // 5):
        rate = update_join_rate(rate, 20.0, float(joined[n]), least=least)
    assert fell(rate) is not None

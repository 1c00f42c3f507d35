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
    values = np.exp([log_e(float(n - i), float(i), pi) for i in k])
    assert (binom.pmf(k, n, pi) * values).sum() == pytest.approx(1.0, abs=1e-9)


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
    """Source: scipy, binom.cdf: where a fall is called, that few rewards have a probability of at
    most 1e-6 if rewards come `least` times as often as before; they come at a tenth of that."""
    rate = JoinRate()
    for _ in range(300):
        rate = update_join_rate(rate, 1_000.0, 1_000.0 * share, least=least)
    assert fell(rate) is None
    for _ in range(10_000):
        rate = update_join_rate(rate, 20.0, 20.0 * share * least * 0.1, least=least)
        if fell(rate) is not None:
            break
    assert fell(rate) is not None
    before = rate.history_joined / rate.history_n
    few, many = math.floor(rate.recent_joined), math.ceil(rate.recent_n)
    assert binom.cdf(few, many, least * before) <= 1.01e-6

"""Intervals for means, against distributions and intervals of scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import betabinom, binom, lognorm
from statsmodels.stats.proportion import proportion_confint

from controller.core.estimate import effect, histogram

COUNTS = [(10, 0), (10, 10), (20, 1), (1_000, 43), (50_000, 2_500), (300, 285)]


@pytest.mark.parametrize(("n", "s"), COUNTS)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_ends_are_where_the_mixture_is_twenty_times_as_likely(n: int, s: int, alpha: float):
    """Source: scipy: the mixture of coins over Beta(1/2, 1/2) is betabinom, one coin is binom."""
    interval = effect.arm_interval(n, s, alpha)
    assert interval is not None
    for end in interval:
        if 0.0 < end < 1.0:
            log_e = betabinom.logpmf(s, n, 0.5, 0.5) - binom.logpmf(s, n, end)
            assert log_e == pytest.approx(math.log(1 / alpha), abs=1e-6)
    assert (interval[0] == 0.0) == (s == 0)
    assert (interval[1] == 1.0) == (s == n)


@pytest.mark.parametrize(("n", "s"), COUNTS)
def test_an_interval_for_all_times_contains_the_one_for_one_time(n: int, s: int):
    """Source: statsmodels, proportion_confint(method="beta"), Clopper & Pearson 1934."""
    low, high = proportion_confint(s, n, alpha=0.05, method="beta")
    interval = effect.arm_interval(n, s, 0.05)
    assert interval is not None
    assert interval[0] <= low
    assert interval[1] >= high


def test_an_interval_covers_at_all_of_two_thousand_looks():
    """Source: Ville's inequality: at most 5 % of 400 coins are ever outside; binom(400, .05) is
    above 36 with a probability below 0.1 %."""
    rng = np.random.default_rng(11)
    n = np.arange(1, 2_001)
    missed = 0
    for _ in range(400):
        s = rng.binomial(1, 0.07, len(n)).cumsum()
        ends = effect.arm_intervals(n.astype(float), s.astype(float), 0.05)
        missed += bool(((ends[:, 0] > 0.07) | (ends[:, 1] < 0.07)).any())
    assert binom.sf(36, 400, 0.05) < 1e-3
    assert missed <= 36


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.995])
def test_quantiles_of_the_histogram_are_those_of_the_distribution(q: float):
    """Source: scipy, lognorm.ppf; bins are 3 % wide, the sampling error of 10^6 is below 2 %."""
    law = lognorm(0.8, scale=0.01)
    values = law.rvs(1_000_000, random_state=np.random.default_rng(3))
    filled = histogram.added(histogram.empty(), values)
    [found] = histogram.quantiles(filled, np.array([q]))
    assert law.ppf(q) * 0.98 < found < law.ppf(q) * 1.03 * 1.02

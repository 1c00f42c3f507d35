"""Ville's inequality, by seeded simulation: looking after every batch, in ramps and drifts.

Each test allows as many false alarms as a true level of alpha would exceed once in a million.
"""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import binom

from controller.core.estimate import effect, sequential
from controller.core.model import Cell

RUNS, BATCH, ALPHA = 800, 200, 0.01
RAMP = np.repeat([0.01, 0.05, 0.25, 0.5], 40)
FLAT = np.full(len(RAMP), 0.5)


def alarms(bets, pis, base, *, change=lambda p: p, seed):
    """How many runs ever reach log(1 / ALPHA): base (steps,) is the champion's mean."""
    rng, wealth = np.random.default_rng(seed), sequential.Wealth(np.zeros(len(bets.slope)))
    n = np.full((RUNS, 1), 200.0)
    s = rng.binomial(200, base[0], (RUNS, 1)).astype(float)
    top = np.full(RUNS, -np.inf)
    for pi, p0 in zip(pis, base, strict=True):
        n1 = rng.binomial(BATCH, pi, (RUNS, 1))
        s0, s1 = rng.binomial(BATCH - n1, p0), rng.binomial(n1, change(p0))
        cell = Cell(float(pi), BATCH - n1, s0, n1, s1)
        wealth = sequential.update(bets, wealth, [cell], (s + 0.5) / (n + 1.0))
        n, s = n + cell.n0, s + s0
        top = np.maximum(top, logsumexp(bets.log_weights + wealth.log_wealth, axis=-1))
    return int((top >= np.log(1 / ALPHA)).sum())


def most():
    return int(binom.isf(1e-6, RUNS, ALPHA))


@pytest.mark.parametrize("base", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("make", [sequential.harm_bets, sequential.superiority_bets])
def test_identical_arms_raise_no_alarm(make, base):
    assert alarms(make(None), FLAT, np.full(len(FLAT), base), seed=1) <= most()


@pytest.mark.parametrize(("start", "end"), [(0.06, 0.03), (0.03, 0.06), (0.5, 0.3)])
@pytest.mark.parametrize("make", [sequential.harm_bets, sequential.superiority_bets])
def test_a_baseline_that_drifts_during_a_ramp_raises_no_alarm(make, start, end):
    base = np.linspace(start, end, len(RAMP))
    assert alarms(make(0.05), RAMP, base, seed=2) <= most()


def test_pooling_over_the_same_ramp_would_raise_it_nearly_always():
    # The mistake that strata avoid: one propensity for the whole ramp, in the same engine.
    base, bets = np.linspace(0.06, 0.03, len(RAMP)), sequential.harm_bets(None)
    counts0 = ((1 - RAMP) * 1_000).sum(), ((1 - RAMP) * 1_000 * base).sum()
    counts1 = (RAMP * 1_000).sum(), (RAMP * 1_000 * base).sum()
    pooled = Cell(float(RAMP.mean()), *counts0, *counts1)
    after = sequential.update(bets, sequential.start(bets), [pooled], 0.05)
    assert sequential.log_e(bets, after) > np.log(1 / ALPHA)


@pytest.mark.parametrize(("base", "margin"), [(0.05, 0.01), (0.5, 0.05)])
def test_a_candidate_worse_by_the_margin_is_not_found_as_good(base, margin):
    bets = sequential.noninferiority_bets(margin)
    means = np.full(len(RAMP), base)
    assert alarms(bets, RAMP, means, change=lambda p: p - margin, seed=3) <= most()


@pytest.mark.parametrize("base", [0.001, 0.02])
def test_errors_within_the_tolerance_raise_no_alarm(base):
    bets = sequential.errors_bets(0.01)
    means = np.full(len(RAMP), base)
    assert alarms(bets, RAMP, means, change=lambda p: p + 0.01, seed=4) <= most()


@pytest.mark.parametrize("lift", [0.0, -0.21, 0.083])
def test_the_lifts_interval_holds_the_truth_at_all_times(lift):
    # 100 runs at alpha 5 % in a ramp with a falling baseline.
    runs, alpha, rng = 100, 0.05, np.random.default_rng(5)
    base, wealth = np.linspace(0.3, 0.15, 32), effect.start()
    n, s = np.full((runs, 1, 1), 200.0), rng.binomial(200, 0.3, (runs, 1, 1)).astype(float)
    missed = np.zeros(runs, bool)
    for pi, p0 in zip(np.repeat([0.05, 0.25, 0.5, 0.5], 8), base, strict=True):
        n1 = rng.binomial(1_000, pi, (runs, 1, 1))
        s0, s1 = rng.binomial(1_000 - n1, p0), rng.binomial(n1, p0 * (1 + lift))
        cell = Cell(float(pi), 1_000 - n1, s0, n1, s1)
        wealth = effect.update(wealth, [cell], (s + 0.5) / (n + 1.0))
        n, s = n + cell.n0, s + s0
        for run in range(runs):
            lower, upper = effect.limits(effect.LiftWealth(wealth.log_wealth[run]), alpha)
            missed[run] |= not lower <= lift <= upper
    assert missed.sum() <= binom.isf(1e-6, runs, alpha)


@pytest.mark.parametrize("p", [0.01, 0.3])
def test_the_band_of_an_arm_holds_the_truth_at_all_times(p):
    runs, alpha, rng = 150, 0.05, np.random.default_rng(6)
    steps = rng.random((runs, 2_000)) < p
    sums, missed = np.cumsum(steps, axis=1), 0
    looks = np.unique(np.geomspace(1, 2_000, 40).astype(int))
    for row in sums:
        bands = [effect.arm_interval(float(n), float(row[n - 1]), alpha) for n in looks]
        missed += any(not low <= p <= high for low, high in bands)
    assert missed <= binom.isf(1e-6, runs, alpha)

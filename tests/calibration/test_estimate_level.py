"""Ville's inequality, by seeded simulation: looking after every batch, in ramps and drifts.

Each test allows as many false alarms as a true level of alpha would exceed once in a million.
"""

import numpy as np
import pytest
from scipy.stats import binom

from controller.core.estimate import book, effect, purse, restart, sequential
from controller.core.model import Sample
from tests.calibration import lanes
from tests.core.cells import cells

RUNS, BATCH, ALPHA = 800, 200, 0.01
RAMP = np.repeat([0.01, 0.05, 0.25, 0.5], 40)
FLAT = np.full(len(RAMP), 0.5)
STEPS = range(0, len(RAMP), 40)
HARM, SUPERIOR, STAGE = 0, 1, 2


def reward_book(margin=None, contamination=0.0, is_minimised=False, min_effect=None):
    return book.reward_book(
        (margin,), contamination=contamination, min_effect=min_effect, is_minimised=is_minimised
    )


def alarms(bets, family, pis, base, *, change=lambda p: p, seed):
    """How many runs ever reach log(1 / ALPHA): base (steps,) is the champion's mean."""
    runs = lanes.start(bets, RUNS, base[0], seed)
    top = np.full(RUNS, -np.inf)
    for i, (pi, p0) in enumerate(zip(pis, base, strict=True)):
        if i in STEPS:
            runs.wealth = restart.stepped(runs.wealth)
        lanes.batch(runs, BATCH, pi, p0, change(p0))
        top = np.maximum(top, lanes.log_e(runs, family))
    return int((top >= np.log(1 / ALPHA)).sum())


def most():
    return int(binom.isf(1e-6, RUNS, ALPHA))


@pytest.mark.parametrize("base", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("is_minimised", [False, True])
@pytest.mark.parametrize("family", [HARM, SUPERIOR])
def test_identical_arms_raise_no_alarm(family, is_minimised, base):
    bets = reward_book(is_minimised=is_minimised)
    assert alarms(bets, family, FLAT, np.full(len(FLAT), base), seed=1) <= most()


@pytest.mark.parametrize(("start", "end"), [(0.06, 0.03), (0.03, 0.06), (0.5, 0.3)])
@pytest.mark.parametrize("family", [HARM, SUPERIOR])
def test_a_baseline_that_drifts_during_a_ramp_raises_no_alarm(family, start, end):
    base = np.linspace(start, end, len(RAMP))
    assert alarms(reward_book(min_effect=0.05), family, RAMP, base, seed=2) <= most()


def test_pooling_over_the_same_ramp_would_raise_it_nearly_always():
    # The mistake that strata avoid: one propensity for the whole ramp, in the same engine.
    base, bets = np.linspace(0.06, 0.03, len(RAMP)), reward_book()
    counts0 = ((1 - RAMP) * 1_000).sum(), ((1 - RAMP) * 1_000 * base).sum()
    counts1 = (RAMP * 1_000).sum(), (RAMP * 1_000 * base).sum()
    pooled = cells((float(RAMP.mean()), *counts0, *counts1))
    gain = sequential.gains(bets, pooled, np.array([0.05]))
    wealth = restart.earned(restart.start(bets, 1), gain, np.array([160_000.0]))
    assert restart.log_e(bets, wealth)[0, HARM] > np.log(1 / ALPHA)


@pytest.mark.parametrize(("base", "margin"), [(0.05, 0.01), (0.5, 0.05)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_candidate_worse_by_the_margin_is_not_found_as_good(base, margin, sign):
    bets, means = reward_book(margin, is_minimised=sign < 0), np.full(len(RAMP), base)
    found = alarms(bets, STAGE, RAMP, means, change=lambda p: p - sign * margin, seed=3)
    assert found <= most()


@pytest.mark.parametrize("base", [0.001, 0.02])
@pytest.mark.parametrize("family", [0, 1])
def test_a_guardrail_at_its_bound_is_neither_broken_nor_kept(base, family):
    bets = book.guard_book(book.ERRORS, 0.01)
    means = np.full(len(RAMP), base)
    assert alarms(bets, family, RAMP, means, change=lambda p: p + 0.01, seed=4) <= most()


@pytest.mark.parametrize(("family", "forged"), [(HARM, -0.01), (SUPERIOR, 0.01), (STAGE, 0.01)])
def test_forged_labels_within_what_is_declared_lead_to_no_wrong_verdict(family, forged):
    # The candidate is equal (as bad as the margin, for the stage); forgers move its labels.
    truth = -0.03 if family == STAGE else 0.0
    bets, means = reward_book(0.03, contamination=0.01), np.full(len(FLAT), 0.1)
    off = truth + forged
    found = alarms(bets, family, FLAT, means, change=lambda p: p + off, seed=5)
    assert found <= most()
    naive = alarms(
        reward_book(0.03), family, FLAT, means, change=lambda p: p + truth + forged, seed=5
    )
    assert naive > 3 * found + 20


@pytest.mark.parametrize("lift", [0.0, -0.21, 0.083])
def test_the_lifts_interval_holds_the_truth_at_all_times(lift):
    # 100 runs at alpha 5 % in a ramp with a falling baseline.
    runs, alpha = 100, 0.05
    side_by_side = lanes.start(effect.BOOK, runs, 0.3, 5)
    missed = np.zeros(runs, bool)
    pis, base = np.repeat([0.05, 0.25, 0.5, 0.5], 8), np.linspace(0.3, 0.15, 32)
    for pi, p0 in zip(pis, base, strict=True):
        lanes.batch(side_by_side, 1_000, pi, p0, p0 * (1 + lift))
        lower, upper = effect.limits(side_by_side.wealth.log_wealth, alpha).T
        missed |= (lower > lift) | (upper < lift)
    assert missed.sum() <= binom.isf(1e-6, runs, alpha)


@pytest.mark.parametrize("lift", [0.0, -0.3])
def test_the_lifts_interval_of_amounts_holds_the_truth_at_all_times(lift):
    # 60 runs at alpha 5 %: revenue with many zeros, in a ramp while its mean falls by half.
    runs, alpha, rng = 60, 0.05, np.random.default_rng(6)
    bets = book.reward_book((None,), contamination=0.0, min_effect=None, is_minimised=False)
    rule = purse.Rule(bets, 0.0, 200.0, has_lift=True)
    missed = alarmed = 0
    for _ in range(runs):
        state, ends, harm = purse.start(rule, (0.0, 0.0, 0.0), bins=1, candidates=1), [], []
        for pi, level in zip(np.repeat([0.1, 0.5], 10), np.linspace(8.0, 4.0, 20), strict=True):
            arm = (rng.random(500) < pi).astype(np.int64)
            value = (rng.random(500) < 0.3) * rng.exponential(level, 500)
            value = np.minimum(value * np.where(arm, 1 + lift, 1.0), 200.0)
            none = np.zeros(500, np.int64)
            sample = Sample(arm, none, none, np.full((500, 1), pi), value)
            state, _ = purse.observed(rule, state, sample)
            ends.append(effect.limits(state.lift_wealth, alpha)[0])
            harm.append(state.log_mixed[0])
        lower, upper = np.array(ends).T
        missed += bool((lower > lift).any() or (upper < lift).any())
        alarmed += max(harm) >= np.log(1 / ALPHA)
    assert missed <= binom.isf(1e-6, runs, alpha)
    if lift:
        assert alarmed > 0.9 * runs
    else:
        assert alarmed <= binom.isf(1e-6, runs, ALPHA)


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

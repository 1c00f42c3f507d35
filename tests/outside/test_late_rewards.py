"""The fast path, against Cox's partial likelihood by statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import survdiff

from controller.core.estimate import risk
from controller.core.model import Flow

TREATED = (
    *((6, 1), (6, 1), (6, 1), (6, 0), (7, 1), (9, 0), (10, 1), (10, 0), (11, 0), (13, 1), (16, 1)),
    *((17, 0), (19, 0), (20, 0), (22, 1), (23, 1), (25, 0), (32, 0), (32, 0), (34, 0), (35, 0)),
)
PLACEBO = tuple(
    (weeks, 1) for weeks in (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)
)
"""Freireich et al., Blood 21 (1963) 699-716: weeks of remission of children with leukaemia, and
whether a relapse ended it, with 6-mercaptopurine and without. The data of Cox's paper of 1972."""

COPIES = 4
"""Of each child: the fast path waits for sets of at least 64 units."""

Units = tuple[tuple[float, int], ...]


def flow(rows: list[tuple[int, float, float, float, float]], time: float) -> Flow:
    """Rows of (arm, matured, events, lapsed, closed)."""
    arm, matured, events, lapsed, closed = np.array(rows, np.float64).reshape(-1, 5).T
    none = np.zeros(len(arm))
    return Flow(
        stratum=none.astype(np.int64),
        segment=none.astype(np.int64) - 1,
        arm=arm.astype(np.int64),
        time=none + time,
        matured=matured,
        events=events,
        event_value=events,
        delay=none + 1.0,
        lapsed=lapsed,
        closed=closed,
        value=none,
        square=none,
    )


def scored(champion: Units, candidate: Units) -> risk.Risk:
    """All enter at once; events of one time are one micro-batch, then those leave who lapse."""
    state = risk.start(1, None)
    entry = [(0, len(champion), 0, 0, 0), (1, len(candidate), 0, 0, 0)]
    state = risk.observe(state, flow(entry, 0.0))
    arms = (champion, candidate)
    for time in sorted({when for units in arms for when, _ in units}):
        counts = [
            [sum(1 for w, status in units if (w, status) == (time, kind)) for kind in (1, 0)]
            for units in arms
        ]
        state = risk.observe(state, flow([(a, 0, n[0], 0, 0) for a, n in enumerate(counts)], 0.0))
        state = risk.observe(state, flow([(a, 0, 0, n[1], 0) for a, n in enumerate(counts)], 0.0))
    return state


def partial(champion: Units, candidate: Units) -> PHReg:
    times, status = np.array([*champion, *candidate], np.float64).T
    is_candidate = np.repeat([0.0, 1.0], [len(champion), len(candidate)])
    return PHReg(times, is_candidate[:, np.newaxis], status, ties="breslow")


def assert_bets_are_partial_likelihoods(champion: Units, candidate: Units) -> None:
    state = scored(champion, candidate)
    model = partial(champion, candidate)
    nothing = model.loglike(np.zeros(1))
    for log_theta, log_wealth in zip(state.log_thetas, state.wealth.log_wealth[0], strict=True):
        expected = model.loglike(np.array([log_theta])) - nothing
        assert log_wealth == pytest.approx(expected, abs=1e-8 * max(1.0, abs(expected)))


def test_each_bet_is_a_ratio_of_partial_likelihoods_without_ties():
    """Source: statsmodels, PHReg.loglike: 16 hazard ratios, 500 units, exponential delays."""
    rng = np.random.default_rng(4)

    def units(n: int, scale: float) -> Units:
        times = rng.exponential(scale, n)
        return tuple((min(x, 1.0), int(x < 1.0)) for x in times)

    assert_bets_are_partial_likelihoods(units(400, 3.0), units(100, 4.0))


def test_each_bet_is_a_ratio_of_partial_likelihoods_in_the_data_of_cox():
    """Source: statsmodels, PHReg with Breslow's ties; Freireich et al. 1963, four times over."""
    assert_bets_are_partial_likelihoods(PLACEBO * COPIES, TREATED * COPIES)


def test_the_best_bet_on_the_data_of_cox_is_his_estimate():
    """Source: the hazard ratio that maximises the partial likelihood, -1.509 as a logarithm with
    Breslow's ties; and the log-rank statistic of these data, 16.79 (statsmodels, survdiff)."""
    arms = (PLACEBO, TREATED)
    times, status = np.array([*PLACEBO, *TREATED], np.float64).T
    chi2, _ = survdiff(times, status, np.repeat([0, 1], [21, 21]))
    assert chi2 == pytest.approx(16.79, abs=0.005)
    [estimate] = partial(*arms).fit().params
    assert estimate == pytest.approx(-1.509, abs=5e-4)
    state = scored(*(units * COPIES for units in arms))
    curve = np.polynomial.Polynomial.fit(state.log_thetas, state.wealth.log_wealth[0], 8)
    best = minimize_scalar(lambda x: -curve(x), bounds=(math.log(0.1), math.log(0.5)))
    assert best.x == pytest.approx(estimate, abs=0.02)


def test_the_fast_path_sees_what_the_trial_saw():
    """Source: the trial of 1963 was stopped because the treatment was better; as a candidate whose
    relapses are rewards, it would be rolled back at 1 %."""
    assert risk.log_harm(scored(PLACEBO * COPIES, TREATED * COPIES))[0] > math.log(1 / 0.01)
    assert risk.log_harm(scored(TREATED * COPIES, PLACEBO * COPIES))[0] < 0

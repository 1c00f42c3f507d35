"""How fast the bets find what is there, in units of the information bound log(1/alpha) / KL_inf.

The bound is what a gambler who knew the truth would need; it is computed here by brute force.
Allowed: the targets of the scoreboard plus three standard errors of the simulated mean.
"""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from controller.core.estimate import sequential
from controller.core.model import Cell

ALPHA, RUNS = 0.01, 400


def kl(a, b):
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))


def bound(pi, p0, p1, shift):
    low, high = max(0.0, -shift) + 1e-9, min(1.0, 1.0 - shift) - 1e-9

    def distance(x):
        return pi * kl(p1, x + shift) + (1 - pi) * kl(p0, x)

    found = minimize_scalar(
        distance, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    return np.log(1 / ALPHA) / found.fun


def ratio_to_bound(bets, pi, p0, p1, seed):
    """Mean units to the threshold over the bound, and its standard error."""
    best = bound(pi, p0, p1, bets.shift)
    batch, rng = max(int(best / 60), 1), np.random.default_rng(seed)
    n = np.full((RUNS, 1), 200.0)
    s = rng.binomial(200, p0, (RUNS, 1)).astype(float)
    wealth, first = sequential.start(bets), np.full(RUNS, np.inf)
    for seen in range(batch, int(8 * best), batch):
        n1 = rng.binomial(batch, pi, (RUNS, 1))
        s0, s1 = rng.binomial(batch - n1, p0), rng.binomial(n1, p1)
        cell = Cell(pi, batch - n1, s0, n1, s1)
        wealth = sequential.update(bets, wealth, [cell], (s + 0.5) / (n + 1.0))
        n, s = n + cell.n0, s + s0
        log_e = logsumexp(bets.log_weights + wealth.log_wealth, axis=-1)
        first[np.isinf(first) & (log_e >= np.log(1 / ALPHA))] = seen
        if np.isfinite(first).all():
            break
    assert np.isfinite(first).mean() > 0.995
    ratios = np.minimum(first, 8 * best) / best
    return ratios.mean(), ratios.std() / np.sqrt(RUNS)


@pytest.mark.parametrize("base", [0.05, 0.1, 0.2])
@pytest.mark.parametrize(("min_effect", "most"), [(None, 1.30), (0.2, 1.15)])
def test_harm_of_a_fifth_is_found_near_the_bound(base, min_effect, most):
    mean, error = ratio_to_bound(sequential.harm_bets(min_effect), 0.5, base, 0.8 * base, seed=0)
    assert mean <= most + 3 * error


@pytest.mark.parametrize(("base", "margin"), [(0.5, 0.01), (0.5, 0.05), (0.05, 0.01), (0.05, 0.05)])
def test_an_equal_candidate_is_found_not_inferior_near_the_bound(base, margin):
    mean, error = ratio_to_bound(sequential.noninferiority_bets(margin), 0.5, base, base, seed=1)
    assert mean <= 1.30 + 3 * error


@pytest.mark.parametrize("pi", [0.05, 0.5])
def test_errors_are_found_near_the_bound(pi):
    mean, error = ratio_to_bound(sequential.errors_bets(0.01), pi, 0.01, 0.04, seed=2)
    assert mean <= 1.35 + 3 * error

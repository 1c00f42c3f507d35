"""Forecasts of evidence, and e-BH."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from controller.core.estimate import betting, book, ebh, forecast, sequential
from controller.core.estimate.betting import Guess
from controller.core.model import Sample
from tests.core.cells import cells

BOOK = book.reward_book((0.01,), contamination=0.0, min_effect=None, is_minimised=False)


def kl(a, b):
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))


@pytest.mark.parametrize(("family", "p1"), [(0, 0.08), (1, 0.125), (2, 0.1)])
def test_growth_of_coins_is_near_the_information_bound_and_never_above(family, p1):
    pi, p0, shift = 0.3, 0.1, float(BOOK.shift[BOOK.starts[family]])
    bound = minimize_scalar(
        lambda x: pi * kl(p1, x + shift) + (1 - pi) * kl(p0, x),
        bounds=(0.05, 0.2),
        method="bounded",
    ).fun
    found = forecast.of_coins(BOOK, pi, p0, p1)[family]
    assert 0.95 * bound <= found <= bound * (1 + 1e-9)


def test_growth_of_coins_is_what_a_unit_brings():
    rng, pi, p0, p1 = np.random.default_rng(0), 0.4, 0.3, 0.36
    n1 = 40_000
    row = (pi, 60_000, rng.binomial(60_000, p0), n1, rng.binomial(n1, p1))
    gain = sequential.gains(BOOK, cells(row), np.array([p0]))[0]
    best = np.maximum.reduceat(gain, BOOK.starts)[1] / 100_000
    assert forecast.of_coins(BOOK, pi, p0, p1)[1] == pytest.approx(best, rel=0.15)


def test_growth_of_amounts_is_what_a_unit_brings():
    rng, n, pi = np.random.default_rng(1), 200_000, 0.5
    bets = book.reward_book((0.5,), contamination=0.0, min_effect=None, is_minimised=False)
    arm = rng.integers(0, 2, n)
    value = rng.exponential(5.0, n).round(1) * np.where(arm, 1.1, 1.0)
    none = np.zeros(n, np.int64)
    sample = Sample(arm=arm, stratum=none, bin=none, pi=np.full((n, 1), pi), value=value)
    guess = Guess(np.array([5.0]), 25.0, 0.0, 60.0)
    gain = betting.gains(bets, betting.units(sample, guess), guess, 1)[0]
    best = np.maximum.reduceat(gain, bets.starts) / n
    found = forecast.of_amounts(bets, pi, (5.0, 5.5), 27.0)
    assert found[1:] == pytest.approx(best[1:], rel=0.2)


def test_ebh_is_its_definition_by_brute_force():
    rng = np.random.default_rng(2)
    for _ in range(300):
        log_e, alpha = rng.normal(2.0, 2.0, int(rng.integers(1, 8))), float(rng.uniform(0.01, 0.2))
        n = len(log_e)
        best = 0
        for k in range(1, n + 1):
            if (np.exp(log_e) >= n / (k * alpha)).sum() >= k:
                best = k
        expected = np.exp(log_e) >= n / (best * alpha) if best else np.zeros(n, bool)
        assert ebh(list(log_e), alpha) == tuple(expected.tolist())


def test_ebh_of_nothing_is_nothing():
    assert ebh([], 0.05) == ()

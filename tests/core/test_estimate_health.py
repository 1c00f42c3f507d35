"""The sample ratio: fair by enumeration, quiet when sound, quick when not."""

import numpy as np
import pytest
from scipy.special import logsumexp

from controller.core.estimate.health import LOG_THRESHOLD, log_sample_ratio, start, update
from controller.core.model import Cell


@pytest.mark.parametrize("pi", [0.001, 0.05, 0.5, 0.9])
def test_mean_of_each_bet_is_one_when_the_propensity_is_right(pi):
    one = np.exp(update(start(), [Cell(pi, 0, 0, 1, 0)]).log_wealth)
    zero = np.exp(update(start(), [Cell(pi, 1, 0, 0, 0)]).log_wealth)
    assert np.abs(pi * one + (1 - pi) * zero - 1.0).max() <= 1e-12


def test_nothing_seen_is_evidence_of_nothing():
    assert log_sample_ratio(start()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("pi", [0.0, 1.0, float("nan")])
def test_units_without_a_coin_are_left_out(pi):
    after = update(start(), [Cell(pi, 100, 0, 3, 0)])
    assert log_sample_ratio(after) == pytest.approx(0.0, abs=1e-12)


def flagged(true_share, pi, runs, units, seed):
    """Units until the threshold, per run; inf where it is never reached."""
    rng, wealth = np.random.default_rng(seed), start()
    first, batch = np.full(runs, np.inf), 500
    for seen in range(batch, units + 1, batch):
        n1 = rng.binomial(batch, true_share, (runs, 1))
        wealth = update(wealth, [Cell(pi, batch - n1, 0, n1, 0)])
        log_e = logsumexp(wealth.log_wealth, axis=-1) - np.log(wealth.log_wealth.shape[-1])
        first[np.isinf(first) & (log_e >= LOG_THRESHOLD)] = seen
    return first


def test_a_split_of_51_to_49_is_found_in_about_60_000_units():
    assert np.median(flagged(0.51, 0.5, 300, 150_000, seed=1)) <= 62_000


def test_a_true_split_is_not_held():
    # P(any of 1 000 runs) <= 1 000 / 10^4 per Ville; two or more by chance: < 0.005.
    assert np.isfinite(flagged(0.5, 0.5, 1_000, 100_000, seed=0)).sum() <= 1


def test_an_arm_that_loses_a_fifth_of_a_small_share_is_found():
    assert np.isfinite(flagged(0.04, 0.05, 200, 30_000, seed=3)).all()

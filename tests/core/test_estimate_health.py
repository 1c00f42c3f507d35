"""Data health: fair by enumeration, quiet when sound, quick when not; falls of the join rate."""

import numpy as np
import pytest
from scipy.stats import binom

from controller.core.estimate.health import (
    LOG_THRESHOLD,
    JoinRate,
    SampleRatio,
    fell,
    log_sample_ratio,
    start,
    update,
    update_join_rate,
    with_candidate,
)
from controller.core.model import Cells
from controller.ledger import codec


def cells(*rows):
    """Rows of (candidate, pi, n0, n1)."""
    candidate, pi, n0, n1 = (np.array(c) for c in zip(*rows, strict=True))
    zero = np.zeros(len(pi))
    none = np.zeros(len(pi), np.int64)
    return Cells(candidate, none, none, pi, n0.astype(float), zero, n1.astype(float), zero)


@pytest.mark.parametrize("pi", [0.001, 0.05, 0.5, 0.9])
def test_mean_of_each_bet_is_one_when_the_propensity_is_right(pi):
    one = np.exp(update(start(), cells((0, pi, 0, 1))).wealth.log_wealth)
    zero = np.exp(update(start(), cells((0, pi, 1, 0))).wealth.log_wealth)
    assert np.abs(pi * one + (1 - pi) * zero - 1.0).max() <= 1e-12


def test_mean_of_the_mixture_is_one_over_binomial_counts_at_changing_propensities():
    pis, total = [0.1, 0.4], 0.0
    for a, b in np.ndindex(7, 7):
        after = update(start(), cells((0, pis[0], 6 - a, a), (0, pis[1], 6 - b, b)))
        weight = binom.pmf(a, 6, pis[0]) * binom.pmf(b, 6, pis[1])
        total += weight * np.exp(log_sample_ratio(after)[0])
    assert total == pytest.approx(1.0, abs=1e-12)


def test_nothing_seen_is_evidence_of_nothing():
    assert log_sample_ratio(start(3)) == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("pi", [0.0, 1.0, float("nan")])
def test_units_without_a_coin_are_left_out(pi):
    after = update(start(), cells((0, pi, 100, 3)))
    assert log_sample_ratio(after) == pytest.approx([0.0], abs=1e-12)


def test_each_candidate_has_its_own_wealth():
    rows = [(1, 0.5, 300, 100), (0, 0.2, 80, 22), (1, 0.1, 90, 10), (2, 0.5, 10, 10)]
    together = log_sample_ratio(update(with_candidate(start(2)), cells(*rows)))
    for candidate in range(3):
        own = [(0, *row[1:]) for row in rows if row[0] == candidate]
        alone = log_sample_ratio(update(start(), cells(*own)))
        assert together[candidate] == pytest.approx(alone[0], abs=1e-12)


def test_counts_in_parts_give_what_they_give_at_once():
    parts = update(update(start(), cells((0, 0.3, 70, 20))), cells((0, 0.3, 7, 12)))
    whole = update(start(), cells((0, 0.3, 77, 32)))
    assert parts.wealth.log_wealth == pytest.approx(whole.wealth.log_wealth, abs=1e-10)
    assert codec.decode(SampleRatio, codec.encode(whole)).wealth.log_wealth.tolist() == (
        whole.wealth.log_wealth.tolist()
    )


def flagged(true_share, pi, runs, units, seed):
    """Units until the threshold, per run (one candidate each); inf where it is never reached."""
    rng, ratio = np.random.default_rng(seed), start(runs)
    first, batch = np.full(runs, np.inf), 500
    everyone = np.arange(runs)
    for seen in range(batch, units + 1, batch):
        n1 = rng.binomial(batch, true_share, runs)
        ratio = update(ratio, cells(*zip(everyone, [pi] * runs, batch - n1, n1, strict=True)))
        first[np.isinf(first) & (log_sample_ratio(ratio) >= LOG_THRESHOLD)] = seen
    return first


def test_a_split_of_51_to_49_is_found_in_50_000_units():
    first = flagged(0.51, 0.5, 1_000, 150_000, seed=1)
    assert np.median(first) <= 50_000
    # A gambler who knows the shares needs log(10^4) / growth = 46 050 on average.
    assert np.mean(first <= 100_000) >= 0.95


def test_a_true_split_is_not_held():
    # P(any of 1 000 runs) <= 1 000 / 10^4 per Ville; two or more by chance: < 0.005.
    assert np.isfinite(flagged(0.5, 0.5, 1_000, 100_000, seed=0)).sum() <= 1


def test_an_arm_that_loses_a_fifth_of_a_small_share_is_found():
    assert np.isfinite(flagged(0.04, 0.05, 200, 30_000, seed=3)).all()


def test_each_bet_is_a_likelihood_ratio_of_binomials():
    pi, n0, n1 = 0.2, 50, 30
    shares = pi * np.exp(update(start(), cells((0, pi, 0, 1))).wealth.log_wealth[0])
    assert shares.min() < 0.5 * pi
    assert shares.max() > 2.0 * pi
    log_ratio = binom.logpmf(n1, n0 + n1, shares) - binom.logpmf(n1, n0 + n1, pi)
    after = update(start(), cells((0, pi, n0, n1)))
    assert after.wealth.log_wealth[0] == pytest.approx(log_ratio, abs=1e-9)


# --- the join rate --------------------------------------------------------------------------------

LEAST = 0.5


def join_rates(batches, rng, *, share, rate=None, outcomes=100):
    """The rate after each micro-batch in which `share(batch)` of the outcomes get a reward."""
    rate = rate or JoinRate()
    for batch in range(batches):
        joined = rng.binomial(outcomes, share(batch))
        rate = update_join_rate(rate, outcomes, joined, least=LEAST)
        yield rate


def last(rates):
    *_, rate = rates
    return rate


@pytest.mark.parametrize("share", [0.002, 0.03, 0.5, 1.0])
def test_a_steady_rate_never_falls(share):
    rng = np.random.default_rng(0)
    assert not any(fell(r) for r in join_rates(20_000, rng, share=lambda _: share))


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_an_outage_is_found_after_some_thirty_missing_rewards(share):
    rng = np.random.default_rng(1)
    rate = last(join_rates(5_000, rng, share=lambda _: share))
    down = [fell(r) for r in join_rates(400, rng, share=lambda _: 0.0, rate=rate)]
    found = next(i for i, fall in enumerate(down) if fall)
    # 10^-6 = (1 - share / 2)^n, and what is still remembered of before is twice that at most
    assert (found + 1) * 100 <= 300 + 6 * np.log(1e6) / (LEAST * share)
    assert all(down[found:])
    assert down[-1].before == pytest.approx(share, rel=0.1)
    assert down[-1].now <= 0.01 * share


def test_the_history_stands_still_while_fallen_and_rewards_that_come_back_end_it():
    rng = np.random.default_rng(2)
    rate = last(join_rates(5_000, rng, share=lambda _: 0.05))
    rate = last(join_rates(50_000, rng, share=lambda _: 0.0, rate=rate))
    assert fell(rate).before == pytest.approx(0.05, rel=0.15)
    back = [fell(r) for r in join_rates(100, rng, share=lambda _: 0.05, rate=rate)]
    assert back[0] is not None
    assert back[-1] is None
    assert not any(back[50:])


def test_a_fall_to_more_than_the_least_part_is_none():
    rng = np.random.default_rng(3)
    rate = last(join_rates(5_000, rng, share=lambda _: 0.1))
    assert not any(fell(r) for r in join_rates(5_000, rng, share=lambda _: 0.06, rate=rate))


def test_a_slow_change_becomes_what_is_normal():
    rng = np.random.default_rng(4)
    rates = join_rates(100_000, rng, share=lambda i: 0.1 * 0.2 ** (i / 100_000))
    assert not any(fell(r) for r in rates)


def test_little_history_says_nothing():
    rate = update_join_rate(JoinRate(), 100, 15, least=LEAST)
    for _ in range(5):
        rate = update_join_rate(rate, 10, 0, least=LEAST)
    assert fell(rate) is None
    assert fell(JoinRate()) is None


def test_one_large_micro_batch_is_judged_as_well():
    rate = last(join_rates(1_000, np.random.default_rng(5), share=lambda _: 0.2))
    assert fell(update_join_rate(rate, 1_000_000, 0, least=LEAST)) is not None
    assert fell(update_join_rate(rate, 1_000_000, 200_000, least=LEAST)) is None


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05, 0.01])
@pytest.mark.parametrize("left", [0.0, 0.1, 0.2, 0.3, 0.35])
def test_a_fall_to_less_than_the_least_part_is_called_at_every_share(share, left):
    # Of half of what it was, the least that is allowed: seven tenths of it (left = .35) are the
    # hardest. 10^6 to one takes log(10^6) / KL(left share || share / 2) outcomes on average.
    rng = np.random.default_rng(int(1000 * share + 10 * left))
    batch = round(30 / share)  # thirty rewards each
    before = join_rates(1_000, rng, share=lambda _: share, outcomes=batch)
    rate = last(before)
    assert fell(rate) is None
    p, q = share * LEAST, share * left
    kl = (1 - q) * np.log((1 - q) / (1 - p)) + (q * np.log(q / p) if q else 0.0)
    batches = round(2.5 * np.log(1e6) / kl / batch) + 3
    after = join_rates(batches, rng, share=lambda _: q, rate=rate, outcomes=batch)
    down = [fell(rate) for rate in after]
    assert down[-1] is not None
    assert down[-1].before == pytest.approx(share, rel=0.15)

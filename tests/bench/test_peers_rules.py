"""The peers' rules are what their sources say: exact laws, published tables, brute force.

The figures of simulations done elsewhere (see docs/decision-quality.md) are reproduced within
binomial error; where their traffic is not told, base rate 10 % and 1 000 requests an hour for two
weeks fit all of them.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, chi2, mannwhitneyu, norm, poisson

from tests.bench.arena import Traffic, fight
from tests.bench.peers import Counts, Seen, Verdict, by_hand, growthbook
from tests.bench.peers.argo import Argo
from tests.bench.peers.flagger import Flagger
from tests.bench.peers.kayenta import Kayenta
from tests.bench.peers.sagemaker import SageMaker
from tests.bench.peers.tensorzero import TensorZero
from tests.bench.peers.vowpal_wabbit import BaselineChallenger

DAY_S = 86_400.0


def steady(value):
    return lambda _: value


def traffic(per_minute, base=0.05, *, effect=1.0, days=14.0, tick_s=60.0, **more):
    return Traffic(
        steady(per_minute),
        steady(base),
        steady(effect),
        length_s=days * DAY_S,
        tick_s=tick_s,
        **more,
    )


def agrees(found, runs, expected, expected_runs=None):
    """Whether a share of runs is what an exact law, or another simulation, says, at 1 in 1 000."""
    variance = expected * (1 - expected) * (1 / runs + (1 / expected_runs if expected_runs else 0))
    return abs(found - expected) <= norm.isf(0.0005) * np.sqrt(variance)


# --- exact laws: these rules are Markov chains, or sums of independent trials ------------------


def passes(mean_n, errors, least):
    """P(success rate >= least) of a Poisson number of requests; none is no pass."""
    n = np.arange(1, int(mean_n + 12 * np.sqrt(mean_n) + 20))
    allowed = np.floor((1 - least) * n + 1e-9)
    return float((poisson.pmf(n, mean_n) * binom.cdf(allowed, n, errors)).sum())


def flagger_rolls_back(per_minute, errors):
    failed = np.zeros(11)
    failed[0] = 1.0
    for weight in np.arange(1, 26) * 0.02:
        p, after = passes(per_minute * weight, errors, 0.99), np.zeros(11)
        for k in range(10):
            further = np.arange(10 - k)
            after[k:10] += failed[k] * p * (1 - p) ** further
            after[10] += failed[k] * (1 - p) ** (10 - k)
        after[10] += failed[10]
        failed = after
    return float(failed[10])


@pytest.mark.parametrize(
    ("per_minute", "errors", "published"), [(200, 0.005, 0.18), (50, 0.012, 0.06)]
)
def test_flaggers_example_rolls_back_as_often_as_its_markov_chain(per_minute, errors, published):
    runs, exact = 4_000, flagger_rolls_back(per_minute, errors)
    result = fight(Flagger(), traffic(per_minute, errors=(0.005, errors)), runs=runs, seed=1)
    assert agrees(result.share(Verdict.ROLL_BACK), runs, exact)
    assert result.share(Verdict.PROMOTE) == pytest.approx(1 - result.share(Verdict.ROLL_BACK))
    assert agrees(exact, 1_000, published)


def test_argos_example_aborts_as_often_as_a_sum_of_independent_measurements():
    per_minute, errors, runs = 20.0, 0.05, 4_000
    failed = np.array([1.0])
    for weight in np.repeat([0.2, 0.4, 0.6, 0.8], 2):
        p = passes(5 * per_minute * weight, errors, 0.95)
        failed = np.convolve(failed, [p, 1 - p])
    result = fight(Argo(), traffic(per_minute, errors=(0.0, errors)), runs=runs, seed=2)
    assert agrees(result.share(Verdict.ROLL_BACK), runs, failed[4:].sum())


def test_sagemakers_alarm_trips_as_often_as_two_breaches_in_a_row():
    runs, breach = 4_000, 1 - passes(25.0, 0.005, 0.99) - poisson.pmf(0, 25.0)
    chain = np.array([1.0, 0.0, 0.0])
    for _ in range(10):
        calm, once, over = chain
        chain = np.array([(calm + once) * (1 - breach), calm * breach, over + once * breach])
    result = fight(SageMaker(), traffic(100, errors=(0.0, 0.005)), runs=runs, seed=3)
    assert agrees(result.share(Verdict.ROLL_BACK), runs, chain[2])


def test_no_traffic_is_a_failure_for_argo_and_flagger_and_a_success_for_sagemaker():
    nothing = traffic(0.0)
    assert fight(Argo(), nothing, runs=1, seed=0).share(Verdict.ROLL_BACK) == 1.0
    assert fight(Flagger(), nothing, runs=1, seed=0).share(Verdict.ROLL_BACK) == 1.0
    assert fight(SageMaker(), nothing, runs=1, seed=0).share(Verdict.PROMOTE) == 1.0


# --- published tables and figures --------------------------------------------------------------


@pytest.mark.parametrize(("looks", "published"), [(1, 0.05), (5, 0.142), (10, 0.193), (20, 0.248)])
def test_peeking_at_5_percent_is_as_false_as_the_table_says(looks, published):
    # Armitage, McPherson and Rowe, J. R. Statist. Soc. A 132 (1969), table 2: normal data, 5 %.
    runs = 4_000
    rule = by_hand.z_test(every_s=3600.0)
    stream = traffic(10_000, 0.5, days=looks / 24, tick_s=3600.0)
    result = fight(rule, stream, runs=runs, seed=4)
    assert agrees(1 - result.share(Verdict.HOLD), runs, published, 10_000)


WEEKLY = {"per_minute": 1_000 / 60, "base": 0.1, "tick_s": 3600.0}


def test_p_best_at_95_percent_hourly_names_a_winner_in_two_of_three_a_a_tests():
    result = fight(by_hand.p_best_hourly(), traffic(**WEEKLY), runs=1_500, seed=5)
    assert agrees(1 - result.share(Verdict.HOLD), 1_500, 0.68, 1_000)


@pytest.mark.parametrize(
    ("rule", "published"),
    [
        (by_hand.p_best_hourly(), 0.075),
        (growthbook.SafeRollout(days=14), 0.076),
        (TensorZero(), 0.001),
    ],
    ids=["P(best)", "GrowthBook", "TensorZero"],
)
def test_a_model_5_percent_worse_is_promoted_as_often_as_was_found(rule, published):
    result = fight(rule, traffic(**WEEKLY, effect=0.95), runs=1_500, seed=6)
    assert agrees(result.share(Verdict.PROMOTE), 1_500, published, 1_000)


# --- formulas ----------------------------------------------------------------------------------


def counts(n0, s0, n1, s1):
    return Counts(np.array([[n0, n1]], float), np.array([[s0, s1]], float))


def test_growthbooks_interval_is_tightest_where_it_is_tuned():
    # Waudby-Smith et al., arXiv:2103.06476, section on tuning: rho minimises the width at N*,
    # up to an approximation of the Lambert function; the width in standard errors is flat there.
    n = np.geomspace(500, 50_000, 400)
    rule = growthbook.SafeRollout()
    table = Counts(np.stack([n, n], axis=1) / 2, np.stack([n, n], axis=1) / 4)
    in_errors = rule.half_width(table) * np.sqrt(n)
    assert n[in_errors.argmin()] == pytest.approx(5_000, rel=0.1)


def test_growthbooks_interval_holds_at_all_times_in_95_percent_of_a_a_tests():
    result = fight(growthbook.SafeRollout(days=14), traffic(**WEEKLY), runs=1_000, seed=7)
    assert result.share(Verdict.ROLL_BACK) <= 0.05


def test_growthbooks_bandit_gives_each_arm_its_probability_and_at_least_1_percent():
    rule, before = growthbook.Bandit(), np.array([0.5])
    c = counts(1_000, 100, 1_000, 110)
    error = np.sqrt(0.1 * 0.9 / 999 + 0.11 * 0.89 / 999)
    assert rule.weights(c, before)[0] == pytest.approx(norm.cdf(0.01 / error))
    assert rule.weights(counts(9e5, 9e4, 9e5, 10e4), before)[0] == pytest.approx(1 / 1.01)
    assert rule.weights(counts(99, 9, 1_000, 400), before)[0] == 0.5


def test_tensorzero_stops_at_its_likelihood_ratio():
    # By hand: means 0.5 and 0.6, variances 0.25 and 0.24 times n / (n - 1), n = 1 000 each:
    # 0.1^2 / (2 (0.25 + 0.24) / 999) = 10.194; ln((1 + ln 2000) / 0.05) = 5.148
    rule, labels = TensorZero(), counts(1_000, 500, 1_000, 600)
    assert rule.glr(labels)[0] == pytest.approx(10.194, abs=1e-3)
    assert rule.threshold(np.array([2_000.0]))[0] == pytest.approx(5.148, abs=1e-3)


def test_tensorzero_averages_only_what_was_rated():
    # Both arms please one user in ten; only pleased users of the candidate ever rate.
    seen = Seen(
        n=np.full((1, 2), 10_000.0),
        errors=np.zeros((1, 2)),
        p99_ms=np.full((1, 2), 100.0),
        rewards=np.array([[1_000.0, 1_000.0]]),
        labels=np.array([[10_000.0, 1_000.0]]),
    )
    rule = TensorZero()
    _, told = rule.judge(rule.start(1), seen, 300.0)
    assert told.verdict[0] == Verdict.PROMOTE


def shift_interval(x, y, confidence=0.98):
    """The limits of the shift that the asymptotic test does not reject, by root finding."""

    def p(shift, side):
        return mannwhitneyu(x - shift, y, alternative=side, method="asymptotic").pvalue

    alpha, far = (1 - confidence) / 2, np.ptp(np.concatenate([x, y])) + 1
    lower = brentq(lambda d: p(d, "greater") - alpha, -far, far)
    upper = brentq(lambda d: p(d, "less") - alpha, -far, far)
    return lower, upper


@pytest.mark.parametrize("shift", [-0.5, -0.2, -0.15, -0.1, 0.0, 0.2])
def test_kayentas_test_is_its_interval_against_its_band(shift):
    rng, rule = np.random.default_rng(8), Kayenta()
    for _ in range(10):
        x, y = rng.normal(1 + shift, 0.3, 60), rng.normal(1, 0.3, 60)
        lower, upper = shift_interval(x, y)
        band = 0.25 * abs(np.median(x[:, np.newaxis] - y))
        points = np.stack([y, x], axis=1)[:, np.newaxis, :]
        assert rule.fails(points, -1)[0] == (upper < -band)
        assert rule.fails(points, 1)[0] == (lower > band)


def test_vowpal_wabbits_bound_is_that_of_empirical_likelihood():
    # Owen, Biometrika 75 (1988), theorem 1: asymptotically mean - sqrt(chi2 var / n), weights 1.
    rule, n, p = BaselineChallenger(), 5_000.0, 0.3
    ones = np.array([n])
    state = rule.start(1)
    sums = {"n": ones, "w": ones, "w2": ones, "wr": p * ones, "w2r": p * ones}
    state = type(state)(**sums, policy_w=ones, policy_wr=ones, play_baseline=np.array([False]))
    expected = p - np.sqrt(chi2.isf(0.05, 1) * p * (1 - p) / n)
    assert rule.lower_bound(state)[0] == pytest.approx(expected, abs=2e-4)


def test_vowpal_wabbit_goes_back_to_a_baseline_that_is_much_better():
    good = fight(BaselineChallenger(), traffic(500, 0.3, days=1), runs=100, seed=9)
    bad = fight(BaselineChallenger(), traffic(500, 0.3, effect=0.3, days=1), runs=100, seed=9)
    assert good.weight.mean() > 0.9
    assert bad.share(Verdict.ROLL_BACK) > 0.8

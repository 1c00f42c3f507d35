"""The room as a whole: bets before learning, one state by any road, and honest emptiness."""

import dataclasses
import math

import numpy as np
import pytest

from controller.core import estimate
from controller.core.estimate import moments, sequential
from controller.core.model import Cell

SPEC = estimate.EstimatorSpec(
    margins=(None, 0.01, 0.05),
    min_effect=0.05,
    error_increase=0.01,
    interval_alpha=0.05,
    half_life_s=3_600.0,
)
HISTORY = (1_000.0, 300.0)
ERRORS = (1_000.0, 10.0)


def batches(seed, n, *, p0=0.3, p1=0.27):
    rng = np.random.default_rng(seed)
    for i in range(n):
        pi = float(rng.choice([0.01, 0.05, 0.5]))
        n1 = int(rng.binomial(200, pi))
        s0, s1 = int(rng.binomial(200 - n1, p0)), int(rng.binomial(n1, p1))
        yield [Cell(pi, 200 - n1, s0, n1, s1)], 10.0 * i


def run(seed, n, **means):
    est = estimate.start(SPEC, HISTORY, ERRORS)
    for cells, time in batches(seed, n, **means):
        est = estimate.observe_outcomes(SPEC, est, cells, time)
    return est


def test_incremental_state_equals_one_recomputed_unit_by_unit():
    def log_likelihood(p, n, s):
        return s * math.log(p) + (n - s) * math.log(1 - p)

    est, bets = run(4, 60), sequential.harm_bets(0.05)
    wealth, n, s = [0.0] * len(bets.slope), 200.0, 60.0
    for cells, _ in batches(4, 60):
        p0 = (s + 0.5) / (n + 1.0)
        for cell in cells:
            for k, theta in enumerate(sequential.HARM):
                p1 = theta * p0
                null = (1 - cell.pi) * p0 + cell.pi * p1
                wealth[k] += log_likelihood(p0, cell.n0, cell.s0)
                wealth[k] += log_likelihood(p1, cell.n1, cell.s1)
                wealth[k] -= log_likelihood(null, cell.n0 + cell.n1, cell.s0 + cell.s1)
            n, s = n + cell.n0, s + cell.s0
    assert np.abs(est.harm.log_wealth - wealth).max() <= 1e-9


def test_what_is_bet_on_a_batch_does_not_depend_on_the_batch():
    # Two cells of one batch are bet on with the same guess, whatever the first one holds.
    first, second = Cell(0.5, 500, 450, 0, 0), Cell(0.05, 190, 60, 10, 3)
    before = estimate.start(SPEC, HISTORY)
    both = estimate.observe_outcomes(SPEC, before, [first, second], 0.0)
    alone = [estimate.observe_outcomes(SPEC, before, [c], 0.0) for c in (first, second)]
    added = alone[0].harm.log_wealth + alone[1].harm.log_wealth
    assert np.abs(both.harm.log_wealth - added).max() <= 1e-12


def test_observing_leaves_the_old_state_as_it_was():
    before = run(1, 5)
    copy = (
        before.harm.log_wealth.copy(),
        before.outcomes.counts.copy(),
        before.lift.log_wealth.copy(),
    )
    estimate.observe_outcomes(SPEC, before, [Cell(0.05, 190, 60, 10, 3)], 99.0)
    assert np.array_equal(before.harm.log_wealth, copy[0])
    assert np.array_equal(before.outcomes.counts, copy[1])
    assert np.array_equal(before.lift.log_wealth, copy[2])


# Peer failure 11: a failed estimate that looks like a number.
def test_empty_evidence_never_looks_like_a_number():
    seen = estimate.evidence(SPEC, estimate.start(SPEC), "v1", "v2")
    for arm in (seen.champion, seen.candidate):
        assert (arm.n, arm.mean, arm.interval) == (0, None, None)
    assert seen.lift.estimate is None
    assert (seen.lift.lower, seen.lift.upper) == (-1.0, math.inf)
    logs = (seen.log_harm, seen.log_superior, *seen.log_noninferior, seen.log_errors)
    assert (*logs, seen.log_shadow_errors) == pytest.approx((0.0,) * 7, abs=1e-12)
    assert seen.p_best == pytest.approx(0.5, abs=1e-9)


def test_one_arm_alone_gives_no_comparison():
    est = estimate.start(SPEC, HISTORY)
    est = estimate.observe_outcomes(SPEC, est, [Cell(0.0, 10_000, 3_000, 0, 0)], 1.0)
    seen = estimate.evidence(SPEC, est, "v1", "v2")
    assert seen.candidate.mean is None
    assert seen.lift.estimate is None
    assert seen.log_harm == pytest.approx(0.0, abs=1e-12)
    assert seen.champion.mean == pytest.approx(0.3)


def test_nothing_is_bet_before_the_champion_is_known():
    est = estimate.observe_outcomes(SPEC, estimate.start(SPEC), [Cell(0.5, 9, 0, 9, 9)], 1.0)
    seen = estimate.evidence(SPEC, est, "v1", "v2")
    assert seen.log_superior == pytest.approx(0.0, abs=1e-12)
    assert seen.candidate.n == 9


def test_a_worse_candidate_is_seen_as_harm_and_a_better_one_as_superior():
    worse = estimate.evidence(SPEC, run(0, 400, p1=0.15), "v1", "v2")
    better = estimate.evidence(SPEC, run(0, 400, p1=0.45), "v1", "v2")
    for seen, harm in ((worse, True), (better, False)):
        assert (seen.log_harm > math.log(100)) is harm
        assert (seen.log_superior > math.log(100)) is not harm
        assert (seen.log_noninferior[2] > math.log(100)) is not harm
        assert (seen.lift.upper < 0) is harm
        assert (seen.lift.lower > 0) is not harm
        assert seen.log_noninferior[0] == 0.0
    assert worse.p_best < 1e-6
    assert better.p_best > 1 - 1e-6
    assert worse.loss > 0.4
    assert better.loss < 1e-6


def test_seed_zero_is_a_seed_and_the_same_events_give_the_same_state():
    first, again, other = run(0, 20), run(0, 20), run(1, 20)
    assert np.array_equal(first.lift.log_wealth, again.lift.log_wealth)
    assert not np.array_equal(first.lift.log_wealth, other.lift.log_wealth)


def test_fractional_rewards_keep_their_fractions():
    # Peer failure 7: rewards of 0.7 truncated to 0.
    est = estimate.start(SPEC, HISTORY)
    est = estimate.observe_outcomes(SPEC, est, [Cell(0.5, 10, 7.0, 10, 3.5)], 1.0)
    seen = estimate.evidence(dataclasses.replace(SPEC, high=20.0), est, "v1", "v2")
    assert (seen.champion.mean, seen.candidate.mean) == pytest.approx((14.0, 7.0))
    assert (seen.champion.total, seen.candidate.total) == pytest.approx((140.0, 70.0))
    assert seen.champion.interval[1] <= 20.0
    assert seen.lift.estimate == pytest.approx(-0.5)


def test_errors_are_seen_among_answers_and_among_mirrored_answers():
    est = estimate.start(SPEC, HISTORY, ERRORS)
    for _ in range(30):
        est = estimate.observe_answers(SPEC, est, [Cell(0.05, 190, 2, 10, 2)])
        est = estimate.observe_shadow(SPEC, est, Cell(0.1 / 1.1, 200, 2, 20, 4))
    seen = estimate.evidence(SPEC, est, "v1", "v2")
    assert seen.log_errors > math.log(100)
    assert seen.log_shadow_errors > math.log(100)
    assert (seen.candidate.answers, seen.candidate.errors) == (300, 60)
    assert (seen.champion.answers, seen.champion.errors) == (5_700, 60)


def test_errors_without_a_guardrail_are_counted_but_not_judged():
    spec = estimate.EstimatorSpec()
    est = estimate.observe_answers(
        spec, estimate.start(spec, HISTORY, ERRORS), [Cell(0.5, 99, 0, 99, 99)]
    )
    seen = estimate.evidence(spec, est, "v1", "v2")
    assert seen.log_errors == pytest.approx(0.0, abs=1e-12)
    assert seen.candidate.errors == 99


def test_a_pair_of_mirrored_answers_is_fair_if_they_tend_to_fail_together():
    # Exact enumeration of a mirrored request: E[e0 (1 - m + m e1)] <= 1 under the null.
    bets, rng = sequential.errors_bets(0.01), np.random.default_rng(6)
    for _ in range(2_000):
        m, x = rng.uniform(0.01, 1.0), rng.uniform(0.001, 0.5)
        q = rng.uniform(0.0, min(1.0, x + 0.01))
        together = rng.uniform(x * q, min(x, q))
        pi, guess = m / (1 + m), rng.uniform(0.001, 0.5)
        p1 = sequential.alternatives(bets, guess)
        logs = sequential.log_bets(pi, guess, p1, 1.0, 0.01, side=1)
        e0, e1 = np.exp(logs[:2]), np.exp(logs[2:])
        law = {(1, 1): together, (1, 0): x - together, (0, 1): q - together}
        law[0, 0] = 1.0 - sum(law.values())
        mean = sum(p * e0[a] * (1 - m + m * e1[b]) for (a, b), p in law.items())
        assert mean.max() <= 1.0 + 1e-11


def test_a_new_epoch_discounts_the_guess_and_keeps_the_wealth():
    before = run(3, 10)
    after = estimate.new_epoch(before)
    assert after.champion.n == pytest.approx(0.99 * before.champion.n)
    assert after.champion_errors.n == pytest.approx(0.99 * before.champion_errors.n)
    assert moments.mean(after.champion) == pytest.approx(moments.mean(before.champion), rel=1e-3)
    assert after.harm is before.harm


def test_probabilities_to_be_best_come_champion_first():
    best = estimate.best_arms({"v3": run(0, 5), "v2": run(0, 5)}, "v1")
    assert list(best) == ["v1", "v2", "v3"]
    assert best["v2"] == pytest.approx(best["v3"], abs=1e-9)


def test_a_broken_split_shows_in_health():
    est = estimate.start(SPEC)
    assert estimate.health(est) == pytest.approx(0.0, abs=1e-12)
    est = estimate.observe_units(SPEC, est, [Cell(0.5, 6_000, 0, 4_000, 0)])
    assert estimate.health(est) > math.log(1e4)

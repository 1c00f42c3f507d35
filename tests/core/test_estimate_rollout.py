"""The room as a whole: bets before learning, one state by any road, and honest emptiness."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from controller.core import estimate
from controller.core.estimate import book, estimators, game, moments, sequential
from controller.core.estimate.book import ERRORS, guard_book
from controller.core.model import Flow, Sample
from controller.ledger import codec
from tests.core.cells import cells

CLICK = estimate.RewardSpec("click", is_binary=True, low=0.0, high=1.0, default=0.0)
REVENUE = estimate.RewardSpec("revenue", is_binary=False, low=0.0, high=500.0, default=0.0)
SPEC = estimate.EstimatorSpec(
    reward=CLICK,
    margins=(None, 0.01, 0.05),
    min_effect=0.05,
    error_increase=0.01,
    interval_alpha=0.05,
    half_life_s=3_600.0,
)
EVERYTHING = dataclasses.replace(
    SPEC,
    latency=(0.95, 0.1),
    rewards=(
        dataclasses.replace(CLICK, event="complaint", max_increase=0.02),
        dataclasses.replace(REVENUE, event="refund", max_increase=2.0),
    ),
    has_bandit=True,
)
HISTORY = estimate.History(outcomes=(1_000.0, 300.0, 300.0), answers=(1_000.0, 10.0))


def batches(seed, n, *, p0=0.3, p1=0.27):
    rng = np.random.default_rng(seed)
    for i in range(n):
        pi = float(rng.choice([0.01, 0.05, 0.5]))
        n1 = int(rng.binomial(200, pi))
        s0, s1 = int(rng.binomial(200 - n1, p0)), int(rng.binomial(n1, p1))
        yield (pi, 200 - n1, s0, n1, s1), 10.0 * i


def start(spec=SPEC, history=HISTORY, candidates=1):
    return estimate.start(spec, history, candidates=candidates)


def seen(spec, est, *names):
    return estimate.evidence(spec, est, "v1", names or ("v2",))


def run(seed, n, **means):
    est = start()
    for row, time in batches(seed, n, **means):
        est = estimate.observe_outcomes(SPEC, est, cells(row), None, time)
    return est


def test_incremental_state_equals_one_recomputed_unit_by_unit():
    # Independent of the room: plain logarithms, the wait and the restarts spelled again.
    def log_likelihood(p, n, s):
        return s * math.log(p) + (n - s) * math.log(1 - p)

    est, thetas = run(4, 60), book.HARM
    wealth = np.zeros(len(thetas))
    stakes, left = [], 1.0
    n, s, trials, waiting = 200.0, 60.0, 0, []
    for i, (row, _) in enumerate(batches(4, 60)):
        waiting.append(row)
        new = sum(r[1] + r[3] for r in waiting)
        excess = sum(r[3] for r in waiting) * (s + 0.5) / (n + 1) - sum(r[4] for r in waiting)
        p0 = (s + 0.5) / (n + 1.0)
        spread = sum(r[3] for r in waiting) * p0 * (1 - p0) + 1
        if i and new < 0.02 * trials and excess <= 2 * math.sqrt(spread):
            continue
        gain = np.zeros(len(thetas))
        for pi, n0, s0, n1, s1 in waiting:
            for k, theta in enumerate(thetas):
                p1 = theta * p0
                null = (1 - pi) * p0 + pi * p1
                gain[k] += log_likelihood(p0, n0, s0) + log_likelihood(p1, n1, s1)
                gain[k] -= log_likelihood(null, n0 + n1, s0 + s1)
            n, s = n + n0, s + s0
        wealth += gain
        stakes = [(stake, w + gain) for stake, w in stakes]
        trials, waiting = trials + new, []
        kept = (max(500, trials) / max(500, trials - new)) ** -0.2
        stakes.append(((1 - kept) * left, np.zeros(len(thetas))))
        left *= kept
    assert len(waiting) < 3
    harm = est.reward.game.wealth
    assert np.abs(harm.log_wealth[0, : len(thetas)] - wealth).max() <= 1e-9
    weights = book.harm(0.05, 0.0, 1).log_weights
    later = [math.log(stake) + logsumexp(weights + w) for stake, w in stakes if stake]
    later.append(math.log(left))
    mixed = logsumexp(
        [math.log(0.8) + logsumexp(weights + wealth), math.log(0.2) + logsumexp(later)]
    )
    assert seen(SPEC, est)[0].log_harm == pytest.approx(mixed, abs=1e-9)


def test_one_go_or_pieces_with_the_same_guess_give_the_same_wealth():
    before = run(5, 40)
    rng, rows = np.random.default_rng(0), []
    for _ in range(30):
        n0, n1 = rng.integers(0, 4, 2)
        rows.append((float(rng.choice([0.05, 0.5])), n0, rng.integers(0, n0 + 1), n1, n1 // 2))
    bets = estimators.judges(SPEC).reward.book
    one, _ = game.settled(bets, game.observed(bets, before.reward.game, cells(*rows))[0])
    pieces = dataclasses.replace(
        before.reward.game, cells=tuple(cells(row) for row in rng.permutation(rows))
    )
    waiting = dataclasses.replace(
        pieces.waiting, seen=pieces.waiting.seen + moments.sums(cells(*rows), 1)
    )
    many, _ = game.settled(bets, dataclasses.replace(pieces, waiting=waiting))
    assert np.abs(one.wealth.log_wealth - many.wealth.log_wealth).max() <= 1e-9
    p0_hat = moments.means(before.reward.game.plug)
    gain = sequential.gains(bets, cells(*rows), p0_hat).sum(axis=0)
    assert np.abs(one.wealth.log_wealth - before.reward.game.wealth.log_wealth - gain).max() <= 1e-9


def test_what_is_bet_on_a_batch_does_not_depend_on_the_batch():
    # Two cells of one batch are bet on with the same guess, whatever the first one holds.
    first, second = (0.5, 500, 450, 0, 0), (0.05, 190, 60, 10, 3)
    wealth = [
        estimate.observe_outcomes(SPEC, start(), cells(*rows), None, 0.0).reward.game.wealth
        for rows in ((first, second), (first,), (second,))
    ]
    both, *alone = (w.log_wealth for w in wealth)
    assert np.abs(both - alone[0] - alone[1]).max() <= 1e-12


def test_a_catastrophe_does_not_wait():
    # 10^6 good answers, then the candidate fails always: seen within a handful of answers.
    est = start()
    for _ in range(10):
        est = estimate.observe_answers(SPEC, est, cells((0.05, 95_000, 950, 5_000, 50)))
    assert seen(SPEC, est)[0].guards[0].log_worse < math.log(2)
    for _ in range(12):
        est = estimate.observe_answers(SPEC, est, cells((0.05, 19, 0, 1, 1)))
    assert seen(SPEC, est)[0].guards[0].log_worse > math.log(100)


def test_observing_leaves_the_old_state_as_it_was():
    before = everything(1, 3)
    copy = codec.encode(before)
    everything_again(before, 2, 5)
    assert codec.encode(before) == copy


# Peer failure 11: a failed estimate that looks like a number.
def test_empty_evidence_never_looks_like_a_number():
    est = start(EVERYTHING, estimate.History())
    (found,) = seen(EVERYTHING, est)
    for arm in (found.champion, found.candidate):
        assert (arm.n, arm.mean, arm.interval) == (0, None, None)
    assert found.lift.estimate is None
    assert (found.lift.lower, found.lift.upper, found.risk) == (-1.0, math.inf, 1.0)
    logs = [found.log_harm, found.log_harm_fast, found.log_superior, *found.log_noninferior]
    for guard in (*found.guards, found.shadow):
        logs += [guard.log_worse, guard.log_within]
        assert (guard.champion, guard.candidate, guard.limit_ms) == (None, None, None)
    assert logs == pytest.approx([0.0] * len(logs), abs=1e-12)
    assert [guard.metric for guard in found.guards] == ["error_rate", "latency", "reward", "reward"]
    assert estimate.best(EVERYTHING, est) == pytest.approx((0.5, 0.5), abs=1e-9)
    assert (found.capped, found.multiplicity) == (0.0, 1)
    assert estimate.growth(EVERYTHING, est, 0, 0.5).within == (0.0,) * 4


def test_one_arm_alone_gives_no_comparison():
    est = estimate.observe_outcomes(SPEC, start(), cells((0.0, 10_000, 3_000, 0, 0)), None, 1.0)
    (found,) = seen(SPEC, est)
    assert found.candidate.mean is None
    assert found.lift.estimate is None
    assert found.log_harm == pytest.approx(0.0, abs=1e-12)
    assert found.champion.mean == pytest.approx(0.3)


def test_nothing_is_bet_before_the_champion_is_known():
    est = start(SPEC, estimate.History())
    est = estimate.observe_outcomes(SPEC, est, cells((0.5, 9, 0, 9, 9)), None, 1.0)
    (found,) = seen(SPEC, est)
    assert found.log_superior == pytest.approx(0.0, abs=1e-12)
    assert found.candidate.n == 9


def test_a_worse_candidate_is_seen_as_harm_and_a_better_one_as_superior():
    (worse,) = seen(SPEC, run(0, 400, p1=0.15))
    (better,) = seen(SPEC, run(0, 400, p1=0.45))
    for found, harm in ((worse, True), (better, False)):
        assert (found.log_harm > math.log(100)) is harm
        assert (found.log_superior > math.log(100)) is not harm
        assert (found.log_noninferior[2] > math.log(100)) is not harm
        assert (found.lift.upper < 0) is harm
        assert (found.lift.lower > 0) is not harm
        assert found.log_noninferior[0] == 0.0
        assert found.risk == pytest.approx(max(0.0, -found.lift.lower))
        assert math.isnan(found.p_best)


def test_where_less_is_better_the_same_numbers_mean_the_opposite():
    spec = dataclasses.replace(SPEC, is_minimised=True)
    for p1, is_harm in ((0.45, True), (0.15, False)):
        est = start(spec)
        for row, time in batches(0, 400, p1=p1):
            est = estimate.observe_outcomes(spec, est, cells(row), None, time)
        (found,) = seen(spec, est)
        assert (found.log_harm > math.log(100)) is is_harm
        assert (found.log_superior > math.log(100)) is not is_harm
        assert (found.log_noninferior[2] > math.log(100)) is not is_harm
        assert (found.lift.lower > 0) is is_harm  # the lift itself is not turned around
        assert found.risk == pytest.approx(max(0.0, found.lift.upper))
        growth = estimate.growth(spec, est, 0, 0.5)
        assert (growth.superior > 0) is not is_harm


def test_seed_zero_is_a_seed_and_the_same_events_give_the_same_state():
    first, again, other = (codec.encode(run(seed, 20)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_fractional_rewards_keep_their_fractions():
    # Peer failure 7: rewards of 0.7 truncated to 0.
    stars = dataclasses.replace(CLICK, event="stars", low=1.0, high=21.0)
    spec = dataclasses.replace(SPEC, reward=stars)
    past = estimate.History(outcomes=(1_000.0, 7_000.0, 60_000.0))
    est = estimate.start(spec, past)
    assert moments.means(est.reward.game.plug) == pytest.approx([60.5 / 201])
    est = estimate.observe_outcomes(spec, est, cells((0.5, 10, 7.0, 10, 3.5)), None, 1.0)
    (found,) = seen(spec, est)
    assert (found.champion.mean, found.candidate.mean) == pytest.approx((15.0, 8.0))
    assert (found.champion.total, found.candidate.total) == pytest.approx((150.0, 80.0))
    assert found.champion.interval[1] <= 21.0
    assert found.lift.estimate == pytest.approx(-0.5)


def test_errors_are_seen_among_answers_and_among_mirrored_answers():
    est = start()
    for _ in range(30):
        est = estimate.observe_answers(SPEC, est, cells((0.05, 190, 2, 10, 2)))
        est = estimate.observe_shadow(SPEC, est, cells((0.1 / 1.1, 200, 2, 20, 4)))
    (found,) = seen(SPEC, est)
    (errors,) = found.guards
    assert errors.log_worse > math.log(100)
    assert found.shadow.log_worse > math.log(100)
    assert (found.candidate.answers, found.candidate.errors) == (300, 60)
    assert (found.champion.answers, found.champion.errors) == (5_700, 60)
    assert (errors.champion, errors.candidate) == pytest.approx((60 / 5_700, 0.2))


def test_errors_without_a_guardrail_are_counted_but_not_judged():
    spec = estimate.EstimatorSpec(reward=CLICK)
    est = estimate.observe_answers(spec, start(spec), cells((0.5, 99, 0, 99, 99)))
    (found,) = seen(spec, est)
    assert (found.guards, found.shadow) == ((), None)
    assert found.candidate.errors == 99


def test_a_guardrail_that_is_kept_lets_promote():
    est = start()
    for _ in range(200):
        est = estimate.observe_answers(SPEC, est, cells((0.5, 100, 1, 100, 1)))
    (errors,) = seen(SPEC, est)[0].guards
    assert errors.log_within > math.log(100)
    assert errors.log_worse < 0.0
    growth = estimate.growth(SPEC, est, 0, 0.5)
    # 40 000 units: what they brought is about what growth says, less the price of the mixture
    assert errors.log_within == pytest.approx(40_000 * growth.within[0], rel=0.1)


def test_a_pair_of_mirrored_answers_is_fair_if_they_tend_to_fail_together():
    # Exact enumeration of a mirrored request: E[e0 (1 - m + m e1)] <= 1 under the null.
    bets, rng = guard_book(ERRORS, 0.01), np.random.default_rng(6)
    for _ in range(2_000):
        m, x = rng.uniform(0.01, 1.0), rng.uniform(0.001, 0.5)
        q = rng.uniform(0.0, min(1.0, x + 0.01))
        together = rng.uniform(x * q, min(x, q))
        pi, guess = m / (1 + m), rng.uniform(0.001, 0.5)
        p1 = sequential.alternatives(bets, np.array([[guess]]))[0]
        logs = sequential.log_bets(pi, guess, p1, bets.ratio, bets.shift, side=bets.side)
        e0, e1 = np.exp(logs[:2]), np.exp(logs[2:])
        law = {(1, 1): together, (1, 0): x - together, (0, 1): q - together}
        law[0, 0] = 1.0 - sum(law.values())
        mean = sum(p * e0[a] * (1 - m + m * e1[b]) for (a, b), p in law.items())
        assert mean[: bets.restarted].max() <= 1.0 + 1e-11


def test_a_new_epoch_discounts_the_guess_and_keeps_the_wealth():
    before = run(3, 10)
    after = estimate.new_epoch(SPEC, before)
    assert after.reward.game.wealth is before.reward.game.wealth
    row = (0.5, 2_000.0, 600.0, 0.0, 0.0)
    learned = [
        estimate.observe_outcomes(SPEC, est, cells(row), None, 0.0).reward.game.plug.n[0]
        for est in (before, after)
    ]
    assert learned[0] - learned[1] == pytest.approx(0.01 * before.reward.game.plug.n[0])


def test_a_new_step_starts_again_after_all_that_waited():
    est = run(3, 100)
    row = cells((0.5, 3, 1, 2, 0))
    waiting = estimate.observe_outcomes(SPEC, est, row, None, 0.0)
    assert waiting.reward.game.cells
    after = estimate.new_step(SPEC, waiting)
    assert not after.reward.game.cells
    assert after.errors.wealth.log_cash[0] == pytest.approx(math.log(0.95))
    assert after.reward.game.wealth.log_cash < est.reward.game.wealth.log_cash + math.log(0.95)


def test_a_candidate_that_joins_starts_at_one_and_leaves_the_others_alone():
    before = everything(1, 12)
    after = estimate.with_candidate(EVERYTHING, before)
    old, new = seen(EVERYTHING, after, "v2", "v3")
    (was,) = seen(EVERYTHING, before)
    assert (old.log_harm, old.lift, old.guards, old.shadow) == (
        was.log_harm,
        was.lift,
        was.guards,
        was.shadow,
    )
    assert (old.multiplicity, new.multiplicity) == (2, 2)
    logs = [new.log_harm, new.log_harm_fast, new.log_superior, *new.log_noninferior]
    logs += [value for g in (*new.guards, new.shadow) for value in (g.log_worse, g.log_within)]
    assert logs == pytest.approx([0.0] * len(logs), abs=1e-12)
    assert (new.candidate.n, new.lift.estimate) == (0, None)
    assert len(estimate.best(EVERYTHING, after)) == 3


def test_several_candidates_are_each_judged_as_if_alone():
    rng = np.random.default_rng(7)
    both, alone = start(candidates=2), [start(), start()]
    for i in range(50):
        n0, s0 = 100, int(rng.binomial(100, 0.3))
        rows = [(0.5, n0, s0, 100, int(rng.binomial(100, p))) for p in (0.3, 0.2)]
        two = cells(*rows, candidate=[0, 1], stratum=[i, i])
        both = estimate.observe_outcomes(SPEC, both, two, None, 0.0)
        for k in (0, 1):
            one = cells(rows[k], stratum=[i])
            alone[k] = estimate.observe_outcomes(SPEC, alone[k], one, None, 0.0)
    # the same wait needs the same alarms; so settle all before they are compared
    both = estimate.new_step(SPEC, both)
    for k, found in enumerate(seen(SPEC, both, "v2", "v3")):
        (expected,) = seen(SPEC, estimate.new_step(SPEC, alone[k]))
        assert found.log_harm == pytest.approx(expected.log_harm, rel=0.05, abs=0.1)
        assert found.champion == expected.champion
        assert found.lift.estimate == pytest.approx(expected.lift.estimate, rel=1e-9)
    assert [found.log_harm > math.log(100) for found in seen(SPEC, both, "v2", "v3")] == [
        False,
        True,
    ]


def test_a_broken_split_shows_in_health():
    est = start()
    nothing = estimate.health(SPEC, est)
    assert (nothing.log_exposures, nothing.log_outcomes, nothing.log_dropped) == pytest.approx(
        (0.0, 0.0, 0.0), abs=1e-12
    )
    broken = cells((0.5, 6_000, 0, 4_000, 0))
    assert estimate.health(
        SPEC, estimate.observe_units(SPEC, est, broken)
    ).log_exposures > math.log(1e4)
    assert estimate.health(
        SPEC, estimate.observe_outcomes(SPEC, est, broken, None, 0.0)
    ).log_outcomes > math.log(1e4)
    assert estimate.health(
        SPEC, estimate.observe_dropped(SPEC, est, broken)
    ).log_dropped > math.log(1e4)


# --- everything at once -----------------------------------------------------------------------


def everything(seed, n):
    past = dataclasses.replace(HISTORY, rewards=((100.0, 10.0, 10.0), (100.0, 300.0, 9_000.0)))
    return everything_again(start(EVERYTHING, past), seed, n)


def everything_again(est, seed, n):
    """A few micro-batches of every kind."""
    spec, rng, candidates = EVERYTHING, np.random.default_rng(seed), est.candidates
    for i in range(n):
        n0, n1 = rng.integers(5, 60), rng.integers(5, 60, candidates)

        def some(p, i=i, n0=n0, n1=n1):
            s0 = rng.binomial(n0, p)
            rows = [(0.5, n0, s0, m, rng.binomial(m, p)) for m in n1]
            return cells(*rows, candidate=range(candidates), stratum=[i // 3] * candidates)

        arm = rng.integers(0, 1 + candidates, 40)
        amounts = Sample(
            arm=arm,
            stratum=np.full(40, i // 3),
            bin=np.zeros(40, np.int64),
            pi=np.where(
                (arm[:, np.newaxis] == 0) | (arm[:, np.newaxis] == 1 + np.arange(candidates)),
                0.5,
                np.nan,
            ),
            value=np.minimum(rng.exponential(3.0, 40), 500.0),
        )
        count = rng.integers(0, 9, 2).astype(float)
        flow = Flow(
            stratum=np.zeros(2, np.int64),
            segment=np.array([-1, 0]),
            arm=np.array([0, 1]),
            time=np.full(2, 10.0 * i),
            matured=count + 5.0,
            events=count,
            event_value=count,
            delay=np.full(2, 3.0),
            lapsed=np.zeros(2),
            closed=count,
            value=count,
            square=count,
        )
        est = estimate.observe_outcomes(spec, est, some(0.3), None, 10.0 * i)
        est = estimate.observe_reward(spec, est, 0, some(0.1), None)
        est = estimate.observe_reward(spec, est, 1, None, amounts)
        est = estimate.observe_answers(spec, est, some(0.02))
        est = estimate.observe_units(spec, est, some(0.0))
        est = estimate.observe_shadow(spec, est, some(0.02))
        est = estimate.observe_flow(spec, est, flow, 10.0 * i + 5.0)
        tails = estimate.latency_limits(spec, est)
        limits = tuple(cells() if x is None else some(0.1) for x in tails)
        past = estimate.latency_counted(estimate.latency_bins(rng.lognormal(3.0, 0.5, 60)))
        est = estimate.observe_latency(spec, est, limits, past)
        if i % 4 == 3:
            est = estimate.new_step(spec, estimate.new_epoch(spec, est))
    return est


def test_a_state_from_a_snapshot_goes_on_as_if_never_stopped():
    half = everything(4, 10)
    stored = codec.decode(estimate.Estimators, codec.encode(half))
    on, again = (codec.encode(everything_again(est, 5, 10)) for est in (half, stored))
    assert on == again
    (found,) = seen(EVERYTHING, codec.decode(estimate.Estimators, on))
    assert [guard.detail for guard in found.guards][2:] == ["complaint", "refund"]
    assert all(guard.champion is not None for guard in found.guards)
    assert found.guards[1].limit_ms > 0.0
    assert found.log_harm_fast != 0.0


def test_amounts_are_judged_as_amounts():
    spec = dataclasses.replace(SPEC, reward=REVENUE, margins=(1.0,))
    rng, est = np.random.default_rng(2), start(spec, estimate.History())
    for i in range(80):
        arm = rng.integers(0, 2, 100)
        value = np.minimum(rng.exponential(10.0, 100) * np.where(arm, 0.6, 1.0), 500.0)
        none = np.zeros(100, np.int64)
        batch = Sample(arm=arm, stratum=none + i, bin=none, pi=np.full((100, 1), 0.5), value=value)
        est = estimate.observe_outcomes(spec, est, None, batch, float(i))
    (found,) = seen(spec, est)
    assert found.log_harm > math.log(1_000)
    assert found.lift.lower < -0.4 < found.lift.upper < 0.0
    assert found.lift.estimate == pytest.approx(-0.4, abs=0.06)
    assert found.champion.n + found.candidate.n == 8_000
    assert found.champion.mean == pytest.approx(10.0, rel=0.1)
    assert 0.0 < found.capped < 0.02
    assert abs(estimate.health(spec, est).log_outcomes) < math.log(1e4)
    assert estimate.growth(spec, est, 0, 0.5).superior <= 0.0

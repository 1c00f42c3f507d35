"""The log-rank fast path: exact by enumeration, and a value that does not depend on the batches."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import CensoredData, hypergeom, logrank

from controller.core.estimate import risk
from controller.core.estimate.restart import KEPT, STEP
from controller.core.estimate.risk import Risk, log_harm, new_step, observe, start
from controller.core.model import Flow
from controller.ledger import codec


def flow(*rows):
    """Rows of (stratum, arm, time, matured, events, lapsed, closed)."""
    stratum, arm, *rest = (np.array(c) for c in zip(*rows, strict=True))
    time, matured, events, lapsed, closed = (c.astype(float) for c in rest)
    zero = np.zeros(len(time))
    return Flow(
        stratum=stratum,
        segment=np.full(len(time), -1),
        arm=arm,
        time=time,
        matured=matured,
        events=events,
        event_value=events,
        delay=zero,
        lapsed=lapsed,
        closed=closed,
        value=zero,
        square=zero,
    )


def entered(*counts, stratum=0, time=0.0):
    return flow(*((stratum, arm, time, n, 0, 0, 0) for arm, n in enumerate(counts)))


def events(*counts, stratum=0, time=0.0):
    return flow(*((stratum, arm, time, 0, n, 0, 0) for arm, n in enumerate(counts)))


def bets(state):
    """What each bet made of 1, (C, K)."""
    return np.exp(state.wealth.log_wealth)


@pytest.fixture(autouse=True)
def _cohorts_of_any_size(monkeypatch):
    monkeypatch.setattr(risk, "SMALLEST", 1.0)


@pytest.mark.parametrize("is_minimised", [False, True])
def test_an_event_pays_what_the_hazards_say(is_minimised):
    before = observe(start(1, None, is_minimised=is_minimised), entered(30, 10))
    theta = np.exp(before.log_thetas)
    q, null = theta * 10 / (theta * 10 + 30), 10 / 40
    assert bets(observe(before, events(0, 1))) == pytest.approx((q / null)[None])
    assert bets(observe(before, events(1, 0))) == pytest.approx(((1 - q) / (1 - null))[None])
    assert (theta > 1.0).all() == is_minimised


@pytest.mark.parametrize(("y0", "y1"), [(1, 1), (5, 3), (30, 2), (7, 7), (2, 40)])
def test_mean_of_each_bet_is_at_most_one_for_any_number_of_events_at_once(y0, y1):
    # Given d events in one micro-batch, those of the candidate are hypergeometric.
    before = observe(start(1, None), entered(y0, y1))
    for d in range(1, y0 + y1 + 1):
        mean = sum(
            hypergeom.pmf(d1, y0 + y1, y1, d) * bets(observe(before, events(d - d1, d1)))
            for d1 in range(max(0, d - y0), min(d, y1) + 1)
        )
        assert mean.max() <= 1.0 + 1e-12
        if d == 1:
            assert mean == pytest.approx(1.0, abs=1e-12)


def test_mean_is_one_over_all_orders_in_which_events_can_come():
    # All 5!/(3! 2!) equally likely orders of the arms of five units, scored one by one.
    before = observe(start(1, None), entered(3, 2))
    orders = set(itertools.permutations([0, 0, 0, 1, 1]))
    total = 0.0
    for order in orders:
        state = before
        for arm in order:
            state = observe(state, events(1 - arm, arm))
        total = total + bets(state)
    assert total / len(orders) == pytest.approx(1.0, abs=1e-12)


def test_score_and_information_at_equal_hazards_are_those_of_scipys_log_rank_test():
    # log e = S x - I x^2 / 2 + ... in x = log(theta), with z = S / sqrt(I) where nothing is tied.
    rng = np.random.default_rng(5)
    dies = [rng.exponential(1.0, 60), rng.exponential(1.4, 40)]
    leaves = [rng.uniform(0.2, 2.0, len(d)) for d in dies]
    order = sorted(
        (min(d, c), arm, d <= c)
        for arm in (0, 1)
        for d, c in zip(dies[arm], leaves[arm], strict=True)
    )
    state = observe(start(1, None), entered(60, 40))
    for _, arm, is_event in order:
        part = [0, 0]
        part[arm] = 1
        gone = flow(*((0, a, 0.0, 0, 0, n, 0) for a, n in enumerate(part)))
        state = observe(state, events(*part) if is_event else gone)
    x, y = state.log_thetas[:4], state.wealth.log_wealth[0, :4]
    score, half = np.linalg.solve(np.stack([x, x**2, x**3, x**4], axis=1), y)[:2]
    data = [
        CensoredData.right_censored(np.minimum(d, c), d > c)
        for d, c in zip(dies, leaves, strict=True)
    ]
    z = logrank(data[1], data[0]).statistic
    assert score / np.sqrt(-2.0 * half) == pytest.approx(z, abs=1e-3)


def test_a_micro_batch_without_rows_changes_nothing():
    state = observe(observe(start(1, None), entered(30, 10)), events(3, 0))
    empty = Flow(*(getattr(events(1, 0), name)[:0] for name in Flow.__dataclass_fields__))
    assert codec.encode(observe(state, empty)) == codec.encode(state)


def test_hazards_that_change_with_age_do_not_matter():
    # Four units enter one after the other, in two micro-batches, and always have their event in
    # the order of entry: given one of each arm per pair, all four orders are equally likely.
    total = 0.0
    for first, second in itertools.product([0, 1], repeat=2):
        state = observe(start(1, None), entered(1, 1, time=0.0))
        state = observe(state, entered(1, 1, time=1.0))
        for time, arm in [(0.0, first), (0.0, 1 - first), (1.0, second), (1.0, 1 - second)]:
            state = observe(state, events(1 - arm, arm, time=time))
        total = total + bets(state)
    assert total / 4 == pytest.approx(1.0, abs=1e-12)


def test_arms_that_are_alike_in_another_stratum_are_not_compared():
    state = observe(start(1, None), entered(10, 0, stratum=0, time=0.0))
    state = observe(state, entered(0, 10, stratum=1, time=1.0))
    state = observe(state, events(9, 0, stratum=0, time=0.0))
    assert log_harm(state) == pytest.approx([0.0], abs=1e-12)


def test_each_candidate_is_compared_with_the_champion_alone():
    two = observe(observe(start(2, None), entered(20, 10, 5)), events(3, 1, 2))
    for candidate, (n, d) in enumerate([(10, 1), (5, 2)]):
        one = observe(observe(start(1, None), entered(20, n)), events(3, d))
        assert log_harm(two)[candidate] == pytest.approx(log_harm(one)[0], abs=1e-12)


def test_events_of_a_cohort_that_fills_wait_for_its_counts(monkeypatch):
    monkeypatch.setattr(risk, "SMALLEST", 30.0)
    state = observe(start(1, None), entered(10, 10, time=0.0))
    state = observe(state, events(2, 0, time=0.0))
    state = observe(state, flow((0, 0, 0.0, 0, 0, 4, 0), (0, 1, 0.0, 0, 0, 7, 0)))
    assert log_harm(state) == pytest.approx([0.0], abs=1e-12)
    state = observe(state, entered(5, 5, time=1.0))
    at_once = observe(observe(start(1, None), entered(15, 15)), events(2, 0))
    assert state.wealth.log_wealth == pytest.approx(at_once.wealth.log_wealth, abs=1e-12)
    assert state.units[..., 0].tolist() == [[9.0, 8.0]]


def test_who_lapsed_is_no_longer_at_risk_after_the_events_of_the_same_batch():
    state = observe(start(1, None), entered(20, 20))
    both = observe(state, flow((0, 0, 0.0, 0, 1, 10, 0), (0, 1, 0.0, 0, 0, 0, 0)))
    assert both.wealth.log_wealth == pytest.approx(observe(state, events(1, 0)).wealth.log_wealth)
    assert both.units[..., 0].tolist() == [[9.0, 20.0]]


def test_a_new_candidate_starts_at_one_and_learns_as_if_alone():
    state = observe(observe(start(1, None), entered(20, 20)), events(9, 0))
    state = risk.with_candidate(state)
    assert log_harm(state)[1] == pytest.approx(0.0, abs=1e-12)
    state = observe(observe(state, entered(20, 0, 9, stratum=1, time=1.0)), _later(2, 0, 1))
    alone = observe(observe(start(1, None), entered(20, 9)), events(2, 1))
    assert log_harm(state)[1] == pytest.approx(log_harm(alone)[0], abs=1e-12)


def _later(*counts):
    return events(*counts, stratum=1, time=1.0)


def test_restarts_are_worth_their_stakes():
    # E = w E + (1 - w) (sum over starts of their stake E^(start) + cash), for two steps.
    parts = [events(0, 3, time=0.0), events(5, 0, time=0.0), events(8, 1, time=0.0)]
    state = observe(start(1, 0.2), entered(100, 100))
    weights = np.exp(state.log_weights)
    gains, at_risk = [], [100, 100]
    for part in parts:
        alone = observe(observe(start(1, 0.2), entered(*at_risk)), part)
        gains.append(bets(alone)[0])
        at_risk = [n - int(d) for n, d in zip(at_risk, part.events, strict=True)]
    expected = KEPT * (weights * gains[0] * gains[1] * gains[2]).sum()
    expected += (1 - KEPT) * STEP * (weights * gains[1] * gains[2]).sum()
    expected += (1 - KEPT) * (1 - STEP) * STEP * (weights * gains[2]).sum()
    expected += (1 - KEPT) * (1 - STEP) ** 2
    for step, part in enumerate(parts):
        state = observe(state if step == 0 else new_step(state), part)
    assert math.exp(log_harm(state)[0]) == pytest.approx(expected, rel=1e-12)


def ramp_flows(rng, epochs, *, window=8):
    """A micro-batch per epoch, each epoch a stratum; rewards come up to `window` batches later."""
    alive = []
    for epoch in range(epochs):
        counts = rng.integers(0, 40, 2)
        rows = [(epoch, arm, epoch, n, 0, 0, 0) for arm, n in enumerate(counts)]
        for old, left in alive:
            done = [min(int(d), n) for d, n in zip(rng.poisson(1.0, 2), left, strict=True)]
            is_over = epoch - old == window
            for arm in (0, 1):
                left[arm] -= done[arm]
                rows.append((old, arm, old, 0, done[arm], left[arm] * is_over, left[arm] * is_over))
        alive = [(old, left) for old, left in alive if epoch - old < window]
        alive.append((epoch, counts.tolist()))
        yield flow(*rows)


def test_size_follows_what_is_open_and_not_the_number_of_epochs():
    state, sizes = start(1, None), []
    for batch in ramp_flows(np.random.default_rng(0), 2_000):
        state = observe(state, batch)
        sizes.append((len(state.key), len(state.ends), len(codec.encode(state))))
    assert max(n for n, _, _ in sizes) <= 10
    assert max(size for _, _, size in sizes) <= 1_500


def test_wealth_equals_the_formula_summed_over_the_log():
    # Every set is one epoch here; its bets are recomputed from counts kept in a dict.
    state, at_risk, log_wealth = start(1, None), {}, 0.0
    theta = np.exp(state.log_thetas)
    for batch in ramp_flows(np.random.default_rng(4), 200):
        state = observe(state, batch)
        rows = list(zip(batch.stratum, batch.arm, batch.matured, batch.events, strict=True))
        for epoch, arm, matured, _ in rows:
            at_risk.setdefault(epoch, [0.0, 0.0])[arm] += matured
        before = {epoch: list(counts) for epoch, counts in at_risk.items()}
        for epoch, arm, _, d in rows:
            y0, y1 = before[epoch]
            if min(y0, y1) > 0.0:
                q = (theta if arm else 1.0) * (y1 if arm else y0) / (theta * y1 + y0)
                log_wealth = log_wealth + d * np.log(q * (y0 + y1) / (y1 if arm else y0))
        for epoch, arm, d, lapsed in zip(
            batch.stratum, batch.arm, batch.events, batch.lapsed, strict=True
        ):
            at_risk[epoch][arm] -= d + lapsed
    assert np.abs(state.wealth.log_wealth).max() > 1.0
    assert state.wealth.log_wealth[0] == pytest.approx(log_wealth, abs=1e-9)


def test_rows_may_come_in_any_order_and_in_parts():
    rng, shuffled = np.random.default_rng(1), np.random.default_rng(2)
    left = right = start(1, None)
    for batch in ramp_flows(rng, 60):
        left = observe(left, batch)
        order = shuffled.permutation(len(batch.arm))
        right = observe(
            right, Flow(*(getattr(batch, name)[order] for name in Flow.__dataclass_fields__))
        )
    assert left.wealth.log_wealth == pytest.approx(right.wealth.log_wealth, abs=1e-9)
    assert left.key.tolist() == right.key.tolist()


def test_a_snapshot_goes_on_as_the_state_does():
    live = start(1, 0.1)
    flows = list(ramp_flows(np.random.default_rng(3), 60))
    for batch in flows[:30]:
        live = observe(live, batch)
    kept = codec.decode(Risk, codec.encode(live))
    for batch in flows[30:]:
        live, kept = observe(live, batch), observe(kept, batch)
    assert codec.encode(live) == codec.encode(kept)


def test_events_whose_set_is_over_say_nothing():
    state = observe(start(1, None), entered(10, 10, time=0.0))
    state = observe(state, entered(10, 10, time=5.0))
    gone = flow((0, 0, 0.0, 0, 0, 10, 10), (0, 1, 0.0, 0, 0, 10, 10))
    state = observe(state, gone)
    after = observe(state, events(5, 0, time=0.0))
    assert after.wealth.log_wealth.tolist() == state.wealth.log_wealth.tolist()
    assert len(after.key) == 1

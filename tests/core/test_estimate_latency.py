"""Latency: limits from the champion's past, and bets on what exceeds them."""

import numpy as np
import pytest

from controller.core.estimate import book, game, histogram, latency, sequential
from controller.core.model import Cells
from tests.core.cells import cells

NOTHING = np.zeros(histogram.BINS)


def past(ms):
    return latency.counted(latency.bins(ms))


def answers(rng, state, n, share, *, slower=1.0, increase=0.0):
    """The state after n answers, `share` of them of a candidate that is `slower`."""
    limits = latency.limits_ms(0.95, increase, state)
    n1 = int(rng.binomial(n, share))
    ms = rng.lognormal(3.0, 1.0, n - n1), rng.lognormal(3.0, 1.0, n1) * slower
    parts = []
    for own, scaled in limits:
        s0, s1 = float((ms[0] > own).sum()), float((ms[1] > scaled).sum())
        known = np.isfinite(own)
        parts.append(cells((share, n - n1, s0, n1, s1)) if known else cells())
    return latency.observed(state, tuple(parts), past(ms[0]))


def run(seed, n, **how):
    rng, state = np.random.default_rng(seed), latency.start(0.95, 1)
    for _ in range(n):
        state = answers(rng, state, 500, 0.2, **how)
    return state


def test_quantiles_are_those_of_the_values_to_the_width_of_a_bin():
    values = np.random.default_rng(0).lognormal(-8.0, 1.5, 50_000)
    found = histogram.quantiles(histogram.added(histogram.empty(), values), np.array([0.5, 0.99]))
    exact = np.quantile(values, [0.5, 0.99])
    assert (found >= exact * 0.999).all()
    assert (found <= exact * histogram.WIDTH * 1.001).all()


def test_values_beyond_both_ends_are_kept_in_the_last_bins():
    filled = histogram.added(histogram.empty(), np.array([0.0, 1e-30, 1.0, 7.0]))
    assert histogram.total(filled) == 4.0
    assert histogram.quantiles(filled, np.array([0.25, 1.0])).tolist() == [histogram.ENDS[0], 1.0]


def test_quantiles_up_to_the_declared_one_are_watched():
    assert latency.watched(0.99) == (0.5, 0.75, 0.9, 0.95, 0.99)
    assert latency.watched(0.9) == (0.5, 0.75, 0.9)
    assert latency.watched(0.8) == (0.5, 0.75, 0.8)


def test_limits_are_unknown_until_enough_answers_lie_beyond_them():
    state = latency.start(0.95, 1)
    assert np.isnan(latency.limits_ms(0.95, 0.2, state)).all()
    ms = np.linspace(1.0, 100.0, 100)
    state = latency.observed(state, (cells(),) * 4, past(ms))
    limits = latency.limits_ms(0.95, 0.2, state)
    assert limits[:, 0] == pytest.approx([50.0, 75.0, 90.0, 95.0], rel=0.04)
    assert limits[:, 1] == pytest.approx(1.2 * limits[:, 0])
    assert np.isnan(latency.limits_ms(0.99, 0.2, state)[-1]).all()  # only one answer beyond the p99


def test_limits_follow_a_champion_that_slows_down():
    state = latency.start(0.5, 1)
    for ms in (10.0, 30.0):
        for _ in range(200):
            state = latency.observed(state, (cells(),), past(np.full(500, ms)))
        assert latency.limits_ms(0.5, 0.0, state)[0, 0] == pytest.approx(ms, rel=0.04)


def test_a_slower_candidate_is_found_worse_and_an_equal_one_within():
    slower, equal = run(1, 60, slower=1.5, increase=0.1), run(1, 60, increase=0.3)
    worse, _ = latency.log_worse(slower, 4)
    assert worse[0] > np.log(1_000)
    assert latency.log_within(slower, 4)[0] < 0.0
    worse, _ = latency.log_worse(equal, 4)
    assert worse[0] < 0.0
    assert latency.log_within(equal, 4)[0] > np.log(1_000)


def test_worse_is_the_average_over_quantiles_and_names_the_one_that_moved():
    state = latency.start(0.95, 2)
    moved = [cells((0.5, 500, 500 * (1 - q), 500, 500 * (1 - q))) for q in latency.watched(0.95)]
    moved[2] = cells((0.5, 500, 50, 500, 100))
    state = latency.observed(state, tuple(moved), NOTHING)
    state = latency.Latency(state.past, game.settled(latency.BOOK, state.game)[0])
    each = np.exp(state.game.log_mixed.reshape(2, 4))
    worse, which = latency.log_worse(state, 4)
    assert np.exp(worse) == pytest.approx(each.mean(axis=1))
    assert which[0] == 2
    assert worse[1] == pytest.approx(0.0, abs=1e-12)  # the other candidate was not seen


def test_mean_of_the_averaged_e_value_is_at_most_one_by_enumeration():
    # One answer, all four intervals that it may fall into: the quantiles' coins are dependent.
    rng, at = np.random.default_rng(2), np.array(latency.watched(0.95))
    for _ in range(200):
        pi, law = rng.uniform(0.01, 0.99), rng.dirichlet(np.ones(5))
        guess = rng.uniform(0.001, 0.6, 4)
        mean = 0.0
        for arm in (0, 1):
            for interval in range(5):
                over = (np.arange(4) < interval).astype(float)
                rows = [(pi, 1 - arm, (1 - arm) * y, arm, arm * y) for y in over]
                gain = sequential.gains(latency.BOOK, cells(*rows, bin=range(4)), guess)
                worse = slice(0, latency.BOOK.restarted)
                e = (np.exp(gain[:, worse]) @ np.exp(latency.BOOK.log_weights[worse])).mean()
                mean += (pi if arm else 1 - pi) * law[interval] * e
        assert mean <= 1.0 + 1e-9
    assert len(at) == 4


def test_candidates_are_kept_apart():
    state, watched = latency.start(0.9, 1), 3
    state = latency.with_candidate(0.9, state)
    parts = tuple(
        Cells(
            candidate=np.array([0, 1]),
            stratum=np.zeros(2, np.int64),
            bin=np.zeros(2, np.int64),
            pi=np.full(2, 0.5),
            n0=np.full(2, 400.0),
            s0=np.full(2, 400.0 * (1 - q)),
            n1=np.full(2, 400.0),
            s1=400.0 * (1 - q) * np.array([1.0, 1.9]),
        )
        for q in latency.watched(0.9)
    )
    for _ in range(3):
        state = latency.observed(state, parts, NOTHING)
    worse, _ = latency.log_worse(state, watched)
    assert worse[0] < 0.0
    assert worse[1] > np.log(1_000)
    assert state.game.plug.n.tolist() == [1_200.0] * 3  # the champion is learned from once
    assert len(book.ERRORS) == latency.BOOK.restarted

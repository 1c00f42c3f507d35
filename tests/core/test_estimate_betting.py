"""Bets on amounts: fair by enumeration of small supports, never ruined, and never a wrong sum."""

import itertools

import numpy as np
import pytest

from controller.core.estimate import betting, book, effect, purse
from controller.core.estimate.betting import Guess
from controller.core.model import Sample


def reward_book(is_minimised=False, contamination=0.0):
    return book.reward_book(
        (0.5, None, 4.0), contamination=contamination, min_effect=None, is_minimised=is_minimised
    )


BOOKS = {
    "revenue": reward_book(),
    "cost": reward_book(is_minimised=True),
    "revenue, forged": reward_book(contamination=0.3),
    "a second reward": book.guard_book(book.ERRORS, 1.5),
}


def sample(arm, value, pi, bins=None):
    arm, value = np.asarray(arm, np.int64), np.asarray(value, np.float64)
    none = np.zeros(len(arm), np.int64)
    pi = np.broadcast_to(np.asarray(pi, np.float64), (len(arm), 1)).copy()
    return Sample(arm=arm, stratum=none, bin=none if bins is None else bins, pi=pi, value=value)


def each(function, guess, pi, values):
    """The gains of one unit for each arm and value, (2, V, K)."""
    return np.array(
        [
            [function(betting.units(sample([arm], [y], pi), guess), guess, 1)[0] for y in values]
            for arm in (0, 1)
        ]
    )


def random_guesses(seed, n):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        low = float(rng.choice([0.0, -5.0, 2.0]))
        cap = low + float(rng.uniform(1.0, 50.0))
        mean = low + (cap - low) * rng.uniform(0.0, 1.0, 1)
        variance = float((cap - low) ** 2 * 10 ** rng.uniform(-6, -0.5))
        yield rng, float(rng.uniform(0.005, 0.995)), Guess(mean, variance, low, cap)


def nulls(bets, guess):
    """Pairs of means (mu0, mu1) inside the range on and inside every bet's null, (N, 2, K)."""
    grid = np.linspace(guess.low, guess.cap, 9)
    pairs = np.array(list(itertools.product(grid, grid)))
    line = bets.ratio * grid[:, np.newaxis] + bets.shift
    on = np.stack([np.broadcast_to(grid[:, np.newaxis], line.shape), line], axis=1)
    return np.concatenate([np.repeat(pairs[:, :, np.newaxis], len(bets.slope), axis=2), on])


@pytest.mark.parametrize("name", [*sorted(BOOKS), "lift"])
def test_mean_of_a_factor_is_at_most_one_on_the_null_by_enumeration(name):
    # A value's mean decides: 1 + lambda x is linear in Y, so two points, the ends, suffice; for
    # the lift's parabola more points are tried below.
    bets = effect.BOOK if name == "lift" else BOOKS[name]
    for _, pi, guess in random_guesses(1, 60):
        if name == "lift":
            logs = each(betting.lift_gains, guess, pi, [guess.low, guess.cap])
        else:
            logs = each(
                lambda u, g, c: betting.gains(bets, u, g, c), guess, pi, [guess.low, guess.cap]
            )
        factor = np.exp(logs)
        means = nulls(bets, guess)
        share = (means - guess.low) / (guess.cap - guess.low)
        mean = (1 - pi) * ((1 - share[:, 0]) * factor[0, 0] + share[:, 0] * factor[0, 1])
        mean = mean + pi * ((1 - share[:, 1]) * factor[1, 0] + share[:, 1] * factor[1, 1])
        is_null = bets.side * (means[:, 1] - bets.ratio * means[:, 0] - bets.shift) <= 1e-9
        is_null &= (share >= -1e-12).all(axis=1) & (share <= 1 + 1e-12).all(axis=1)
        assert is_null.any()
        assert mean[is_null].max() <= 1.0 + 1e-9


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_a_factor_is_never_negative_nor_nearly_ruinous(name):
    for _, pi, guess in random_guesses(2, 100):
        ends = [guess.low, guess.cap]
        logs = each(lambda u, g, c: betting.gains(BOOKS[name], u, g, c), guess, pi, ends)
        assert np.isfinite(logs).all()
        assert logs.min() >= np.log(0.1) - 1e-9


def test_the_lifts_parabola_lies_below_the_logarithm():
    for rng, pi, guess in random_guesses(3, 40):
        values = rng.uniform(guess.low, guess.cap, 7)
        low = each(betting.lift_gains, guess, pi, values)
        mean, r, side = guess.mean[0], effect.BOOK.ratio, effect.BOOK.side
        for arm in (0, 1):
            slope = 1 / pi if arm else -r / (1 - pi)
            phi = slope * (values[:, np.newaxis] - mean) + (1 - r) * mean
            stake, worst = betting._stakes(
                effect.BOOK, np.array([[pi]]), np.array([[mean]]), guess, caution=0.5
            )
            assert (stake * worst <= 0.5 + 1e-12).all()
            assert (low[arm] <= np.log1p(stake * side * phi) + 1e-12).all()


def test_the_difference_is_unbiased_whatever_is_guessed():
    # E[phi] = mu1 - r mu0: from the linear part of small stakes.
    pi, values, r = 0.2, np.array([0.0, 3.0, 10.0]), effect.BOOK.ratio
    p0, p1 = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    for mean in (1.0, 4.0):
        phi1 = (values[:, np.newaxis] - mean) / pi
        phi0 = -r * (values[:, np.newaxis] - mean) / (1 - pi)
        found = pi * p1 @ phi1 + (1 - pi) * p0 @ phi0 + (1 - r) * mean
        assert found == pytest.approx(p1 @ values - r * (p0 @ values))


def test_equal_rows_count_as_often_as_they_come():
    rng = np.random.default_rng(4)
    arm, value = rng.integers(0, 2, 300), rng.choice([0.0, 0.0, 2.5, 7.0], 300)
    pi, bins = rng.choice([0.1, 0.5], (300, 1)), rng.integers(0, 2, 300)
    guess = Guess(np.array([1.0, 3.0]), 5.0, 0.0, 6.0)
    rows = betting.units(sample(arm, value, pi, bins), guess)
    assert rows.n.sum() == 300
    assert len(rows.n) <= 2 * 2 * 2 * 3
    for function in (betting.lift_gains, lambda u, g, c: betting.gains(BOOKS["revenue"], u, g, c)):
        one_by_one = sum(
            function(betting.units(sample([a], [v], p, np.array([b])), guess), guess, 1)
            for a, v, p, b in zip(arm, value, pi, bins, strict=True)
        )
        assert function(rows, guess, 1) == pytest.approx(one_by_one, abs=1e-9)


# --- the purse ------------------------------------------------------------------------------------

RULE = purse.Rule(BOOKS["revenue"], 0.0, 1_000.0, has_lift=True)


def revenue(rng, n, factor=1.0):
    """One in ten buys, for 20 on average, some for very much."""
    return (rng.random(n) < 0.1) * np.minimum(rng.lognormal(2.5, 1.0, n) * factor, 1_000.0)


def run(seed, n_batches, factor=1.0, history=(0.0, 0.0, 0.0), batch=200):
    rng, state = np.random.default_rng(seed), purse.start(RULE, history, bins=1, candidates=1)
    for _ in range(n_batches):
        arm = rng.integers(0, 2, batch)
        value = np.where(arm, revenue(rng, batch, factor), revenue(rng, batch))
        state, _ = purse.observed(RULE, state, sample(arm, value, 0.5))
    return state


def test_values_are_cut_where_the_champion_seldom_goes_and_the_share_is_told():
    state = run(0, 200)
    cap = purse.guessed(RULE, state).cap
    positive = np.sort(revenue(np.random.default_rng(9), 400_000))
    expected = np.quantile(positive[positive > 0], 0.995)
    assert cap == pytest.approx(expected, rel=0.25)
    assert state.cut[1] / state.cut[0] == pytest.approx(0.0005, abs=0.0005)
    assert purse.guessed(RULE, run(0, 5)).cap == 1_000.0


def test_nothing_is_bet_before_the_champion_is_known():
    first = sample([0] * 10 + [1] * 10, np.arange(20.0), 0.5)
    state, _ = purse.observed(RULE, purse.start(RULE, (0.0, 0.0, 0.0), bins=1, candidates=1), first)
    assert purse.guessed(RULE, state) is None
    assert (state.wealth.log_wealth == 0.0).all()
    assert state.waiting.seen[0].tolist() == [10.0, 45.0, 10.0, 145.0]


def test_less_revenue_is_harm_and_more_is_superior():
    for factor, is_harm in ((0.6, True), (1.7, False)):
        state = run(1, 150, factor)
        harm, superior, *stages = state.log_e[0]
        assert (harm > np.log(1_000)) == is_harm
        assert (superior > np.log(1_000)) != is_harm
        assert (stages[0] > np.log(1_000)) != is_harm
        lower, upper = effect.limits(state.lift_wealth, 0.05)[0]
        assert lower < factor - 1 < upper
        assert (upper < 0.0) == is_harm
        assert (lower > 0.0) != is_harm


def test_what_waits_is_bet_on_with_what_was_known_before_it():
    state = run(2, 40)
    rng = np.random.default_rng(3)
    parts = [sample(rng.integers(0, 2, 40), revenue(rng, 40), 0.5) for _ in range(3)]
    guess, after = purse.guessed(RULE, state), state
    for part in parts:
        after, _ = purse.observed(RULE, after, part)
    after, _ = purse.settled(RULE, after)
    whole = [np.concatenate([getattr(p, name) for p in parts]) for name in ("arm", "value")]
    expected = betting.gains(RULE.book, betting.units(sample(*whole, 0.5), guess), guess, 1)
    assert after.wealth.log_wealth - state.wealth.log_wealth == pytest.approx(expected, abs=1e-9)

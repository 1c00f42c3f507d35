"""The whole game of a metric is fair, waits and alarms and starts included, by enumeration.

Every course of a few units is played through the same code as live, and its wealth, with all that
waits bet on, weighted with its probability: the mean must not exceed 1 at any time, on a grid of
nulls. What is shown lags behind that path; it must not reach 1 / alpha more often than alpha.
"""

import itertools

import numpy as np
import pytest

from controller.core.estimate import book, effect, game, moments, purse, restart
from controller.core.model import Sample
from tests.core.cells import cells

CLICKS = {
    "more is better": book.reward_book(
        (0.1,), contamination=0.0, min_effect=None, is_minimised=False
    ),
    "less is better": book.reward_book(
        (0.1,), contamination=0.0, min_effect=0.2, is_minimised=True
    ),
    "forged": book.reward_book((0.1,), contamination=0.05, min_effect=None, is_minimised=False),
    "guarded": book.guard_book(book.ERRORS, 0.1),
}


def values_of(log_e, log_mixed):
    """e-values of the families, then of the first with its restarts."""
    return np.exp(np.append(log_e[0], log_mixed[0]))


@pytest.fixture
def _hasty(monkeypatch):
    """Waits and starts that matter within a handful of units."""
    monkeypatch.setattr(game, "PATIENCE", 0.02)
    monkeypatch.setattr(game, "_ALARM", 0.5)
    monkeypatch.setattr(restart, "FIRST", 1.0)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("name", sorted(CLICKS))
def test_mean_wealth_of_coins_is_at_most_one_at_every_time(name):
    bets, pi, units = CLICKS[name], 0.3, 4
    plug = moments.plug_in((200.0, 60.0), prior_n=1.0, prior_s=0.5)
    begun = game.start(bets, plug, 1)  # with a past of 60 trials, so that two units wait
    begun, _ = game.settled(bets, game.observed(bets, begun, cells((0.5, 50, 15, 50, 15)))[0])
    ours = restart.start(bets, 1)
    begun = game.Game(
        begun.waiting,
        (),
        ours,
        begun.plug,
        0,
        restart.log_e(bets, ours),
        restart.log_mixed(bets, ours),
    )
    paths, shown, told, waited = [], [], [], 0
    for course in itertools.product(range(4), repeat=units):
        state, path, seen, most = begun, [], [], 0.0
        for t, unit in enumerate(course):
            arm, value = divmod(unit, 2)
            row = (pi, 1 - arm, value * (1 - arm), arm, value * arm)
            state, _ = game.observed(bets, state, cells(row))
            if t == 1:
                state, _ = game.new_step(bets, state)
            waited += bool(state.cells)
            now, _ = game.settled(bets, state)
            path.append(values_of(now.log_e, now.log_mixed))
            seen.append(values_of(state.log_e, state.log_mixed))
            most = np.maximum(most, seen[-1])
        paths.append(path)
        told.append(seen)
        shown.append(most)
    assert waited > 50
    paths, shown, first = np.array(paths), np.array(shown), np.append(bets.starts, bets.starts[0])
    side, shift = bets.side[first], bets.shift[first]
    for x, q in itertools.product([0.05, 0.2, 0.3, 0.5, 0.9], repeat=2):
        law = [(1 - pi) * (1 - x), (1 - pi) * x, pi * (1 - q), pi * q]
        chances = np.array([np.prod(course) for course in itertools.product(law, repeat=units)])
        mean = np.tensordot(chances, paths, 1)
        is_null = side * (q - x - shift) <= 1e-12
        assert mean[:, is_null].max(initial=0.0) <= 1.0 + 1e-9
        promotes = np.flatnonzero(is_null & (np.arange(len(first)) % (len(first) - 1) > 0))
        late = np.tensordot(chances, np.array(told), 1)[:, promotes]
        assert late.max(initial=0.0) <= 1.0 + 1e-9  # alarms look at harm only
        for bar in (1.1, 1.5, 2.0, 4.0):
            reached = np.tensordot(chances, shown >= bar, 1)
            assert reached[is_null].max(initial=0.0) <= 1.0 / bar
        if name == "more is better" and x == q:  # on the boundary: a martingale
            assert mean[:, [0, 1, 3]] == pytest.approx(np.ones((units, 3)), abs=1e-9)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("is_minimised", [False, True])
def test_mean_wealth_of_amounts_is_at_most_one_at_every_time(is_minimised):
    bets = book.reward_book((0.5,), contamination=0.0, min_effect=None, is_minimised=is_minimised)
    rule, pi, units = purse.Rule(bets, 0.0, 8.0, has_lift=True), 0.4, 3
    values = np.array([0.0, 1.0, 8.0])
    begun = purse.start(rule, (100.0, 150.0, 900.0), bins=1, candidates=1)
    paths = []
    for course in itertools.product(itertools.product((0, 1), values), repeat=units):
        state, path = begun, []
        for arm, value in course:
            none = np.zeros(1, np.int64)
            sample = Sample(np.array([arm]), none, none, np.full((1, 1), pi), np.array([value]))
            state, _ = purse.observed(rule, state, sample)
            now, _ = purse.settled(rule, state)
            found = values_of(now.log_e, now.log_mixed)
            path.append(np.concatenate([found, np.exp(now.lift_wealth[0])]))
        paths.append(path)
    paths, first = np.array(paths), np.append(bets.starts, bets.starts[0])
    lift = effect.BOOK
    side = np.append(bets.side[first], lift.side)
    shift = np.append(bets.shift[first], lift.shift)
    ratio = np.append(bets.ratio[first], lift.ratio)
    laws = np.array([[0.8, 0.15, 0.05], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    for law0, law1 in itertools.product(laws, repeat=2):
        law = [*((1 - pi) * law0), *(pi * law1)]
        chances = np.array([np.prod(course) for course in itertools.product(law, repeat=units)])
        mean = np.tensordot(chances, paths, 1)
        is_null = side * (law1 @ values - ratio * (law0 @ values) - shift) <= 1e-12
        assert is_null.any()
        assert mean[:, is_null].max() <= 1.0 + 1e-9


def test_cells_wait_until_they_are_some_percent_of_all():
    bets, rows = CLICKS["more is better"], (0.5, 10, 3, 10, 3)
    plug = moments.plug_in((200.0, 60.0), prior_n=1.0, prior_s=0.5)
    state, bet_at, n = game.start(bets, plug, 1), [], 0
    for _ in range(150):
        state, done = game.observed(bets, state, cells(rows))
        n += 20
        if done is not None:
            bet_at.append(n)
            assert state.waiting.settled[0].tolist() == [n / 2, 0.3 * n / 2, n / 2, 0.3 * n / 2]
    # 20 trials are 2 % of up to 1 000, 40 of up to 2 000, 60 of up to 3 000
    expected = [*range(20, 1_021, 20), *range(1_060, 2_021, 40), *range(2_080, 3_001, 60)]
    assert bet_at == expected


def test_many_strata_do_not_wait_for_ever():
    bets = CLICKS["guarded"]
    plug = moments.plug_in((200.0, 2.0), prior_n=50.0, prior_s=0.5)
    state = game.start(bets, plug, 1)
    state, _ = game.observed(bets, state, cells((0.5, 1e6, 1e4, 1e6, 1e4)))
    most = 0
    for stratum in range(1_000):
        pi = 0.2 + 0.0001 * stratum
        state, _ = game.observed(bets, state, cells((pi, 5, 0, 5, 0), stratum=[stratum]))
        most = max(most, sum(len(part.pi) for part in state.cells))
    assert 200 < most < 400

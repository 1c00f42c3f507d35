"""Wealth that begins again: exact by enumeration, and equal to the sum over starts kept apart."""

import itertools

import numpy as np
import pytest

from controller.core.estimate import book, restart, sequential
from tests.core.cells import cells

BOOK = book.bind((book.harm(None, 0.0, 1), book.superiority(None, 0.0, 1)))


def play(gains, trials, steps=()):
    """The wealth after these gains, one batch after another, with steps before some."""
    wealth = restart.start(BOOK, 1)
    for t, gain in enumerate(gains):
        if t in steps:
            wealth = restart.stepped(wealth)
        wealth = restart.earned(wealth, gain, np.array([trials]))
    return wealth


def random_gains(seed, n):
    return np.random.default_rng(seed).normal(-0.1, 1.0, (n, 1, len(BOOK.slope)))


def test_nothing_seen_is_worth_one_however_often_one_starts():
    wealth = restart.start(BOOK, 2)
    for _ in range(50):
        assert restart.log_mixed(BOOK, wealth) == pytest.approx([0.0, 0.0], abs=1e-12)
        wealth = restart.stepped(wealth)
        wealth = restart.earned(wealth, np.zeros((2, len(BOOK.slope))), np.array([0.0, 900.0]))
    assert wealth.log_cash[0] == pytest.approx(50 * np.log(0.95))
    assert wealth.log_cash[1] == pytest.approx(50 * np.log(0.95) - 0.2 * np.log(45_000 / 500))


@pytest.mark.parametrize("trials", [1.0, 400.0])
def test_one_accumulator_holds_the_sum_over_all_starts(trials):
    gains, steps = random_gains(0, 12), (0, 3, 7, 8)
    wealth = play(gains, trials, steps)
    weights = np.exp(BOOK.log_weights[: BOOK.restarted])
    product = np.exp(gains[:, 0, : BOOK.restarted])
    total = restart.KEPT * (weights * product.prod(axis=0)).sum()
    left = 1.0 - restart.KEPT
    for t in range(12):
        for is_stake, kept, since in (
            (t in steps, 1.0 - restart.STEP, t),
            (True, (max(500, trials * (t + 1)) / max(500, trials * t)) ** -restart.RATE, t + 1),
        ):
            if is_stake:
                total += (1.0 - kept) * left * (weights * product[since:].prod(axis=0)).sum()
                left *= kept
    assert restart.log_mixed(BOOK, wealth)[0] == pytest.approx(np.log(total + left), abs=1e-10)


def test_mean_of_the_mixture_is_at_most_one_by_enumeration_of_all_courses():
    # Four units, a step before the second and the fourth; the guess learns from each champion.
    pi, p0, mean = 0.3, 0.2, 0.0
    for course in itertools.product(range(4), repeat=4):
        wealth, chance, s, n = restart.start(BOOK, 1), 1.0, 1.0, 3.0
        for t, unit in enumerate(course):
            if t in {1, 3}:
                wealth = restart.stepped(wealth)
            arm, value = divmod(unit, 2)
            row = (pi, 1 - arm, value * (1 - arm), arm, value * arm)
            gain = sequential.gains(BOOK, cells(row), np.array([s / n]))
            wealth = restart.earned(wealth, gain, np.array([400.0]))
            chance *= (pi if arm else 1 - pi) * (p0 if value else 1 - p0)
            s, n = s + (value if not arm else 0), n + (not arm)
        mean += chance * np.exp(restart.log_mixed(BOOK, wealth)[0])
    assert mean == pytest.approx(1.0, abs=1e-10)  # p1 = p0 is the null's boundary


def test_promotion_is_not_restarted():
    wealth = play(random_gains(1, 5), 1_000.0, steps=(2,))
    assert wealth.log_restarted.shape == (1, len(book.HARM))


def test_a_candidate_that_joins_late_has_all_of_its_money():
    old = play(random_gains(2, 30), 1_000.0)
    both = restart.joined(old, restart.start(BOOK, 1))
    assert both.log_cash[0] < -0.5
    assert both.log_cash[1] == 0.0
    mixed = restart.log_mixed(BOOK, both)
    assert mixed[0] == restart.log_mixed(BOOK, old)[0]
    assert mixed[1] == pytest.approx(0.0, abs=1e-12)

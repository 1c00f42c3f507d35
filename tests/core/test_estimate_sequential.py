"""The e-values: exact means by enumeration, projections against brute force and closed forms."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp

from controller.core.estimate import book, effect, latency, restart, sequential
from tests.core.cells import cells


def reward_book(min_effect=None, contamination=0.0, is_minimised=False):
    return book.reward_book(
        (0.01, None, 0.1),
        contamination=contamination,
        min_effect=min_effect,
        is_minimised=is_minimised,
    )


ALL_BOOKS = {
    "reward": reward_book(),
    "reward around 5 %": reward_book(0.05),
    "reward, forged 2 %": reward_book(contamination=0.02),
    "cost": reward_book(is_minimised=True),
    "cost around 1 %, forged 0.5 %": reward_book(0.01, 0.005, is_minimised=True),
    "errors + 1 %": book.guard_book(book.ERRORS, 0.01),
    "errors + 30 %": book.guard_book(book.ERRORS, 0.3),
    "errors": book.guard_book(book.ERRORS, 0.0),
    "latency": latency.BOOK,
    "lift": effect.BOOK,
}


def kl(a, b):
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))


def expected_e(logs, pi, x, q):
    """E[e] when the champion's mean is x and the candidate's q, by enumeration."""
    c0, c1, d0, d1 = (np.exp(log) for log in logs)
    return (1 - pi) * ((1 - x) * c0 + x * c1) + pi * ((1 - q) * d0 + q * d1)


def random_settings(n, seed, *, shifted):
    rng = np.random.default_rng(seed)
    pi, p0, p1 = rng.uniform(0.005, 0.995, (3, n))
    p0[: n // 2] = 10 ** rng.uniform(-3, 0, n // 2) * 0.99
    ratio = np.exp(rng.normal(0, 0.7, n))
    shift = rng.uniform(-0.2, 0.2, n) if shifted else np.zeros(n)
    keep = np.maximum(0, -shift / ratio) + 1e-3 < np.minimum(1, (1 - shift) / ratio)
    return rng, *(a[keep] for a in (pi, p0, p1, ratio, shift))


@pytest.mark.parametrize("shifted", [False, True])
def test_mean_of_e_is_one_on_the_boundary_and_at_most_one_inside_the_null(shifted):
    rng, pi, p0, p1, ratio, shift = random_settings(20_000, 11, shifted=shifted)
    side = np.sign(p1 - (ratio * p0 + shift))
    logs = sequential.log_bets(pi, p0, p1, ratio, shift, side=side)

    low, high = np.maximum(0, -shift / ratio), np.minimum(1, (1 - shift) / ratio)
    x = low + (high - low) * rng.random(len(pi))
    q = ratio * x + shift
    assert np.abs(expected_e(logs, pi, x, q) - 1.0).max() <= 2.5e-12

    null_end = np.where(side > 0, 0.0, 1.0)
    inside = q + (null_end - q) * rng.random(len(pi))
    assert expected_e(logs, pi, x, inside).max() <= 1.0 + 2.5e-12
    assert len(pi) >= 15_000


def corners(ratio, shift, side):
    """The corners of each bet's null {side (q - ratio x - shift) <= 0} in the unit square."""
    low, high = np.maximum(0.0, -shift / ratio), np.minimum(1.0, (1.0 - shift) / ratio)
    ends = [(x, np.clip(ratio * x + shift, 0.0, 1.0)) for x in (low, high)]
    square = [(np.full_like(low, x), np.full_like(low, q)) for x in (0.0, 1.0) for q in (0.0, 1.0)]
    inside = [side * (q - ratio * x - shift) <= 1e-12 for x, q in ends + square]
    return [
        (x, q, np.where(of, 1.0, 0.0)) for (x, q), of in zip(ends + square, inside, strict=True)
    ]


@pytest.mark.parametrize("name", sorted(ALL_BOOKS))
def test_every_bet_that_is_used_is_fair_at_every_corner_of_its_null(name):
    # The mean is linear in the law of (A, Y), so the null's corners bound it.
    bets, rng = ALL_BOOKS[name], np.random.default_rng(5)
    for _ in range(300):
        pi, p0 = rng.uniform(0.005, 0.995), 10 ** rng.uniform(-4, -1e-3)
        p1 = sequential.alternatives(bets, np.array([[p0]]))[0]
        logs = sequential.log_bets(pi, p0, p1, bets.ratio, bets.shift, side=bets.side)
        for x, q, is_null in corners(bets.ratio, bets.shift, bets.side):
            # next to 1, float64 places a probability to 1e-16 only
            assert (is_null * expected_e(logs, pi, x, q)).max() <= 1.0 + 1e-8


@pytest.mark.parametrize("name", sorted(ALL_BOOKS))
def test_no_bet_is_fair_only_because_it_never_wins(name):
    # Each family has bets that grow where the truth is what they expect.
    bets = ALL_BOOKS[name]
    p0, pi = 0.5, 0.4
    p1 = sequential.alternatives(bets, np.array([[p0]]))[0]
    logs = sequential.log_bets(pi, p0, p1, bets.ratio, bets.shift, side=bets.side)
    growth = (1 - pi) * ((1 - p0) * logs[0] + p0 * logs[1])
    growth = growth + pi * ((1 - p1) * logs[2] + p1 * logs[3])
    possible = (bets.ratio * p0 + bets.shift > 0.0) & (bets.ratio * p0 + bets.shift < 1.0)
    best = np.maximum.reduceat(growth, bets.starts)
    assert (best[possible[bets.starts]] > 0.0).all()


def test_projection_is_the_minimum_that_brute_force_finds():
    _, pi, p0, p1, ratio, shift = random_settings(300, 3, shifted=True)
    shift[::3] = 0.0
    ratio[1::4] = 1.0
    keep = np.maximum(0, -shift / ratio) + 1e-3 < np.minimum(1, (1 - shift) / ratio)
    for w, a, b, r, d in zip(*(v[keep] for v in (pi, p0, p1, ratio, shift)), strict=True):
        low, high = max(0.0, -d / r), min(1.0, (1 - d) / r)
        margin = 1e-12 * (high - low)

        def distance(x, *, w=w, a=a, b=b, r=r, d=d):
            return w * kl(b, r * x + d) + (1 - w) * kl(a, x)

        def slope(x, *, w=w, a=a, b=b, r=r, d=d):
            q = r * x + d
            return w * r * (q - b) / (q * (1 - q)) + (1 - w) * (x - a) / (x * (1 - x))

        x = float(sequential.ripr(w, a, b, r, d))
        exact = brentq(slope, low + margin, high - margin, xtol=1e-16, rtol=1e-15)
        assert abs(x - exact) <= 1e-13
        found = minimize_scalar(distance, bounds=(low + margin, high - margin), method="bounded")
        assert distance(x) <= found.fun + 1e-12


def test_projection_has_its_closed_form_for_equal_means():
    assert sequential.ripr(0.3, 0.2, 0.1, 1.0, 0.0) == pytest.approx(
        0.7 * 0.2 + 0.3 * 0.1, abs=1e-16
    )


def test_projection_on_a_line_that_misses_the_square_is_not_a_number():
    assert np.isnan(sequential.ripr(0.5, 0.2, 0.1, 0.05, -0.5))
    logs = sequential.log_bets(0.5, 0.2, 0.1, 0.05, -0.5, side=1)
    assert all(log == 0.0 for log in logs)


def test_growth_is_the_kullback_leibler_distance_to_the_null():
    pi, p0, p1, d = 0.25, 0.1, 0.05, -0.01
    logs = sequential.log_bets(pi, p0, p1, 1.0, d, side=-1)
    growth = (1 - pi) * ((1 - p0) * logs[0] + p0 * logs[1])
    growth += pi * ((1 - p1) * logs[2] + p1 * logs[3])
    grid = np.linspace(0.0101, 0.3, 400_001)
    assert growth == pytest.approx(
        (pi * kl(p1, grid + d) + (1 - pi) * kl(p0, grid)).min(), rel=1e-7
    )


@pytest.mark.parametrize(
    ("p1", "side"), [(0.3, -1), (0.2, -1), (0.2, 1), (0.1, 1)], ids=["above", "on", "on", "below"]
)
def test_nothing_is_bet_on_an_alternative_inside_the_null(p1, side):
    logs = sequential.log_bets(0.5, 0.2, p1, 1.0, 0.0, side=side)
    assert all(log == 0.0 for log in logs)


def test_fractional_values_are_worth_no_more_than_the_coin_with_their_mean():
    # e(1)^Y e(0)^(1-Y) <= Y e(1) + (1 - Y) e(0): so (n, s) suffice for any reward in [0, 1].
    rng = np.random.default_rng(8)
    e0, e1 = np.exp(rng.normal(0, 2, (2, 100_000)))
    y = rng.random(100_000)
    assert (e1**y * e0 ** (1 - y) <= (y * e1 + (1 - y) * e0) * (1 + 1e-12)).all()


def test_mean_of_e_is_at_most_one_for_values_spread_over_the_unit_interval():
    pi, bets = 0.3, book.bind((book.harm(None, 0.0, 1),))
    values, chances = np.array([0.0, 0.25, 0.7, 1.0]), np.array([0.4, 0.3, 0.2, 0.1])
    for p0 in (0.05, 0.315, 0.8):
        total = 0.0
        for y, chance in zip(values, chances, strict=True):
            for cell, p_arm in (((pi, 1, y, 0, 0), 1 - pi), ((pi, 0, 0, 1, y), pi)):
                gain = sequential.gains(bets, cells(cell), np.array([p0]))[0]
                total = total + p_arm * chance * np.exp(gain)
        assert total.max() <= 1.0 + 1e-12


@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_cells_that_compare_nothing_change_nothing(pi):
    gain = sequential.gains(ALL_BOOKS["reward"], cells((pi, 9, 5, 9, 1)), np.array([0.5]))
    assert (gain == 0.0).all()


@pytest.mark.parametrize("name", sorted(ALL_BOOKS))
def test_gains_equal_the_product_over_single_units(name):
    bets, rng = ALL_BOOKS[name], np.random.default_rng(2)
    rows, p0_hat = [(0.2, 30, 7, 10, 4), (0.5, 11, 0, 13, 13)], np.array([0.3, 0.6])
    gain = sequential.gains(bets, cells(*rows, bin=[1, 0]), p0_hat)
    for (pi, n0, s0, n1, s1), p0, found in zip(rows, (0.6, 0.3), gain, strict=True):
        product = np.ones(len(bets.slope))
        p1 = sequential.alternatives(bets, np.array([[p0]]))[0]
        logs = sequential.log_bets(pi, p0, p1, bets.ratio, bets.shift, side=bets.side)
        units = [0] * (n0 - s0) + [1] * s0 + [2] * (n1 - s1) + [3] * s1
        for unit in rng.permutation(units):
            product = product * np.exp(logs[unit])
        assert np.abs(found - np.log(product)).max() <= 1e-9


@pytest.mark.parametrize("name", sorted(ALL_BOOKS))
def test_weights_sum_to_one_so_that_nothing_seen_is_worth_one(name):
    bets = ALL_BOOKS[name]
    ends = [*bets.starts[1:], len(bets.slope)]
    for first, end in zip(bets.starts, ends, strict=True):
        assert logsumexp(bets.log_weights[first:end]) == pytest.approx(0.0, abs=1e-12)
    log_e = restart.log_e(bets, restart.start(bets, 2))
    assert log_e == pytest.approx(np.zeros((2, len(bets.starts))), abs=1e-12)


@pytest.mark.parametrize(("min_effect", "least"), [(0.2, 0.2), (None, 0.5)])
def test_weights_gather_around_the_effect_worth_detecting(min_effect, least):
    weights = np.exp(book.harm(min_effect, 0.0, 1).log_weights)
    assert book.HARM[weights.argmax()] == pytest.approx(0.8)
    assert weights.min() >= least / len(weights)


@pytest.mark.parametrize(
    ("family", "p0", "row"),
    [
        (book.superiority(None, 0.0, 1), 0.95, (0.5, 0, 0, 1, 0)),
        (book.noninferiority(0.1, 0.1, 1), 0.95, (0.5, 0, 0, 1, 0)),
        (book.noninferiority(0.01, 0.01, -1), 0.001, (0.5, 0, 0, 1, 1)),
    ],
    ids=["nearly perfect", "nearly perfect, margin", "nearly no errors"],
)
def test_one_surprise_does_not_ruin_a_bet_next_to_certainty(family, p0, row):
    gain = sequential.gains(book.bind((family,)), cells(row), np.array([p0]))
    assert gain.min() > np.log(1e-3)


@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_books_are_turned_around_where_less_is_better(shift):
    more, less = reward_book(contamination=shift), reward_book(None, shift, is_minimised=True)
    assert (more.side[more.starts] == -less.side[less.starts]).all()
    assert (more.shift[more.starts] == -less.shift[less.starts]).all()
    better, worse = cells((0.5, 500, 250, 500, 350)), cells((0.5, 500, 250, 500, 150))
    for bets, good, bad in ((more, better, worse), (less, worse, better)):
        for seen, harmed in ((good, False), (bad, True)):
            gain = sequential.gains(bets, seen, np.array([0.5]))
            wealth = restart.earned(restart.start(bets, 1), gain, np.array([1_000.0]))
            harm, superior, *stages = restart.log_e(bets, wealth)[0]
            assert (harm > np.log(100)) is np.bool_(harmed)
            assert (superior > np.log(100)) is np.bool_(not harmed)
            assert all((stage > np.log(100)) is np.bool_(not harmed) for stage in stages)


@pytest.mark.parametrize("pi", [1e-9, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-9])
@pytest.mark.parametrize("p0", [1e-12, 1e-6, 0.3, 1 - 1e-6, 1 - 1e-12])
def test_nothing_extreme_makes_an_infinite_bet(p0, pi):
    for bets in ALL_BOOKS.values():
        for s0, s1 in ((0, 0), (1e6, 1e6), (1e6, 0), (0, 1e6)):
            row = cells((pi, 1e6, s0, 1e6, s1))
            assert np.isfinite(sequential.gains(bets, row, np.array([p0]))).all()

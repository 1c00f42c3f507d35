"""The e-values: exact means by enumeration, projections against brute force and closed forms."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp

from controller.core.estimate import sequential
from controller.core.model import Cell

ALL_BETS = {
    "harm": sequential.harm_bets(None),
    "harm around 5 %": sequential.harm_bets(0.05),
    "superior": sequential.superiority_bets(None),
    "superior around 1 %": sequential.superiority_bets(0.01),
    "not inferior by 1 %": sequential.noninferiority_bets(0.01),
    "not inferior by 10 %": sequential.noninferiority_bets(0.1),
    "errors + 1 %": sequential.errors_bets(0.01),
    "errors": sequential.errors_bets(0.0),
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


@pytest.mark.parametrize("name", sorted(ALL_BETS))
def test_every_bet_that_is_used_is_fair_at_every_corner_of_its_null(name):
    # The mean is linear in the law, so the null's corners bound it.
    bets, rng = ALL_BETS[name], np.random.default_rng(5)
    for _ in range(500):
        pi, p0 = rng.uniform(0.005, 0.995), 10 ** rng.uniform(-4, -1e-3)
        p1 = sequential.alternatives(bets, p0)
        logs = sequential.log_bets(pi, p0, p1, bets.ratio, bets.shift, side=bets.side)
        low, high = max(0, -bets.shift), min(1, 1 - bets.shift)
        corners = [(low, low + bets.shift), (high, high + bets.shift)]
        far = 0.0 if bets.side > 0 else 1.0
        corners += [(x, far) for x, _ in corners] + [(1.0 - far, far)]
        for x, q in corners:  # next to 1, float64 places a probability to 1e-16 only
            assert expected_e(logs, pi, x, q).max() <= 1.0 + 1e-8


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
    pi, bets = 0.3, ALL_BETS["harm"]
    values, chances = np.array([0.0, 0.25, 0.7, 1.0]), np.array([0.4, 0.3, 0.2, 0.1])
    p1 = sequential.alternatives(bets, 0.31)
    for p0 in (0.05, 0.315, 0.8):
        total = np.zeros(len(p1))
        for y, chance in zip(values, chances, strict=True):
            for cell, p_arm in ((Cell(pi, 1, y, 0, 0), 1 - pi), (Cell(pi, 0, 0, 1, y), pi)):
                after = sequential.update(bets, sequential.start(bets), [cell], p0)
                total += p_arm * chance * np.exp(after.log_wealth)
        assert total.max() <= 1.0 + 1e-12


@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_cells_that_compare_nothing_change_nothing(pi):
    bets = ALL_BETS["harm"]
    after = sequential.update(bets, sequential.start(bets), [Cell(pi, 9, 5, 9, 1)], 0.5)
    assert (after.log_wealth == 0.0).all()


@pytest.mark.parametrize("name", sorted(ALL_BETS))
def test_wealth_equals_the_product_over_single_units(name):
    bets, rng = ALL_BETS[name], np.random.default_rng(2)
    cells = [Cell(0.2, 30, 7, 10, 4), Cell(0.5, 11, 0, 13, 13)]
    product = np.ones(len(bets.slope))
    for cell in cells:
        p1 = sequential.alternatives(bets, 0.3)
        logs = sequential.log_bets(cell.pi, 0.3, p1, bets.ratio, bets.shift, side=bets.side)
        units = [0] * int(cell.n0 - cell.s0) + [1] * int(cell.s0)
        units += [2] * int(cell.n1 - cell.s1) + [3] * int(cell.s1)
        for unit in rng.permutation(units):
            product = product * np.exp(logs[unit])
    after = sequential.update(bets, sequential.start(bets), cells, 0.3)
    assert np.abs(after.log_wealth - np.log(product)).max() <= 1e-9


@pytest.mark.parametrize("name", sorted(ALL_BETS))
def test_weights_sum_to_one_so_that_nothing_seen_is_worth_one(name):
    bets = ALL_BETS[name]
    assert logsumexp(bets.log_weights) == pytest.approx(0.0, abs=1e-12)
    assert sequential.log_e(bets, sequential.start(bets)) == pytest.approx(0.0, abs=1e-12)


def test_weights_gather_around_the_effect_worth_detecting():
    weights = np.exp(sequential.harm_bets(0.2).log_weights)
    assert sequential.HARM[weights.argmax()] == pytest.approx(0.8)
    assert weights.min() >= 0.3 / len(weights)


def test_one_surprise_does_not_ruin_a_bet_on_a_candidate_that_is_nearly_perfect():
    for name in ("superior", "not inferior by 10 %"):
        bets = ALL_BETS[name]
        after = sequential.update(bets, sequential.start(bets), [Cell(0.5, 0, 0, 1, 0)], 0.95)
        assert after.log_wealth.min() > np.log(1e-3)

"""The lift's limits and the band of one arm, against independent arithmetic."""

import numpy as np
import pytest
from scipy.integrate import quad

from controller.core.estimate import effect, sequential
from tests.core.cells import cells


def limits(row, p0, alpha=0.05):
    gain = sequential.gains(effect.BOOK, cells(row), np.array([p0]))
    return effect.limits(gain, alpha)[0]


def test_limits_are_unbounded_before_anything_is_seen():
    assert (
        effect.limits(np.zeros((2, len(effect.BOOK.slope))), 0.05).tolist()
        == [[-1.0, float("inf")]] * 2
    )


def test_limits_close_around_the_lift_as_units_come():
    widths = []
    for n in (1_000, 10_000, 100_000, 1_000_000):
        lower, upper = limits((0.5, n, 0.2 * n, n, 0.22 * n), 0.2)
        assert lower < 0.1 < upper
        widths.append(upper - lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.06


@pytest.mark.parametrize(("base", "ratio"), [(0.9, 1.06), (0.5, 1.9), (0.5, 0.1), (0.02, 4.2)])
def test_limits_hold_the_truth_and_bound_it_at_extreme_means(base, ratio):
    n = 20_000
    lower, upper = limits((0.5, n, base * n, n, base * ratio * n), base)
    assert lower < ratio - 1 < upper
    assert (1 + upper) / (1 + lower) < 2.2


def test_ends_are_rejected_points_of_the_grid():
    row = (0.5, 5_000, 1_000, 5_000, 1_100)
    lower, upper = limits(row, 0.2)
    ratios = effect.RATIOS
    for end, beyond in ((lower, ratios <= 1 + lower), (upper, ratios >= 1 + upper)):
        assert np.abs(ratios - 1 - end).min() < 1e-12
        assert beyond.any()
    assert limits(row, 0.2, 1e-9)[0] < lower
    assert limits(row, 0.2, 1e-9)[1] > upper


def test_lift_grid_is_even_in_both_directions_and_fine_near_no_effect():
    assert effect.RATIOS[0] == pytest.approx(0.05, abs=1e-3)
    assert effect.RATIOS[-1] == pytest.approx(20.0, abs=0.1)
    assert np.abs(effect.RATIOS * effect.RATIOS[::-1] - 1).max() < 1e-12
    assert np.diff(np.log(effect.RATIOS)).min() == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("n", "s"), [(1, 0), (1, 1), (10, 3), (200, 1), (5_000, 4_990), (40, 12.5)]
)
def test_band_of_an_arm_is_where_the_mixture_has_not_won(n, s):
    alpha = 0.05
    lower, upper = effect.arm_interval(n, s, alpha)

    def mixture(p):
        def integrand(phi):  # theta = sin(phi)^2 makes the Beta(1/2, 1/2) prior uniform
            theta = np.sin(phi) ** 2
            return (theta / p) ** s * ((1 - theta) / (1 - p)) ** (n - s) * 2 / np.pi

        peak = float(np.arcsin(np.sqrt(s / n)))
        return quad(integrand, 0, np.pi / 2, points=[peak], limit=500)[0]

    for end in (lower, upper):
        if 0.0 < end < 1.0:
            assert mixture(end) == pytest.approx(1 / alpha, rel=1e-6)
    assert (lower == 0.0) == (s == 0)
    assert (upper == 1.0) == (s == n)
    assert lower <= s / n <= upper


def test_band_of_an_arm_without_units_is_none():
    assert effect.arm_interval(0, 0, 0.05) is None


def test_bands_of_many_arms_are_those_of_each():
    n, s = np.array([[0.0, 7.0], [1e7, 40.0]]), np.array([[0.0, 2.0], [3e3, 12.5]])
    found = effect.arm_intervals(n, s, 0.01)
    assert found[0, 0].tolist() == [0.0, 1.0]
    for i in np.ndindex(2, 2):
        if n[i]:
            assert found[i] == pytest.approx(effect.arm_interval(n[i], s[i], 0.01), rel=1e-12)


def test_cells_wait_for_the_grid_and_come_with_the_guess_of_before_them():
    guesses = [np.array([0.2 + 0.001 * i]) for i in range(5)]
    first = cells((0.5, 500, 100, 500, 90))
    lift = effect.observed(effect.start(1), first, 0.05, before=guesses[0], after=guesses[0])
    expected = sequential.gains(effect.BOOK, first, guesses[0])
    for i in range(4):
        part = cells((0.5, 6, 1, 6, 0), stratum=[i])
        lift = effect.observed(lift, part, 0.05, before=guesses[i], after=guesses[i + 1])
        if i % 2:  # 12 of 1 000 wait, then 24 are bet on
            both = cells((0.5, 12, 2, 12, 0))
            expected = expected + sequential.gains(effect.BOOK, both, guesses[i - 1])
        assert len(lift.cells) == (i + 1) % 2
        assert np.abs(lift.log_wealth - expected).max() <= 1e-9
    assert lift.limits == pytest.approx(effect.limits(expected, 0.05))

"""The lift's estimate and limits, and the band of one arm, against independent arithmetic."""

import numpy as np
import pytest
from scipy.integrate import quad

from controller.core.estimate import effect, moments
from controller.core.model import Cell


def test_limits_are_unbounded_before_anything_is_seen():
    assert effect.limits(effect.start(), 0.05) == (-1.0, float("inf"))


def test_lift_of_strata_is_not_that_of_the_pool():
    # Base 6 % at 5 % share, then 3 % at 50 %: no effect within, minus 45 % when pooled.
    cells = [Cell(0.05, 95_000, 5_700, 5_000, 300), Cell(0.5, 50_000, 1_500, 50_000, 1_500)]
    assert effect.estimate(moments.from_cells(cells)) == pytest.approx(0.0, abs=1e-12)


def test_lift_is_mantel_and_haenszels_sum():
    cells = [Cell(0.1, 90, 30, 10, 5), Cell(0.5, 40, 8, 60, 18)]
    # (5*90/100 + 18*40/100) / (30*10/100 + 8*60/100) by hand
    expected = (4.5 + 7.2) / (3.0 + 4.8) - 1
    assert effect.estimate(moments.from_cells(cells)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [Cell(0.5, 100, 10, 0, 0)],
        [Cell(0.5, 0, 0, 100, 10)],
        [Cell(0.5, 100, 0, 100, 10)],
        [Cell(0.1, 100, 10, 0, 0), Cell(0.9, 0, 0, 100, 10)],
    ],
    ids=["empty", "no candidate", "no champion", "no reward", "never together"],
)
def test_lift_is_none_where_nothing_can_be_compared(cells):
    assert effect.estimate(moments.from_cells(cells)) is None


def test_limits_close_around_the_lift_as_units_come():
    widths = []
    for n in (1_000, 10_000, 100_000, 1_000_000):
        wealth = effect.update(effect.start(), [Cell(0.5, n, 0.2 * n, n, 0.22 * n)], 0.2)
        lower, upper = effect.limits(wealth, 0.05)
        assert lower < 0.1 < upper
        widths.append(upper - lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.06


@pytest.mark.parametrize(("base", "ratio"), [(0.9, 1.06), (0.5, 1.9), (0.5, 0.1), (0.02, 4.2)])
def test_limits_hold_the_truth_and_bound_it_at_extreme_means(base, ratio):
    n = 20_000
    wealth = effect.update(effect.start(), [Cell(0.5, n, base * n, n, base * ratio * n)], base)
    lower, upper = effect.limits(wealth, 0.05)
    assert lower < ratio - 1 < upper
    assert (1 + upper) / (1 + lower) < 2.2


def test_ends_are_rejected_points_of_the_grid():
    wealth = effect.update(effect.start(), [Cell(0.5, 5_000, 1_000, 5_000, 1_100)], 0.2)
    lower, upper = effect.limits(wealth, 0.05)
    ratios = effect.RATIOS
    for end, beyond in ((lower, ratios <= 1 + lower), (upper, ratios >= 1 + upper)):
        assert np.abs(ratios - 1 - end).min() < 1e-12
        assert beyond.any()
    assert effect.limits(wealth, 1e-9)[0] < lower
    assert effect.limits(wealth, 1e-9)[1] > upper


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

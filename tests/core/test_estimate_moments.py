"""Counts add up, in any order and grouping; the plug-in knows only the past."""

import numpy as np
import pytest

from controller.core.estimate import moments
from controller.core.model import Cell


def random_cells(rng, n):
    out = []
    for _ in range(n):
        n0, n1 = (int(v) for v in rng.integers(0, 50, 2))
        out.append(
            Cell(
                float(rng.choice([0.01, 0.05, 0.25, 0.5])), n0, int(rng.integers(0, n0 + 1)), n1, n1
            )
        )
    return out


def test_merging_is_associative_and_commutative():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b, c = (moments.from_cells(random_cells(rng, int(rng.integers(0, 6)))) for _ in range(3))
        left = moments.merge(moments.merge(a, b), c)
        for other in (moments.merge(a, moments.merge(b, c)), moments.merge(c, moments.merge(b, a))):
            assert np.array_equal(left.pi, other.pi)
            assert np.array_equal(left.counts, other.counts)


def test_counts_in_pieces_equal_counts_in_one():
    cells = random_cells(np.random.default_rng(1), 40)
    whole, pieces = moments.from_cells(cells), moments.empty()
    for cell in cells:
        pieces = moments.merge(pieces, moments.from_cells([cell]))
    assert moments.to_cells(pieces) == moments.to_cells(whole)
    assert moments.champion(whole).n == sum(c.n0 for c in cells)
    assert moments.candidate(whole).s == sum(c.s1 for c in cells)


def test_a_propensity_that_is_not_known_is_no_stratum():
    assert moments.to_cells(moments.from_cells([Cell(float("nan"), 5, 1, 5, 1)])) == ()


def test_no_units_have_no_strata_and_no_trials():
    assert moments.to_cells(moments.empty()) == ()
    assert moments.champion(moments.empty()) == moments.Trials(n=0.0, s=0.0)


def test_history_weighs_at_most_its_cap():
    plug = moments.plug_in((10_000.0, 3_000.0), prior_n=1.0, prior_s=0.5)
    assert (plug.n, plug.s) == pytest.approx((200.0, 60.0))
    short = moments.plug_in((100.0, 30.0), prior_n=1.0, prior_s=0.5)
    assert (short.n, short.s) == (100.0, 30.0)


def test_the_champions_mean_is_unknown_until_enough_of_it_was_seen():
    plug = moments.plug_in((0.0, 0.0), prior_n=1.0, prior_s=0.5)
    assert moments.mean(plug) is None
    plug = moments.learn(plug, [Cell(0.5, 19.0, 3.0, 100.0, 50.0)])
    assert moments.mean(plug) is None
    plug = moments.learn(plug, [Cell(0.5, 1.0, 1.0, 0.0, 0.0)])
    assert moments.mean(plug) == pytest.approx(4.5 / 21)


def test_a_new_epoch_discounts_the_past_but_not_the_prior():
    plug = moments.discount(moments.plug_in((100.0, 30.0), prior_n=1.0, prior_s=0.5))
    assert moments.mean(plug) == pytest.approx((0.5 + 29.7) / (1 + 99))

"""Counts add up, in any order and grouping; the plug-in knows only the past."""

import numpy as np
import pytest

from controller.core.estimate import moments
from tests.core.cells import cells


def random_cells(rng, n):
    n0, n1 = rng.integers(0, 50, (2, n))
    return cells(
        *zip(
            rng.choice([0.01, 0.05, 0.25, 0.5], n), n0, rng.integers(0, n0 + 1), n1, n1, strict=True
        ),
        candidate=rng.integers(0, 3, n),
        stratum=rng.integers(0, 4, n),
        bin=rng.integers(0, 2, n),
    )


def as_rows(some):
    return sorted(zip(*(getattr(some, name) for name in some.__dataclass_fields__), strict=True))


def test_merging_is_associative_and_commutative():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b, c = (random_cells(rng, int(rng.integers(0, 6))) for _ in range(3))
        left = moments.merged([moments.merged([a, b]), c])
        for other in ([a, moments.merged([b, c])], [moments.merged([c, b]), a]):
            assert as_rows(moments.merged(other)) == as_rows(left)


def test_merged_cells_hold_each_key_once_and_lose_nothing():
    some = random_cells(np.random.default_rng(1), 200)
    merged = moments.merged([some])
    expected = {}
    for candidate, stratum, place, pi, *counts in as_rows(some):
        key = candidate, stratum, place, pi
        expected[key] = tuple(np.add(expected.get(key, (0.0,) * 4), counts))
    found = {row[:4]: row[4:] for row in as_rows(merged)}
    assert found == expected
    assert len(found) == len(merged.pi)
    assert (np.diff(merged.candidate) >= 0).all()


def test_sums_are_those_of_each_candidate():
    some = random_cells(np.random.default_rng(2), 100)
    found = moments.sums(some, 4)
    for i in range(4):
        mine = some.candidate == i
        totals = [getattr(some, name)[mine].sum() for name in ("n0", "s0", "n1", "s1")]
        assert found[i] == pytest.approx(totals)


# --- strata -----------------------------------------------------------------------------------


def ratio(*rows, **columns):
    found = moments.ratio(moments.counted(moments.no_strata(1), cells(*rows, **columns)))
    return float(found[0])


def test_lift_of_strata_is_not_that_of_the_pool():
    # Base 6 % at 5 % share, then 3 % at 50 %: no effect within, minus 45 % when pooled.
    rows = (0.05, 95_000, 5_700, 5_000, 300), (0.5, 50_000, 1_500, 50_000, 1_500)
    assert ratio(*rows) == pytest.approx(1.0, abs=1e-12)


def test_lift_is_mantel_and_haenszels_sum():
    # (5*90/100 + 18*40/100) / (30*10/100 + 8*60/100) by hand
    expected = (4.5 + 7.2) / (3.0 + 4.8)
    found = ratio((0.1, 90, 30, 10, 5), (0.5, 40, 8, 60, 18))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(0.5, 100, 10, 0, 0)],
        [(0.5, 0, 0, 100, 10)],
        [(0.5, 100, 0, 100, 10)],
        [(0.1, 100, 10, 0, 0), (0.9, 0, 0, 100, 10)],
    ],
    ids=["empty", "no candidate", "no champion", "no reward", "never together"],
)
def test_there_is_no_lift_where_nothing_can_be_compared(rows):
    assert np.isnan(ratio(*rows))


def test_strata_that_are_put_away_keep_their_part_of_the_estimate():
    # 10 000 splits of a bandit: the state stays small, the estimate is that of all strata.
    rng, strata, sums = np.random.default_rng(3), moments.no_strata(2), np.zeros((2, 2))
    for stratum in range(10_000):
        n0, n1 = rng.integers(1, 20, (2, 2)).astype(float)
        s0, s1 = np.floor(0.4 * n0), np.floor(0.5 * n1)
        rows = zip((0.5, 0.5), n0, s0, n1, s1, strict=True)
        some = cells(*rows, candidate=[0, 1], stratum=[stratum] * 2)
        strata = moments.counted(strata, some)
        sums += np.column_stack([s1 * n0 / (n0 + n1), s0 * n1 / (n0 + n1)])
    assert len(strata.stratum) <= 64
    assert moments.ratio(strata) == pytest.approx(sums[:, 0] / sums[:, 1], rel=1e-9)


# --- the plug-in ------------------------------------------------------------------------------


def plug_in(n, s, bins=1):
    return moments.plug_in((n, s), prior_n=1.0, prior_s=0.5, bins=bins)


def test_history_weighs_at_most_its_cap():
    long, short = plug_in(10_000.0, 3_000.0), plug_in(100.0, 30.0)
    assert (long.n[0], long.s[0]) == pytest.approx((200.0, 60.0))
    assert (short.n[0], short.s[0]) == (100.0, 30.0)


def test_the_champions_mean_is_unknown_until_enough_of_it_was_seen():
    plug = plug_in(0.0, 0.0)
    assert moments.means(plug) is None
    plug = moments.learned(plug, cells((0.5, 19.0, 3.0, 100.0, 50.0)))
    assert moments.means(plug) is None
    assert np.isnan(moments.centre(plug)).all()
    plug = moments.learned(plug, cells((0.5, 1.0, 1.0, 0.0, 0.0)))
    assert moments.means(plug) == pytest.approx([4.5 / 21])
    assert moments.centre(plug) == pytest.approx([4.5 / 21])


def test_the_champion_beside_several_candidates_is_learned_from_once():
    rows = [(0.5, 30.0, 6.0, 30.0, 0.0)] * 3
    plug = moments.learned(plug_in(0.0, 0.0), cells(*rows, candidate=[0, 1, 2], stratum=[4, 4, 4]))
    assert (plug.n[0], plug.s[0]) == (30.0, 6.0)


def test_a_new_epoch_discounts_the_past_but_not_the_prior_nor_below_the_cap():
    plug = plug_in(200.0, 60.0)
    assert moments.discounted(plug, 1) is plug
    plug = moments.learned(plug, cells((0.5, 1_800.0, 540.0, 0.0, 0.0)))
    once = moments.discounted(plug, 1)
    assert (once.n[0], once.s[0]) == pytest.approx((1_980.0, 594.0))
    assert (once.prior_n, once.prior_s[0]) == (1.0, 0.5)
    often = moments.discounted(plug, 10_000)
    assert (often.n[0], often.s[0]) == pytest.approx((200.0, 60.0))


def test_bins_are_shrunk_to_the_mean_of_all():
    plug = plug_in(0.0, 0.0, bins=3)
    rows = (0.5, 5_000.0, 500.0, 0.0, 0.0), (0.5, 50.0, 25.0, 0.0, 0.0)
    plug = moments.learned(plug, cells(*rows, bin=[1, 2]))
    pooled = 525.5 / 5_051
    found = moments.means(plug)
    assert found[0] == pytest.approx(pooled)  # nothing known: the mean of all
    assert found[1] == pytest.approx((500 + 50 * pooled) / 5_050)
    assert found[2] == pytest.approx((25 + 50 * pooled) / 100)
    assert moments.centre(plug) == pytest.approx([pooled])

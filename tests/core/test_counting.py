"""Rows of units as the sums that the estimators take."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from controller.core.counting import NO_CELLS, cells_of
from controller.core.strata import Strata


def strata_of(shares):
    n = len(shares)
    return Strata(np.arange(n), np.full(n, -1), np.zeros(n, np.int64), np.array(shares))


def by_hand(shares, rows):
    """The cells, counted one by one: (candidate, stratum, bin) -> (pi, n0, s0, n1, s1)."""
    found = {}
    for place in {(stratum, own) for stratum, _, own, _, _ in rows}:
        champion, *candidates = shares[place[0]]
        for c, share in enumerate(candidates):
            sums = [0.0] * 4
            for stratum, arm, own, n, s in rows:
                if (stratum, own) == place and arm in {0, 1 + c}:
                    at = 0 if arm == 0 else 2
                    sums[at] += n
                    sums[at + 1] += s
            if champion > 0 and share > 0 and sums[0] + sums[2] > 0:
                found[c, *place] = (share / (champion + share), *sums)
    return found


@pytest.mark.parametrize("n_strata", [1, 3])
@pytest.mark.parametrize("is_binned", [False, True])
@pytest.mark.parametrize("is_weighed", [False, True])
def test_cells_are_what_one_counts_by_hand(n_strata, is_binned, is_weighed):
    rng = np.random.default_rng(7)
    for n in [1, 2, 5, 20, 60]:
        shares = rng.integers(0, 4, (n_strata, 4)) / 10
        stratum, arm = rng.integers(n_strata, size=n), rng.integers(4, size=n)
        own = rng.integers(3, size=n) if is_binned else np.zeros(n, np.int64)
        weight = rng.integers(1, 9, n) / 4 if is_weighed else np.ones(n)
        good = weight * (rng.random(n) < 0.5)
        cells = cells_of(
            strata_of(shares),
            stratum=stratum,
            arm=arm,
            bin=own if is_binned else None,
            n=weight if is_weighed else None,
            s=good,
        )
        columns = [column.tolist() for column in astuple(cells)]
        found = {tuple(row[:3]): row[3:] for row in zip(*columns, strict=True)}
        rows = list(zip(*(c.tolist() for c in (stratum, arm, own, weight, good)), strict=True))
        assert found == by_hand(shares.tolist(), rows)
        kinds = [column.dtype for column in astuple(cells)]
        assert kinds == [column.dtype for column in astuple(NO_CELLS)]

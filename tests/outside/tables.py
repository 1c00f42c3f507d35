"""Published two-by-two tables in strata, and the forms in which others and we want them.

A row is a stratum: (n0, s0, n1, s1), trials and successes of the reference and of the other arm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.core.model import Cells

RAMP = ((990_000, 20_000, 10_000, 230), (500_000, 5_000, 500_000, 6_000))
"""Crook, Frasca, Kohavi, Longbotham, "Seven pitfalls to avoid when running controlled experiments
on the web", KDD 2009, table 1: Friday at 99 % and 1 %, Saturday at 50 % and 50 % of a million users
each. Better on both days (2.30 against 2.02 %, 1.20 against 1.00 %), worse in the sum (1.22 against
1.68 %)."""

ADMISSIONS = (
    (825, 512, 108, 89),
    (520, 313, 25, 17),
    (325, 120, 593, 202),
    (417, 138, 375, 131),
    (191, 53, 393, 94),
    (373, 22, 341, 24),
)
"""Bickel, Hammel, O'Connell, "Sex bias in graduate admissions: data from Berkeley", Science 187
(1975): applicants and those admitted, men and women, in the six largest departments."""

STONES = ((87, 81, 270, 234), (263, 192, 80, 55))
"""Charig, Webb, Payne, Wickham, British Medical Journal 292 (1986) 879-882: removals of kidney
stones that succeeded, open surgery and percutaneous nephrolithotomy, small and large stones."""

TABLES = {"ramp": RAMP, "admissions": ADMISSIONS, "stones": STONES}

Table = tuple[tuple[int, int, int, int], ...]


def cells(table: Table, pi: tuple[float, ...] | None = None) -> Cells:
    """The table as cells of one candidate; where the design is not known, `pi` is what was seen."""
    n0, s0, n1, s1 = np.array(table, np.float64).T
    none = np.zeros(len(table), np.int64)
    return Cells(
        candidate=none,
        stratum=np.arange(len(table)),
        bin=none,
        pi=n1 / (n0 + n1) if pi is None else np.array(pi),
        n0=n0,
        s0=s0,
        n1=n1,
        s1=s1,
    )


def two_by_two(table: Table) -> list[NDArray[np.float64]]:
    """As statsmodels wants it: rows are the other arm and the reference, columns yes and no."""
    return [np.array([[s1, n1 - s1], [s0, n0 - s0]], np.float64) for n0, s0, n1, s1 in table]


def pooled_ratio(table: Table) -> float:
    """What pooling the strata makes of the table: the ratio of the two overall rates."""
    n0, s0, n1, s1 = np.array(table).sum(axis=0)
    return float((s1 / n1) / (s0 / n0))

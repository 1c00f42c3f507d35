"""Counts: the only thing that reaches the estimators from the units themselves.

A *stratum* is everything that was routed with one split. Within a stratum the arms saw the same
mix of times and users, whatever the baseline did meanwhile, so strata are compared inside and never
pooled: pooling is Simpson's paradox waiting for a drift.

Invariant: merging is addition, so it is associative and commutative, and a batch counted
in pieces gives what it gives in one. Counts of whole units are exact (float64 below 2^53).

A bandit makes a new stratum every few seconds. So only the latest ones are kept open; of the others
remains what they add to the sums of Mantel and Haenszel. Units that come to a stratum after
it was put away form a small stratum of their own, in which the arms are as comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from controller.core.model import Cells, Float, Int

WARM_UP = 20.0
"""Champion trials, history included, before which nothing is bet on a guess of its mean."""

HISTORY_CAP = 200.0
"""History of the champion weighs at most this many trials: it may be older than the traffic."""

EPOCH_DISCOUNT = 0.99
"""What the champion's past is worth after each change of the split, as long as it weighs more than
`HISTORY_CAP` trials: with a split a second there would be nothing left to bet on."""

SHRINKAGE = 50.0
"""Trials in a covariate bin at which its own mean counts as much as that of all bins."""

_OPEN = 32
"""Strata kept open per candidate."""

_COUNTS = ("n0", "s0", "n1", "s1")
_FOUR = np.arange(4)[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A running estimate of the champion's mean per bin, to bet on; discounted.

    n, s      (B,) float64, trials and the sum of their values
    prior_n   pseudo-trials that keep the estimate off 0 and 1, and
    prior_s   (B,) float64, the sum of their values; never discounted
    is_apart  bins are metrics of their own (quantiles of latency), not parts of one; the prior
              knows them, and no warm-up is needed
    """

    n: Float
    s: Float
    prior_n: float
    prior_s: Float
    is_apart: bool = False


def plug_in(
    history: tuple[float, float], *, prior_n: float, prior_s: float, bins: int = 1
) -> PlugIn:
    """A plug-in that starts from the champion's `history` (n, s), its weight capped.

    History knows no covariates: it counts in bin 0.
    """
    n, s = history
    scale = min(1.0, HISTORY_CAP / n) if n > 0.0 else 0.0
    first = np.eye(1, bins)[0]
    return PlugIn(
        n=first * (n * scale),
        s=first * (s * scale),
        prior_n=prior_n,
        prior_s=np.full(bins, prior_s),
    )


def learned(plug: PlugIn, cells: Cells) -> PlugIn:
    """Add the champion's trials of cells that have been bet on.

    Cells come by candidate (see `merged`), and each candidate's repeat the champion's trials beside
    it: those of one candidate per stratum and bin count.
    """
    if len(cells.candidate) > 1:
        place = cells.stratum * len(plug.n) + cells.bin
        _, first, group = np.unique(place, return_index=True, return_inverse=True)
        cells = taken(cells, np.flatnonzero(cells.candidate == cells.candidate[first][group]))
    return replace(
        plug,
        n=plug.n + np.bincount(cells.bin, cells.n0, len(plug.n)),
        s=plug.s + np.bincount(cells.bin, cells.s0, len(plug.n)),
    )


def discounted(plug: PlugIn, epochs: int) -> PlugIn:
    """The plug-in after so many changes of the split."""
    total = float(plug.n.sum())
    if not epochs or total <= HISTORY_CAP:
        return plug
    left = max(EPOCH_DISCOUNT**epochs, HISTORY_CAP / total)
    return replace(plug, n=plug.n * left, s=plug.s * left)


def means(plug: PlugIn) -> Float | None:
    """The champion's estimated mean per bin, (B,), shrunk to that of all bins.

    None before the warm-up is over: nothing to bet on yet.
    """
    if plug.is_apart:
        apart: Float = (plug.s + plug.prior_s) / (plug.n + plug.prior_n)
        return apart
    n, s = float(plug.n.sum()), float(plug.s.sum())
    if n < WARM_UP:
        return None
    centre = (plug.prior_s[0] + s) / (plug.prior_n + n)
    if len(plug.n) == 1:
        return np.array([centre])
    shrunk: Float = (plug.s + SHRINKAGE * centre) / (plug.n + SHRINKAGE)
    return shrunk


def centre(plug: PlugIn) -> Float:
    """The mean to be expected of a trial whose bin is not looked at: (1,), or (B,) of apart bins.

    NaN before the warm-up is over.
    """
    found = means(plug)
    if found is None:
        return np.full(len(plug.n) if plug.is_apart else 1, np.nan)
    if plug.is_apart or len(found) == 1:
        return found
    return np.array([(plug.prior_s[0] + plug.s.sum()) / (plug.prior_n + plug.n.sum())])


# --- cells ------------------------------------------------------------------------------------


def taken(cells: Cells, rows: Int) -> Cells:
    """Some cells."""
    return Cells(**{f.name: getattr(cells, f.name)[rows] for f in fields(Cells)})


def merged(parts: Sequence[Cells]) -> Cells:
    """All cells, by candidate; those that are alike in everything are added."""
    columns = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Cells)}
    cells = Cells(**columns)
    if len(cells.candidate) <= 1:
        return cells
    keys = (cells.pi, cells.bin, cells.stratum, cells.candidate)
    order = np.lexsort(keys)
    is_new = np.zeros(len(order), np.bool_)
    is_new[0] = True
    for key in keys:
        is_new[1:] |= key[order[1:]] != key[order[:-1]]
    first = np.flatnonzero(is_new)
    kept = taken(cells, order[first])
    summed = {name: np.add.reduceat(columns[name][order], first) for name in _COUNTS}
    return replace(kept, **summed)


def sums(cells: Cells, candidates: int) -> Float:
    """n0, s0, n1, s1 of each candidate, (C, 4)."""
    place = 4 * cells.candidate + _FOUR
    counts = np.empty(place.shape)
    counts[0], counts[1], counts[2], counts[3] = cells.n0, cells.s0, cells.n1, cells.s1
    total = np.bincount(place.ravel(), counts.ravel(), 4 * candidates).astype(
        np.float64, copy=False
    )
    return total.reshape(candidates, 4)


# --- strata -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strata:
    """Counts per candidate and stratum, for the estimate of the lift.

    candidate, stratum  (S,) int64, of the open ones, in rising order
    counts              (S, 4) float64: n0, s0, n1, s1
    closed              (C, 2) float64: what the others add to the two sums of `ratio`
    """

    candidate: Int
    stratum: Int
    counts: Float
    closed: Float


def no_strata(candidates: int) -> Strata:
    """No units."""
    none = np.zeros(0, np.int64)
    return Strata(none, none, np.zeros((0, 4)), np.zeros((candidates, 2)))


def counted(strata: Strata, cells: Cells) -> Strata:
    """Add these cells; whatever has more than `_OPEN` later strata is put away."""
    candidate = np.concatenate([strata.candidate, cells.candidate])
    stratum = np.concatenate([strata.stratum, cells.stratum])
    counts = np.concatenate(
        [strata.counts, np.column_stack([getattr(cells, name) for name in _COUNTS])]
    )
    order = np.lexsort((stratum, candidate))
    candidate, stratum = candidate[order], stratum[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (candidate[1:] != candidate[:-1]) | (stratum[1:] != stratum[:-1])
    first = np.flatnonzero(is_new)
    candidate, stratum = candidate[first], stratum[first]
    counts = np.add.reduceat(counts[order], first) if len(first) else counts
    after = np.searchsorted(candidate, candidate, side="right") - np.arange(len(candidate))
    is_open = after <= _OPEN
    closed = strata.closed.copy()
    np.add.at(closed, candidate[~is_open], _terms(counts[~is_open]))
    return Strata(candidate[is_open], stratum[is_open], counts[is_open], closed)


def _terms(counts: Float) -> Float:
    """What each stratum adds: s1 n0 / n and s0 n1 / n, (S, 2)."""
    n0, s0, n1, s1 = counts.T
    total = n0 + n1
    weight = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0.0)
    return np.column_stack([s1 * n0 * weight, s0 * n1 * weight])


def ratio(strata: Strata) -> Float:
    """Mantel and Haenszel's estimate of mean1 / mean0 over strata, (C,).

    NaN where no stratum compares the arms, or the champion has no reward to compare with.
    Mantel & Haenszel (1959); for risk ratios Rothman & Greenland, Modern Epidemiology, eq. 15-20.
    """
    totals = strata.closed.copy()
    np.add.at(totals, strata.candidate, _terms(strata.counts))
    above, below = totals.T
    found: Float = np.divide(above, below, out=np.full(len(totals), np.nan), where=below > 0.0)
    return found

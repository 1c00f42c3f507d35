"""Counts: the only thing that reaches the estimators from the units themselves.

A *stratum* is everything that was routed with one conditional propensity pi. Within a stratum the
arms saw the same mix of times and users, whatever the baseline did meanwhile, so strata are
compared inside and never pooled: pooling is Simpson's paradox waiting for a drift.

Invariant: merging is addition, so it is associative and commutative, and a batch counted
in pieces gives what it gives in one. Counts of whole units are exact (float64 below 2^53).

Rejected: a stratum per epoch. A bandit makes a new epoch every few seconds; the same pi again
is the same stratum, and there are at most 10 000 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controller.core.model import Cell, Float

WARM_UP = 20.0
"""Champion trials, history included, before which nothing is bet on a guess of its mean."""

HISTORY_CAP = 200.0
"""History of the champion weighs at most this many trials: it may be older than the traffic."""

EPOCH_DISCOUNT = 0.99
"""What the champion's past is worth after each change of the split."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Counts per stratum and arm.

    pi      (S,) float64, strictly rising
    counts  (S, 4) float64: n0, s0, n1, s1 as in `Cell`
    """

    pi: Float
    counts: Float


@dataclass(frozen=True, slots=True)
class Trials:
    """n trials with the sum s of values in [0, 1]."""

    n: float
    s: float


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A running estimate of the champion's mean, to bet on: n trials with sum s, discounted.

    prior_n, prior_s  pseudo-trials that keep the estimate off 0 and 1; never discounted
    """

    n: float
    s: float
    prior_n: float
    prior_s: float


def empty() -> Moments:
    """No units."""
    return Moments(pi=np.zeros(0), counts=np.zeros((0, 4)))


def from_cells(cells: Iterable[Cell]) -> Moments:
    """Counts of cells, in any order; cells with one pi are added."""
    rows = [(c.pi, c.n0, c.s0, c.n1, c.s1) for c in cells if np.isfinite(c.pi)]
    table = np.array(rows, np.float64).reshape(-1, 5)
    return _collect(table[:, 0], table[:, 1:])


def merge(left: Moments, right: Moments) -> Moments:
    """Counts of both."""
    if np.array_equal(left.pi, right.pi):
        return Moments(pi=left.pi, counts=left.counts + right.counts)
    return _collect(
        np.concatenate([left.pi, right.pi]), np.concatenate([left.counts, right.counts])
    )


def _collect(pi: Float, counts: Float) -> Moments:
    strata, row = np.unique(pi, return_inverse=True)
    summed = np.zeros((len(strata), 4))
    np.add.at(summed, row, counts)
    return Moments(pi=strata, counts=summed)


def to_cells(moments: Moments) -> tuple[Cell, ...]:
    """One cell per stratum, pi rising."""
    return tuple(
        Cell(float(pi), *(float(c) for c in row))
        for pi, row in zip(moments.pi, moments.counts, strict=True)
    )


def champion(moments: Moments) -> Trials:
    """The champion's trials in all strata: for people; comparisons are made within strata."""
    return Trials(n=float(moments.counts[:, 0].sum()), s=float(moments.counts[:, 1].sum()))


def candidate(moments: Moments) -> Trials:
    """The candidate's trials in all strata."""
    return Trials(n=float(moments.counts[:, 2].sum()), s=float(moments.counts[:, 3].sum()))


def plug_in(history: tuple[float, float], *, prior_n: float, prior_s: float) -> PlugIn:
    """A plug-in that starts from the champion's `history` (n, s), its weight capped."""
    n, s = history
    scale = min(1.0, HISTORY_CAP / n) if n > 0.0 else 0.0
    return PlugIn(n=n * scale, s=s * scale, prior_n=prior_n, prior_s=prior_s)


def learn(plug: PlugIn, cells: Iterable[Cell]) -> PlugIn:
    """Add the champion's trials of cells that have been bet on."""
    n, s = plug.n, plug.s
    for cell in cells:
        n, s = n + cell.n0, s + cell.s0
    return PlugIn(n=n, s=s, prior_n=plug.prior_n, prior_s=plug.prior_s)


def discount(plug: PlugIn) -> PlugIn:
    """The plug-in when a new split comes into force."""
    return PlugIn(plug.n * EPOCH_DISCOUNT, plug.s * EPOCH_DISCOUNT, plug.prior_n, plug.prior_s)


def mean(plug: PlugIn) -> float | None:
    """The champion's estimated mean; None before the warm-up is over: nothing to bet on yet."""
    if plug.n < WARM_UP:
        return None
    return (plug.prior_s + plug.s) / (plug.prior_n + plug.n)

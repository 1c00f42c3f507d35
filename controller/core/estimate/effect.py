"""How large the effect is: a confidence sequence for the lift, its estimate, a band per arm.

The lift is relative, mean1 / mean0 - 1. Its confidence sequence inverts the e-process of
`sequential`: for each ratio r of a fixed grid two wealths are kept, one from bets that the
candidate's mean is above r times the champion's (null: q <= r x), one that it is below.

    lower = the last r, going up from the bottom, such that it and all below are rejected
    upper = the last r, going down from the top, such that it and all above are rejected

each at alpha / 2. Invariant: the true ratio lies in [lower, upper] at all times at once with
probability >= 1 - alpha. Proof: `lower` exceeds the truth only if the first grid point at or
above the truth was rejected; the truth lies in that point's null, and which point it is does not
depend on the data; so Ville's inequality holds as it stands. That the ends are *rejected* grid
points, not accepted ones, makes the interval conservative by at most one step of the grid, and is
why an effect between two grid points never falls through.

Rejected: {r : E(r) < 1/alpha} with bets on both sides in one mixture. It may be empty or ragged
on a grid, and needs E to be quasi-convex in r to have a hull that covers.

The grid is some 1 000 bets per cell, so cells wait for it until they are `PATIENCE` of all, alike
in pi and bin but whatever their stratum, and the plug-in waits with them.

Current wealth is used, not its running maximum: if the lift itself drifts, the interval follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import betaln, xlogy

from controller.core.estimate import moments, sequential
from controller.core.estimate.book import Book, Family, bind
from controller.core.model import Bool, Cells, Float, Int

PATIENCE = 0.02
"""Waiting trials over trials bet on, of any candidate, that end the wait."""

_MOST_CELLS = 256

_LOG_R = np.array(
    [
        0.005,
        0.01,
        0.015,
        0.02,
        0.025,
        0.03,
        0.04,
        0.05,
        0.06,
        0.07,
        0.085,
        0.1,
        0.12,
        0.14,
        0.17,
        0.2,
        0.24,
        0.28,
        0.33,
        0.4,
        0.48,
        0.56,
        0.66,
        0.8,
        1.0,
        1.25,
        1.6,
        2.0,
        2.5,
        3.0,
    ]
)
RATIOS = np.exp(np.concatenate([-_LOG_R[::-1], [0.0], _LOG_R]))
"""The grid of ratios mean1 / mean0, (R,), from 0.05 to 20: half a per cent apart near 1."""

_UP = np.exp(np.array([0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0]))
_NEWTON_STEPS = 100
_CONVERGED = 1e-7


def _family(ratio: float, side: int) -> Family:
    """Null: the lift's ratio is at most (side +1), at least (side -1) `ratio`.

    Where ratio x p0 is near or beyond 1 a bet still leaves some failures: upward of the null's own,
    downward of the champion's (ratio x p0 may not be a probability at all).
    """
    thetas = _UP if side > 0 else 1.0 / _UP
    return Family(
        slope=thetas * ratio,
        offset=np.zeros_like(thetas),
        anchor=np.full_like(thetas, ratio if side > 0 else 1.0),
        spare=np.minimum(0.5, 1.0 / thetas if side > 0 else 1.0 - thetas),
        floor=np.zeros_like(thetas),
        log_weights=np.full_like(thetas, -np.log(len(thetas))),
        ratio=ratio,
        shift=0.0,
        side=side,
    )


BOOK: Book = bind(
    tuple(_family(float(r), side) for side in (1, -1) for r in RATIOS), restarts=False
)
"""First, per ratio, bets that the lift is above it, then, per ratio, that it is below."""


@dataclass(frozen=True, slots=True)
class LiftWealth:
    """The bets on every ratio, and the cells that wait to be bet on.

    log_wealth  (C, K) float64, of the bets of `BOOK`
    limits      (C, 2) float64, of the lift
    trials, waiting  (C,) float64, trials bet on; trials that wait
    cells       that wait
    p0_hat      (B,) float64, the champion's mean per bin before the first of them; NaN: not known
    """

    log_wealth: Float
    limits: Float
    trials: Float
    waiting: Float
    cells: tuple[Cells, ...]
    p0_hat: Float


def start(candidates: int, bins: int = 1) -> LiftWealth:
    """Every bet begins with 1."""
    return LiftWealth(
        log_wealth=np.zeros((candidates, len(BOOK.slope))),
        limits=np.tile([-1.0, np.inf], (candidates, 1)),
        trials=np.zeros(candidates),
        waiting=np.zeros(candidates),
        cells=(),
        p0_hat=np.full(bins, np.nan),
    )


def with_candidate(lift: LiftWealth) -> LiftWealth:
    """One more candidate."""
    new = start(1)
    return replace(
        lift,
        log_wealth=np.concatenate([lift.log_wealth, new.log_wealth]),
        limits=np.concatenate([lift.limits, new.limits]),
        trials=np.concatenate([lift.trials, new.trials]),
        waiting=np.concatenate([lift.waiting, new.waiting]),
    )


def observed(
    lift: LiftWealth, cells: Cells, alpha: float, *, before: Float | None, after: Float | None
) -> LiftWealth:
    """Add cells; `before` and `after` them the champion's mean per bin was thought to be this."""
    if not lift.cells:
        lift = replace(lift, p0_hat=_known(lift, before))
    cells = moments.merged((*lift.cells, replace(cells, stratum=np.zeros_like(cells.stratum))))
    counts = moments.sums(cells, len(lift.trials))
    waiting = counts[:, 0] + counts[:, 2]
    lift = replace(lift, cells=(cells,), waiting=waiting)
    if (waiting < PATIENCE * lift.trials).all() and len(cells.pi) <= _MOST_CELLS:
        return lift
    log_wealth = lift.log_wealth.copy()
    if np.isfinite(lift.p0_hat).all():
        np.add.at(log_wealth, cells.candidate, sequential.gains(BOOK, cells, lift.p0_hat))
    return LiftWealth(
        log_wealth=log_wealth,
        limits=limits(log_wealth, alpha),
        trials=lift.trials + waiting,
        waiting=np.zeros_like(waiting),
        cells=(),
        p0_hat=_known(lift, after),
    )


def _known(lift: LiftWealth, p0_hat: Float | None) -> Float:
    return np.full_like(lift.p0_hat, np.nan) if p0_hat is None else p0_hat


def limits(log_wealth: Float, alpha: float) -> Float:
    """The confidence sequence for the relative lift, (C, 2); (-1, inf) when nothing is rejected."""
    n_ratios = len(RATIOS)
    log_e = np.logaddexp.reduceat(BOOK.log_weights + log_wealth, BOOK.starts, axis=1)
    is_rejected = log_e >= np.log(2.0 / alpha)
    n_below = _leading(is_rejected[:, :n_ratios])
    n_above = _leading(is_rejected[:, : n_ratios - 1 : -1])
    lower = np.where(n_below > 0, RATIOS[n_below - 1], 0.0) - 1.0
    upper = np.where(n_above > 0, RATIOS[-np.maximum(n_above, 1)], np.inf) - 1.0
    # They cross only if no constant lift fits the data; then what lies between is in doubt.
    return np.column_stack([np.minimum(lower, upper), np.maximum(lower, upper)])


def _leading(is_rejected: Bool) -> Int:
    """How many leading columns are all rejected, per row."""
    n: Int = np.cumprod(is_rejected, axis=1).sum(axis=1)
    return n


@lru_cache(maxsize=4096)
def arm_interval(n: float, s: float, alpha: float) -> tuple[float, float] | None:
    """A confidence sequence for the mean of n values in [0, 1] with the sum s; None when n = 0."""
    if n <= 0.0:
        return None
    low, high = arm_intervals(np.array([n]), np.array([s]), alpha)[0]
    return float(low), float(high)


def arm_intervals(n: Float, s: Float, alpha: float) -> Float:
    """A confidence sequence for each mean of n values in [0, 1] with the sum s, (..., 2).

    The Beta(1/2, 1/2) mixture of likelihood ratios (Robbins 1970; Howard et al.,
    arXiv:1810.08240, prop. 7), exact for coins, and valid in [0, 1] as in `sequential`:
    {p : B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) < p^s (1 - p)^(n - s) / alpha}. [0, 1] where n = 0.
    """
    constant = betaln(s + 0.5, n - s + 0.5) - betaln(0.5, 0.5) + np.log(alpha)
    low = _end(constant, n, s)
    high = 1.0 - _end(constant, n, n - s)
    return np.stack([low, high], axis=-1)


def _end(constant: Float, n: Float, s: Float) -> Float:
    """Where constant = s log p + (n - s) log(1 - p) below the mean s / n; 0 where s = 0.

    Newton's method in t = log p, in which the right side is concave and rises up to s / n. Its
    tangents lie above it, so from a point left of the root it never steps beyond. It starts where
    a Poisson law with the same top would have the root, log(s / n) - b - sqrt(b^2 + 2 b) with
    b = (top - constant) / s: a binomial law bends more, so its root lies to the right of that.
    """
    is_open = s > 0.0
    s, n = np.where(is_open, s, 1.0), np.where(is_open, n, 2.0)
    constant = np.where(is_open, constant, -2.0)
    failed = np.maximum(n - s, 0.0)
    top = s * np.log(s / n) + xlogy(failed, failed / n)
    b = np.maximum(top - constant, 0.0) / s
    t = np.log(s / n) - b - np.sqrt(b * b + 2.0 * b)
    for _ in range(_NEWTON_STEPS):
        p = np.exp(t)
        value = s * t + (n - s) * np.log1p(-p) - constant
        step = value / (s - (n - s) * p / (1.0 - p))
        t = t - step
        if (np.abs(step) < _CONVERGED).all():
            break
    return np.where(is_open, np.exp(t), 0.0)

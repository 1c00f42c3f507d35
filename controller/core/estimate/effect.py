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

Current wealth is used, not its running maximum: if the lift itself drifts, the interval follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln

from controller.core.estimate.moments import Moments
from controller.core.estimate.sequential import gain, log_bets
from controller.core.model import Cell, Float

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
_THETAS = np.concatenate([_UP, 1.0 / _UP])
_K = len(_UP)
_SIDE = np.repeat([1, -1], _K)
_SPARE = np.minimum(0.5, np.where(_THETAS > 1.0, 1.0 / _THETAS, 1.0 - _THETAS))


@dataclass(frozen=True, slots=True)
class LiftWealth:
    """log_wealth  (R, 2K) float64: per ratio, K bets that the lift is above, K that it is below."""

    log_wealth: Float


def start() -> LiftWealth:
    """Every bet begins with 1."""
    return LiftWealth(log_wealth=np.zeros((len(RATIOS), 2 * _K)))


def update(wealth: LiftWealth, cells: Sequence[Cell], p0_hat: float) -> LiftWealth:
    """The wealth after these cells; `p0_hat` comes from units before them only."""
    log_wealth = wealth.log_wealth
    p1 = _alternatives(p0_hat)
    for cell in cells:
        if not 0.0 < cell.pi < 1.0:
            continue
        logs = log_bets(cell.pi, p0_hat, p1, RATIOS[:, np.newaxis], 0.0, side=_SIDE)
        log_wealth = log_wealth + gain(logs, cell)
    return LiftWealth(log_wealth=log_wealth)


def _alternatives(p0_hat: float) -> Float:
    """The candidate's mean that each bet expects, (R, 2K).

    Where r p0 is near or beyond 1 a bet still leaves some failures: upward of the null's own,
    downward of the champion's (r p0 may not be a probability at all).
    """
    null = RATIOS[:, np.newaxis] * p0_hat
    anchor = np.where(_SIDE > 0, null, p0_hat)
    p1: Float = np.minimum(_THETAS * null, 1.0 - _SPARE * (1.0 - anchor))
    return p1


def limits(wealth: LiftWealth, alpha: float) -> tuple[float, float]:
    """The confidence sequence for the relative lift; (-1, inf) when nothing is rejected."""
    bar = np.log(2.0 * _K / alpha)
    below = np.logaddexp.reduce(wealth.log_wealth[:, :_K], axis=1) >= bar
    above = np.logaddexp.reduce(wealth.log_wealth[:, _K:], axis=1) >= bar
    n_below, n_above = _leading(below), _leading(above[::-1])
    lower = float(RATIOS[n_below - 1]) - 1.0 if n_below else -1.0
    upper = float(RATIOS[-n_above]) - 1.0 if n_above else float("inf")
    # They cross only if no constant lift fits the data; then what lies between is in doubt.
    return min(lower, upper), max(lower, upper)


def _leading(rejected: np.ndarray) -> int:
    return len(rejected) if rejected.all() else int(np.argmin(rejected))


def estimate(moments: Moments) -> float | None:
    """Mantel-Haenszel's estimate of the relative lift over strata.

    None when no stratum compares the arms, or the champion has no reward to compare with.
    Mantel & Haenszel (1959); for risk ratios Rothman & Greenland, Modern Epidemiology, eq. 15-20.
    """
    n0, s0, n1, s1 = moments.counts.T
    total = n0 + n1
    both = total > 0.0
    weight0 = np.divide(n0, total, out=np.zeros_like(total), where=both)
    weight1 = np.divide(n1, total, out=np.zeros_like(total), where=both)
    expected = float((s0 * weight1).sum())
    if expected <= 0.0:
        return None
    return float((s1 * weight0).sum()) / expected - 1.0


def arm_interval(n: float, s: float, alpha: float) -> tuple[float, float] | None:
    """A confidence sequence for the mean of n values in [0, 1] with the sum s; None when n = 0.

    The Beta(1/2, 1/2) mixture of likelihood ratios (Robbins 1970; Howard et al.,
    arXiv:1810.08240, prop. 7), exact for coins, and valid in [0, 1] as in `sequential`:
    {p : B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) < p^s (1 - p)^(n - s) / alpha}.
    """
    if n <= 0.0:
        return None
    constant = float(betaln(s + 0.5, n - s + 0.5) - betaln(0.5, 0.5) + np.log(alpha))

    def excess(p: float) -> float:
        return float(constant - s * np.log(p) - (n - s) * np.log1p(-p))

    centre = min(max(s / n, 1e-12), 1.0 - 1e-12)
    return _end(excess, 1e-300, centre), _end(excess, 1.0 - 1e-16, centre)


def _end(excess: Callable[[float], float], limit: float, centre: float) -> float:
    """Where `excess` crosses 0 between the centre and a limit of the unit interval."""
    if excess(limit) <= 0.0:
        return float(round(limit))
    return float(brentq(excess, limit, centre, xtol=1e-14, rtol=1e-13))

"""The one engine of inference: a sequential two-sample e-process on logged propensities.

It decides nothing; it says how much money a gambler would have made by betting, before each
unit, against a *null* such as "the candidate is not worse". If the null is true, no strategy makes
money on average, so the wealth E passes 1/alpha with probability at most alpha, whenever and
however often one looks (Ville's inequality).

The game. For each analysed unit, A is the arm (1 = candidate) drawn with the known probability pi,
and Y in {0, 1} the value. The null's boundary is the line q = r x + d between the champion's mean
x and the candidate's q (r = `ratio`, d = `shift`). For an alternative (p0, p1) beyond the line

    e(A, Y) = p_A(Y) / p°_A(Y),    p(Y) = p^Y (1 - p)^(1 - Y)
    p° = argmin over the line of  pi KL(p1 || q) + (1 - pi) KL(p0 || x)          (1)

The law of (A, Y) is linear in (x, q), so the null (a half of the unit square) is a convex set of
laws, and p° is the reverse information projection on it: E[e] = 1 on the line and <= 1 inside.
Grünwald, de Heide, Koolen, arXiv:1906.07801, theorem 1; Turner, Ly, Grünwald, arXiv:2106.02693,
with their blocks replaced by the known propensity. The growth E[log e] is the best possible.

Invariant: every e has mean <= 1 under its null, given the past. It needs pi to be the probability
with which the arm was drawn, and p0, p1 to be fixed before Y; it does not need p0 to be right.

Values inside (0, 1). With e = e(1)^Y e(0)^(1-Y), the weighted inequality of arithmetic and
geometric means gives e <= Y e(1) + (1 - Y) e(0), whose mean depends on E[Y] alone and is <= 1 as
for a coin. So (n, s), the number and the sum, stay sufficient for any reward in [0, 1].

Which alternative is right is not known: wealth is a weighted mean over a grid of them, which
costs log(1/weight) once, and is kept as one log-wealth per grid point.

Rejected: the difference of two one-sample intervals (3 to 6 times the sample), pooling over splits
(Simpson: a falling baseline during a ramp looks like harm), and asymptotic intervals, which break
at the 0 to 5 events of a 1 % canary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from controller.core.model import Cell, Float

EPS = 1e-6
"""Probabilities that are bet on stay inside [EPS, 1 - EPS]: one surprise never costs everything."""

HARM = np.array(
    [0.99, 0.98, 0.97, 0.95, 0.93, 0.90, 0.87, 0.84, 0.80, 0.75, 0.70, 0.60, 0.50, 0.35, 0.20, 0.05]
)
"""Candidate over champion, for a candidate that is worse: from 1 % worse to nearly dead."""

ERRORS = np.array([1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0])
"""Candidate's error rate over the tolerated one."""

MARGINS_ABOVE = np.array([-0.5, 0.0, 1.0, 3.0, 7.0, 15.0])
"""Candidate minus champion, in margins, for a candidate that is not inferior.

The growth of the bet u when the truth is t is about (1 + t)^2 - (t - u)^2, in units of that of an
equal candidate: with the bets a factor of two apart (counted from the null at -1) no truth loses
more than a ninth of the growth. Half of the weight lies on "equal", the case that must be fast."""

_MARGIN_WEIGHTS = np.array([0.1, 0.5, 0.15, 0.1, 0.1, 0.05])
_NEWTON_STEPS = 100
_CONVERGED = 1e-9
"""Newton's error squares with each step: after a step this small the next would change nothing."""


@dataclass(frozen=True, slots=True)
class Bets:
    """A null and the alternatives bet on; all arrays (K,).

    An alternative says p1 = slope p0 + offset, but leaves at least the share `spare` of the
    champion's distance to 1: a bet on certainty would be ruined by the first failure.

    slope, offset, spare   float64
    log_weights            float64, natural logarithms of weights that sum to 1
    ratio, shift           the null's boundary, p1 = ratio p0 + shift
    side                   +1: the null lies below its boundary; -1: above
    """

    slope: Float
    offset: Float
    spare: Float
    log_weights: Float
    ratio: float
    shift: float
    side: int


@dataclass(frozen=True, slots=True)
class Wealth:
    """What each bet made of 1: log_wealth  (K,) float64, natural logarithm."""

    log_wealth: Float


def ripr(pi: ArrayLike, p0: ArrayLike, p1: ArrayLike, ratio: ArrayLike, shift: ArrayLike) -> Float:
    """The champion's mean x of the null's point (x, ratio x + shift) nearest to (p0, p1): (1).

    Arguments broadcast; pi, p0, p1 in (0, 1), ratio > 0. NaN where the line misses the square.
    """
    r, d = np.asarray(ratio, np.float64), np.asarray(shift, np.float64)
    pi, p0, p1 = np.asarray(pi), np.asarray(p0), np.asarray(p1)
    if d.any():
        return _on_line(*np.broadcast_arrays(pi, p0, p1, r, d))
    middle: Float = (1.0 - pi) * p0 + pi * p1
    if (r == 1.0).all():
        return middle
    # r x^2 - b x + middle = 0, the smaller root, in the form that cancels nothing
    b = (1.0 - pi) * (1.0 + r * p0) + pi * (r + p1)
    root: Float = 2.0 * middle / (b + np.sqrt(np.maximum(b * b - 4.0 * r * middle, 0.0)))
    return root


def _on_line(pi: Float, p0: Float, p1: Float, r: Float, d: Float) -> Float:
    """(1) on any line, by Newton's method kept inside a bracket by bisection.

    The derivative of (1), multiplied by x (1 - x) q (1 - q), is the cubic g; it has one root
    between the point that suits the champion, p0, and the one that suits the candidate.
    """
    floor, ceiling = np.maximum(0.0, -d / r), np.minimum(1.0, (1.0 - d) / r)
    suits = (p1 - d) / r
    low = np.clip(np.minimum(p0, suits), floor, ceiling)
    high = np.clip(np.maximum(p0, suits), floor, ceiling)
    x = np.clip((1.0 - pi) * p0 + pi * suits, low, high)
    for _ in range(_NEWTON_STEPS):
        value, slope = _cubic(x, pi, p0, p1, r, d)
        low, high = np.where(value <= 0.0, x, low), np.where(value >= 0.0, x, high)
        step = np.divide(value, slope, out=np.full_like(x, np.inf), where=slope != 0.0)
        new = x - step
        new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
        q = r * new + d
        room = np.minimum(np.minimum(new, 1.0 - new), np.minimum(q, 1.0 - q))
        done = np.abs(new - x) <= _CONVERGED * np.abs(room)
        x = new
        if done.all():
            break
    return np.where(floor < ceiling, x, np.nan)


def _cubic(  # noqa: PLR0913, PLR0917 - the formula's letters
    x: Float, pi: Float, p0: Float, p1: Float, r: Float, d: Float
) -> tuple[Float, Float]:
    """The cubic g and its derivative at x; see `_on_line`."""
    q = r * x + d
    vx, vq = x * (1.0 - x), q * (1.0 - q)
    value = pi * r * (q - p1) * vx + (1.0 - pi) * (x - p0) * vq
    slope = pi * r * (r * vx + (q - p1) * (1.0 - 2.0 * x))
    slope = slope + (1.0 - pi) * (vq + (x - p0) * r * (1.0 - 2.0 * q))
    return value, slope


def log_bets(  # noqa: PLR0913 - the formula's letters
    pi: ArrayLike,
    p0: ArrayLike,
    p1: ArrayLike,
    ratio: ArrayLike,
    shift: ArrayLike,
    *,
    side: ArrayLike,
) -> tuple[Float, Float, Float, Float]:
    """Log e-values of (champion, 0), (champion, 1), (candidate, 0), (candidate, 1).

    Arguments broadcast. Where the alternative (p0, p1) lies inside the null, on the wrong `side`
    of the boundary, nothing is bet: all four are 0.
    """
    p0, p1 = np.clip(p0, EPS, 1.0 - EPS), np.clip(p1, EPS, 1.0 - EPS)
    r, d = np.asarray(ratio, np.float64), np.asarray(shift, np.float64)
    x = ripr(pi, p0, p1, r, d)
    bet = (np.asarray(side) * (p1 - (r * p0 + d)) > 0.0) & np.isfinite(x)
    x = np.where(bet, x, p0)
    q = np.where(bet, r * x + d, p1)
    return (
        np.log((1.0 - p0) / (1.0 - x)),
        np.log(p0 / x),
        np.log((1.0 - p1) / (1.0 - q)),
        np.log(p1 / q),
    )


def alternatives(bets: Bets, p0_hat: float) -> Float:
    """The candidate's mean that each bet expects, given the champion's, (K,)."""
    wanted = bets.slope * p0_hat + bets.offset
    p1: Float = np.minimum(wanted, 1.0 - bets.spare * (1.0 - p0_hat))
    return p1


def start(bets: Bets) -> Wealth:
    """Every bet begins with 1."""
    return Wealth(log_wealth=np.zeros_like(bets.slope))


def update(bets: Bets, wealth: Wealth, cells: Sequence[Cell], p0_hat: float) -> Wealth:
    """The wealth after these cells; `p0_hat` comes from units before them only.

    A cell whose pi is not strictly inside (0, 1) holds no comparison and is left out.
    """
    log_wealth = wealth.log_wealth
    p1 = alternatives(bets, p0_hat)
    for cell in cells:
        if not 0.0 < cell.pi < 1.0:
            continue
        logs = log_bets(cell.pi, p0_hat, p1, bets.ratio, bets.shift, side=bets.side)
        log_wealth = log_wealth + gain(logs, cell)
    return Wealth(log_wealth=log_wealth)


def gain(logs: tuple[Float, Float, Float, Float], cell: Cell) -> Float:
    """The sum of log e over the units of a cell: why (n, s) suffice."""
    total: Float = (
        (cell.n0 - cell.s0) * logs[0]
        + cell.s0 * logs[1]
        + (cell.n1 - cell.s1) * logs[2]
        + cell.s1 * logs[3]
    )
    return total


def log_e(bets: Bets, wealth: Wealth) -> float:
    """The natural logarithm of the e-value of the whole mixture."""
    return float(np.logaddexp.reduce(bets.log_weights + wealth.log_wealth))


def harm_bets(min_effect: float | None) -> Bets:
    """Null: the candidate is not worse."""
    return _relative(HARM, _weights(HARM, min_effect), shift=0.0, side=-1)


def superiority_bets(min_effect: float | None) -> Bets:
    """Null: the candidate is not better."""
    thetas = 1.0 / HARM
    return _relative(thetas, _weights(thetas, min_effect), shift=0.0, side=1)


def errors_bets(max_increase: float) -> Bets:
    """Null: the candidate's error rate exceeds the champion's by at most `max_increase`."""
    return _relative(ERRORS, _weights(ERRORS, None), shift=max_increase, side=1)


def noninferiority_bets(margin: float) -> Bets:
    """Null: the candidate is worse by at least `margin` (absolute)."""
    return Bets(
        slope=np.ones_like(MARGINS_ABOVE),
        offset=margin * MARGINS_ABOVE,
        spare=1.0 / np.maximum(1.0 + MARGINS_ABOVE, 1.0),
        log_weights=np.log(_MARGIN_WEIGHTS),
        ratio=1.0,
        shift=-margin,
        side=1,
    )


def _relative(thetas: Float, log_weights: Float, *, shift: float, side: int) -> Bets:
    """Bets that p1 = theta (p0 + shift), against the boundary p1 = p0 + shift."""
    return Bets(
        slope=thetas,
        offset=thetas * shift,
        spare=np.minimum(0.5, 1.0 / thetas),
        log_weights=log_weights,
        ratio=1.0,
        shift=shift,
        side=side,
    )


def _weights(thetas: Float, min_effect: float | None) -> Float:
    """Log weights: flat, or 0.3 flat and 0.7 a bell around the effect worth detecting."""
    flat = np.full_like(thetas, -np.log(len(thetas)))
    if min_effect is None:
        return flat
    z = (np.log(np.abs(1.0 - thetas)) - np.log(min_effect)) / 0.5
    bell = -0.5 * z * z
    bell = bell - np.logaddexp.reduce(bell)
    mixed: Float = np.logaddexp(np.log(0.3) + flat, np.log(0.7) + bell)
    return mixed

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
costs log(1/weight) once, and is kept as one log-wealth per grid point (see `book`).

Rejected: the difference of two one-sample intervals (3 to 6 times the sample), pooling over splits
(Simpson: a falling baseline during a ramp looks like harm), and asymptotic intervals, which break
at the 0 to 5 events of a 1 % canary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from controller.core.estimate.book import Book
from controller.core.model import Cells, Float

EPS = 1e-6
"""Probabilities that are bet on stay inside [EPS, 1 - EPS]: one surprise never costs everything."""

_ROOM = 1e-12
_NEWTON_STEPS = 100
_CONVERGED = 1e-7
"""Newton's error squares with each step: after a step this small the next would change nothing."""


def ripr(pi: ArrayLike, p0: ArrayLike, p1: ArrayLike, ratio: ArrayLike, shift: ArrayLike) -> Float:
    """The champion's mean x of the null's point (x, ratio x + shift) nearest to (p0, p1): (1).

    Arguments broadcast; pi, p0, p1 in (0, 1), ratio > 0. NaN where the line misses the square.
    """
    r, d = np.asarray(ratio, np.float64), np.asarray(shift, np.float64)
    pi, p0, p1 = np.asarray(pi), np.asarray(p0), np.asarray(p1)
    if not d.any():
        return _through_zero(pi, p0, p1, r)
    pi, p0, p1, r, d = np.broadcast_arrays(pi, p0, p1, r, d)
    x, shifted = np.empty(d.shape), d != 0.0
    x[shifted] = _on_line(pi[shifted], p0[shifted], p1[shifted], r[shifted], d[shifted])
    rest = ~shifted
    x[rest] = _through_zero(pi[rest], p0[rest], p1[rest], r[rest])
    return x


def _through_zero(pi: Float, p0: Float, p1: Float, r: Float) -> Float:
    """(1) on a line through 0, where it has a closed form."""
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
    of the boundary, or its projection so close to an edge of the square that float64 cannot tell
    how close, nothing is bet: all four are 0.
    """
    p0, p1 = np.clip(p0, EPS, 1.0 - EPS), np.clip(p1, EPS, 1.0 - EPS)
    r, d = np.asarray(ratio, np.float64), np.asarray(shift, np.float64)
    x = ripr(pi, p0, p1, r, d)
    q = r * x + d
    room = np.minimum(np.minimum(x, 1.0 - x), np.minimum(q, 1.0 - q))
    bet = (np.asarray(side) * (p1 - (r * p0 + d)) > 0.0) & (room > _ROOM)
    x, q = np.where(bet, x, p0), np.where(bet, q, p1)
    return (
        np.log((1.0 - p0) / (1.0 - x)),
        np.log(p0 / x),
        np.log((1.0 - p1) / (1.0 - q)),
        np.log(p1 / q),
    )


def alternatives(book: Book, p0: Float) -> Float:
    """The candidate's mean that each bet expects, (M, K), given the champion's, (M, 1)."""
    wanted = np.maximum(book.slope * p0 + book.offset, book.floor * p0)
    p1: Float = np.minimum(wanted, 1.0 - book.spare * (1.0 - book.anchor * p0))
    return p1


def gains(book: Book, cells: Cells, p0_hat: Float) -> Float:
    """The sum of log e over the units of each cell, for each bet: (M, K).

    `p0_hat`, (B,) the champion's mean per bin, comes from units before these only. A cell whose
    pi is not strictly inside (0, 1) holds no comparison and gains nothing.
    """
    usable = (cells.pi > 0.0) & (cells.pi < 1.0)
    pi = np.where(usable, cells.pi, 0.5)[:, np.newaxis]
    n0, s0, n1, s1 = (
        np.where(usable, c, 0.0)[:, np.newaxis] for c in (cells.n0, cells.s0, cells.n1, cells.s1)
    )
    p0 = p0_hat[cells.bin][:, np.newaxis]
    c0, c1, d0, d1 = log_bets(
        pi, p0, alternatives(book, p0), book.ratio, book.shift, side=book.side
    )
    total: Float = (n0 - s0) * c0 + s0 * c1 + (n1 - s1) * d0 + s1 * d1
    return total

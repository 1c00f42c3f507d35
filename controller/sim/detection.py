"""How many units a test needs, and what it can see: closed forms for the plan.

The growth of an e-process at the alternative (p0, p1), per unit, is at most

    g = pi KL(p1 || q) + (1 - pi) KL(p0 || x)        (x, q) the null's point nearest to (p0, p1)

(the reverse information projection; Grünwald, de Heide, Koolen, arXiv:1906.07801, theorem 1). So no
valid test needs fewer than log(1/alpha) / g units on average (Wald), which is the *bound*. The
mixture that really bets needs more: its k-th bet, of weight w_k, has the mean gain G_k <= g and the
variance V_k per unit, and the mixture is where

    log sum_k w_k exp(n G_k - z sqrt(n V_k)) = log(1/alpha)

with z = 0 for the mean path (about every second candidate is found by then), and z = 0.84 for four
of five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq

from controller.core.estimate.book import Book, Family, bind
from controller.core.estimate.sequential import EPS, alternatives, log_bets, ripr
from controller.core.model import Float

HALF: Final = 0.0
FOUR_OF_FIVE: Final = 0.8416212335729143
"""Standard deviations that four of five stay above."""

_MOST_UNITS = 1e15


@dataclass(frozen=True, slots=True)
class Sought:
    """One test: a null with its bets, and the level at which it decides."""

    book: Book
    alpha: float

    @classmethod
    def of(cls, family: Family, alpha: float) -> Sought:
        """The test of one family."""
        return cls(bind((family,), restarts=False), alpha)


def growth(sought: Sought, pi: float, p0: float, p1: float) -> float:
    """The most nats per unit that any bet can gain if the means are these; 0 inside the null."""
    book = sought.book
    ratio, shift, side = float(book.ratio[0]), float(book.shift[0]), float(book.side[0])
    p0, p1 = (min(max(p, EPS), 1.0 - EPS) for p in (p0, p1))
    if not 0.0 < pi < 1.0 or side * (p1 - ratio * p0 - shift) <= 0.0:
        return 0.0
    x = float(ripr(pi, p0, p1, ratio, shift))
    return pi * _kl(p1, ratio * x + shift) + (1.0 - pi) * _kl(p0, x)


def _kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1.0 - p) * math.log((1.0 - p) / (1.0 - q))


def bound(sought: Sought, pi: float, p0: float, p1: float) -> float:
    """Units that any valid test needs on average; inf where there is nothing to find."""
    g = growth(sought, pi, p0, p1)
    return -math.log(sought.alpha) / g if g > 0.0 else math.inf


def units(sought: Sought, pi: float, p0: float, p1: float, *, z: float = HALF) -> float:
    """Units after which this test's e-value passes; inf where it never does."""
    mean, variance = _moments(sought.book, pi, p0, p1)
    wanted = -math.log(sought.alpha)
    if not (mean > 0.0).any():
        return math.inf

    def short(log_n: float) -> float:
        n = math.exp(log_n)
        path = n * mean - z * np.sqrt(n * variance)
        return float(np.logaddexp.reduce(sought.book.log_weights + path)) - wanted

    if short(math.log(_MOST_UNITS)) < 0.0:
        return math.inf
    low = 0.0
    # With z > 0 a path dips before it rises: begin where the best bet has left its dip.
    if z > 0.0:
        best = int(np.argmax(mean))
        low = max(low, math.log(max(1.0, variance[best] * (z / (2.0 * mean[best])) ** 2)))
    if short(low) >= 0.0:
        return math.exp(low)
    return math.exp(brentq(short, low, math.log(_MOST_UNITS), xtol=1e-6))


def _moments(book: Book, pi: float, p0: float, p1: float) -> tuple[Float, Float]:
    """Mean and variance of each bet's gain from one unit, (K,) each."""
    p0, p1 = (min(max(p, EPS), 1.0 - EPS) for p in (p0, p1))
    column = np.array([[p0]])
    logs = log_bets(pi, column, alternatives(book, column), book.ratio, book.shift, side=book.side)
    gains = np.stack([np.broadcast_to(log, (1, len(book.slope)))[0] for log in logs])
    chance = np.array([(1 - pi) * (1 - p0), (1 - pi) * p0, pi * (1 - p1), pi * p1])
    mean: Float = chance @ gains
    return mean, chance @ gains**2 - mean**2


def smallest(  # noqa: PLR0913 - the formula's letters
    sought: Sought, pi: float, p0: float, *, within: float, sign: float, z: float = HALF
) -> float | None:
    """The smallest relative change of p0, in the direction of `sign`, found within so many units.

    None where not even the loss of everything (or, upwards, all that is left) is.
    """
    most = 1.0 - EPS if sign < 0 else (1.0 - EPS) / p0 - 1.0

    def excess(change: float) -> float:
        found = units(sought, pi, p0, p0 * (1.0 + sign * change), z=z)
        return math.log(min(found, _MOST_UNITS)) - math.log(max(within, 1e-9))

    if most <= 1e-6 or excess(most) > 0.0:
        return None
    if excess(1e-6) <= 0.0:
        return 1e-6
    change: float = brentq(excess, 1e-6, most, xtol=1e-6, rtol=1e-4)
    return change

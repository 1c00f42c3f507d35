"""How fast evidence comes: what one more unit is worth, and which discoveries stand together.

`of_*` give the mean growth of the best bet of a family if the means are what they seem:
log E grows by this much per unit in the long run (Kelly 1956; Grünwald et al., arXiv:1906.07801:
the mixture grows as its best member does). So (log(1/alpha) - log E) / growth units are still
needed, roughly: it is a forecast, nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.core.estimate import sequential
from controller.core.estimate.book import Book
from controller.core.estimate.sequential import EPS
from controller.core.model import Cells, Float


def of_coins(book: Book, pi: float, p0: float, p1: float) -> Float:
    """Nats per unit of each family, (F,), for coins with these means."""
    p0, p1 = (min(max(p, EPS), 1.0 - EPS) for p in (p0, p1))
    one, none = np.ones(1), np.zeros(1, np.int64)
    unit = Cells(
        candidate=none,
        stratum=none,
        bin=none,
        pi=pi * one,
        n0=(1.0 - pi) * one,
        s0=(1.0 - pi) * p0 * one,
        n1=pi * one,
        s1=pi * p1 * one,
    )
    gains = sequential.gains(book, unit, np.array([p0]))[0]
    return _best(book, gains)


def of_amounts(book: Book, pi: float, means: tuple[float, float], variance: float) -> Float:
    """Nats per unit of each family, (F,), for amounts: half the squared signal over its noise.

    With a stake lambda a unit brings lambda x - lambda^2 x^2 / 2 on average, for phi less the
    boundary, x, of mean `truth`; each bet's lambda is what its alternative asks for.
    """
    mean0, mean1 = means
    beyond = book.side * ((book.slope - book.ratio) * abs(mean0) + book.offset - book.shift)
    truth = book.side * (mean1 - book.ratio * mean0 - book.shift)
    noise = max(variance / (pi * (1.0 - pi)), 1e-300)
    stake = np.maximum(beyond, 0.0) / (noise + beyond * beyond)
    return _best(book, stake * truth - 0.5 * stake * stake * (noise + truth * truth))


def _best(book: Book, gains: Float) -> Float:
    best: Float = np.maximum.reduceat(gains, book.starts)
    return best


def ebh(log_e: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Which nulls fall if at most the share alpha of those that fall may be true, on average.

    The e-BH procedure: reject the k largest for the greatest k with e_(k) >= K / (k alpha).
    Wang & Ramdas, arXiv:2009.02824, definition 1. Dependence between the e-values does not matter.
    """
    values = np.asarray(log_e, np.float64)
    K = len(values)
    order = np.argsort(-values, kind="stable")
    bars = np.log(K / (alpha * np.arange(1, K + 1)))
    passed = np.flatnonzero(values[order] >= bars)
    is_found = np.zeros(K, np.bool_)
    if len(passed):
        is_found[order[: passed[-1] + 1]] = True
    return tuple(bool(found) for found in is_found)

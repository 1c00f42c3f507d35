"""Which arm is best, as a bandit sees it: Beta posteriors and exact probabilities.

This steers traffic; it never promotes. "P(best) >= 95 %" names a winner among identical arms in
most runs if one looks often enough, so Thompson's stage shows it and stops on e-values.

Each arm's mean has a Beta posterior: a prior from the champion's history, of one strength and the
same for all arms, plus counts that fade by half-life. Probabilities are integrals, not draws:

    P(k is best)    = integral of f_k(x) prod_{j != k} F_j(x) dx
    loss(k)         = integral of F_k(x) - prod_j F_j(x) dx      = E[max_j mean_j - mean_k]

on panels between the arms' quantiles, with Gauss-Legendre nodes in each, so the same counts always
give the same weights. The variable is t = log(x / (1 - x)), in which densities stay smooth for
arms that almost never or almost always succeed (Beta densities with a < 1 are infinite at 0).

Rejected: Monte Carlo draws (a replay would need the generator), one fixed grid on [0, 1] (misses a
posterior as narrow as 10^6 outcomes make it).

Counts are pooled over strata here: a drift common to all arms shifts the posteriors of arms with
different shares differently while the half-life lasts. It can misdirect traffic, not a promotion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv, betaln, expit

from controller.core.model import Cell, Float

STRENGTH = 50.0
"""Pseudo-outcomes of the prior: the candidate begins as a copy of the champion, worth this much."""

_TAILS = np.array([1e-13, 1e-10, 1e-7, 1e-5, 1e-3, 0.02, 0.1, 0.25, 0.5])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True, slots=True)
class Faded:
    """Counts of both arms, as in `Cell`, worth what is left of them at `time` (None: no units)."""

    n0: float = 0.0
    s0: float = 0.0
    n1: float = 0.0
    s1: float = 0.0
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Beta:
    """A Beta(a, b) distribution of an arm's mean."""

    a: float
    b: float


def fade(faded: Faded, cells: Iterable[Cell], time: float, half_life_s: float | None) -> Faded:
    """Let `half_life_s` do its work up to `time` (never backwards), then add the cells."""
    last = time if faded.time is None else max(faded.time, time)
    age_s = 0.0 if faded.time is None else last - faded.time
    left = 1.0 if half_life_s is None else 0.5 ** (age_s / half_life_s)
    n0, s0, n1, s1 = faded.n0 * left, faded.s0 * left, faded.n1 * left, faded.s1 * left
    for cell in cells:
        n0, s0, n1, s1 = n0 + cell.n0, s0 + cell.s0, n1 + cell.n1, s1 + cell.s1
    return Faded(n0=n0, s0=s0, n1=n1, s1=s1, time=last)


def prior(n: float, s: float) -> Beta:
    """The prior of every arm, from the champion's history; Jeffreys' mean without any."""
    mean = (s + 0.5) / (n + 1.0)
    return Beta(a=max(STRENGTH * mean, 0.5), b=max(STRENGTH * (1.0 - mean), 0.5))


def posterior(before: Beta, n: float, s: float) -> Beta:
    """The posterior after n outcomes with the sum s."""
    return Beta(a=before.a + s, b=before.b + n - s)


def p_best(arms: Sequence[Beta]) -> tuple[float, ...]:
    """The probability of each arm to have the highest mean; sums to 1 within 1e-9."""
    if len(arms) == 1:
        return (1.0,)
    t, dt = _quadrature(arms)
    below = np.array([betainc(arm.a, arm.b, expit(t)) for arm in arms])
    return tuple(
        float((_density(arm, t) * np.prod(np.delete(below, k, axis=0), axis=0) * dt).sum())
        for k, arm in enumerate(arms)
    )


def expected_loss(arms: Sequence[Beta], chosen: int) -> float:
    """What is lost on average by choosing an arm for good: E[best mean - its mean] >= 0."""
    t, dt = _quadrature(arms)
    x = expit(t)
    below = np.array([betainc(arm.a, arm.b, x) for arm in arms])
    # F_k - prod F_j = F_k (1 - prod_{j != k} F_j), which does not cancel
    others = np.prod(np.delete(below, chosen, axis=0), axis=0)
    return float((below[chosen] * (1.0 - others) * x * expit(-t) * dt).sum())


def mean(arm: Beta) -> float:
    """The mean of a Beta distribution."""
    return arm.a / (arm.a + arm.b)


def _density(arm: Beta, t: Float) -> Float:
    """The density of log(x / (1 - x)) at t."""
    log_x, log_rest = -np.logaddexp(0.0, -t), -np.logaddexp(0.0, t)
    density: Float = np.exp(arm.a * log_x + arm.b * log_rest - betaln(arm.a, arm.b))
    return density


def _quadrature(arms: Sequence[Beta]) -> tuple[Float, Float]:
    """Nodes t and weights dt, over panels between the arms' quantiles."""
    ends = np.unique(np.concatenate([_quantiles(arm) for arm in arms]))
    half = 0.5 * np.diff(ends)[:, np.newaxis]
    middle = 0.5 * (ends[1:] + ends[:-1])[:, np.newaxis]
    return (middle + half * _NODES).ravel(), (half * _WEIGHTS).ravel()


def _quantiles(arm: Beta) -> Float:
    """log(x / (1 - x)) at quantiles of the arm; upper ones from the lower tail of 1 - x."""
    low, high = betaincinv(arm.a, arm.b, _TAILS), betaincinv(arm.b, arm.a, _TAILS)
    tails = [np.log(low) - np.log1p(-low), np.log1p(-high) - np.log(high)]
    return np.concatenate(tails)

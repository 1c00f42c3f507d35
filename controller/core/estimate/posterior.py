"""Which arm is best, as a bandit sees it: posteriors of means and exact probabilities.

This steers traffic; it never promotes. "P(best) >= 95 %" names a winner among identical arms in
most runs if one looks often enough, so Thompson's stage shows it and stops on e-values.

A mean has a Beta posterior where outcomes are shares of 1, a Student posterior (the marginal of a
Normal-inverse-gamma) where they are amounts. Probabilities are integrals, not draws:

    P(k is best)    = integral of f_k(t) prod_{j != k} F_j(t) dt
    loss(k)         = integral of F_k(x) - prod_j F_j(x) dx      = E[max_j mean_j - mean_k]

on panels between the arms' quantiles, with Gauss-Legendre nodes in each, so the same counts always
give the same weights. A family of distributions gives three things: ends of panels, a density in a
variable t in which it is smooth, and dx/dt. F is the integral of f over the same panels, with the
polynomial through the nodes of each: ten times cheaper than incomplete Beta functions, and as good.

For Beta t = log(x / (1 - x)), which is smooth for arms that almost never or almost always succeed
(Beta densities with a < 1 are infinite at 0).

Rejected: Monte Carlo draws (a replay would need the generator), one fixed grid on [0, 1] (misses a
posterior as narrow as 10^6 outcomes make it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import betaincinv, betaln, digamma, expit, gammaln, stdtrit, zeta

from controller.core.model import Float

_TAILS = np.array([1e-13, 1e-10, 1e-7, 1e-5, 1e-3, 0.02, 0.1, 0.25, 0.5])
_SPREADS = np.array([0.0, 0.65, 1.3, 2.1, 3.2, 4.5, 6.0, 8.0, 10.5])
_SPREADS = np.concatenate([-_SPREADS, _SPREADS])
_LARGE = 20.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True, slots=True)
class Betas:
    """Beta(a, b) distributions of the arms' means; a, b  (A,) float64, positive."""

    a: Float
    b: Float


@dataclass(frozen=True, slots=True)
class Students:
    """location + scale * T(df), distributions of the arms' means; all (A,) float64."""

    location: Float
    scale: Float
    df: Float


Means: TypeAlias = Betas | Students


def compare(arms: Means) -> tuple[Float, Float]:
    """`p_best` and `expected_loss` of the arms, for the price of one of them."""
    t, dt = _quadrature(arms)
    density = _density(arms, t)
    # log Gamma of 10^9 has an error of 10^-6: what the panels hold is everything
    density /= (density @ dt.ravel())[:, np.newaxis]
    below = _below(density, dt)
    others = _product_of_others(below)
    weights = dt.ravel()
    best: Float = (density * others) @ weights
    # F_k - prod F_j = F_k (1 - prod_{j != k} F_j), which does not cancel
    loss: Float = (below * (1.0 - others)) @ (_slope(arms, t) * weights)
    return best, loss


def p_best(arms: Means) -> Float:
    """The probability of each arm to have the highest mean, (A,); sums to 1 within 1e-9."""
    return compare(arms)[0]


def expected_loss(arms: Means) -> Float:
    """What is lost on average by choosing an arm for good: E[best mean - its mean] >= 0, (A,)."""
    return compare(arms)[1]


def mean(arms: Means) -> Float:
    """The means of the distributions, (A,)."""
    return arms.a / (arms.a + arms.b) if isinstance(arms, Betas) else arms.location


def mirrored(arms: Means) -> Means:
    """The distributions of 1 - mean, or of -mean: the smallest becomes the greatest."""
    if isinstance(arms, Betas):
        return Betas(a=arms.b, b=arms.a)
    return Students(location=-arms.location, scale=arms.scale, df=arms.df)


def _density(arms: Means, t: Float) -> Float:
    """The densities at t (N,), of log(x / (1 - x)) for Beta: (A, N)."""
    if isinstance(arms, Betas):
        a, b = arms.a[:, np.newaxis], arms.b[:, np.newaxis]
        log_rest = -np.logaddexp(0.0, t)
        beta: Float = np.exp(a * (log_rest + t) + b * log_rest - betaln(a, b))
        return beta
    scale, df = arms.scale[:, np.newaxis], arms.df[:, np.newaxis]
    z = (t - arms.location[:, np.newaxis]) / scale
    constant = gammaln((df + 1.0) / 2.0) - gammaln(df / 2.0) - 0.5 * np.log(np.pi * df)
    student: Float = np.exp(constant - 0.5 * (df + 1.0) * np.log1p(z * z / df)) / scale
    return student


def _slope(arms: Means, t: Float) -> Float:
    """dx/dt of the mean x."""
    if isinstance(arms, Students):
        return np.ones_like(t)
    slope: Float = expit(t) * expit(-t)
    return slope


def _ends(arms: Means) -> Float:
    """Ends of panels for each arm, from one tail to the other, in the variable t: (A, Q)."""
    if isinstance(arms, Students):
        upper = arms.scale[:, np.newaxis] * -stdtrit(arms.df[:, np.newaxis], _TAILS)
        location = arms.location[:, np.newaxis]
        return np.concatenate([location - upper, location + upper], axis=1)
    # log(x / (1 - x)) is nearly normal where both counts are large, and its moments are cheap
    middle = digamma(arms.a) - digamma(arms.b)
    spread = np.sqrt(zeta(2.0, arms.a) + zeta(2.0, arms.b))
    ends: Float = middle[:, np.newaxis] + spread[:, np.newaxis] * _SPREADS
    few = np.minimum(arms.a, arms.b) < _LARGE
    if few.any():
        ends[few] = _quantiles(arms.a[few, np.newaxis], arms.b[few, np.newaxis])
    return ends


def _quantiles(a: Float, b: Float) -> Float:
    """log(x / (1 - x)) at quantiles of Beta(a, b); upper ones from the lower tail of 1 - x."""
    low, high = betaincinv(a, b, _TAILS), betaincinv(b, a, _TAILS)
    tails = [np.log(low) - np.log1p(-low), np.log1p(-high) - np.log(high)]
    return np.concatenate(tails, axis=1)


def _quadrature(arms: Means) -> tuple[Float, Float]:
    """Nodes t (N,) and their weights (panels, nodes), over panels between the arms' quantiles."""
    ends = np.unique(_ends(arms))
    half = 0.5 * np.diff(ends)[:, np.newaxis]
    middle = 0.5 * (ends[1:] + ends[:-1])[:, np.newaxis]
    return (middle + half * _NODES).ravel(), half * _WEIGHTS


def _integration() -> Float:
    """M with M_ij = integral from -1 to node i of the polynomial that is 1 at node j, 0 at others.

    Its Legendre coefficients are (n + 1/2) w_j P_n(x_j), and the integral of P_n from -1 to x is
    (P_{n+1}(x) - P_{n-1}(x)) / (2n + 1): Abramowitz & Stegun 22.7.10, 22.13.
    """
    n = np.arange(len(_NODES))
    values = np.polynomial.legendre.legvander(_NODES, len(_NODES))
    before = np.concatenate([-np.ones((len(_NODES), 1)), values[:, :-2]], axis=1)
    integrals = (values[:, 1:] - before) / (2 * n + 1)
    matrix: Float = integrals @ ((n + 0.5)[:, np.newaxis] * values[:, :-1].T * _WEIGHTS)
    return matrix


_TO_NODES = (_integration() / _WEIGHTS).T
"""From weighted densities at a panel's nodes to their integrals from its start to the nodes."""


def _below(density: Float, dt: Float) -> Float:
    """The distribution functions at the nodes, (A, N)."""
    mass = density.reshape(-1, *dt.shape) * dt
    panels = mass.sum(axis=2)
    before = np.cumsum(panels, axis=1) - panels
    below: Float = before[:, :, np.newaxis] + mass @ _TO_NODES
    return below.reshape(density.shape)


def _product_of_others(below: Float) -> Float:
    """For each arm the product over all others, (A, N)."""
    product = np.ones_like(below)
    np.cumprod(below[:-1], axis=0, out=product[1:])
    after = np.cumprod(below[:0:-1], axis=0)[::-1]
    product[:-1] *= after
    return product

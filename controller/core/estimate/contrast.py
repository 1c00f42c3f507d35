"""Arms compared within blocks: what a bandit believes of each mean, were all seen in one block.

Rates are beta_b rho_k and amounts beta_b + delta_k, with a beta of its own for each block b of
exposure time: a drift common to all arms goes into beta, and moves nothing.

Where nothing drifts, free betas throw away what blocks with different shares say together, which
costs a bandit a quarter more regret. So betas are drawn to each other as
much as they are alike: they have a Gamma (normal) distribution over blocks with the variance tau^2
that the blocks themselves show beyond chance (DerSimonian & Laird 1986), plus its standard error,
so that little is shared before steadiness is proven. Integrated out, beta leaves the likelihood

    sum_k O_k log r_k - sum_b (O_b + v) log(v + sum_k n_bk r_k),      v = 1 / tau^2

which is that of free betas with one more arm, a *reference* that has v events where one would
expect v, in each block. (Amounts: sigma^2 / tau^2 outcomes at the level of all.)

For coins: O_k is the number of rewards of arm k (of failures where they are the rarer side: rates
near 1 do not multiply), n_k = O_k / r_k scaled to the outcomes there are, which is indirect
standardisation; the posterior is Beta(O_k, n_k - O_k). For amounts: least squares, then
Normal-inverse-gamma, whose marginal is Student's. The prior is one more block, the same for all
arms and with a free beta: that many outcomes of each at the champion's past mean. So it says
"alike", and not how high.

Precision. Where shares changed, contrasts within blocks say less than all rewards together.
With M the information on the arms when their common level is given up, independent posteriors with
counts O_k claim O_k (1 - O_k / O) where there is M_kk: counts are multiplied by the quotient, which
is at most 1, and 1 if the shares never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.estimate import posterior
from controller.core.estimate.posterior import Betas, Means, Students
from controller.core.model import Float

_NEWTON_STEPS = 30
_CONVERGED = 1e-7
"""Newton's error squares with each step: the one after this would change nothing."""

_VARIANCE_WORTH = 50.0
"""Outcomes that what is known of the variance beforehand is worth."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Outcomes, their sums and sums of squares, faded by age; less what no reward is worth.

    closed  (B, A, 3) float64, of blocks
    young   (L, A, 3) float64, of cohorts that are open: outcomes are F(age) of each unit
    closed_left, young_left  (B,), (L,) float64, what is left of each after fading
    """

    closed: Float
    young: Float
    closed_left: Float
    young_left: Float


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of the arms: their means and what these are worth in outcomes, (A,).

    variance  of one outcome; NaN: not known
    """

    mean: Float
    worth: Float
    variance: float


def coins(seen: Seen, prior: Belief, nothing: float) -> tuple[Means, Belief]:
    """Posteriors of shares of the range; `nothing` is that of an exposure without a reward."""
    n = np.concatenate([prior.worth[np.newaxis], seen.closed[..., 0]])
    s = np.concatenate([[prior.worth * prior.mean], seen.closed[..., 1]])
    s[1:] += nothing * seen.closed[..., 0]
    left = seen.closed_left
    is_failing = bool(s.sum() > 0.5 * n.sum())
    rare = n - s if is_failing else s
    # Early rewards count only if they are the rarer side: successes that did not come yet are no
    # failures, and failures cannot be had as the difference of two noisy numbers.
    if nothing == float(is_failing):
        n = np.concatenate([n, seen.young[..., 0]])
        rare = np.concatenate([rare, np.abs(seen.young[..., 1])])
        left = np.concatenate([left, seen.young_left])
    rare = np.where(n > 0.0, np.maximum(rare, 0.0), 0.0)
    rare[0] = np.maximum(rare[0], 0.5)
    a, worth = _standardised(n, rare, left)
    b = np.maximum(worth - a, 0.5)
    arms = Betas(a=b, b=a) if is_failing else Betas(a=a, b=b)
    mean = posterior.mean(arms)
    level = float(mean.mean())
    return arms, Belief(mean=mean, worth=a + b, variance=level * (1.0 - level))


def _standardised(n: Float, events: Float, left: Float) -> tuple[Float, Float]:
    """Events and outcomes of each arm as if all had been seen in one block, (A,) each.

    n, events are (R, A), and every arm has events in the first block, the prior.
    """
    counts = events.sum(axis=0)
    log_rate, information = _log_rates(n, events, np.log(counts / n.sum(axis=0)))
    expected = (n[1:] @ np.exp(log_rate)) / left
    seen = events[1:].sum(axis=1) / left
    if seen.any() and expected.any():
        level = seen.sum() / expected.sum()
        reference = np.append(0.0, left / _drift(seen, level * expected, level * expected))
        log_rate, information = _log_rates(
            np.column_stack([reference, n]),
            np.column_stack([reference, events]),
            np.append(0.0, log_rate + np.log(max(level, 1e-9))),
        )
        log_rate, information = log_rate[1:], information[1:, 1:]
    alike = counts * np.exp(-log_rate)
    honest = _honest(counts, information)
    return np.maximum(honest, 0.2), honest / counts * alike * (n.sum() / alike.sum())


def _log_rates(n: Float, events: Float, log_rate: Float) -> tuple[Float, Float]:
    """Maximum likelihood of log r given the events of each block, and the information on it.

    By Newton's method from `log_rate`; rates are known up to a factor, which stays what it was.
    """
    per_block, per_arm = events.sum(axis=1, keepdims=True), events.sum(axis=0)
    arms = len(log_rate)
    for _ in range(_NEWTON_STEPS):
        share = n * np.exp(log_rate)
        total = share.sum(axis=1, keepdims=True)
        np.divide(share, total, out=share, where=total > 0.0)
        weighted = per_block * share
        fitted = weighted.sum(axis=0)
        information = -(share.T @ weighted)
        information.flat[:: arms + 1] += fitted
        step = np.linalg.solve(information + fitted.sum() / arms, per_arm - fitted)
        largest = float(np.abs(step).max())
        log_rate = log_rate + step * min(1.0, 1.0 / largest if largest > 0.0 else 1.0)
        if largest < _CONVERGED:
            break
    return log_rate, information


def _drift(seen: Float, expected: Float, variance: Float) -> float:
    """tau^2: how much blocks differ in level beyond chance, relatively, plus its standard error.

    Moments: E[(O - E)^2] = variance + E^2 tau^2; the error is that of normal O without drift.
    """
    scale = float((expected * expected).sum())
    excess = float(((seen - expected) ** 2 - variance).sum())
    return (max(excess, 0.0) + float(np.sqrt(2.0 * (variance * variance).sum()))) / scale


def _honest(counts: Float, information: Float) -> Float:
    """Counts of each arm that claim no more than contrasts say: "Precision" above."""
    total = counts.sum()
    row = information.sum(axis=1)
    level = row.sum()
    if level > 1e-9 * total:
        information = information - np.outer(row, row) / level
    there = np.diag(information) / (counts * (1.0 - counts / total))
    honest: Float = counts * np.minimum(there, 1.0)
    return honest


def amounts(seen: Seen, prior: Belief) -> tuple[Means, Belief]:
    """Posteriors of mean amounts, less the default: Normal-inverse-gamma, as Student marginals."""
    outcomes = np.concatenate([seen.closed, seen.young])
    left = np.concatenate([seen.closed_left, seen.young_left])
    n = np.concatenate([prior.worth[np.newaxis], outcomes[..., 0]])
    s = np.concatenate([[prior.worth * prior.mean], outcomes[..., 1]])
    mean, level, information = _least_squares(n, s)
    rest = _rest(outcomes, mean, level)
    seen_n, units = n[1:].sum(axis=0), n.sum(axis=0)
    variance = prior.variance
    if not variance > 0.0:
        variance = float(rest.sum() / seen_n.sum()) if rest.any() else 1.0
    if seen_n.any():
        reference = np.append(0.0, left * variance / _drift_of_levels(n, level, left, variance))
        mean, level, information = _least_squares(
            np.column_stack([reference, n]), np.column_stack([0.0 * reference, s])
        )
        level, mean, information = level + mean[0], mean[1:] - mean[0], information[1:, 1:]
        rest = _rest(outcomes, mean, level)
    else:
        mean = prior.mean
    worth = _honest(units, information)
    shape = 0.5 * (_VARIANCE_WORTH + worth / units * seen_n)
    rate = 0.5 * (_VARIANCE_WORTH * variance + worth / units * rest)
    arms = Students(location=mean, scale=np.sqrt(rate / shape / worth), df=2.0 * shape)
    return arms, Belief(mean=mean, worth=worth, variance=float((rate / shape).mean()))


def _least_squares(n: Float, s: Float) -> tuple[Float, Float, Float]:
    """Delta (A,), beta (R,) of the additive model, and the information on delta.

    They are known up to a constant: the mean of delta is 0.
    """
    total = n.sum(axis=1, keepdims=True)
    share = np.divide(n, total, out=np.zeros_like(n), where=total > 0.0)
    units, per_block = n.sum(axis=0), s.sum(axis=1)
    information = np.diag(units) - share.T @ n
    delta = np.linalg.solve(information + units.mean(), s.sum(axis=0) - share.T @ per_block)
    free = (per_block - n @ delta)[:, np.newaxis]
    level = np.divide(free, total, out=np.zeros_like(free), where=total > 0.0)
    return delta, level[:, 0], information


def _rest(outcomes: Float, mean: Float, level: Float) -> Float:
    """Sums of squares around the fit, (A,)."""
    n, s, square = outcomes[..., 0], outcomes[..., 1], outcomes[..., 2]
    fitted = level[1:, np.newaxis] + mean
    rest: Float = (square - 2.0 * fitted * s + fitted * fitted * n).sum(axis=0)
    return np.maximum(rest, 0.0)


def _drift_of_levels(n: Float, level: Float, left: Float, variance: float) -> float:
    """tau^2 of the blocks' levels."""
    per_block = n[1:].sum(axis=1) / left
    off = level[1:] - np.average(level[1:], weights=per_block)
    return _drift((1.0 + off) * per_block, per_block, variance * per_block)

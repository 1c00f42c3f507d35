"""Arms compared within blocks: what a bandit believes of each mean, were all seen in one block.

Rates are beta_b rho_k and amounts beta_b + delta_k, with a beta of its own for each block b of
exposure time: a drift common to all arms goes into beta, and moves nothing.

For coins: O_k is the number of rewards of arm k (of failures where they are the rarer side: rates
near 1 do not multiply), n_k = E_k / mean rate with E_k = sum_b beta_b n_bk the number expected
were it like the others, which is indirect standardisation; the posterior is Beta(O_k, n_k - O_k).
For amounts: least squares with block effects, then Normal-inverse-gamma, whose marginal is
Student's. The prior is one more block, the same for all arms: that many outcomes of each at the
champion's past mean. So it says "alike", and not how high.

Precision. Where shares changed, contrasts within blocks say less than all rewards together. With
s_bk the share of arm k among what block b has, the information on arm k is
I_k = sum_b O_b s_bk (1 - s_bk), and independent posteriors with counts O_k claim
O_k (1 - O_k / O): counts are multiplied by the quotient, which is at most 1, and 1 if the shares
never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.core.estimate import posterior
from controller.core.estimate.posterior import Betas, Means, Students
from controller.core.model import Float

_NEWTON_STEPS = 30

_VARIANCE_WORTH = 50.0
"""Outcomes that what is known of the variance beforehand is worth."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Outcomes, their sums and sums of squares, faded by age; less what no reward is worth.

    closed  (B, A, 3) float64, of blocks
    young   (L, A, 3) float64, of cohorts that are open: outcomes are F(age) of each unit
    """

    closed: Float
    young: Float


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
    is_failing = bool(s.sum() > 0.5 * n.sum())
    rare = n - s if is_failing else s
    # Early rewards count only if they are the rarer side: successes that did not come yet are no
    # failures, and failures cannot be had as the difference of two noisy numbers.
    if nothing == float(is_failing):
        n = np.concatenate([n, seen.young[..., 0]])
        rare = np.concatenate([rare, np.abs(seen.young[..., 1])])
    rare = np.where(n > 0.0, np.maximum(rare, 0.0), 0.0)
    rare[0] = np.maximum(rare[0], 0.5)
    a, worth = _standardised(n, rare)
    b = np.maximum(worth - a, 0.5)
    arms = Betas(a=b, b=a) if is_failing else Betas(a=a, b=b)
    mean = posterior.mean(arms)
    level = float(mean.mean())
    return arms, Belief(mean=mean, worth=a + b, variance=level * (1.0 - level))


def _standardised(n: Float, events: Float) -> tuple[Float, Float]:
    """Events and outcomes of each arm as if all had been seen in one block, (A,) each.

    Maximum likelihood of rates beta_b rho_k given the events of each block, by Newton's method in
    log rho; n, events are (R, A), and every arm has events in the first block, the prior.
    """
    per_block, per_arm = events.sum(axis=1), events.sum(axis=0)
    log_rho = np.zeros(n.shape[1])
    for _ in range(_NEWTON_STEPS):
        expected = n * np.exp(log_rho)
        total = expected.sum(axis=1, keepdims=True)
        share = np.divide(expected, total, out=np.zeros_like(n), where=total > 0.0)
        weighted = per_block[:, np.newaxis] * share
        fitted = weighted.sum(axis=0)
        information = np.diag(fitted) - share.T @ weighted
        step = np.linalg.solve(information + fitted.mean(), per_arm - fitted)
        step = np.clip(step, -1.0, 1.0)
        log_rho = log_rho + step
        if np.abs(step).max() < 1e-10:
            break
    counts = _honest(per_arm, weighted, share)
    alike = per_arm * np.exp(-log_rho)
    return np.maximum(counts, 0.2), counts / per_arm * alike * (n.sum() / alike.sum())


def _honest(counts: Float, weighted: Float, share: Float) -> Float:
    """Counts of each arm that claim no more than contrasts within blocks say: point 3 above."""
    total = counts.sum()
    claimed = counts * (1.0 - counts / total)
    information = (weighted * (1.0 - share)).sum(axis=0)
    honest: Float = counts * np.minimum(information / claimed, 1.0)
    return honest


def amounts(seen: Seen, prior: Belief) -> tuple[Means, Belief]:
    """Posteriors of mean amounts, less the default: Normal-inverse-gamma, as Student marginals."""
    outcomes = np.concatenate([seen.closed, seen.young])
    n = np.concatenate([prior.worth[np.newaxis], outcomes[..., 0]])
    s = np.concatenate([[prior.worth * prior.mean], outcomes[..., 1]])
    total = n.sum(axis=1, keepdims=True)
    share = np.divide(n, total, out=np.zeros_like(n), where=total > 0.0)
    units = n.sum(axis=0)
    information = np.diag(units) - share.T @ n
    right = s.sum(axis=0) - share.T @ s.sum(axis=1)
    delta = np.linalg.solve(information + units.mean(), right)
    level = s.sum(axis=1, keepdims=True) - (n @ delta)[:, np.newaxis]
    level = np.divide(level, total, out=np.zeros_like(level), where=total > 0.0)
    fitted = level + delta
    rest = outcomes[..., 2] - 2.0 * fitted[1:] * s[1:] + fitted[1:] ** 2 * n[1:]
    rest = np.maximum(rest.sum(axis=0), 0.0)
    seen_n = n[1:].sum(axis=0)
    variance = prior.variance
    if not variance > 0.0:
        variance = float(rest.sum() / seen_n.sum()) if rest.any() else 1.0
    # height: of the blocks that were seen; before any, of the prior
    height = np.average(level[1:, 0], weights=total[1:, 0]) if seen_n.any() else level[0, 0]
    worth = _honest(units, n, share)
    shape = 0.5 * (_VARIANCE_WORTH + worth / units * seen_n)
    rate = 0.5 * (_VARIANCE_WORTH * variance + worth / units * rest)
    mean = height + delta
    arms = Students(location=mean, scale=np.sqrt(rate / shape / worth), df=2.0 * shape)
    return arms, Belief(mean=mean, worth=worth, variance=float((rate / shape).mean()))

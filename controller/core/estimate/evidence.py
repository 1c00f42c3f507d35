"""What is known, put into words that `decide` reads: one `CandidateEvidence` per candidate.

Nothing is worked out here that has not been worked out when units came in; evidence is read on
every tick. Where there is too little data it says so: a mean or lift is None, an interval is
unbounded, an e-value is 1 (log 0, "nothing known against the null"). It never looks like a number.
"""

from __future__ import annotations

import math

import numpy as np

from controller.core.estimate import growth as forecast
from controller.core.estimate import latency, purse, reward
from controller.core.estimate.book import Book
from controller.core.estimate.estimators import Estimators, judges
from controller.core.estimate.game import Game
from controller.core.estimate.reward import Judge, Reward
from controller.core.estimate.spec import EstimatorSpec, RewardSpec
from controller.core.model import ArmSummary, CandidateEvidence, Float, Growth, GuardEvidence, Lift


def of_candidate(
    spec: EstimatorSpec, est: Estimators, champion: str, candidate: str, i: int
) -> CandidateEvidence:
    """What is known of candidate i, of the name `candidate`, against `champion`."""
    log_e, log_mixed = reward.log_e(est.reward)
    lower, upper = (float(end) for end in est.reward.limits[i])
    ratio = float(est.reward.ratio[i])
    families = iter(log_e[i, 2:].tolist())
    return CandidateEvidence(
        champion=_summary(spec.reward, est, champion, i, 0),
        candidate=_summary(spec.reward, est, candidate, i, 1),
        lift=Lift(None if math.isnan(ratio) else ratio - 1.0, lower, upper),
        risk=max(0.0, upper if spec.is_minimised else -lower),
        log_harm=float(log_mixed[i]),
        log_harm_fast=0.0,
        log_superior=float(log_e[i, 1]),
        log_noninferior=tuple(0.0 if m is None else next(families) for m in spec.margins),
        guards=_guards(spec, est, i),
        shadow=None
        if spec.error_increase is None
        else _errors_guard(est.shadow, spec.error_increase, i),
        p_best=math.nan,
        loss=math.nan,
        capped=reward.share_cut(est.reward),
        multiplicity=est.candidates,
    )


def _summary(spec: RewardSpec, est: Estimators, arm: str, i: int, side: int) -> ArmSummary:
    """Of the champion beside candidate i (side 0), or of the candidate (side 1)."""
    n, s = reward.seen(est.reward)[i, 2 * side : 2 * side + 2].tolist()
    answers, errors = est.errors.waiting.seen[i, 2 * side : 2 * side + 2].tolist()
    width = spec.high - spec.low
    low, high = est.reward.intervals[i, side].tolist()
    total = spec.low * n + width * s if spec.is_binary else s
    return ArmSummary(
        arm=arm,
        n=round(n),
        total=total,
        mean=total / n if n > 0.0 else None,
        interval=(spec.low + width * low, spec.low + width * high) if n > 0.0 else None,
        errors=round(errors),
        answers=round(answers),
    )


def _guards(spec: EstimatorSpec, est: Estimators, i: int) -> tuple[GuardEvidence, ...]:
    guards = []
    if spec.error_increase is not None:
        guards.append(_errors_guard(est.errors, spec.error_increase, i))
    if spec.latency is not None and est.latency is not None:
        guards.append(_latency_guard(spec.latency, est.latency, i))
    for second, state in zip(spec.rewards, est.rewards, strict=True):
        guards.append(_reward_guard(second, state, i))
    return tuple(guards)


def _errors_guard(errors: Game, max_increase: float, i: int) -> GuardEvidence:
    n0, s0, n1, s1 = errors.waiting.seen[i].tolist()
    return GuardEvidence(
        metric="error_rate",
        detail="",
        log_worse=float(errors.log_mixed[i]),
        log_within=float(errors.log_e[i, 1]),
        champion=_mean(n0, s0),
        candidate=_mean(n1, s1),
        max_increase=max_increase,
    )


def _latency_guard(declared: tuple[float, float], state: latency.Latency, i: int) -> GuardEvidence:
    quantile, increase = declared
    watched = latency.watched(quantile)
    worse, moved = latency.log_worse(state, len(watched))
    which = int(moved[i])
    n0, s0, n1, s1 = state.game.waiting.seen[i * len(watched) + which].tolist()
    limit = float(latency.limits(quantile, increase, state)[which, 1])
    return GuardEvidence(
        metric="latency",
        detail=f"p{100.0 * watched[which]:g}",
        log_worse=float(worse[i]),
        log_within=float(latency.log_within(state, len(watched))[i]),
        champion=_mean(n0, s0),
        candidate=_mean(n1, s1),
        max_increase=increase,
        limit_ms=None if math.isnan(limit) else limit,
    )


def _reward_guard(spec: RewardSpec, state: Reward, i: int) -> GuardEvidence:
    n0, s0, n1, s1 = reward.seen(state)[i].tolist()
    log_e, log_mixed = reward.log_e(state)
    unit, low = (spec.high - spec.low, spec.low) if spec.is_binary else (1.0, 0.0)
    return GuardEvidence(
        metric="reward",
        detail=spec.event,
        log_worse=float(log_mixed[i]),
        log_within=float(log_e[i, 1]),
        champion=_mean(n0, low * n0 + unit * s0),
        candidate=_mean(n1, low * n1 + unit * s1),
        max_increase=spec.max_increase or 0.0,
    )


def _mean(n: float, total: float) -> float | None:
    return total / n if n > 0.0 else None


# --- how fast it comes ------------------------------------------------------------------------


def growth_of(spec: EstimatorSpec, est: Estimators, i: int, pi: float) -> Growth:
    """Nats per unit of each condition for the promotion of candidate i at the propensity pi."""
    books = judges(spec)
    ratio = float(est.reward.ratio[i])
    families = _growth(books.reward, est.reward, i, pi, ratio).tolist()
    stages = iter(families[2:])
    within = []
    if spec.error_increase is not None:
        n0, s0, n1, s1 = est.errors.waiting.seen[i].tolist()
        rates = (_mean(n0, s0), _mean(n1, s1))
        within.append(_coins(books.errors, pi, *rates))
    if spec.latency is not None and est.latency is not None:
        last = len(latency.watched(spec.latency[0])) - 1
        n0, s0, n1, s1 = est.latency.game.waiting.seen[i * (last + 1) + last].tolist()
        within.append(_coins(latency.BOOK, pi, _mean(n0, s0), _mean(n1, s1)))
    for by, state in zip(books.rewards, est.rewards, strict=True):
        within.append(float(_growth(by, state, i, pi, math.nan)[1]))
    return Growth(
        superior=families[1],
        noninferior=tuple(0.0 if m is None else next(stages) for m in spec.margins),
        within=tuple(within),
    )


def _coins(book: Book, pi: float, p0: float | None, p1: float | None) -> float:
    """Of `log_within`; 0 where one of the arms has not been seen."""
    if p0 is None or p1 is None:
        return 0.0
    return float(forecast.of_coins(book, pi, p0, p1)[1])


def _growth(by: Judge, state: Reward, i: int, pi: float, ratio: float) -> Float:
    """Of each family of a reward, (F,); `ratio` of the means where strata know it better."""
    n0, s0, n1, s1 = reward.seen(state)[i].tolist()
    if n0 <= 0.0 or n1 <= 0.0:
        return np.zeros(len(by.book.starts))
    mean0 = s0 / n0
    mean1 = s1 / n1 if math.isnan(ratio) else ratio * mean0
    if state.game is not None:
        return forecast.of_coins(by.book, pi, mean0, mean1)
    assert state.purse is not None
    guess = purse.guessed(by.rule, state.purse)
    if guess is None:
        return np.zeros(len(by.book.starts))
    return forecast.of_amounts(by.book, pi, (mean0, mean1), guess.variance)

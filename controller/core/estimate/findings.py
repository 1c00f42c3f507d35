"""What is known, put into words that `decide` reads: one `CandidateEvidence` per candidate.

Nothing is worked out here that has not been worked out when units came in; evidence is read on
every tick, by the verdict and by the report, and put into words once for the same estimators. Where
there is too little data it says so: a mean or lift is None, an interval is unbounded, an e-value is
1 (log 0, "nothing known against the null"). It never looks like a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from controller.core.estimate import forecast, latency, purse, reward, risk, rivals
from controller.core.estimate.book import Book
from controller.core.estimate.estimators import Estimators, judges
from controller.core.estimate.game import Game
from controller.core.estimate.reward import Judge, Reward
from controller.core.estimate.spec import EstimatorSpec, RewardSpec
from controller.core.model import (
    ArmSummary,
    CandidateEvidence,
    Float,
    Growth,
    GuardEvidence,
    Lift,
)

_Asked: TypeAlias = tuple[EstimatorSpec, str, tuple[str, ...]]

_TOLD: Final[WeakKeyDictionary[Estimators, tuple[_Asked, tuple[CandidateEvidence, ...]]]] = (
    WeakKeyDictionary()
)
"""What was asked of estimators last, and the answer."""


def of_candidates(
    spec: EstimatorSpec, est: Estimators, champion: str, candidates: Sequence[str]
) -> tuple[CandidateEvidence, ...]:
    """What is known of the first candidates of the rollout, of these names, against `champion`.

    What the bandit thinks is not asked here: its integrals cost more than all the rest.
    """
    asked = (spec, champion, tuple(candidates))
    told = _TOLD.get(est)
    if told is None or told[0] != asked:
        told = _TOLD[est] = asked, _of_candidates(spec, est, champion, candidates)
    return told[1]


def _of_candidates(
    spec: EstimatorSpec, est: Estimators, champion: str, candidates: Sequence[str]
) -> tuple[CandidateEvidence, ...]:
    log_e, log_mixed = reward.log_e(est.reward)
    families, harm, fast = log_e.tolist(), log_mixed.tolist(), risk.log_harm(est.risk).tolist()
    arms, lifts = _summaries(spec.reward, est, champion, candidates), _lifts(est.reward)
    guards, shadow = _guards(spec, est), _errors_guards(spec, est.shadow)
    better = rivals.log_better(est.rivals).tolist()
    capped = reward.share_cut(est.reward)
    return tuple(
        CandidateEvidence(
            champion=arms[i][0],
            candidate=arms[i][1],
            lift=lifts[i],
            risk=max(0.0, lifts[i].upper if spec.is_minimised else -lifts[i].lower),
            log_harm=harm[i],
            log_harm_fast=fast[i],
            log_superior=families[i][1],
            log_noninferior=_per_stage(spec, families[i]),
            guards=guards[i],
            shadow=shadow[i] if shadow else None,
            log_better=tuple(better[i]),
            p_best=math.nan,
            loss=math.nan,
            capped=capped,
            multiplicity=est.candidates,
        )
        for i in range(len(candidates))
    )


def _lifts(state: Reward) -> list[Lift]:
    rows = zip(state.ratio.tolist(), state.limits.tolist(), strict=True)
    return [
        Lift(None if math.isnan(ratio) else ratio - 1.0, lower, upper)
        for ratio, (lower, upper) in rows
    ]


def _per_stage(spec: EstimatorSpec, families: list[float]) -> tuple[float, ...]:
    """The families of the stages, which stand behind harm and superiority; 0 without a margin."""
    stages = iter(families[2:])
    return tuple(0.0 if margin is None else next(stages) for margin in spec.margins)


def _summaries(
    spec: RewardSpec, est: Estimators, champion: str, candidates: Sequence[str]
) -> list[tuple[ArmSummary, ArmSummary]]:
    """Of the champion beside each candidate, and of that candidate."""
    rows = zip(
        candidates,
        reward.seen(est.reward).tolist(),
        est.errors.waiting.seen.tolist(),
        est.reward.intervals.tolist(),
        strict=False,
    )
    return [
        (
            _summary(spec, champion, outcomes[:2], answers[:2], ends[0]),
            _summary(spec, name, outcomes[2:], answers[2:], ends[1]),
        )
        for name, outcomes, answers, ends in rows
    ]


def _summary(
    spec: RewardSpec, arm: str, outcomes: list[float], answers: list[float], ends: list[float]
) -> ArmSummary:
    """Of one arm: number and sum of its outcomes, of its answers, and its scaled interval."""
    n, s = outcomes
    width, is_known = spec.high - spec.low, n > 0.0
    total = spec.low * n + width * s if spec.is_binary else s
    return ArmSummary(
        arm=arm,
        n=round(n),
        total=total,
        mean=total / n if is_known else None,
        interval=(spec.low + width * ends[0], spec.low + width * ends[1]) if is_known else None,
        errors=round(answers[1]),
        answers=round(answers[0]),
    )


def _guards(spec: EstimatorSpec, est: Estimators) -> list[tuple[GuardEvidence, ...]]:
    """Per candidate: errors, latency, each second reward, of these what is asked for."""
    columns = [_errors_guards(spec, est.errors)]
    if spec.latency is not None and est.latency is not None:
        columns.append(_latency_guards(spec.latency, est.latency))
    for second, state in zip(spec.rewards, est.rewards, strict=True):
        columns.append(_reward_guards(second, state))
    columns = [column for column in columns if column]
    return list(zip(*columns, strict=True)) if columns else [()] * est.candidates


def _errors_guards(spec: EstimatorSpec, errors: Game) -> list[GuardEvidence]:
    """Per candidate; empty where errors are not guarded."""
    if spec.error_increase is None:
        return []
    rows = zip(
        errors.waiting.seen.tolist(), errors.log_mixed.tolist(), errors.log_e.tolist(), strict=True
    )
    return [
        GuardEvidence(
            metric="error_rate",
            detail="",
            log_worse=worse,
            log_within=families[1],
            champion=_mean(n0, s0),
            candidate=_mean(n1, s1),
            max_increase=spec.error_increase,
        )
        for (n0, s0, n1, s1), worse, families in rows
    ]


def _latency_guards(declared: tuple[float, float], state: latency.Latency) -> list[GuardEvidence]:
    quantile, increase = declared
    watched = latency.watched(quantile)
    worse, moved = latency.log_worse(state, len(watched))
    within = latency.log_within(state, len(watched)).tolist()
    limits = latency.limits_ms(quantile, increase, state)[:, 1].tolist()
    seen = state.game.waiting.seen.reshape(-1, len(watched), 4).tolist()
    rows = enumerate(zip(worse.tolist(), moved.tolist(), strict=True))
    return [
        GuardEvidence(
            metric="latency",
            detail=f"p{100.0 * watched[which]:g}",
            log_worse=log_worse,
            log_within=within[i],
            champion=_mean(*seen[i][which][:2]),
            candidate=_mean(*seen[i][which][2:]),
            max_increase=increase,
            limit_ms=None if math.isnan(limits[which]) else limits[which],
        )
        for i, (log_worse, which) in rows
    ]


def _reward_guards(spec: RewardSpec, state: Reward) -> list[GuardEvidence]:
    log_e, log_mixed = reward.log_e(state)
    low, unit = (spec.low, spec.high - spec.low) if spec.is_binary else (0.0, 1.0)
    rows = zip(reward.seen(state).tolist(), log_mixed.tolist(), log_e.tolist(), strict=True)
    return [
        GuardEvidence(
            metric="reward",
            detail=spec.event,
            log_worse=worse,
            log_within=families[1],
            champion=_mean(n0, low * n0 + unit * s0),
            candidate=_mean(n1, low * n1 + unit * s1),
            max_increase=spec.max_increase or 0.0,
        )
        for (n0, s0, n1, s1), worse, families in rows
    ]


def _mean(n: float, total: float) -> float | None:
    return total / n if n > 0.0 else None


# --- how fast it comes ------------------------------------------------------------------------


def growth_of(spec: EstimatorSpec, est: Estimators, i: int, pi: float) -> Growth:
    """Nats per unit of each condition for the promotion of candidate i at the propensity pi."""
    books = judges(spec)
    ratio = float(est.reward.ratio[i])
    families = _growth(books.reward, est.reward, i, pi, ratio).tolist()
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
        noninferior=_per_stage(spec, families),
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

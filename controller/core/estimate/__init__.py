"""Estimate: what the closed outcomes of one rollout say of one candidate against the champion.

The order is the statement of this room, and is spelled here once:

    1. bet on every cell of the micro-batch with what was known of the champion before it;
    2. only then learn the champion's mean from it (so that bets stay predictable);
    3. count.

Invariant: `Estimators` is a value. The same outcomes in the same batches give the same state, and
`evidence` of a state is a pure function, so recomputing from the log equals the live state to 1e-9.
Nothing here decides: thresholds, shares of alpha and stages belong to `decide`.

Where there is too little data the evidence says so: a mean or lift is None, an interval is
unbounded, an e-value is 1 (log 0, "nothing known against the null"). It never looks like a number.

The rooms: `moments` counts; `sequential` bets; `effect` sizes; `posterior` steers bandits; `health`
asks whether the data can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from controller.core.estimate import effect, moments, posterior, sequential
from controller.core.estimate import health as sample_ratio
from controller.core.estimate.effect import LiftWealth
from controller.core.estimate.moments import Moments, PlugIn, Trials
from controller.core.estimate.posterior import Beta, Faded
from controller.core.estimate.sequential import Bets, Wealth
from controller.core.model import ArmSummary, CandidateEvidence, Cell, Lift

__all__ = [
    "EstimatorSpec",
    "Estimators",
    "best_arms",
    "evidence",
    "health",
    "new_epoch",
    "observe_answers",
    "observe_outcomes",
    "observe_shadow",
    "observe_units",
    "start",
]

_REWARD_PRIOR = (1.0, 0.5)
_ERROR_PRIOR = (50.0, 0.5)
"""Pseudo-trials and their sum: errors are rare, so the first guess is 1 %, not one half."""


@dataclass(frozen=True, slots=True)
class EstimatorSpec:
    """What is asked of the estimators; values are scaled to [0, 1] by `high` before they come here.

    margins         per stage of the policy: absolute loss tolerated, of the scaled reward; or None
    min_effect      relative effect worth detecting; bets gather around it
    error_increase  absolute increase of the error rate that is tolerated; None: no such guardrail
    interval_alpha  1 - coverage of every confidence sequence
    high            the reward that is 1 when scaled: means and totals are shown times this
    half_life_s     of the bandit's memory; None: it never forgets
    has_bandit      whether `p_best` and `loss` are asked for (NaN when not): quadrature costs a
                    millisecond, more than all the rest of the evidence
    """

    margins: tuple[float | None, ...] = ()
    min_effect: float | None = None
    error_increase: float | None = None
    interval_alpha: float = 0.05
    high: float = 1.0
    half_life_s: float | None = None
    has_bandit: bool = True


@dataclass(frozen=True, slots=True)
class Estimators:
    """All state for one rollout of one candidate.

    noninferior  one per stage; of no bets where the stage has no margin
    prior        of the bandit, the same for both arms
    """

    harm: Wealth
    superior: Wealth
    noninferior: tuple[Wealth, ...]
    errors: Wealth
    shadow_errors: Wealth
    lift: LiftWealth
    units: Wealth
    outcomes: Moments
    answers: Moments
    faded: Faded
    prior: Beta
    champion: PlugIn
    champion_errors: PlugIn


@dataclass(frozen=True, slots=True)
class _AllBets:
    harm: Bets
    superior: Bets
    noninferior: tuple[Bets | None, ...]
    errors: Bets


@lru_cache(maxsize=256)
def _bets(spec: EstimatorSpec) -> _AllBets:
    return _AllBets(
        harm=sequential.harm_bets(spec.min_effect),
        superior=sequential.superiority_bets(spec.min_effect),
        noninferior=tuple(
            None if m is None else sequential.noninferiority_bets(m) for m in spec.margins
        ),
        errors=sequential.errors_bets(spec.error_increase or 0.0),
    )


def start(
    spec: EstimatorSpec,
    history: tuple[float, float] = (0.0, 0.0),
    error_history: tuple[float, float] = (0.0, 0.0),
) -> Estimators:
    """The state before the rollout's first unit.

    history        (n, s) of the champion's closed outcomes before the rollout, scaled to [0, 1]
    error_history  (n, errors) of its answers
    """
    bets = _bets(spec)
    nothing = Wealth(log_wealth=sample_ratio.start().log_wealth[:0])
    return Estimators(
        harm=sequential.start(bets.harm),
        superior=sequential.start(bets.superior),
        noninferior=tuple(nothing if b is None else sequential.start(b) for b in bets.noninferior),
        errors=sequential.start(bets.errors),
        shadow_errors=sequential.start(bets.errors),
        lift=effect.start(),
        units=sample_ratio.start(),
        outcomes=moments.empty(),
        answers=moments.empty(),
        faded=Faded(),
        prior=posterior.prior(*history),
        champion=_plug_in(history, _REWARD_PRIOR),
        champion_errors=_plug_in(error_history, _ERROR_PRIOR),
    )


def _plug_in(history: tuple[float, float], prior: tuple[float, float]) -> PlugIn:
    return moments.plug_in(history, prior_n=prior[0], prior_s=prior[1])


def new_epoch(est: Estimators) -> Estimators:
    """The state when another split comes into force: the champion's past counts a little less."""
    return replace(
        est,
        champion=moments.discount(est.champion),
        champion_errors=moments.discount(est.champion_errors),
    )


def observe_outcomes(
    spec: EstimatorSpec, est: Estimators, cells: Sequence[Cell], time: float
) -> Estimators:
    """Add closed outcomes of one micro-batch: one cell per distinct pi; `time` of the latest."""
    after = _bet_on_outcomes(_bets(spec), est, cells)
    return replace(
        after,
        outcomes=moments.merge(est.outcomes, moments.from_cells(cells)),
        faded=posterior.fade(est.faded, cells, time, spec.half_life_s),
        champion=moments.learn(est.champion, cells),
    )


def _bet_on_outcomes(bets: _AllBets, est: Estimators, cells: Sequence[Cell]) -> Estimators:
    p0_hat = moments.mean(est.champion)
    if p0_hat is None:
        return est
    return replace(
        est,
        harm=sequential.update(bets.harm, est.harm, cells, p0_hat),
        superior=sequential.update(bets.superior, est.superior, cells, p0_hat),
        noninferior=tuple(
            wealth if bet is None else sequential.update(bet, wealth, cells, p0_hat)
            for bet, wealth in zip(bets.noninferior, est.noninferior, strict=True)
        ),
        lift=effect.update(est.lift, cells, p0_hat),
    )


def observe_answers(spec: EstimatorSpec, est: Estimators, cells: Sequence[Cell]) -> Estimators:
    """Add answers, known at once: a trial is an answer and its value 1 if it was an error."""
    p0_hat = moments.mean(est.champion_errors)
    errors = est.errors
    if p0_hat is not None and spec.error_increase is not None:
        errors = sequential.update(_bets(spec).errors, errors, cells, p0_hat)
    return replace(
        est,
        errors=errors,
        answers=moments.merge(est.answers, moments.from_cells(cells)),
        champion_errors=moments.learn(est.champion_errors, cells),
    )


def observe_shadow(spec: EstimatorSpec, est: Estimators, cell: Cell) -> Estimators:
    """Add answers of mirrored requests: all of the champion's, and the candidate's to the copies.

    pi is the candidate's part of the answers in the cell: n1 / (n0 + n1). The bet is fair given the
    counts: (1 - pi) a + pi b <= 1 for a = E[e(champion)] and b = E[e(candidate)], so, were all
    answers independent, a^n0 b^n1 <= 1 by the inequality of arithmetic and geometric means. The two
    answers to a copied request are not: but an error of the champion lowers its e, an error of the
    candidate raises its own; so if a request that breaks one tends to break the other, the
    covariance of the two is negative and the product smaller still.
    Rejected: pi from the share that is copied. Copies that were never made or logged then count
    as evidence against the candidate.
    """
    p0_hat = moments.mean(est.champion_errors)
    shadow_errors = est.shadow_errors
    if p0_hat is not None and spec.error_increase is not None:
        shadow_errors = sequential.update(_bets(spec).errors, shadow_errors, [cell], p0_hat)
    return replace(
        est,
        shadow_errors=shadow_errors,
        champion_errors=moments.learn(est.champion_errors, [cell]),
    )


def observe_units(
    spec: EstimatorSpec,  # noqa: ARG001 - one signature for all that is observed
    est: Estimators,
    cells: Sequence[Cell],
) -> Estimators:
    """Add assigned units, n0 and n1 per pi, for the sample ratio."""
    return replace(est, units=sample_ratio.update(est.units, cells))


def health(est: Estimators) -> float:
    """The log e-value against "arms got the traffic that the splits say"."""
    return sample_ratio.log_sample_ratio(est.units)


def evidence(
    spec: EstimatorSpec, est: Estimators, champion: str, candidate: str
) -> CandidateEvidence:
    """What is known of `candidate` against `champion`."""
    bets = _bets(spec)
    lower, upper = effect.limits(est.lift, spec.interval_alpha)
    p_best = best_arms({candidate: est}, champion)[candidate] if spec.has_bandit else math.nan
    return CandidateEvidence(
        champion=_summary(
            spec, champion, moments.champion(est.outcomes), moments.champion(est.answers)
        ),
        candidate=_summary(
            spec, candidate, moments.candidate(est.outcomes), moments.candidate(est.answers)
        ),
        lift=Lift(estimate=effect.estimate(est.outcomes), lower=lower, upper=upper),
        log_harm=sequential.log_e(bets.harm, est.harm),
        log_superior=sequential.log_e(bets.superior, est.superior),
        log_noninferior=tuple(
            0.0 if bet is None else sequential.log_e(bet, wealth)
            for bet, wealth in zip(bets.noninferior, est.noninferior, strict=True)
        ),
        log_errors=sequential.log_e(bets.errors, est.errors),
        log_shadow_errors=sequential.log_e(bets.errors, est.shadow_errors),
        p_best=p_best,
        loss=_relative_loss(est) if spec.has_bandit else math.nan,
    )


def _summary(spec: EstimatorSpec, arm: str, outcomes: Trials, answers: Trials) -> ArmSummary:
    interval = effect.arm_interval(outcomes.n, outcomes.s, spec.interval_alpha)
    return ArmSummary(
        arm=arm,
        n=round(outcomes.n),
        total=outcomes.s * spec.high,
        mean=outcomes.s / outcomes.n * spec.high if outcomes.n > 0 else None,
        interval=None if interval is None else (interval[0] * spec.high, interval[1] * spec.high),
        errors=round(answers.s),
        answers=round(answers.n),
    )


def _posteriors(est: Estimators) -> tuple[Beta, Beta]:
    """The champion's and the candidate's."""
    f = est.faded
    return posterior.posterior(est.prior, f.n0, f.s0), posterior.posterior(est.prior, f.n1, f.s1)


def _relative_loss(est: Estimators) -> float:
    arms = _posteriors(est)
    loss = posterior.expected_loss(_betas(arms))[1]
    return float(loss) * (arms[0].a + arms[0].b) / arms[0].a


def best_arms(candidates: dict[str, Estimators], champion: str) -> dict[str, float]:
    """P(best) of the champion and of each candidate, for Thompson's weights.

    Every candidate's state has counted the champion's outcomes; the first one's count is taken.
    """
    names = sorted(candidates)
    arms = [_posteriors(candidates[names[0]])[0]]
    arms += [_posteriors(candidates[name])[1] for name in names]
    return dict(zip([champion, *names], posterior.p_best(_betas(arms)).tolist(), strict=True))


def _betas(arms: Sequence[Beta]) -> posterior.Betas:
    return posterior.Betas(a=np.array([arm.a for arm in arms]), b=np.array([arm.b for arm in arms]))

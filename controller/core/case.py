"""The case: what a stage is told of its rollout, put together from policy and state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from controller.core import estimate
from controller.core.decide.situation import Situation
from controller.core.estimate import EstimatorSpec, RewardSpec
from controller.core.estimate.health import fell
from controller.core.model import CandidateEvidence, Lift, Rollout, Signals
from controller.core.policy import Policy, Reward, Stage
from controller.core.state import State, Steering

INTERVAL_ALPHA = 0.05
"""The confidence sequences that people see cover at 95 %, at all times at once."""

MOST_CUTS = 7
"""Covariate bins are at most one more."""


def situated(policy: Policy, state: State) -> Situation | None:
    """The case as it stands; None when the policy no longer has the rollout's stage."""
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return None
    stages = policy.spec.stages
    if rollout.stage >= len(stages) or len(state.spec.margins) != len(stages):
        return None
    stage = stages[rollout.stage]
    if stage.canary is not None and rollout.step >= len(stage.canary.steps):
        return None
    if stage.thompson is not None and not state.spec.has_bandit:
        return None
    reward = policy.spec.reward
    steering = state.steering if stage.thompson is not None else None
    return Situation(
        now=state.clock,
        rollout=rollout,
        evidence=evidence_of(state),
        health=signals(policy, state),
        weights=state.split.weights,
        settle_s=reward.window + reward.grace,
        is_last=rollout.stage + 1 == len(stages),
        is_minimised=reward.direction == "minimize",
        is_binary=reward.is_binary,
        has_fast_path=reward.is_binary and reward.contamination == 0,
        min_units=reward.min_units,
        best=steering.best if steering is not None else (),
        segments=steering.segments if steering is not None else {},
        recent=_recent(state, stage),
    )


def _recent(state: State, stage: Stage) -> tuple[Lift | None, ...]:
    """What the last week says, where it is asked: once a candidate is proven to be better."""
    assert state.spec is not None
    assert state.estimators is not None
    if stage.ab is None or max(estimate.superior(state.estimators)) < -math.log(stage.ab.alpha):
        return ()
    return estimate.recent(state.spec, state.estimators)


def evidence_of(state: State) -> tuple[CandidateEvidence, ...]:
    """What is known of each candidate of the rollout, of those that were dropped, too."""
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return ()
    every = estimate.evidence(state.spec, state.estimators, rollout.champion, rollout.candidates)
    return tuple(_steered(seen, state.steering) for seen in every)


def _steered(seen: CandidateEvidence, steering: Steering | None) -> CandidateEvidence:
    """The evidence with what the bandit thinks of the candidate."""
    if steering is None or seen.candidate.arm not in steering.arms:
        return seen
    i = steering.arms.index(seen.candidate.arm)
    return replace(seen, p_best=steering.best[i], loss=steering.losses[i])


def steered(policy: Policy, state: State) -> State:
    """The state in which the bandit has been asked as often as the policy says."""
    rollout, estimators = state.rollout, state.estimators
    stages = policy.spec.stages
    if rollout is None or estimators is None or rollout.stage >= len(stages):
        return state
    thompson, last = stages[rollout.stage].thompson, state.steering
    if thompson is None:
        return state
    arms = (rollout.champion, *rollout.live)
    is_known = last is not None and last.arms == arms and last.at >= rollout.stage_started
    if is_known and last is not None and state.clock - last.at < thompson.update_every:
        return state
    assert state.spec is not None
    if not state.spec.has_bandit:  # the stage was edited into the policy: see `edited`
        return state
    best, losses = estimate.odds(state.spec, estimators)
    lost = dict(zip(rollout.candidates, losses, strict=True))
    return replace(
        state,
        steering=Steering(
            at=state.clock,
            arms=arms,
            best=_of_live(rollout, best),
            losses=(0.0, *(lost[name] for name in rollout.live)),
            segments={
                name: _of_live(rollout, estimate.best(state.spec, estimators, i))
                for i, name in enumerate(state.segments)
            },
        ),
    )


def _of_live(rollout: Rollout, best: Sequence[float]) -> tuple[float, ...]:
    """P(best) of the champion and the live candidates, given that it is one of them."""
    names = (rollout.champion, *rollout.live)
    chosen = [p for arm, p in zip(rollout.arms, best, strict=True) if arm in names]
    total = sum(chosen)
    if total <= 0.0:  # one that was dropped is surely the best: of the others that says nothing
        return tuple(1.0 / len(chosen) for _ in chosen)
    return tuple(p / total for p in chosen)


def signals(policy: Policy, state: State) -> Signals:
    """Whether the data can be trusted."""
    assert state.spec is not None
    assert state.estimators is not None
    assert state.rollout is not None
    found = estimate.health(state.spec, state.estimators)
    fall = fell(state.join_rate)
    since = max(state.last_exposure, state.rollout.started)
    return Signals(
        log_exposures=found.log_exposures,
        log_outcomes=found.log_outcomes,
        log_dropped=found.log_dropped,
        rewards=state.rewarded,
        join_fall=None if fall is None else (fall.now, fall.before),
        silent_s=max(0.0, state.clock - since),  # a clock that stands is behind what it is told
        stale_after_s=policy.spec.health.stale_after,
        unreported=unreported(policy, state),
    )


UNREPORTED_S = 30.0
"""How long a partition may be silent at least; more where events may come later than that."""


def unreported(policy: Policy, state: State) -> tuple[int, float] | None:
    """The partition that has told nothing for too long, and for how long; None where all do."""
    known = state.partitions
    waits = [(known.behind_s(number, state.clock), -number) for number in known.open]
    seconds, number = max(waits, default=(0.0, 0))
    if seconds <= max(UNREPORTED_S, policy.spec.reward.grace):
        return None
    return -number, seconds


def candidate_outcomes(state: State) -> dict[str, int]:
    """Analysed outcomes of each candidate in this rollout."""
    if state.estimators is None or state.spec is None or state.rollout is None:
        return {}
    rollout = state.rollout
    counts = estimate.judged(state.spec, state.estimators)
    return dict(zip(rollout.candidates, counts, strict=True))


# --- settings of the estimators ---------------------------------------------------------------


def estimator_spec(policy: Policy, state: State) -> EstimatorSpec:
    """What the estimators must watch for this policy, in a rollout that begins now."""
    return replace(_asked_of(policy), cuts=_cuts(state))


_JUDGED_BY = {
    "reward": "the reward",
    "is_minimised": "the reward",
    "contamination": "the reward",
    "margins": "the stages",
    "has_bandit": "the stages",
    "error_increase": "the guardrails",
    "latency": "the guardrails",
    "rewards": "the guardrails",
}
"""What a rollout is judged by: fixed when it begins. The rest of the settings is only how fast."""


def edited(policy: Policy, state: State) -> str | None:
    """Why this rollout cannot be promoted under the policy, None where it can.

    Evidence was gathered against the margins and bounds of the policy under which the rollout
    began. For other ones it proves nothing; and it cannot be gathered anew, because the candidate's
    past was not watched. That it does harm by the old ones is true all the same.
    """
    return None if state.spec is None else _edits(policy, state.spec)


@lru_cache(maxsize=1024)
def _edits(policy: Policy, began: EstimatorSpec) -> str | None:
    now = _asked_of(policy)
    names = (name for name in _JUDGED_BY if getattr(now, name) != getattr(began, name))
    changed = list(dict.fromkeys(_JUDGED_BY[name] for name in names))
    if not changed:
        return None
    return f"{' and '.join(changed)} of the policy were edited after this rollout began"


def judged_reward(policy: Policy, state: State, i: int) -> int | None:
    """Which of the estimators' rewards the policy's reward `i` is: 0 is the first of both.

    None where the rollout began without it, or with another meaning of it.
    """
    return None if state.spec is None else _place_of(policy, state.spec, i)


@lru_cache(maxsize=1024)
def _place_of(policy: Policy, began: EstimatorSpec, i: int) -> int | None:
    wanted = _reward_spec(policy.all_rewards[i], None)
    known = (began.reward,) if i == 0 else began.rewards
    for place, reward in enumerate(known):
        if replace(reward, max_increase=None) == wanted:
            return place + min(i, 1)
    return None


def _asked_of(policy: Policy) -> EstimatorSpec:
    spec, reward = policy.spec, policy.spec.reward
    bandits = [s.thompson for s in spec.stages if s.thompson]
    effects = [s.ab.min_effect for s in spec.stages if s.ab]
    return EstimatorSpec(
        reward=_reward_spec(reward, None),
        is_minimised=reward.direction == "minimize",
        margins=tuple(s.canary.margin if s.canary else None for s in spec.stages),
        contamination=reward.contamination,
        min_effect=min(effects) if effects else None,
        error_increase=error_increase(policy),
        latency=latency_bound(policy),
        rewards=tuple(
            _reward_spec(side, guard.max_increase)
            for side, guard in zip(policy.side_rewards, policy.reward_guardrails, strict=True)
        ),
        interval_alpha=INTERVAL_ALPHA,
        window_s=reward.window,
        half_life_s=min(b.half_life for b in bandits) if bandits else None,
        has_bandit=bool(bandits),
    )


def _reward_spec(reward: Reward, max_increase: float | None) -> RewardSpec:
    low, high = reward.range
    return RewardSpec(
        event=reward.event,
        is_binary=reward.is_binary,
        low=low,
        high=high,
        default=reward.default,
        max_increase=max_increase,
    )


def error_increase(policy: Policy) -> float | None:
    """The tightest bound on the error rate's increase, None where there is no such guardrail."""
    bounds = [g.max_increase for g in policy.spec.guardrails if g.metric == "error_rate"]
    return min(bounds) if bounds else None


def latency_bound(policy: Policy) -> tuple[float, float] | None:
    """The latency guardrail (quantile, relative increase); of several, the tightest."""
    found = [(g.quantile, g.max_increase) for g in policy.spec.guardrails if g.metric == "latency"]
    rows = [(quantile, increase) for quantile, increase in found if quantile is not None]
    return min(rows, key=lambda row: (row[1], -row[0])) if rows else None


def _cuts(state: State) -> tuple[float, ...]:
    """Where covariates are cut into bins: quantiles of those that are known before the rollout."""
    values = state.covariates.values()
    if len(values) < 2 * (MOST_CUTS + 1):
        return ()
    places = np.arange(1, MOST_CUTS + 1) / (MOST_CUTS + 1)
    cuts = np.unique(np.quantile(values, places))
    return tuple(cuts.tolist())

"""What a verdict does to a rollout. Called by the engine, and by what obeys operators.

Functions take a state and give the next one together with a `Ruling`, or None where there is
nothing to say. Rulings become decisions in the engine. When a verdict is due stands in `decide`;
which phases follow which stands in `decide.phases`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never

from controller.core import decide, estimate
from controller.core.decide.phases import (
    ACTIVE,
    ENTER,
    Happening,
    after,
)
from controller.core.decide.situation import Situation
from controller.core.estimate import EstimatorSpec
from controller.core.model import (
    BASIS,
    Health,
    Phase,
    Rollout,
    Ruling,
    Split,
    Verdict,
)
from controller.core.policy import Policy
from controller.core.state import State, with_arms, with_split

INTERVAL_ALPHA = 0.05
"""The confidence sequences that people see cover at 95 %, at all times at once."""

_DOUBTFUL = frozenset({"sample_ratio", "no_rewards", "expired", "policy_changed"})
"""Causes of a hold that put the rollout on hold as a whole, rather than merely not yet moving."""


def stage_kind(
    policy: Policy, rollout: Rollout
) -> Literal["shadow", "canary", "ab", "thompson", ""]:
    """The kind of the rollout's stage; empty when the policy has no such stage any more."""
    stages = policy.spec.stages
    return stages[rollout.stage].kind if rollout.stage < len(stages) else ""


def share_of(ruling: Ruling, candidate: str) -> str:
    """What a ruling gives to the candidate, for people."""
    weight = (ruling.weights or {}).get(candidate, 0)
    mirrored = (ruling.mirror or {}).get(candidate, 0)
    if mirrored:
        return f"{mirrored / 100:g} % of the requests are mirrored to it"
    return f"{weight / 100:g} % of the traffic"


def judge(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Ask the stage for its verdict and carry it out."""
    if state.phase not in ACTIVE | {Phase.HOLDING} or state.rollout is None:
        return state, None
    situation = situated(policy, state)
    if situation is None:
        ruling = Ruling(Verdict.HOLD, "policy_changed", "the policy has no such stage any more")
        return replace(state, phase=after(state.phase, Happening.HOLD)), ruling
    ruling = decide.rule(policy.spec.stages[state.rollout.stage], situation)
    match ruling.verdict:
        case Verdict.PROMOTE:
            return promote(state), ruling
        case Verdict.ROLL_BACK:
            return roll_back(policy, state), ruling
        case Verdict.ADVANCE:
            return _advanced(policy, state, ruling)
        case Verdict.HOLD:
            return _held(policy, state, ruling)
        case _:
            assert_never(ruling.verdict)


def situated(policy: Policy, state: State) -> Situation | None:
    """The case as it stands; None when the policy no longer has the rollout's stage."""
    rollout = state.rollout
    if rollout is None or state.estimators is None or state.spec is None:
        return None
    stages = policy.spec.stages
    if rollout.stage >= len(stages) or len(state.spec.margins) != len(stages):
        return None
    canary = stages[rollout.stage].canary
    if canary is not None and rollout.step >= len(canary.steps):
        return None
    evidence = estimate.evidence(state.spec, state.estimators, rollout.champion, rollout.candidate)
    return Situation(
        now=state.clock,
        rollout=rollout,
        evidence=evidence,
        health=Health(estimate.health(state.estimators), state.rewarded),
        share=state.split.weights.get(rollout.candidate, 0),
        settle_s=policy.spec.reward.window + policy.spec.reward.grace,
        is_last=rollout.stage + 1 == len(stages),
        has_error_guardrail=error_increase(policy) is not None,
    )


def _held(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    state = with_weights(state, ruling)
    assert state.rollout is not None
    happening = (
        Happening.HOLD
        if ruling.cause in _DOUBTFUL
        else ENTER[policy.spec.stages[state.rollout.stage].kind]
    )
    return replace(state, phase=after(state.phase, happening)), ruling


def _advanced(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """On to the next step, the next stage, or, after the last one, to the promotion."""
    rollout = state.rollout
    assert rollout is not None
    stages = policy.spec.stages
    canary = stages[rollout.stage].canary
    outcomes = candidate_outcomes(state)
    is_over = ruling.cause == "expired"
    if canary is not None and rollout.step + 1 < len(canary.steps) and not is_over:
        rollout = replace(rollout, step=rollout.step + 1)
    elif rollout.stage + 1 < len(stages):
        rollout = replace(
            rollout,
            stage=rollout.stage + 1,
            step=0,
            stage_started=state.clock,
            stage_outcomes=outcomes,
        )
    else:
        return promote(state), replace(ruling, verdict=Verdict.PROMOTE)
    rollout = replace(rollout, step_started=state.clock, step_outcomes=outcomes)
    phase = after(state.phase, ENTER[stages[rollout.stage].kind])
    state, entry = with_ruled_split(policy, replace(state, rollout=rollout, phase=phase))
    entered = (
        f"{ruling.reason}, {stages[rollout.stage].kind} at {share_of(entry, rollout.candidate)}"
    )
    return state, replace(ruling, reason=entered)


def with_ruled_split(policy: Policy, state: State) -> tuple[State, Ruling]:
    """The split that the present stage and step ask for."""
    situation = situated(policy, state)
    assert situation is not None
    ruling = decide.rule(policy.spec.stages[situation.rollout.stage], situation)
    return with_weights(state, ruling), ruling


def promote(state: State) -> State:
    """The candidate becomes the champion and serves everything."""
    rollout = state.rollout
    assert rollout is not None
    state = _with_split(state, rollout.candidate, {rollout.candidate: BASIS}, {})
    return replace(
        state,
        phase=after(state.phase, Happening.PROMOTE),
        champion=rollout.candidate,
        resume_phase=None,
    )


def roll_back(policy: Policy, state: State) -> State:
    """The champion serves everything again; the candidate is not tried a second time."""
    rollout = state.rollout
    assert rollout is not None
    state = _with_split(state, rollout.champion, {rollout.champion: BASIS}, {})
    return replace(
        state,
        phase=after(state.phase, Happening.ROLL_BACK),
        tried=(*state.tried, rollout.candidate),
        cooldown_until=state.clock + policy.spec.gates.cooldown,
        resume_phase=None,
    )


def with_weights(state: State, ruling: Ruling) -> State:
    """The state with the split that the ruling wants; the same state where nothing changes."""
    weights = ruling.weights if ruling.weights is not None else state.split.weights
    weights = {arm: weight for arm, weight in weights.items() if weight}
    mirror = ruling.mirror or {}
    if weights == state.split.weights and mirror == state.split.mirror:
        return state
    state = _with_split(state, state.champion, weights, mirror)
    assert state.rollout is not None
    return replace(state, rollout=replace(state.rollout, weights_updated=state.clock))


def first_split(state: State) -> State:
    """The split of a new model: everything to the champion."""
    return _with_split(state, state.champion, {state.champion: BASIS}, {})


def _with_split(
    state: State, champion: str, weights: dict[str, int], mirror: dict[str, int]
) -> State:
    """A new epoch, known at once: exposures may come before the routers' confirmation."""
    rollout = state.rollout
    epoch = max(state.split.epoch, state.last_epoch) + 1
    split = Split(
        epoch=epoch,
        champion=champion,
        weights=weights,
        salt=rollout.salt if rollout else state.split.salt,
        anchors=tuple(arm for arm in weights if arm != champion),
        mirror=mirror,
    )
    state = with_arms(state, tuple(weights))
    estimators = estimate.new_epoch(state.estimators) if state.estimators else None
    state = replace(state, split=split, estimators=estimators, changed_at=state.clock)
    return with_split(state, epoch, weights)


def candidate_outcomes(state: State) -> int:
    """Analysed outcomes of the candidate in this rollout."""
    if state.estimators is None or state.spec is None or state.rollout is None:
        return 0
    rollout = state.rollout
    seen = estimate.evidence(state.spec, state.estimators, rollout.champion, rollout.candidate)
    return seen.candidate.n


# --- settings of the estimators ---------------------------------------------------------------


def estimator_spec(policy: Policy) -> EstimatorSpec:
    """What the estimators must watch for this policy."""
    spec = policy.spec
    high = spec.reward.range[1]
    half_lives = [s.thompson.half_life for s in spec.stages if s.thompson]
    effects = [s.ab.min_effect for s in spec.stages if s.ab]
    return EstimatorSpec(
        margins=tuple(s.canary.margin / high if s.canary else None for s in spec.stages),
        min_effect=min(effects) if effects else None,
        error_increase=error_increase(policy),
        interval_alpha=INTERVAL_ALPHA,
        high=high,
        half_life_s=min(half_lives) if half_lives else None,
        has_bandit=bool(half_lives),
    )


def error_increase(policy: Policy) -> float | None:
    """The tightest bound on the error rate's increase, None where there is no such guardrail."""
    bounds = [g.max_increase for g in policy.spec.guardrails if g.metric == "error_rate"]
    return min(bounds) if bounds else None

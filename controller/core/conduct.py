"""The decision half of a tick: commands, the queue, the stage's verdict. Called by the engine only.

Every function takes a state and gives the next one together with a `Ruling`, or None where there
is nothing to say. Rulings become decisions in the engine. What a verdict does to a rollout stands
here; when a verdict is due stands in `decide`; which phases follow which stands in
`decide.phases`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never

from controller.core import decide, estimate, join
from controller.core.decide.phases import (
    ACTIVE,
    ENTER,
    RESTING,
    Happening,
    after,
    is_legal,
)
from controller.core.decide.situation import Situation, for_people
from controller.core.estimate import EstimatorSpec
from controller.core.model import (
    BASIS,
    CommandEvent,
    Health,
    Operation,
    Phase,
    Role,
    Rollout,
    Ruling,
    Split,
    Verdict,
    Version,
    VersionEvent,
)
from controller.core.policy import Policy
from controller.core.state import State, with_arms, with_split

INTERVAL_ALPHA = 0.05
"""The confidence sequences that people see cover at 95 %, at all times at once."""

SETTLE_LIMIT_S = 60.0
"""A split that no router confirmed for this long is no longer waited for; health says so."""

_DOUBTFUL = frozenset({"sample_ratio", "expired", "policy_changed"})
"""Causes of a hold that put the rollout on hold as a whole, rather than merely not yet moving."""


# --- versions ---------------------------------------------------------------------------------


def learn_version(state: State, event: VersionEvent) -> State:
    """A version was registered: remember it; a new candidate joins the end of the queue."""
    known = state.versions.get(event.version, Version(event.version))
    version = Version(
        name=event.version,
        endpoints=event.endpoints or known.endpoints,
        parent=event.parent or known.parent,
        trained_at=event.trained_at or known.trained_at,
        metrics={**known.metrics, **event.metrics},
    )
    state = replace(state, versions={**state.versions, event.version: version})
    state = with_arms(state, (event.version,))
    if event.role is not Role.CANDIDATE or not is_new(state, event.version):
        return state
    return replace(state, queue=(*state.queue, event.version))


def is_new(state: State, version: str) -> bool:
    """Whether a version may still become a candidate."""
    current = state.rollout.candidate if state.is_judging and state.rollout else None
    return version not in (state.champion, current, *state.queue, *state.tried)


# --- commands ---------------------------------------------------------------------------------


def legal_operation(state: State, operation: Operation) -> bool:
    """Whether the operator's wish fits the phase."""
    match operation:
        case Operation.PROMOTE:
            return state.is_judging and is_legal(state.phase, Happening.PROMOTE)
        case Operation.ROLLBACK:
            return state.is_judging and is_legal(state.phase, Happening.ROLL_BACK)
        case Operation.PAUSE:
            return state.phase is not Phase.PAUSED and is_legal(state.phase, Happening.PAUSE)
        case Operation.RESUME:
            return state.phase is Phase.PAUSED
        case Operation.APPROVE | Operation.UNDO:
            return False
        case _:
            assert_never(operation)


def obey(policy: Policy, state: State, event: CommandEvent) -> tuple[State, Ruling]:
    """Do what the operator asks; a wish that does not fit changes nothing, and says so."""
    said = f"{event.command} by {event.by or 'an operator'}" + (
        f": {event.reason}" if event.reason else ""
    )
    if not legal_operation(state, event.command):
        reason = f"{said}: ignored, because the phase is {state.phase}"
        return state, Ruling(Verdict.HOLD, "ignored", reason)
    match event.command:
        case Operation.PROMOTE:
            return promote(state), Ruling(Verdict.PROMOTE, "operator", said)
        case Operation.ROLLBACK:
            return roll_back(policy, state), Ruling(Verdict.ROLL_BACK, "operator", said)
        case Operation.PAUSE:
            paused = after(state.phase, Happening.PAUSE)
            state = replace(state, resume_phase=state.phase, phase=paused, paused_at=state.clock)
            return state, Ruling(Verdict.HOLD, "paused", said)
        case _:
            return _resumed(policy, state), Ruling(Verdict.HOLD, "resumed", said)


def _resumed(policy: Policy, state: State) -> State:
    """Back to where it was paused; the pause is no part of the stage, the step starts anew."""
    if state.resume_phase in RESTING or state.rollout is None:
        return replace(state, phase=after(state.phase, Happening.REST), resume_phase=None)
    pause_s = state.clock - state.paused_at
    rollout = replace(
        state.rollout,
        stage_started=state.rollout.stage_started + pause_s,
        weights_updated=state.rollout.weights_updated + pause_s,
        step_started=state.clock,
        step_outcomes=_candidate_outcomes(state),
    )
    kind = stage_kind(policy, rollout)
    is_held = state.resume_phase is Phase.HOLDING
    happening = Happening.HOLD if is_held or not kind else ENTER[kind]
    phase = after(state.phase, happening)
    return replace(state, phase=phase, rollout=rollout, resume_phase=None)


def stage_kind(
    policy: Policy, rollout: Rollout
) -> Literal["shadow", "canary", "ab", "thompson", ""]:
    """The kind of the rollout's stage; empty when the policy has no such stage any more."""
    stages = policy.spec.stages
    return stages[rollout.stage].kind if rollout.stage < len(stages) else ""


# --- the queue --------------------------------------------------------------------------------


def settle(state: State) -> State:
    """A promotion or a roll-back ends when the routers have confirmed its split."""
    if state.phase not in (Phase.PROMOTING, Phase.ROLLING_BACK):
        return state
    waited_s = state.clock - state.changed_at
    if state.in_force_epoch < state.split.epoch and waited_s < SETTLE_LIMIT_S:
        return state
    return replace(state, phase=after(state.phase, Happening.SETTLE))


def start_next(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Start the rollout of the first version of the queue, once the last one has cooled down."""
    if state.phase not in RESTING or not state.queue or state.clock < state.cooldown_until:
        return state, None
    candidate, *rest = state.queue
    refusal, is_final = _gate(policy, state, candidate)
    if refusal is not None and not is_final:
        return state, Ruling(Verdict.HOLD, "offline_gate", refusal)
    state = replace(state, queue=tuple(rest))
    if refusal is not None:
        phase = after(state.phase, Happening.REFUSE)
        state = replace(state, phase=phase, tried=(*state.tried, candidate))
        return state, Ruling(Verdict.ROLL_BACK, "offline_gate", refusal)
    return _begun(policy, state, candidate)


def _gate(  # noqa: PLR0911 - one return a reason
    policy: Policy, state: State, candidate: str
) -> tuple[str | None, bool]:
    """Why the offline gate does not let the candidate pass, and whether that is final."""
    gate = policy.spec.gates.offline
    if gate is None:
        return None, False
    value = state.versions[candidate].metrics.get(gate.metric)
    if value is None:
        return f"{candidate} has no registered metric {gate.metric}: waiting for it", False
    if gate.min is not None and value < gate.min:
        return f"{gate.metric} of {candidate} is {value:g}, below the gate's {gate.min:g}", True
    if gate.max_drop is None:
        return None, False
    best = state.versions[state.champion].metrics.get(gate.metric)
    if best is None:
        return f"the champion {state.champion} has no registered metric {gate.metric}", False
    if best - value > gate.max_drop:
        return f"{gate.metric} of {candidate} is {value:g}, {state.champion} has {best:g}", True
    return None, False


def _begun(policy: Policy, state: State, candidate: str) -> tuple[State, Ruling]:
    number = state.rollouts + 1
    rollout = Rollout(
        id=f"{state.model}-{number}",
        candidate=candidate,
        champion=state.champion,
        salt=f"{state.model}/{number}:",
        stage=0,
        step=0,
        started=state.clock,
        stage_started=state.clock,
        step_started=state.clock,
        weights_updated=float("-inf"),
    )
    spec = estimator_spec(policy)
    kind = policy.spec.stages[0].kind
    state = with_arms(state, (state.champion, candidate))
    join.new_rollout(state.join)
    state = replace(
        state,
        phase=after(state.phase, ENTER[kind]),
        rollout=rollout,
        rollouts=number,
        spec=spec,
        estimators=estimate.start(spec, *_history(state)),
        unattributed=0,
    )
    state, ruling = _with_ruled_split(policy, state)
    reason = f"{candidate} enters {kind}: {_share(ruling, candidate)}"
    return state, Ruling(Verdict.ADVANCE, "started", reason)


def _history(state: State) -> tuple[tuple[float, float], tuple[float, float]]:
    """What is known of the champion: (outcomes, their sum), (answers, errors)."""
    i = state.arms.index(state.champion)
    totals = state.totals
    return (
        (float(totals.outcomes[i]), float(totals.value[i])),
        (float(totals.exposures[i]), float(totals.errors[i])),
    )


def _share(ruling: Ruling, candidate: str) -> str:
    weight = (ruling.weights or {}).get(candidate, 0)
    mirrored = (ruling.mirror or {}).get(candidate, 0)
    if mirrored:
        return f"{mirrored / 100:g} % of the requests are mirrored to it"
    return f"{weight / 100:g} % of the traffic"


# --- verdicts ---------------------------------------------------------------------------------


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
        health=Health(estimate.health(state.estimators)),
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
    outcomes = _candidate_outcomes(state)
    if canary is not None and rollout.step + 1 < len(canary.steps):
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
    state, entry = _with_ruled_split(policy, replace(state, rollout=rollout, phase=phase))
    entered = f"{ruling.reason}, {stages[rollout.stage].kind} at {_share(entry, rollout.candidate)}"
    return state, replace(ruling, reason=entered)


def _with_ruled_split(policy: Policy, state: State) -> tuple[State, Ruling]:
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


def _candidate_outcomes(state: State) -> int:
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


def rest(state: State) -> tuple[State, Ruling | None]:
    """What to say in a phase in which no rollout is on."""
    if state.phase not in RESTING:
        return state, None
    if state.queue and state.clock >= state.cooldown_until:
        return state, None  # `start_next` has said why the first one does not start
    if state.queue:
        left = for_people(state.cooldown_until - state.clock)
        reason = f"{state.champion} serves everything; {state.queue[0]} starts in {left}"
        return state, Ruling(Verdict.HOLD, "cooldown", reason)
    reason = f"{state.champion} serves everything; no candidate"
    return state, Ruling(Verdict.HOLD, "no_candidate", reason)

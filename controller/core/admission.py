"""Versions, the queue, and how a rollout begins: one candidate after another, past the gate."""

from __future__ import annotations

from dataclasses import replace

from controller.core import estimate, join
from controller.core.conduct import estimator_spec, share_of, with_ruled_split
from controller.core.decide.phases import ENTER, RESTING, Happening, after
from controller.core.decide.situation import for_people
from controller.core.model import Phase, Role, Rollout, Ruling, Verdict, Version, VersionEvent
from controller.core.policy import Policy
from controller.core.state import State, with_arms

SETTLE_LIMIT_S = 60.0
"""A split that no router confirmed for this long is no longer waited for; health says so."""


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
        rewarded=0,
    )
    state, ruling = with_ruled_split(policy, state)
    reason = f"{candidate} enters {kind}: {share_of(ruling, candidate)}"
    return state, Ruling(Verdict.ADVANCE, "started", reason)


def _history(state: State) -> tuple[tuple[float, float], tuple[float, float]]:
    """What is known of the champion: (outcomes, their sum), (answers, errors)."""
    i = state.arms.index(state.champion)
    totals = state.totals
    return (
        (float(totals.outcomes[i]), float(totals.value[i])),
        (float(totals.exposures[i]), float(totals.errors[i])),
    )


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

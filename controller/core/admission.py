"""Versions, the queue, and how a rollout begins: one candidate after another, past the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from controller.core import arms, capacity, estimate, join, roles, strata
from controller.core.arms import MOST_VERSIONS
from controller.core.capacity import Gate
from controller.core.case import edited, estimator_spec
from controller.core.conduct import share_of, stage_kind, with_ruled_split
from controller.core.decide.phases import ACTIVE, ENTER, RESTING, Happening, after
from controller.core.decide.situation import for_people
from controller.core.estimate import History
from controller.core.model import (
    ArmRole,
    Phase,
    Reason,
    Rejected,
    Role,
    Rollout,
    Ruling,
    Verdict,
    Version,
    VersionEvent,
    key,
)
from controller.core.policy import Policy
from controller.core.state import State, evolve, with_arms


def learn_versions(state: State, events: Sequence[VersionEvent]) -> tuple[State, list[Rejected]]:
    """Versions were registered; gives those for which, or for whose units, there was no room."""
    if not events:
        return state, []
    state, refused = arms.with_room(state, {event.version for event in events}), []
    for event in events:
        if event.version in state.versions or len(state.versions) < MOST_VERSIONS:
            state = _learnt(state, event)
            refused += _learnt_of_units(state, event)
        else:
            refused.append(Rejected(event.offset, Reason.TOO_MANY_VERSIONS, event.version))
    return state, refused


def _learnt(state: State, event: VersionEvent) -> State:
    """A version was registered: remember it; a new candidate joins the end of the queue."""
    known = state.versions.get(event.version, Version(event.version))
    version = Version(
        name=event.version,
        endpoints=event.endpoints or known.endpoints,
        parent=event.parent or known.parent,
        trained_at=event.trained_at or known.trained_at,
        metrics={**known.metrics, **event.metrics},
        uri=event.uri or known.uri,
    )
    state = replace(state, versions={**state.versions, event.version: version})
    state = with_arms(state, (event.version,))
    if event.role is not Role.CANDIDATE or not is_new(state, event.version):
        return state
    return replace(state, queue=(*state.queue, event.version))


def _learnt_of_units(state: State, event: VersionEvent) -> list[Rejected]:
    """What a version says of units is known before its rollout begins; gives what was too much."""
    if not event.covariates:
        return []
    units = np.array([key(unit) for unit in event.covariates], np.uint64)
    beyond = state.covariates.learn(units, np.array(list(event.covariates.values())))
    n = np.count_nonzero(beyond)
    detail = f"{n} of the {len(units)} units of {event.version}"
    return [Rejected(event.offset, Reason.TOO_MANY_UNITS, detail)] if n else []


def is_new(state: State, version: str) -> bool:
    """Whether a version may still become a candidate."""
    current = state.rollout.candidates if state.is_judging and state.rollout else ()
    return version not in (state.champion, *current, *state.queue, *state.tried)


def admit(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Let versions of the queue in: to a rollout of their own, or to the one that is on."""
    if not state.queue or (state.intent is not None and state.phase in RESTING):
        return state, None
    if state.phase in RESTING:
        return _start_next(policy, state)
    if state.phase not in ACTIVE | {Phase.HOLDING} or state.rollout is None:
        return state, None
    match policy.spec.candidates.on_new:
        case "replace":
            return _replaced(policy, state)
        case "join":
            return _joined(policy, state)
        case _:
            return state, None


def _start_next(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Start the rollout of the first version of the queue, once the last one has cooled down."""
    if state.clock < state.cooldown_until:
        return state, None
    candidate, *rest = state.queue
    refusal, is_final = _gate(policy, state, candidate)
    if refusal is not None and not is_final:
        return state, Ruling(Verdict.HOLD, "offline_gate", refusal)
    if refusal is not None:
        ruling = Ruling(Verdict.ROLL_BACK, "offline_gate", refusal, candidate=candidate)
        return _not_started(state, ruling)
    shares = capacity.shares(policy.spec.stages[0], 0, (candidate,))
    gate, lack = _room(policy, state, candidate, shares)
    if lack is None:
        state, ruling = _begun(policy, replace(gate.state, queue=tuple(rest)), candidate)
        return state, replace(ruling, wishes=gate.wishes)
    if lack.verdict is Verdict.HOLD:
        return gate.state, lack
    return _not_started(*roles.dismissed(policy, gate.state, lack))


def _not_started(state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """The first of the queue is refused before anything of it began."""
    phase, tried = after(state.phase, Happening.REFUSE), (*state.tried, ruling.candidate)
    return replace(state, phase=phase, queue=state.queue[1:], tried=tried), ruling


def _room(
    policy: Policy, state: State, candidate: str, shares: Mapping[str, int]
) -> tuple[Gate, Ruling | None]:
    """Whether enough of a candidate runs for its first share; if not, what is to be said."""
    gate = capacity.gate(policy, state, shares)
    if capacity.is_gone(state, candidate):
        reason = f"{candidate} is gone from the cluster"
        return gate, Ruling(Verdict.ROLL_BACK, "gone", reason, candidate=candidate)
    if gate.late:
        return gate, capacity.too_late(policy, gate, Verdict.ROLL_BACK, candidate)
    if gate.why is not None:
        lack = Ruling(Verdict.HOLD, "capacity", gate.why, candidate=candidate, wishes=gate.wishes)
        return gate, lack
    return gate, None


def _replaced(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """The newest version takes the place of the candidates; those in between are passed over.

    A version that the offline gate refuses, or still waits for, replaces nobody.
    """
    rollout = state.rollout
    assert rollout is not None
    candidate = state.queue[-1]
    refusal, is_final = _gate(policy, state, candidate)
    if refusal is not None:
        return _refused(state, candidate, refusal) if is_final else (state, None)
    shares = capacity.shares(policy.spec.stages[0], 0, (candidate,))
    gate, lack = _room(policy, state, candidate, shares)
    if lack is not None:
        return _stays_out(policy, gate.state, lack)
    state = gate.state
    gone = (*rollout.live, *state.queue[:-1])
    state = replace(state, queue=(), tried=(*state.tried, *gone))
    state, ruling = _begun(policy, state, candidate)
    state = roles.left(state, [arm for arm in gone if arm in state.asked], ArmRole.REJECTED)
    reason = f"{ruling.reason}, in place of {', '.join(gone)}"
    return state, replace(ruling, cause="replaced", reason=reason, wishes=gate.wishes)


def _stays_out(policy: Policy, state: State, lack: Ruling) -> tuple[State, Ruling | None]:
    """A version for which there is no room yet waits, or is refused; the rollout goes on.

    While it waits that is said once, with what the cluster must do: the rollout has its own news.
    """
    if lack.verdict is Verdict.HOLD:
        return state, lack if lack.wishes else None
    state, lack = roles.dismissed(policy, state, lack)
    state, ruling = _refused(state, lack.candidate, lack.reason)
    return state, replace(ruling, cause=lack.cause, wishes=lack.wishes)


def _refused(state: State, candidate: str, refusal: str) -> tuple[State, Ruling]:
    """A version that waited while a rollout was on is not let in; the rollout goes on."""
    queue = tuple(name for name in state.queue if name != candidate)
    state = replace(state, queue=queue, tried=(*state.tried, candidate))
    return state, Ruling(Verdict.HOLD, "offline_gate", refusal, candidate=candidate)


MOST_LIVE: Final = 20
"""Candidates that share one rollout at the most; more wait."""


def _joined(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """The first version of the queue joins a stage that compares several arms."""
    rollout = state.rollout
    assert rollout is not None
    is_open = stage_kind(policy, rollout) in {"ab", "thompson"} and edited(policy, state) is None
    if not is_open or len(rollout.live) >= MOST_LIVE:
        return state, None
    candidate, *rest = state.queue
    refusal, is_final = _gate(policy, state, candidate)
    if refusal is not None:
        return _refused(state, candidate, refusal) if is_final else (state, None)
    stage, among = policy.spec.stages[rollout.stage], len(rollout.live) + 1
    shares = capacity.shares(stage, rollout.step, (candidate,), among=among)
    gate, lack = _room(policy, state, candidate, shares)
    if lack is not None:
        return _stays_out(policy, gate.state, lack)
    state = _with_candidate(replace(gate.state, queue=tuple(rest)), candidate)
    state, _ = with_ruled_split(policy, state)
    others = ", ".join(rollout.live)
    weight = state.split.weights.get(candidate, 0)
    reason = f"{candidate} joins {others} at {weight / 100:g} % of the traffic"
    joined = Ruling(Verdict.ADVANCE, "joined", reason, candidate=candidate, wishes=gate.wishes)
    return state, joined


def _with_candidate(state: State, candidate: str) -> State:
    """The state whose rollout has one more candidate; its evidence begins now."""
    rollout, spec, estimators = state.rollout, state.spec, state.estimators
    assert rollout is not None
    assert spec is not None
    assert estimators is not None
    return replace(
        with_arms(state, (candidate,)),
        rollout=replace(rollout, candidates=(*rollout.candidates, candidate)),
        strata=strata.with_arm(state.strata),
        joined=np.append(state.joined, 0.0),
        estimators=estimate.with_candidate(spec, estimators),
    )


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
        candidates=(candidate,),
        champion=state.champion,
        salt=f"{state.model}/{number}:",
        stage=0,
        step=0,
        started=state.clock,
        stage_started=state.clock,
        step_started=state.clock,
        weights_updated=float("-inf"),
    )
    state = with_arms(state, (state.champion, candidate))
    spec = estimator_spec(policy, state)
    kind = policy.spec.stages[0].kind
    for table in state.joins:
        join.new_rollout(table)
    state = replace(
        state,
        phase=after(state.phase, ENTER[kind]),
        rollout=rollout,
        rollouts=number,
        strata=strata.none(2),
        segments=(),
        steering=None,
        sightings={},
        spec=spec,
        estimators=estimate.start(spec, _history(state)),
        joined=np.zeros(2),
        unattributed=0,
        rewarded=0,
    )
    state, ruling = with_ruled_split(policy, state)
    partitions = replace(state.partitions, first_epoch=state.split.epoch)
    state = evolve(state, partitions=partitions)
    reason = f"{candidate} enters {kind}: {share_of(ruling, (candidate,))}"
    return state, Ruling(Verdict.ADVANCE, "started", reason)


def _history(state: State) -> History:
    """What is known of the champion from before."""
    i = state.arms.index(state.champion)
    sums = [(float(s.outcomes[i]), float(s.value[i]), float(s.square[i])) for s in state.sums]
    return History(
        outcomes=sums[0],
        answers=(float(state.totals.exposures[i]), float(state.totals.errors[i])),
        rewards=tuple(sums[1:]),
    )


def rest(state: State) -> tuple[State, Ruling | None]:
    """What to say in a phase in which no rollout is on."""
    if state.phase not in RESTING or state.intent is not None:
        return state, None
    if state.queue and state.clock >= state.cooldown_until:
        return state, None  # `admit` has said why the first one does not start
    if state.queue:
        left = for_people(state.cooldown_until - state.clock)
        reason = f"{state.champion} serves everything; {state.queue[0]} starts in {left}"
        return state, Ruling(Verdict.HOLD, "cooldown", reason)
    reason = f"{state.champion} serves everything; no candidate"
    return state, Ruling(Verdict.HOLD, "no_candidate", reason)

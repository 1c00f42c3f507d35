"""What operators ask for, and whether it fits the phase."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from controller.core import capacity, roles
from controller.core.capacity import Gate
from controller.core.case import candidate_outcomes
from controller.core.conduct import dropped, promote, roll_back, stage_kind, undo
from controller.core.decide.phases import ENTER, RESTING, Happening, after, is_legal
from controller.core.model import (
    BASIS,
    ArmRole,
    CommandEvent,
    Intent,
    Operation,
    Phase,
    Ruling,
    Verdict,
)
from controller.core.policy import Policy
from controller.core.state import State, evolve


def legal_operation(state: State, operation: Operation) -> bool:
    """Whether the operator's wish fits the phase."""
    return unfit(state, operation) is None


def unfit(state: State, operation: Operation) -> str | None:
    """Why the operator's wish does not fit now, or None."""
    match operation:
        case Operation.PROMOTE:
            fits = state.is_judging and is_legal(state.phase, Happening.PROMOTE)
        case Operation.ROLLBACK:
            is_in = state.is_judging and is_legal(state.phase, Happening.ROLL_BACK)
            fits = is_in or state.intent is not None
        case Operation.PAUSE:
            fits = state.phase is not Phase.PAUSED and is_legal(state.phase, Happening.PAUSE)
        case Operation.RESUME:
            fits = state.phase is Phase.PAUSED
        case Operation.UNDO:
            fits = is_legal(state.phase, Happening.UNDO)
            if fits and (missing := _nothing_to_undo(state)) is not None:
                return missing
        case Operation.APPROVE:
            fits = False
        case _:
            assert_never(operation)
    return None if fits else f"the phase is {state.phase}"


def _nothing_to_undo(state: State) -> str | None:
    if not state.previous:
        return f"no champion before {state.champion} is known"
    if capacity.is_gone(state, state.previous):
        return f"{state.previous}, the champion before, is gone from the cluster"
    return None


def obey(policy: Policy, state: State, event: CommandEvent) -> tuple[State, Ruling]:
    """Do what the operator asks; a wish that does not fit changes nothing, and says so."""
    said = f"{event.command} by {event.by or 'an operator'}" + (
        f": {event.reason}" if event.reason else ""
    )
    refusal = _misfit(state, event)
    if refusal is not None:
        return state, Ruling(Verdict.HOLD, "ignored", f"{said}: ignored, because {refusal}")
    match event.command:
        case Operation.PROMOTE:
            candidate = event.version or _live(state)[0]
            return _tried(policy, state, Intent(event.command, candidate, said, state.clock))
        case Operation.UNDO:
            return _tried(policy, state, Intent(event.command, state.previous, said, state.clock))
        case Operation.ROLLBACK:
            return _rolled_back(policy, state, event.version, said)
        case Operation.PAUSE:
            return _paused(state), Ruling(Verdict.HOLD, "paused", said)
        case _:
            return _resumed(policy, state), Ruling(Verdict.HOLD, "resumed", said)


def pursue(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """What an operator asked for and has to wait: done once there is the capacity for it.

    While a rollout goes on beside it, it has its own news; in health stands what is waited for.
    """
    intent = state.intent
    if intent is None or (state.phase is Phase.PAUSED and not state.is_judging):
        return state, None
    state, ruling = _tried(policy, state, intent)
    is_quiet = ruling.cause == "capacity" and not ruling.wishes and state.is_judging
    return state, None if is_quiet else ruling


def _tried(policy: Policy, state: State, intent: Intent) -> tuple[State, Ruling]:
    """Carry out what was asked for, or wait for capacity; after the deadline it is dropped."""
    waits = state.waits
    arm, is_undo = intent.arm, intent.operation is Operation.UNDO
    gate = capacity.gate(policy, replace(state, intent=intent), {arm: BASIS}, beside="any")
    # The rollout waits for the same arm, perhaps for less of it, and has a deadline of its own.
    state = evolve(gate.state, waits=waits)
    if gate.why is None or (is_undo and capacity.was_warm(policy, state, arm, BASIS)):
        return _carried_out(policy, evolve(state, intent=None), intent, gate)
    if not capacity.is_known(state, arm):
        state = evolve(state, intent=replace(intent, since=state.clock))
    elif state.clock - intent.since >= policy.pace.deadline_s:
        return _dropped(policy, state, intent, gate)
    reason = f"{intent.said}: waits, because {gate.why}"
    return state, Ruling(Verdict.HOLD, "capacity", reason, candidate=arm, wishes=gate.wishes)


def _carried_out(policy: Policy, state: State, intent: Intent, gate: Gate) -> tuple[State, Ruling]:
    arm, wishes = intent.arm, gate.wishes
    if intent.operation is Operation.UNDO:
        reason = f"{intent.said}; {arm} serves everything again"
        ruling = Ruling(Verdict.ROLL_BACK, "undo", reason, candidate=state.champion, wishes=wishes)
        return undo(policy, state), ruling
    ruling = Ruling(Verdict.PROMOTE, "operator", intent.said, candidate=arm, wishes=wishes)
    return promote(state, arm), ruling


def _dropped(policy: Policy, state: State, intent: Intent, gate: Gate) -> tuple[State, Ruling]:
    """It took too long: what was asked for is not done any more; what was brought up goes again."""
    state = _without_intent(state)
    ruling = capacity.too_late(policy, gate, Verdict.HOLD, intent.arm)
    return state, replace(ruling, reason=f"{intent.said}: given up, because {ruling.reason}")


def _without_intent(state: State) -> State:
    """The state in which nothing is to be done; what was brought up for an undo goes again."""
    intent, state = state.intent, evolve(state, intent=None)
    if intent is None or intent.operation is not Operation.UNDO:
        return state
    return roles.left(state, (intent.arm,), ArmRole.RETIRED)


def _paused(state: State) -> State:
    """Nothing moves by itself, also not what an operator asked for before."""
    return replace(
        _without_intent(state),
        phase=after(state.phase, Happening.PAUSE),
        resume_phase=state.phase,
        paused_at=state.clock,
    )


def _rolled_back(
    policy: Policy, state: State, version: str | None, said: str
) -> tuple[State, Ruling]:
    """One candidate leaves, or, with the last one or without a name, all of them.

    Without any, what was asked for before is not done any more.
    """
    if not state.is_judging:
        return _without_intent(state), Ruling(Verdict.HOLD, "operator", f"{said}; nothing moved")
    ruling = Ruling(Verdict.ROLL_BACK, "operator", said, candidate=version or "")
    if version is None or _live(state) == (version,):
        return roll_back(policy, state), ruling
    return dropped(policy, state, (version,)), ruling


def _misfit(state: State, event: CommandEvent) -> str | None:
    """Why the wish does not fit, or None."""
    refusal = unfit(state, event.command)
    if refusal is not None:
        return refusal
    return misnamed(state, event.command, event.version)


def _live(state: State) -> tuple[str, ...]:
    return state.rollout.live if state.rollout is not None else ()


def misnamed(state: State, operation: Operation, version: str | None) -> str | None:
    """Why it is not clear which candidate is meant, or None."""
    if operation not in {Operation.PROMOTE, Operation.ROLLBACK}:
        return None
    live = _live(state)
    if version is not None and version not in live:
        return f"{version} is no candidate now; there is {', '.join(live)}"
    if operation is Operation.PROMOTE and version is None and len(live) > 1:
        return f"it does not say which of {', '.join(live)}"
    return None


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
        step_outcomes=candidate_outcomes(state),
    )
    kind = stage_kind(policy, rollout)
    is_held = state.resume_phase is Phase.HOLDING
    happening = Happening.HOLD if is_held or not kind else ENTER[kind]
    phase = after(state.phase, happening)
    return replace(state, phase=phase, rollout=rollout, resume_phase=None)

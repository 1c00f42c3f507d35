"""What operators ask for, and whether it fits the phase."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from controller.core.case import candidate_outcomes
from controller.core.conduct import dropped, promote, roll_back, stage_kind
from controller.core.decide.phases import ENTER, RESTING, Happening, after, is_legal
from controller.core.model import CommandEvent, Operation, Phase, Ruling, Verdict
from controller.core.policy import Policy
from controller.core.state import State


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
    refusal = _misfit(state, event)
    if refusal is not None:
        return state, Ruling(Verdict.HOLD, "ignored", f"{said}: ignored, because {refusal}")
    match event.command:
        case Operation.PROMOTE:
            candidate = event.version or _live(state)[0]
            ruling = Ruling(Verdict.PROMOTE, "operator", said, candidate=candidate)
            return promote(state, candidate), ruling
        case Operation.ROLLBACK:
            return _out(policy, state, event.version), Ruling(
                Verdict.ROLL_BACK, "operator", said, candidate=event.version or ""
            )
        case Operation.PAUSE:
            paused = after(state.phase, Happening.PAUSE)
            state = replace(state, resume_phase=state.phase, phase=paused, paused_at=state.clock)
            return state, Ruling(Verdict.HOLD, "paused", said)
        case _:
            return _resumed(policy, state), Ruling(Verdict.HOLD, "resumed", said)


def _out(policy: Policy, state: State, version: str | None) -> State:
    """One candidate leaves, or, with the last one or without a name, all of them."""
    if version is None or _live(state) == (version,):
        return roll_back(policy, state)
    return dropped(policy, state, (version,))


def _misfit(state: State, event: CommandEvent) -> str | None:
    """Why the wish does not fit, or None."""
    if not legal_operation(state, event.command):
        return f"the phase is {state.phase}"
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

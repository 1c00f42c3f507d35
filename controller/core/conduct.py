"""What a verdict does to a rollout. Called by the engine, and by what obeys operators.

Functions take a state and give the next one together with a `Ruling`, or None where there is
nothing to say. Rulings become decisions in the engine. When a verdict is due stands in `decide`;
which phases follow which stands in `decide.phases`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never

from controller.core import capacity, decide, estimate, roles
from controller.core.attribution import segment_rule
from controller.core.capacity import Gate
from controller.core.case import candidate_outcomes, edited, situated, steered
from controller.core.decide.phases import (
    ACTIVE,
    ENTER,
    Happening,
    after,
)
from controller.core.model import (
    BASIS,
    ArmRole,
    Phase,
    Rollout,
    Ruling,
    Split,
    Verdict,
)
from controller.core.policy import Policy
from controller.core.state import KnownSplit, State, with_arms, with_split

_DOUBTFUL = frozenset(
    {
        "sample_ratio",
        "no_rewards",
        "join_rate",
        "stale",
        "unreported",
        "expired",
        "policy_changed",
    }
)
"""Causes of a hold that put the rollout on hold as a whole, rather than merely not yet moving."""


def stage_kind(
    policy: Policy, rollout: Rollout
) -> Literal["shadow", "canary", "ab", "thompson", ""]:
    """The kind of the rollout's stage; empty when the policy has no such stage any more."""
    stages = policy.spec.stages
    return stages[rollout.stage].kind if rollout.stage < len(stages) else ""


def share_of(ruling: Ruling, candidates: tuple[str, ...]) -> str:
    """What a ruling gives to the candidates, for people."""
    weight = sum((ruling.weights or {}).get(name, 0) for name in candidates)
    mirrored = sum((ruling.mirror or {}).get(name, 0) for name in candidates)
    if mirrored:
        return f"{mirrored / 100:g} % of the requests are mirrored to it"
    return f"{weight / 100:g} % of the traffic"


def judge(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Ask the stage for its verdict and carry it out."""
    if state.phase not in ACTIVE | {Phase.HOLDING} or state.rollout is None:
        return state, None
    rollout = state.rollout
    situation, edit = situated(policy, state), edited(policy, state)
    if situation is None:
        why = edit or "the policy has no such step any more"
        ruling = Ruling(Verdict.HOLD, "policy_changed", why)
        return replace(state, phase=after(state.phase, Happening.HOLD)), ruling
    ruling = decide.rule(policy.spec.stages[rollout.stage], situation)
    if edit is not None and ruling.verdict is not Verdict.ROLL_BACK:
        ruling = Ruling(Verdict.HOLD, "policy_changed", edit)
    match ruling.verdict:
        case Verdict.PROMOTE:
            return _promoted(policy, state, ruling)
        case Verdict.ROLL_BACK:
            return _rolled_back(policy, state, ruling)
        case Verdict.ADVANCE:
            return _advanced(policy, state, ruling)
        case Verdict.HOLD:
            return _held(policy, state, ruling)
        case _:
            assert_never(ruling.verdict)


def _promoted(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """The candidate serves everything, as soon as enough of it runs for that."""
    assert state.rollout is not None
    candidate = ruling.candidate or state.rollout.live[0]
    gate = capacity.gate(policy, state, {candidate: BASIS}, beside="known")
    if gate.why is not None:
        return _waiting(policy, gate, candidate)
    return promote(gate.state, candidate), replace(ruling, wishes=gate.wishes)


def _waiting(policy: Policy, gate: Gate, *meant: str) -> tuple[State, Ruling]:
    """Everything stays as it is until there is the capacity; too late, those meant are out."""
    state = gate.state
    if gate.late:
        candidate = gate.late[0] if len(meant) > 1 else meant[0]
        ruling = capacity.too_late(policy, gate, Verdict.ROLL_BACK, candidate)
        return _rolled_back(policy, state, ruling)
    assert gate.why is not None
    split = state.split
    ruling = Ruling(
        Verdict.HOLD, "capacity", gate.why, split.weights, split.mirror, wishes=gate.wishes
    )
    return _kept(policy, state, ruling), ruling


def _held(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """Nothing moves but what the stage itself moves; what rises by that, too, needs capacity."""
    assert state.rollout is not None
    rising = _rising(state, ruling)
    if not rising:
        state = capacity.given_up(state, state.rollout.live)
        return _kept(policy, state, ruling), ruling
    gate = capacity.gate(policy, state, rising)
    if gate.why is not None:
        return _waiting(policy, gate, *rising)
    return _kept(policy, gate.state, ruling), replace(ruling, wishes=gate.wishes)


def _rising(state: State, ruling: Ruling) -> dict[str, int]:
    """The candidates that the ruling gives more than they have, and what it gives them."""
    rollout, split = state.rollout, state.split
    assert rollout is not None
    if _says_nothing_new(split, ruling):
        return {}
    segments = split.segments if ruling.segments is None else ruling.segments
    now = (split.weights, split.mirror, *split.segments.values())
    then = (split.weights if ruling.weights is None else ruling.weights, ruling.mirror or {})
    most = {arm: max(given.get(arm, 0) for given in now) for arm in rollout.live}
    wanted = {
        arm: max(given.get(arm, 0) for given in (*then, *segments.values())) for arm in rollout.live
    }
    return {arm: share for arm, share in wanted.items() if share > most[arm]}


def _says_nothing_new(split: Split, ruling: Ruling) -> bool:
    return (
        (ruling.weights is None or ruling.weights == split.weights)
        and (ruling.mirror or {}) == split.mirror
        and (ruling.segments is None or ruling.segments == split.segments)
    )


def _kept(policy: Policy, state: State, ruling: Ruling) -> State:
    """The state with the split of a ruling that holds, in the phase that goes with its cause."""
    state = with_weights(policy, state, ruling)
    assert state.rollout is not None
    happening = (
        Happening.HOLD
        if ruling.cause in _DOUBTFUL
        else ENTER[policy.spec.stages[state.rollout.stage].kind]
    )
    phase = after(state.phase, happening)
    return state if phase is state.phase else replace(state, phase=phase)


def without_gone(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """A candidate that was deleted is out at once, whatever the phase."""
    if not state.capacities or not state.is_judging or state.rollout is None:
        return state, None
    gone = next((arm for arm in state.rollout.live if capacity.is_gone(state, arm)), None)
    if gone is None:
        return state, None
    ruling = Ruling(Verdict.ROLL_BACK, "gone", f"{gone} is gone from the cluster", candidate=gone)
    return _rolled_back(policy, state, ruling)


def _rolled_back(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """Out with the candidate that is meant; with the last one, the rollout ends."""
    assert state.rollout is not None
    if not ruling.candidate or state.rollout.live == (ruling.candidate,):
        return roll_back(policy, state), ruling
    return dropped(policy, state, (ruling.candidate,)), ruling


def _advanced(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """On to the next step, the next stage, or, after the last one, to the promotion."""
    before = state.rollout
    assert before is not None
    rollout = _following(policy, state, before, ruling)
    if rollout is None:
        chosen = ruling.candidate or before.live[0]
        promotion = replace(ruling, verdict=Verdict.PROMOTE, candidate=chosen)
        state, ruled = _promoted(policy, state, promotion)
        is_out = ruled.verdict is not Verdict.PROMOTE
        return state, ruled if is_out else replace(ruled, candidate=ruling.candidate)
    stage = policy.spec.stages[rollout.stage]
    shares = capacity.shares(stage, rollout.step, rollout.live)
    gate = capacity.gate(policy, state, shares)
    if gate.why is not None:
        return _waiting(policy, gate, *rollout.live)
    state = gate.state
    losers = tuple(name for name in before.live if name not in rollout.live)
    phase = after(state.phase, ENTER[stage.kind])
    tried = (*state.tried, *losers)
    state = begun_step(replace(state, rollout=rollout, phase=phase, tried=tried))
    state, entry = with_ruled_split(policy, state)
    state = roles.left(state, losers, ArmRole.REJECTED)
    entered = f"{ruling.reason}, {stage.kind} at {share_of(entry, rollout.live)}"
    return state, replace(ruling, reason=entered, wishes=gate.wishes)


def _following(policy: Policy, state: State, rollout: Rollout, ruling: Ruling) -> Rollout | None:
    """The rollout in its next step or stage; None after the last one."""
    stages = policy.spec.stages
    canary = stages[rollout.stage].canary
    outcomes = candidate_outcomes(state)
    is_over = ruling.cause == "expired"
    if canary is not None and rollout.step + 1 < len(canary.steps) and not is_over:
        rollout = replace(rollout, step=rollout.step + 1)
    elif rollout.stage + 1 < len(stages):
        chosen = ruling.candidate or rollout.live[0]
        losers = tuple(name for name in rollout.live if name != chosen)
        rollout = replace(
            rollout,
            stage=rollout.stage + 1,
            step=0,
            stage_started=state.clock,
            stage_outcomes=outcomes,
            dropped=(*rollout.dropped, *losers),
        )
    else:
        return None
    return replace(rollout, step_started=state.clock, step_outcomes=outcomes)


def begun_step(state: State) -> State:
    """A step begins: a regression from here on is looked for from here on, too."""
    if state.spec is None or state.estimators is None:
        return state
    return replace(state, estimators=estimate.new_step(state.spec, state.estimators))


def with_ruled_split(policy: Policy, state: State) -> tuple[State, Ruling]:
    """The split that the present stage and step ask for."""
    state = steered(policy, state)
    situation = situated(policy, state)
    assert situation is not None
    ruling = decide.rule(policy.spec.stages[situation.rollout.stage], situation)
    return with_weights(policy, state, ruling), ruling


def promote(state: State, candidate: str) -> State:
    """The candidate becomes the champion and serves everything; others that ran beside it end."""
    rollout = state.rollout
    assert rollout is not None
    state = _with_split(state, candidate, {candidate: BASIS}, Ruling(Verdict.PROMOTE, "", ""))
    losers = tuple(name for name in rollout.live if name != candidate)
    state = roles.left(state, losers, ArmRole.REJECTED)
    state = roles.left(state, (rollout.champion,), ArmRole.RETIRED)
    state = replace(
        state,
        phase=after(state.phase, Happening.PROMOTE),
        champion=candidate,
        previous=rollout.champion,
        tried=(*state.tried, *losers),
        intent=None,
        resume_phase=None,
    )
    return capacity.given_up(state, rollout.live)


def roll_back(policy: Policy, state: State) -> State:
    """The champion serves everything again; the candidates are not tried a second time."""
    rollout = state.rollout
    assert rollout is not None
    weights = {rollout.champion: BASIS}
    state = _with_split(state, rollout.champion, weights, Ruling(Verdict.ROLL_BACK, "", ""))
    state = roles.left(state, rollout.live, ArmRole.REJECTED)
    state = replace(
        state,
        phase=after(state.phase, Happening.ROLL_BACK),
        tried=(*state.tried, *rollout.live),
        cooldown_until=state.clock + policy.spec.gates.cooldown,
        intent=None,
        resume_phase=None,
    )
    return capacity.given_up(state, rollout.live)


def undo(policy: Policy, state: State) -> State:
    """The champion before this one serves everything again; this one is not tried once more."""
    back, undone = state.previous, state.champion
    state = _with_split(state, back, {back: BASIS}, Ruling(Verdict.ROLL_BACK, "", ""))
    state = replace(
        state,
        phase=after(state.phase, Happening.UNDO),
        champion=back,
        previous="",
        tried=(*state.tried, undone),
        cooldown_until=state.clock + policy.spec.gates.cooldown,
        intent=None,
    )
    return capacity.given_up(roles.left(state, (undone,), ArmRole.RETIRED), (back,))


def dropped(policy: Policy, state: State, names: tuple[str, ...]) -> State:
    """Some candidates leave, others go on: what the ones had, the stage gives out anew."""
    assert state.rollout is not None
    rollout = replace(state.rollout, dropped=(*state.rollout.dropped, *names))
    state = replace(state, rollout=rollout, tried=(*state.tried, *names))
    weights = {arm: weight for arm, weight in state.split.weights.items() if arm not in names}
    weights[rollout.champion] = BASIS - sum(
        weight for arm, weight in weights.items() if arm != rollout.champion
    )
    state = with_weights(policy, state, Ruling(Verdict.HOLD, "", "", weights, segments={}))
    state = capacity.given_up(roles.left(state, names, ArmRole.REJECTED), names)
    if state.intent is not None and state.intent.arm in names:
        state = replace(state, intent=None)
    state = steered(policy, state)
    situation = situated(policy, state)
    if situation is None or state.phase not in ACTIVE:
        return state
    ruling = decide.rule(policy.spec.stages[rollout.stage], situation)
    if ruling.verdict is not Verdict.HOLD:
        return state
    # What rises here, and has not the capacity for it yet, rises when it is judged next.
    rising = _rising(state, ruling)
    is_ready = not rising or capacity.gate(policy, state, rising).why is None
    return with_weights(policy, state, ruling) if is_ready else state


def with_weights(policy: Policy, state: State, ruling: Ruling) -> State:
    """The state with the split that the ruling wants; the same state where nothing changes."""
    if _says_nothing_new(state.split, ruling):
        return state
    weights = ruling.weights if ruling.weights is not None else state.split.weights
    weights = {arm: weight for arm, weight in weights.items() if weight}
    segments = state.split.segments if ruling.segments is None else ruling.segments
    wanted = replace(ruling, weights=weights, mirror=ruling.mirror or {}, segments=segments)
    present = (state.split.weights, state.split.mirror, state.split.segments)
    if (wanted.weights, wanted.mirror, wanted.segments) == present:
        return state
    state = _with_split(with_header(policy, state), state.champion, weights, wanted)
    assert state.rollout is not None
    return replace(state, rollout=replace(state.rollout, weights_updated=state.clock))


def with_header(policy: Policy, state: State) -> State:
    """The state whose splits name the policy's header of segments.

    They do so in every stage, also where no segment has weights of its own: exposures then say
    their segment from the start, and routers need not change their listeners in mid-rollout.
    """
    rule = segment_rule(policy)
    header = rule.header if rule is not None else ""
    return replace(state, split=replace(state.split, segment_header=header))


def first_split(policy: Policy, state: State) -> State:
    """The split of a new model: everything to the champion."""
    nothing = Ruling(Verdict.HOLD, "", "")
    state = with_header(policy, state)
    return _with_split(state, state.champion, {state.champion: BASIS}, nothing)


def _with_split(state: State, champion: str, weights: dict[str, int], ruling: Ruling) -> State:
    """A new epoch, known at once: exposures may come before the routers' confirmation.

    The salt goes with the rollout, and so does the order of the anchors: a unit keeps its arm while
    the others' shares move, or while others come and go.
    """
    rollout = state.rollout
    epoch = max(state.split.epoch, state.last_epoch) + 1
    candidates = rollout.candidates if rollout else ()
    split = Split(
        epoch=epoch,
        champion=champion,
        weights=weights,
        salt=rollout.salt if rollout else state.split.salt,
        anchors=tuple(arm for arm in candidates if arm != champion),
        mirror=ruling.mirror or {},
        segment_header=state.split.segment_header,
        segments=ruling.segments or {},
    )
    state = with_arms(state, tuple(weights))
    estimators = state.estimators
    if estimators is not None and state.spec is not None:
        estimators = estimate.new_epoch(state.spec, estimators)
    state = replace(state, split=split, estimators=estimators, changed_at=state.clock)
    known = KnownSplit(epoch, state.clock, weights, split.segments)
    return with_split(state, known, grace_s=0.0)

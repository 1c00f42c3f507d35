"""The engine: the only place that spells the order in which things happen.

`step` folds events into a state. Nothing happens between ticks; at a tick, in this order:

    1. the clock moves            (it never goes back)
    2. splits, versions and capacities are learnt, and over how many logs events are split
    3. a confirmed promotion or roll-back settles, arms without traffic leave, a candidate that was
       deleted is out, the queue moves on
    4. exposures and rewards are joined, what is due closes, the estimators are fed
    5. operators are obeyed, in the order of the log; where none asked for anything,
       a cluster settles (its requests are known now), what they asked for before is carried out
       if it had to wait, and the running stage gives its verdict

What was ruled becomes a decision when it is news: any verdict but hold, any change of phase, cause
or split, and whatever the cluster must do something for. Live, replay and simulation call this one
function with the same events and get the same decisions, bit for bit.

Invariant, checked after every tick: weights are positive and sum to 10 000; the champion of the
split is the champion; a rollout that is on has its two arms; the epoch never falls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from controller.core import admission, capacity, commands, conduct, roles
from controller.core.batch import MicroBatch, micro_batches
from controller.core.case import steered
from controller.core.decide.phases import IN_ROLLOUT, RESTING
from controller.core.merge import laid_out
from controller.core.model import (
    BASIS,
    CapacityEvent,
    CommandEvent,
    Decision,
    Effect,
    EventBatch,
    Json,
    KeepRejected,
    Phase,
    Ruling,
    SetSplit,
    Verdict,
    VersionEvent,
)
from controller.core.observe import learn_splits, observe
from controller.core.policy import Policy, digest
from controller.core.record import digest as digest_of
from controller.core.report import evidence_summary
from controller.core.state import Said, State, evolve, with_rewards
from controller.errors import InvariantError

Move: TypeAlias = Callable[[State], tuple[State, Ruling | None]]


def step(
    policy: Policy, state: State, events: EventBatch
) -> tuple[State, tuple[Decision, ...], tuple[Effect, ...]]:
    """The state after the events, what was decided on the way, and what the shell must do.

    Uses up `state`: the joiner's table is changed in place. Raises `InvariantError` on a gap in the
    log or a state that cannot be.
    """
    if events.start != state.offset:
        raise InvariantError(f"expected event {state.offset} of {state.model}, got {events.start}")
    decisions: list[Decision] = []
    effects: list[Effect] = []
    for micro, waiting in micro_batches(state.waiting, events):
        if waiting or state.waiting:
            state = evolve(state, waiting=waiting)
        if micro is None:
            continue
        state, decided, wanted = _tick(policy, state, micro)
        decisions += decided
        effects += wanted
    return evolve(state, offset=events.start + events.count), tuple(decisions), tuple(effects)


def _tick(
    policy: Policy, state: State, micro: MicroBatch
) -> tuple[State, list[Decision], list[Effect]]:
    state = evolve(state, clock=max(state.clock, micro.tick.time))
    state = learn_splits(policy, with_rewards(policy, state), micro)
    versions = [event for event in micro.control if isinstance(event, VersionEvent)]
    state, refused = admission.learn_versions(state, versions)
    for event in micro.control:
        if isinstance(event, CapacityEvent):
            state = capacity.learn(state, event)
    state = laid_out(state, micro.tick.partitions)
    state, decisions, effects = _move(policy, state, _queue_moves(policy, state), micro)
    state, rejected = observe(policy, state, micro, refused)
    check_invariant(state)
    if rejected:
        effects.append(KeepRejected(rejected))
    moves = _command_moves(policy, micro) or ([] if decisions else _verdict_moves(policy))
    state, more, wanted = _move(policy, state, moves, micro)
    decisions += more
    effects += wanted
    return state, decisions, effects


def _move(
    policy: Policy, state: State, moves: list[Move], micro: MicroBatch
) -> tuple[State, list[Decision], list[Effect]]:
    """Make the moves in order, and write down what they decide."""
    decisions: list[Decision] = []
    effects: list[Effect] = []
    for move in moves:
        before = state
        state, ruling = move(state)
        if state is not before:
            check_invariant(state)
        if ruling is None:
            continue
        state, decision = _recorded(policy, before, state, ruling, micro.tick.offset)
        if decision is not None:
            decisions.append(decision)
        effects += [replace(wish, decision=state.decisions) for wish in ruling.wishes]
        if state.split.epoch != before.split.epoch:
            effects.append(SetSplit(state.decisions, state.split))
    return state, decisions, effects


def _queue_moves(policy: Policy, state: State) -> list[Move]:
    """What may begin or end at this tick, before its data are looked at."""
    first: list[Move] = [partial(_first, policy)] if state.split.epoch == 0 else []
    waiting = [partial(admission.admit, policy)] * max(1, len(state.queue))
    leave = [partial(roles.farewell, policy), partial(conduct.without_gone, policy)]
    return [*first, roles.settle, *leave, *waiting]


def _command_moves(policy: Policy, micro: MicroBatch) -> list[Move]:
    """What operators ask for, each of them answered, in the order of the log."""
    commands = [event for event in micro.control if isinstance(event, CommandEvent)]
    return [partial(_obey, policy, event) for event in commands]


def _verdict_moves(policy: Policy) -> list[Move]:
    """Who decides where neither the queue nor an operator did."""
    return [
        roles.settle_in_cluster,
        partial(_asked, policy),
        partial(commands.pursue, policy),
        partial(conduct.judge, policy),
        admission.rest,
    ]


def _asked(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    return steered(policy, state), None


def _obey(policy: Policy, event: CommandEvent, state: State) -> tuple[State, Ruling | None]:
    return commands.obey(policy, state, event)


def _first(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    ruling = Ruling(Verdict.HOLD, "start", f"{state.champion} serves everything")
    return conduct.first_split(policy, state), ruling


def _recorded(
    policy: Policy, before: State, state: State, ruling: Ruling, offset: int
) -> tuple[State, Decision | None]:
    """What was said, and the decision where it is news."""
    moved = state.split.epoch != before.split.epoch
    is_shift = moved and ruling.verdict is Verdict.HOLD and before.split.epoch > 0
    verdict = Verdict.ADVANCE if is_shift else ruling.verdict
    who = ruling.candidate or (", ".join(state.rollout.live) if state.rollout else "")
    state = evolve(state, said=Said(verdict, ruling.cause, ruling.reason, who))
    news = (state.phase.value, ruling.cause)
    if verdict is Verdict.HOLD and not moved and news == state.recorded and not ruling.wishes:
        return state, None
    state = evolve(state, recorded=news, decisions=state.decisions + 1)
    # What led to it is what was known before: afterwards a candidate may have left.
    seen = before if before.is_judging else state
    return state, _decision(policy, state, offset, evidence_summary(policy, seen))


def _decision(policy: Policy, state: State, offset: int, evidence: dict[str, Json]) -> Decision:
    ending = state.phase in (Phase.PROMOTING, Phase.ROLLING_BACK)
    rollout = state.rollout if state.is_judging or ending else None
    policy_digest = digest(policy)
    return Decision(
        number=state.decisions,
        time=state.clock,
        offset=offset,
        model=state.model,
        rollout=rollout.id if rollout else "",
        candidate=state.said.candidate if rollout else "",
        stage=conduct.stage_kind(policy, rollout) if rollout else "",
        step=rollout.step if rollout else 0,
        phase=state.phase,
        verdict=state.said.verdict,
        cause=state.said.cause,
        reason=state.said.reason,
        epoch=state.split.epoch,
        weights=state.split.weights,
        evidence=evidence,
        evidence_digest=digest_of(evidence),
        policy_digest=policy_digest,
        seed=_seed(policy_digest, offset),
    )


def _seed(policy_digest: str, offset: int) -> int:
    """A seed in [0, 2^63), the same for the same policy and place in the log."""
    text = f"{policy_digest}:{offset}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def check_invariant(state: State) -> None:
    """Raises `InvariantError` when the state cannot be (see the module's head)."""
    split = state.split
    for weights in (split.weights, *split.segments.values()):
        if sum(weights.values()) != BASIS or min(weights.values()) <= 0:
            raise InvariantError(f"weights of {state.model} are {weights}")
    if split.champion != state.champion or state.champion not in split.weights:
        raise InvariantError(f"{state.champion} is champion, the split says {split.champion}")
    if state.phase in RESTING and split.weights != {state.champion: BASIS}:
        raise InvariantError(f"phase {state.phase} with a split of {split.weights}")
    if state.phase in IN_ROLLOUT and state.phase is not Phase.PAUSED and state.rollout is None:
        raise InvariantError(f"phase {state.phase} without a rollout")

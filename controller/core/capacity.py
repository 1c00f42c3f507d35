"""Capacity before traffic: whether enough of an arm runs for the weight that it is to get.

    needed(arm, share) = clamp(ceil(full x share), 1, limit of the arm)
    full               = replicas of the champion, or those it had when it served everything

Invariant: an arm's weight rises only while, of each arm of the rollout,

    state = known   and   replicas ready without a break for the warm-up >= needed

(of the champion: ready >= full). Only rises are gated: a weight never falls because an arm lost
replicas, and nothing that rolls back asks here. So readiness that flaps moves no weight.

A model is in a cluster when its champion has a capacity, which only events of the log give. Then
an arm of which the cluster knows nothing is not ready. In any other model every arm is, and nothing
in this module has an effect: that is the local mode.

Whoever waits longer than the policy's deadline is late, as long as the cluster can be asked: the
time in which nothing is known of an arm is nobody's fault.

Rejected: counting the warm-up from the last change of `ready` (an arm that grows from 3 to 6 would
wait for replicas that it does not need), and scaling a step ahead (it pays for steps that are never
reached).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from controller.core.decide.situation import basis_points, for_people
from controller.core.model import (
    BASIS,
    ArmRole,
    Capacity,
    CapacityEvent,
    ClusterEffect,
    Operation,
    Ruling,
    Scale,
    SetRole,
    Verdict,
)
from controller.core.policy import Policy, Stage
from controller.core.state import State, evolve


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether weights may rise.

    state   as it came, with what is waited for and was asked for
    wishes  what must be done so that they may; to be written down with whatever is decided
    why     what is missing; None: they may
    late    the arms that have been waited for too long
    """

    state: State
    wishes: tuple[ClusterEffect, ...] = ()
    why: str | None = None
    late: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Lack:
    """What an arm lacks; `known` says whether the cluster could be asked."""

    arm: str
    why: str
    known: bool


def learn(state: State, event: CapacityEvent) -> State:
    """What the cluster says of an arm. Where it says nothing, what it said last is kept."""
    before = state.capacities.get(event.arm, Capacity("unknown", 0))
    if event.state == "unknown":
        now = replace(before, state=event.state)
    else:
        is_there = event.state == "known"
        ready = event.ready if is_there else 0
        rises = tuple(rise for rise in before.rises if rise[0] <= ready)
        if ready > (rises[-1][0] if rises else 0):
            # A rise that was cut off by a fall: up to the new level it has not been interrupted.
            cut = [since for n, since in before.rises if n > ready]
            rises = (*rises, (ready, min(cut, default=event.time)))
        replicas = event.replicas if is_there else 0
        now = Capacity(event.state, replicas, event.limit if is_there else None, rises)
    return evolve(state, capacities=state.capacities | {event.arm: now})


def is_clustered(state: State) -> bool:
    """Whether the model's arms run in a cluster."""
    return state.champion in state.capacities


def is_there(state: State, arm: str) -> bool:
    """Whether something can be done with the arm: the cluster has it, or had it when last asked."""
    found = state.capacities.get(arm)
    return found is not None and found.state != "gone"


def is_gone(state: State, arm: str) -> bool:
    """Whether the arm was deleted."""
    found = state.capacities.get(arm)
    return found is not None and found.state == "gone"


def full(state: State) -> int:
    """The replicas that serve everything."""
    champion = state.champion
    if state.is_judging and state.rollout is not None:
        champion = state.rollout.champion
    found = state.capacities.get(champion)
    return max(1, state.full, found.replicas if found is not None else 0)


def needed(state: State, arm: str, share: int) -> int:
    """The replicas that this share of the traffic, in basis points, needs of the arm."""
    wanted = max(1, math.ceil(full(state) * share / BASIS))
    found = state.capacities.get(arm)
    limit = found.limit if found is not None else None
    return wanted if limit is None else min(wanted, limit)


def shares(stage: Stage, step: int, names: Sequence[str], *, among: int = 0) -> dict[str, int]:
    """The share of the traffic for which each candidate must be ready when it enters a step.

    `among` is the number of candidates that share what an ab stage gives; without it, the names'.
    A bandit may give everything to anybody at any time.
    """
    if stage.canary is not None:
        share = basis_points(stage.canary.steps[step])
    elif stage.ab is not None:
        share = math.ceil(basis_points(stage.ab.share) / (among or len(names)))
    elif stage.shadow is not None:
        share = basis_points(stage.shadow.percent)
    else:
        share = BASIS
    return dict.fromkeys(names, share)


def gate(
    policy: Policy,
    state: State,
    rising: Mapping[str, int],
    *,
    beside: Literal["ready", "known", "any"] = "ready",
) -> Gate:
    """Whether these arms may get these shares, in basis points, and what must be done for it.

    `beside` says what the champion, which is not among them, must be meanwhile: ready, because it
    serves the rest and must be able to take all of it back; or just known.
    """
    if not is_clustered(state):
        return Gate(state)
    lacks = [_lack_of(policy, state, arm, share) for arm, share in rising.items()]
    missing = [lack for lack in lacks if lack is not None]
    if any(one.arm in rising for one in state.leaving):
        stay = tuple(one for one in state.leaving if one.arm not in rising)
        state = evolve(state, leaving=stay)
    state = _waited_for(state, rising, missing)
    late = tuple(lack.arm for lack in missing if _is_late(policy, state, lack.arm))
    if beside != "any" and not is_known(state, state.champion):
        late = ()  # there is nothing to roll back to
    champion = None if beside == "any" else _lack_of_champion(state, is_ready=beside == "ready")
    found = [*missing, *([champion] if champion is not None else [])]
    state, wishes = _asked(policy, state, rising, keeps_champion=beside == "ready")
    return Gate(state, wishes, "; ".join(lack.why for lack in found) or None, late)


def was_warm(policy: Policy, state: State, arm: str, share: int) -> bool:
    """Whether the arm was ready for this share when the cluster was last heard of."""
    return is_there(state, arm) and _missing(policy, state, arm, share) is None


def _lack_of(policy: Policy, state: State, arm: str, share: int) -> _Lack | None:
    found = state.capacities.get(arm)
    if found is None:
        return _Lack(arm, f"{arm} was not found in the cluster", known=True)
    if found.state == "unknown":
        return _Lack(arm, f"the cluster does not say what runs of {arm}", known=False)
    if found.state == "gone":
        return _Lack(arm, f"{arm} is gone from the cluster", known=True)
    why = _missing(policy, state, arm, share)
    return None if why is None else _Lack(arm, why, known=True)


def _missing(policy: Policy, state: State, arm: str, share: int) -> str | None:
    found, wanted = state.capacities[arm], needed(state, arm, share)
    percent = f"{share / 100:g} %"
    if found.ready < wanted:
        of = f"{wanted} of {max(full(state), wanted)} replicas"
        return f"{arm} needs {of} for {percent}; {_are_ready(found.ready)}"
    warmup_s = policy.pace.warmup_s
    if found.ready_since(state.clock - warmup_s) >= wanted:
        return None
    since = next(since for n, since in found.rises if n >= wanted)
    left = for_people(since + warmup_s - state.clock)
    return f"{arm} has what {percent} needs, {_replicas(wanted)}, and warms up: {left} left"


def _lack_of_champion(state: State, *, is_ready: bool) -> _Lack | None:
    champion = state.champion
    found = state.capacities[champion]
    if found.state == "unknown":
        why = f"the cluster does not say what runs of {champion}, the champion"
        return _Lack(champion, why, known=False)
    if found.state == "gone":
        return _Lack(champion, f"{champion}, the champion, is gone from the cluster", known=True)
    wanted = needed(state, champion, BASIS)
    if not is_ready or found.ready >= wanted:
        return None
    why = f"{champion}, the champion, needs {_replicas(wanted)}; {_are_ready(found.ready)}"
    return _Lack(champion, why, known=True)


def _waited_for(state: State, arms: Iterable[str], missing: Sequence[_Lack]) -> State:
    """Since when each of the arms has been waited for; anew from when nothing was known of it."""
    waits = {arm: since for arm, since in state.waits.items() if arm not in arms}
    for lack in missing:
        waits[lack.arm] = state.waits.get(lack.arm, state.clock) if lack.known else state.clock
    return state if waits == state.waits else evolve(state, waits=waits)


def _is_late(policy: Policy, state: State, arm: str) -> bool:
    return state.clock - state.waits[arm] >= policy.pace.deadline_s


def _asked(
    policy: Policy, state: State, rising: Mapping[str, int], *, keeps_champion: bool
) -> tuple[State, tuple[ClusterEffect, ...]]:
    """What must be asked of the cluster and was not yet."""
    champion, wishes = state.champion, list[ClusterEffect]()
    is_undo = state.intent is not None and state.intent.operation is Operation.UNDO
    asked = dict(state.asked)
    for arm, share in rising.items():
        wanted = needed(state, arm, share)
        if not is_known(state, arm) or asked.get(arm, 0) >= wanted:
            continue
        wishes += scaled(policy, arm, wanted)
        if arm not in asked and not is_undo:
            wishes.append(SetRole(0, arm, ArmRole.CANDIDATE))
        asked[arm] = wanted
    served = full(state)
    if wishes and keeps_champion and asked.get(champion, 0) < served and is_there(state, champion):
        wishes += scaled(policy, champion, served)
        asked[champion] = served
    if not wishes and asked == state.asked:
        return state, ()
    return evolve(state, asked=asked, full=served), tuple(wishes)


def is_known(state: State, arm: str) -> bool:
    """Whether the cluster says how much of the arm runs."""
    found = state.capacities.get(arm)
    return found is not None and found.state == "known"


def scaled(policy: Policy, arm: str, replicas: int | None) -> tuple[Scale, ...]:
    """The wish for so many replicas; none where somebody else scales."""
    deploy = policy.spec.deploy
    if deploy is not None and deploy.kubernetes and deploy.kubernetes.scaling == "observed":
        return ()
    return (Scale(0, arm, replicas),)


def too_late(policy: Policy, gate: Gate, verdict: Verdict, candidate: str) -> Ruling:
    """What is said of a candidate that was waited for too long."""
    reason = f"{gate.why}, after {for_people(policy.pace.deadline_s)}"
    return Ruling(verdict, "progress_deadline", reason, candidate=candidate)


def given_up(state: State, arms: Iterable[str]) -> State:
    """The state in which none of the arms is waited for."""
    if not any(arm in state.waits for arm in arms):
        return state
    return evolve(state, waits={a: since for a, since in state.waits.items() if a not in arms})


def _replicas(n: int) -> str:
    return "1 replica" if n == 1 else f"{n} replicas"


def _are_ready(n: int) -> str:
    return "1 is ready" if n == 1 else f"{n} are ready"

"""What arms are once their traffic has moved: champion, retained, retired, rejected.

Only what happens after a promotion, a roll-back or an undo stands here; the split has moved before.

    settle     the routers have the split, and requests were answered under it: the phase ends, the
               champion gets its label and the Service, the one before is retained
    farewell   an arm whose time has come is scaled down; after the last one the champion is given
               back to whoever scaled it before

    a candidate leaves `drain` after its traffic was taken, a champion `retain` after

Invariant: an arm is scaled down only when it has weight 0 in the split that is in force. Nothing is
done to an arm that the cluster does not have, so models that are in none have no effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controller.core.capacity import is_clustered, is_there, scaled
from controller.core.decide.phases import RESTING, Happening, after
from controller.core.decide.situation import for_people
from controller.core.model import (
    ArmRole,
    ClusterEffect,
    Leaving,
    Phase,
    PointService,
    Ruling,
    SetRole,
    Verdict,
)
from controller.core.policy import Policy
from controller.core.state import State, evolve

SETTLE_LIMIT_S: Final = 60.0
"""A split that no router confirmed for this long is no longer waited for; health says so.

Where a cluster's Service would follow, and arms be scaled down, there is no such limit."""

QUIET_S: Final = 10.0
"""A split under which nobody asked anything for this long is taken as seen."""


def settle(state: State) -> tuple[State, Ruling | None]:
    """A promotion or a roll-back ends when the routers have confirmed its split."""
    if state.phase not in (Phase.PROMOTING, Phase.ROLLING_BACK) or is_clustered(state):
        return state, None
    waited_s = state.clock - state.changed_at
    if state.in_force_epoch < state.split.epoch and waited_s < SETTLE_LIMIT_S:
        return state, None
    return evolve(state, phase=after(state.phase, Happening.SETTLE)), None


def settle_in_cluster(state: State) -> tuple[State, Ruling | None]:
    """The same where arms are labelled and scaled down then: when requests were answered, too.

    Called when the tick's requests are known: before, a model that is asked looks as if it was not.
    """
    if state.phase not in (Phase.PROMOTING, Phase.ROLLING_BACK) or not is_clustered(state):
        return state, None
    seen = _seen(state)
    if seen is None:
        return state, None
    return _crowned(evolve(state, phase=after(state.phase, Happening.SETTLE)), seen)


def _seen(state: State) -> str | None:
    """How it is known that the traffic has moved; None: it is not."""
    epoch = state.split.epoch
    if state.in_force_epoch < epoch:
        return None
    if state.exposed_epoch >= epoch:
        return f"requests were answered under split {epoch}"
    if state.clock - max(state.known[epoch].since, state.last_exposure) >= QUIET_S:
        return f"nobody asked anything under split {epoch} for {QUIET_S:g} s"
    return None


def _crowned(state: State, seen: str) -> tuple[State, Ruling | None]:
    """Where the champion changed: its label, its Service, and the label of the one before."""
    before = [one.arm for one in state.leaving if _is_new(one) and one.role is ArmRole.RETIRED]
    if not before:
        return state, None
    champion = state.champion
    wishes: tuple[ClusterEffect, ...] = (
        SetRole(0, champion, ArmRole.CHAMPION),
        PointService(0, champion),
        *(SetRole(0, arm, ArmRole.RETAINED) for arm in before if is_there(state, arm)),
    )
    reason = f"{champion} is the champion: {seen}"
    return state, Ruling(Verdict.HOLD, "settled", reason, wishes=wishes)


def _is_new(one: Leaving) -> bool:
    return one.since is None


def left(state: State, arms: Sequence[str], role: ArmRole) -> State:
    """The state in which the split just took these arms' traffic, and they are to leave."""
    if not is_clustered(state) or not arms:
        return state
    stay = tuple(one for one in state.leaving if one.arm not in arms)
    leaving = (*stay, *(Leaving(arm, role, state.split.epoch) for arm in arms))
    asked = {arm: n for arm, n in state.asked.items() if arm not in arms}
    return evolve(state, leaving=leaving, asked=asked)


def farewell(policy: Policy, state: State) -> tuple[State, Ruling | None]:
    """Scale down whose time has come; with the last of them, let go of the champion."""
    if not (state.leaving or state.full) or state.phase is Phase.PAUSED:
        return state, None
    state = _dated(state)
    due = [one for one in state.leaving if _is_due(policy, state, one)]
    wishes: list[ClusterEffect] = []
    for one in due:
        wishes += _scaled_down(policy, state, one.arm, one.role)
    state = evolve(state, leaving=tuple(one for one in state.leaving if one not in due))
    state, more = _released(policy, state)
    wishes += more
    if not wishes:
        return state, None
    reasons = [_goodbye(policy, one) for one in due] or [f"{state.champion} is given back"]
    cause = "retired" if due else "released"
    return state, Ruling(Verdict.HOLD, cause, "; ".join(reasons), wishes=tuple(wishes))


def _dated(state: State) -> State:
    """Since when those that leave have no traffic: it is in force that they have none."""
    is_settling = state.phase in (Phase.PROMOTING, Phase.ROLLING_BACK)
    leaving = tuple(
        replace(one, since=state.clock)
        if _is_new(one) and not is_settling and state.in_force_epoch >= one.epoch
        else one
        for one in state.leaving
    )
    return state if leaving == state.leaving else evolve(state, leaving=leaving)


def _is_due(policy: Policy, state: State, one: Leaving) -> bool:
    if one.since is None or state.in_force.get(one.arm, 0) or state.split.weights.get(one.arm, 0):
        return False
    pace = policy.pace
    stay_s = pace.retain_s if one.role is ArmRole.RETIRED else pace.drain_s
    return state.clock - one.since >= stay_s


def _goodbye(policy: Policy, one: Leaving) -> str:
    if one.role is ArmRole.RETIRED:
        kept = for_people(policy.pace.retain_s)
        return f"{one.arm}, the champion before, was kept for {kept} and is scaled down"
    return f"{one.arm} had {for_people(policy.pace.drain_s)} to drain and is scaled down"


def _scaled_down(
    policy: Policy, state: State, arm: str, role: ArmRole
) -> tuple[ClusterEffect, ...]:
    """The arm runs no more, and is labelled with what it was."""
    if not is_there(state, arm):
        return ()
    return (*scaled(policy, arm, 0), SetRole(0, arm, role))


def _released(policy: Policy, state: State) -> tuple[State, tuple[ClusterEffect, ...]]:
    """The champion is scaled by others again, once nobody needs it to be as large as it was."""
    is_needed = state.leaving or state.waits or state.intent or state.phase not in RESTING
    if is_needed or not state.full:
        return state, ()
    is_held = state.champion in state.asked and is_there(state, state.champion)
    wishes = scaled(policy, state.champion, None) if is_held else ()
    return evolve(state, asked={}, full=0), wishes


def dismissed(policy: Policy, state: State, ruling: Ruling) -> tuple[State, Ruling]:
    """A candidate that never had traffic is not waited for any more, and scaled down at once."""
    arm = ruling.candidate
    was_asked = arm in state.asked
    waits = {name: since for name, since in state.waits.items() if name != arm}
    asked = {name: n for name, n in state.asked.items() if name != arm}
    state = evolve(state, waits=waits, asked=asked)
    if not was_asked:
        return state, ruling
    wishes = _scaled_down(policy, state, arm, ArmRole.REJECTED)
    state, more = _released(policy, state)
    return state, replace(ruling, wishes=(*wishes, *more))

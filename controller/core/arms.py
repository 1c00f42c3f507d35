"""Arms: which names are counted, and which are forgotten. Called where names come in.

Names come from outside: from whoever announces versions, and from whoever sends exposures. What
they can make grow is bounded, and what is beyond a bound is refused and counted:

    strangers  arms that no version event named: the first `MOST_STRANGERS` are counted, for routers
               that are not ours may have more than we were told of
    versions   at most `MOST_VERSIONS` are remembered. Before there are more, the oldest with which
               nothing goes on are forgotten, half as many at once; a version is refused only
               where all are needed: in the queue, in a rollout, with requests that are open

What was counted of a forgotten version stays in a sum. Announced again it is new, and may become a
candidate again.

Rejected: a bound on all names together (who invents arms would keep versions out); no forgetting (a
pipeline that trains every ten minutes announces a thousand in a week).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from controller.core.model import EarlierArms, Int
from controller.core.state import State, Sums, Totals, evolve

MOST_STRANGERS: Final = 100
"""Arms that exposures may name though no version event did."""

MOST_VERSIONS: Final = 1_000
"""Versions that are remembered."""


def counted(
    arms: Sequence[str], known: Collection[str], names: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """Those of the names that are counted, and whether some are not.

    arms   that are counted already
    known  names that were announced
    """
    unknown = [name for name in names if name not in known]
    has = set(arms) if unknown else set()
    new = [name for name in unknown if name not in has]
    if not new:
        return tuple(names), False
    room = MOST_STRANGERS - sum(name not in known for name in arms)
    beyond = set(new[max(room, 0) :])
    return tuple(name for name in names if name not in beyond), bool(beyond)


def routed(state: State) -> tuple[str, ...]:
    """The arms to which routers may have sent requests that are not told yet, by name."""
    names = {state.champion, *state.split.weights, *state.split.mirror, *state.in_force}
    names.update(*state.split.segments.values())
    for split in state.known.values():
        names.update(split.weights, *split.segments.values())
    return tuple(sorted(names))


# --- what is forgotten ------------------------------------------------------------------------


def alive(state: State) -> frozenset[str]:
    """Arms with which something goes on, or is about to."""
    waiting = np.zeros(len(state.arms), bool)
    for pending in (state.joins[0].pending, state.partitions.pending):
        waiting[: len(pending)] |= pending[: len(waiting)] > 0
    weighed = (
        arm for split in (state.split.weights, state.in_force) for arm in split if split[arm]
    )
    return frozenset(
        (
            state.champion,
            *(state.rollout.candidates if state.rollout is not None else ()),
            *state.queue,
            *weighed,
            *(arm for arm, found in state.capacities.items() if found.state != "gone"),
            *(state.arms[i] for i in waiting.nonzero()[0].tolist()),
        )
    )


def with_room(state: State, names: Collection[str]) -> State:
    """The state with room for these versions, as far as others can be forgotten for them."""
    if len(state.versions.keys() | set(names)) <= MOST_VERSIONS:
        return state
    going = alive(state) | set(names)
    if state.versions.keys() <= going:
        return state
    going |= set(_used(state))
    idle = [name for name in state.versions if name not in going]
    return _without(state, idle[: MOST_VERSIONS // 2])


def _used(state: State) -> Iterator[str]:
    """Arms that something in the state names, beside those that are alive."""
    yield state.previous
    yield from state.asked
    yield from state.waits
    yield from (leaving.arm for leaving in state.leaving)
    if state.intent is not None:
        yield state.intent.arm
    counts = [table.arm_counts() for table in state.joins]
    for used in (*counts, np.bincount(state.partitions.held.arm)):
        yield from (state.arms[i] for i in used.nonzero()[0].tolist())


def _without(state: State, names: Sequence[str]) -> State:
    """The state that has forgotten these versions, to which nothing refers."""
    gone = set(names)
    places = np.array([i for i, name in enumerate(state.arms) if name in gone], np.int64)
    kept = np.array([i for i, name in enumerate(state.arms) if name not in gone], np.int64)
    for table in state.joins:
        table.keep_arms(kept)
    known = state.partitions
    return evolve(
        state,
        versions={name: each for name, each in state.versions.items() if name not in gone},
        tried=tuple(name for name in state.tried if name not in gone),
        capacities={arm: each for arm, each in state.capacities.items() if arm not in gone},
        forgotten=earlier(state, places),
        arms=tuple(state.arms[i] for i in kept.tolist()),
        totals=Totals(state.totals.exposures[kept], state.totals.errors[kept]),
        sums=tuple(Sums(s.outcomes[kept], s.value[kept], s.square[kept]) for s in state.sums),
        partitions=replace(
            known,
            held=replace(known.held, arm=np.searchsorted(kept, known.held.arm)),
            pending=_of(known.pending, kept),
            rewards=_of(known.rewards, kept),
        ),
    )


def earlier(state: State, places: Int) -> EarlierArms:
    """The sums of the arms at these places, and of those that were forgotten."""

    def total(counts: Int) -> int:
        return int(_of(counts, places).sum())

    before = state.forgotten
    return EarlierArms(
        arms=before.arms + len(places),
        exposures=before.exposures + total(state.totals.exposures),
        outcomes=before.outcomes + total(state.sums[0].outcomes),
        rewards=before.rewards + total(state.joins[0].joined) + total(state.partitions.rewards),
        errors=before.errors + total(state.totals.errors),
    )


def _of(counts: Int, places: Int) -> Int:
    """The counts at these places, rising; an arm that was never counted has none."""
    found: Int = counts[places[places < len(counts)]]
    return found

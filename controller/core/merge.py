"""The merge: what partitions tell becomes evidence, tick by tick. Called by `observe`.

A partition tells the sums of a tick some time after the tick stands in the model's own log. They
wait until every partition has told that tick, and are taken in together, one tick after the other:
the estimators see what one joiner would have shown them, in the same portions and the same order,
only later. So what is late delays evidence and never bends it: no tick is judged by the partitions
that are quick. While one of them is silent nothing is taken in, and soon the rollout holds.

    taken      which events count: each partition's log is told without gap and without repeats
    released   the ticks that all have told
    laid_out   over how many logs events are split from now on
    borne      by which increase partitions count latencies

Invariant, per partition: the stretches that were taken are [0, e1), [e1, e2), … [e(n-1), end). An
event counts if and only if it begins where the last one ended, so a worker that was thought dead, a
batch that was written twice or a crash between two stores can repeat a stretch and change nothing.

The number of partitions changes only while no rollout is on: a reward that comes after it for an
exposure from before looks for it in the wrong log. Exposures close where they are; a log that gets
nothing any more is waited for until it has nothing open.

Rejected: taking in what is there at each tick (early and late partitions would be different
micro-batches: valid, but nobody could tell by looking that the counts of one joiner come out); a
vote among copies (two workers that fold the same log say the same).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.core.arms import counted
from controller.core.batch import MicroBatch
from controller.core.decide.phases import RESTING
from controller.core.model import Int, Reason, Rejected, Standing, Tallies, TalliesEvent
from controller.core.policy import Policy
from controller.core.state import KNOWN_S, State, evolve, with_arms
from controller.core.tallies import count_tallies


def merge(policy: Policy, state: State, micro: MicroBatch) -> tuple[State, list[Rejected]]:
    """Take in what partitions told in this micro-batch; gives the events that did not count."""
    rejected: list[Rejected] = []
    for event in micro.control:
        if isinstance(event, TalliesEvent):
            state, refused = _taken(state, event)
            rejected += refused
    if not state.partitions.standing:
        return state, rejected
    state = _waited_for(state)
    state = _released(policy, state)
    return _retired(state), rejected


def laid_out(state: State, count: int) -> State:
    """The state whose events are split over `count` logs from this tick on; 0: as before."""
    known = state.partitions
    if count in (0, known.count):
        return state
    standing = dict(known.standing)
    for number in range(count) if count > 1 else ():
        old = standing.get(number, Standing())
        clock = old.clock if old.is_open and number in standing else state.clock
        standing[number] = replace(old, clock=clock, is_open=True)
    partitions = replace(known, count=count, changed=state.clock, standing=standing)
    return evolve(state, partitions=partitions)


def wanted(policy: Policy, state: State) -> int:
    """Over how many logs the model's events are to be split from the next tick on."""
    return policy.spec.partitions if state.phase in RESTING else state.partitions.count


def borne(state: State) -> float | None:
    """The increase of latency that the rollout tolerates, whatever the policy says by now.

    None: no rollout is on, or it began without a guardrail on latency.
    """
    if state.rollout is None or state.spec is None or state.spec.latency is None:
        return None
    return state.spec.latency[1]


# --- what counts ------------------------------------------------------------------------------


def _taken(state: State, event: TalliesEvent) -> tuple[State, list[Rejected]]:
    known = state.partitions
    standing = known.standing.get(event.partition, Standing(is_open=False))
    if (event.start, event.part) != (standing.end, standing.part):
        detail = (
            f"partition {event.partition} is told up to {standing.end}, this begins at "
            f"{event.start}, part {event.part}"
        )
        return state, [Rejected(event.offset, Reason.REPEATED, detail)]
    is_last = event.part + 1 == event.parts
    standing = replace(
        standing,
        end=event.end if is_last else standing.end,
        part=0 if is_last else standing.part + 1,
        clock=max(standing.clock, event.time) if is_last else standing.clock,
        open=event.open,
    )
    state, rows, strange = _of_arms(state, event)
    rejected, known = dict(state.rejected), state.partitions
    names = tuple(dict.fromkeys((*known.names, *event.segments)))
    place = {name: i for i, name in enumerate(names)}
    segment = np.array([place[name] for name in event.segments] + [-1], np.int64)[rows.segment]
    rows = replace(rows, segment=segment)
    for reason, n in (*event.rejected.items(), *strange):
        rejected[reason] = rejected.get(reason, 0) + n
    n_arms = len(state.arms)
    partitions = replace(
        known,
        standing=known.standing | {event.partition: standing},
        held=known.held.followed_by(rows),
        held_clock=np.append(known.held_clock, np.full(len(rows.arm), event.time)),
        names=names,
        pending=_added(known.pending, rows, rows.exposures - _closed(rows), n_arms),
        rewards=_added(known.rewards, rows, rows.credited, n_arms),
    )
    return evolve(state, partitions=partitions, rejected=rejected), []


def _of_arms(state: State, event: TalliesEvent) -> tuple[State, Tallies, list[tuple[str, int]]]:
    """The rows with arms of the state; what of them is of arms that are one too many is counted."""
    names, _ = counted(state.arms, state.versions, event.arms)
    state = with_arms(state, names)
    place = {name: i for i, name in enumerate(state.arms)}
    arm = np.array([place.get(name, -1) for name in event.arms], np.int64)[event.rows.arm]
    rows = replace(event.rows, arm=arm)
    strange = int(rows.exposures[arm < 0].sum())
    if not strange:
        return state, rows.pick(arm >= 0), []
    return state, rows.pick(arm >= 0), [(Reason.UNKNOWN_ARM.value, strange)]


def _closed(rows: Tallies) -> np.ndarray:
    return np.where(rows.reward == 0, rows.outcomes, 0.0)


def _added(counts: Int, rows: Tallies, column: np.ndarray, n_arms: int) -> Int:
    more = np.rint(np.bincount(rows.arm, column, n_arms)).astype(np.int64)
    more[: len(counts)] += counts
    return more


# --- when it counts ---------------------------------------------------------------------------


def _waited_for(state: State) -> State:
    """The state with this tick among those that partitions must tell, less what all have told."""
    known = state.partitions
    told = [known.standing[number].clock for number in known.open]
    if not told:
        return evolve(state, partitions=replace(known, ticks=np.zeros(0)))
    ticks = known.ticks
    if not len(ticks) or state.clock > ticks[-1]:
        ticks = np.append(ticks, state.clock)
    return evolve(state, partitions=replace(known, ticks=ticks[ticks > min(told)]))


def _released(policy: Policy, state: State) -> State:
    """Take in the ticks that every open partition has told, in their order."""
    known = state.partitions
    clock = min((known.standing[number].clock for number in known.open), default=float("inf"))
    ready = known.held_clock <= clock
    state = evolve(
        state,
        partitions=replace(
            known,
            clock=clock,
            held=known.held.pick(~ready),
            held_clock=known.held_clock[~ready],
            names=() if ready.all() else known.names,
        ),
    )
    rows, of_tick = known.held.pick(ready), known.held_clock[ready]
    for tick in np.unique(of_tick).tolist():
        own = rows.pick(of_tick == tick)
        state = count_tallies(policy, state, own, known.names, tick)
    return state


def _retired(state: State) -> State:
    """Nobody waits for partitions that get nothing any more, once they have nothing open.

    A while after the change: who writes events may know of it a little later. A partition must have
    told that while: what nobody has folded may hold events.
    """
    known = state.partitions
    first = known.count if known.count > 1 else 0
    since = known.changed + KNOWN_S
    old = ((n, known.standing[n]) for n in known.open if n >= first)
    done = [(n, standing) for n, standing in old if standing.clock >= since and not standing.open]
    if not done:
        return state
    closed = {n: replace(standing, is_open=False) for n, standing in done}
    return evolve(state, partitions=replace(known, standing=known.standing | closed))

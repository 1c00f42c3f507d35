"""Taking in a micro-batch: which events count, and what already belongs together.

Within a micro-batch events are processed by (time, offset), exposures before rewards, so that the
order in which they stand in the log makes no difference.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.core.join.attach import join
from controller.core.join.levels import Seen, enter
from controller.core.join.refuse import Cause, Refusals
from controller.core.join.rule import Absorbed, JoinExposures, JoinRewards, JoinRule
from controller.core.join.store import (
    ANALYSED,
    IN_ROLLOUT,
    NONE,
    SETTLED,
    SPENDING,
    Flags,
    tally,
)
from controller.core.join.table import Table
from controller.core.model import Bool, Float, Int


def absorb(
    table: Table,
    rule: JoinRule,
    exposures: JoinExposures,
    rewards: JoinRewards,
) -> Absorbed:
    """Take in all events since the last tick; consumes the table.

    An exposure earlier than the watermark of the last `close` is refused: its place in the outcomes
    has gone by. The tick that ends this micro-batch does not count: after an outage it comes long
    after the events that waited for it. Rewards are judged by what is known after the exposures
    were taken in.
    """
    if rule.by == "unit":
        table.follow_units()
    if rule.units:
        table.analyse_units()
    refusals = Refusals()
    accepted, entered, base = _absorb_exposures(table, rule, exposures, refusals)
    _absorb_rewards(table, rule, rewards, refusals)
    return Absorbed(accepted, entered, base, refusals.dropped(), refusals.refused())


def _absorb_exposures(
    table: Table, rule: JoinRule, exposures: JoinExposures, refusals: Refusals
) -> tuple[Bool, Bool, Int]:
    """Whether each is accepted, whether it enters, and from which level."""
    accepted = np.zeros(exposures.time.size, np.bool_)
    entered, base = accepted.copy(), np.zeros(accepted.size, np.int64)
    if not accepted.size:
        return accepted, entered, base
    order = _by_time(exposures.offset, exposures.time)
    order = _timely(table, rule, exposures, order, refusals)
    is_as_it_came = order.size == accepted.size and _is_whole(order[1:] > order[:-1])
    batch = exposures if is_as_it_came else exposures.pick(order)
    rows, fresh = _take_new(table, batch)
    if not _is_whole(fresh):
        refusals.refuse(batch.offset[~fresh], Cause.REPEATED_EXPOSURE)
        order, batch = order[fresh], batch.pick(fresh)
    named = (batch.unit != 0) & rule.units
    _store(table, rows, batch, _flags(batch, named))
    accepted[order] = True
    entered[order] = batch.in_rollout & ~named
    at = order[named]
    if at.size:
        entered[at], base[at] = _enter(table, rule, rows[named], batch.in_rollout[named])
    return accepted, entered, base


def _is_whole(mask: Bool) -> bool:
    """Whether all are set: `all` costs thrice as much where a tick has but a few events."""
    return bool(np.count_nonzero(mask) == mask.size)


def _by_time(offset: Int, time: Float) -> Int:
    """The order by (time, offset); a log is almost in it, which a stable sort makes use of."""
    if _is_whole(offset[1:] >= offset[:-1]):
        return time.argsort(kind="stable")
    return np.lexsort((offset, time))


def _timely(
    table: Table, rule: JoinRule, exposures: JoinExposures, order: Int, refusals: Refusals
) -> Int:
    """Those of the exposures that do not come too late."""
    late = exposures.time[order] < table.clock - rule.grace_s
    if not np.count_nonzero(late):
        return order
    gone = order[late]
    request = exposures.request[gone]
    known = table.by_request.find(request, table.exposures.request) >= 0
    refusals.refuse(exposures.offset[gone[known]], Cause.REPEATED_EXPOSURE)
    gone = gone[~known]
    refusals.refuse(exposures.offset[gone], Cause.EXPOSURE_TOO_LATE)
    once = gone[np.unique(exposures.request[gone], return_index=True)[1]]
    refusals.drop(exposures.arm[once], exposures.stratum[once], is_exposure=True)
    return order[~late]


def _take_new(table: Table, batch: JoinExposures) -> tuple[Int, Bool]:
    """Give rows to exposures whose request is new: (their rows, which ones they are)."""
    store = table.exposures
    rows = store.take(batch.time.size)
    store.request[rows] = batch.request
    fresh: Bool = table.by_request.add(batch.request, rows, store.request) == rows
    if _is_whole(fresh):
        return rows, fresh
    store.give_back(rows[~fresh])
    return rows[fresh], fresh


_FLAGS: Final = np.array([SETTLED, ANALYSED | IN_ROLLOUT])
"""Of exposures by whether they are of the rollout."""


def _flags(batch: JoinExposures, named: Bool) -> Flags:
    """What is known of exposures as they come; `named` are those whose unit enters once."""
    # Under an unknown split the champion's answer tells as little of what comes as the candidate's.
    spends = batch.is_candidate | (batch.stratum < 0)
    flags = _FLAGS.take(batch.in_rollout)
    if np.count_nonzero(named):
        flags = np.where(named, batch.in_rollout * IN_ROLLOUT, flags)
    return flags | (spends * SPENDING)


def _store(table: Table, rows: Int, batch: JoinExposures, flags: Flags) -> None:
    """Fill the rows of new exposures, which come in order of time."""
    store = table.exposures
    store.time[rows] = batch.time
    store.unit[rows] = batch.unit
    store.arm[rows] = batch.arm
    store.stratum[rows] = batch.stratum
    store.bin[rows] = batch.bin
    store.rewards[rows] = NONE
    store.flags[rows] = flags
    if store.has("root"):
        store.level[rows] = batch.level
        store.base[rows] = 0
        store.root[rows] = NONE
    table.calendar.add(rows, batch.time)
    table.pending = tally(table.pending, store.arm[rows], 1)
    is_open = (flags & SETTLED) == 0
    table.settling.add(rows[is_open], batch.time[is_open])
    if table.maturing is not None:
        named = batch.unit != 0
        table.maturing.add(rows[named], batch.time[named])


def _enter(table: Table, rule: JoinRule, rows: Int, in_rollout: Bool) -> tuple[Bool, Int]:
    """Which of these exposures of units enter, by all that came so far, and from which level."""
    store, units = table.exposures, table.units
    enters, base = np.zeros(rows.size, np.bool_), np.zeros(rows.size, np.int64)
    unit = np.full(rows.size, NONE, np.int64)
    unit[in_rollout] = table.claim_units(store.unit[rows[in_rollout]])
    if not in_rollout.all():
        unit[~in_rollout] = table.find_units(rows[~in_rollout])
    order = _by_unit(table, rows, unit)
    order = order[unit[order] >= 0]
    if order.size:
        seen = Seen.of(table, rows[order], unit[order])
        enters[order], base[order] = enter(units.seen, units.came, seen, rule.window_s)
    return enters, base


def _by_unit(table: Table, rows: Int, unit: Int) -> Int:
    """The order by (unit, time, request) of exposures given by time."""
    order = np.argsort(unit, kind="stable")
    grouped, time = unit[order], table.exposures.time[rows[order]]
    if ((grouped[1:] == grouped[:-1]) & (time[1:] == time[:-1])).any():
        return np.lexsort((table.exposures.request[rows], table.exposures.time[rows], unit))
    return order


def _absorb_rewards(table: Table, rule: JoinRule, rewards: JoinRewards, refusals: Refusals) -> None:
    if rewards.time.size:
        if rewards.time.size > 1:
            rewards = rewards.pick(_by_time(rewards.offset, rewards.time))
        rewards = _sift(rewards, _remember(table, rewards), Cause.REPEATED_REWARD, refusals)
        inside = (rewards.value >= rule.low) & (rewards.value <= rule.high)
        inside &= np.isfinite(rewards.value)
        rewards = _sift(rewards, inside, Cause.OUT_OF_RANGE, refusals)
        table.waiting = table.waiting.followed_by(_naming_requests(table, rule, rewards, refusals))
    _match(table, rule, refusals)


def _naming_requests(
    table: Table, rule: JoinRule, rewards: JoinRewards, refusals: Refusals
) -> JoinRewards:
    """The rewards that name a request; those that name a unit wait for the watermark."""
    is_named = rewards.request != 0
    if _is_whole(is_named):
        return rewards
    by_unit = ~is_named & (rewards.unit != 0) & (rule.by == "unit")
    refusals.refuse(rewards.offset[~(is_named | by_unit)], Cause.NO_REQUEST)
    table.unit_waiting = table.unit_waiting.followed_by(rewards.pick(by_unit))
    return rewards.pick(is_named)


def _sift(rewards: JoinRewards, good: Bool, cause: Cause, refusals: Refusals) -> JoinRewards:
    if _is_whole(good):
        return rewards
    refusals.refuse(rewards.offset[~good], cause)
    return rewards.pick(good)


def _remember(table: Table, rewards: JoinRewards) -> Bool:
    """Whether each reward's id is new; it is known from now on."""
    store = table.ids
    rows = store.take(rewards.time.size)
    store.id[rows] = rewards.id
    store.time[rows] = rewards.time
    fresh: Bool = table.by_id.add(rewards.id, rows, store.id) == rows
    if not _is_whole(fresh):
        store.give_back(rows[~fresh])
        table.id_calendar.add(rows[fresh], rewards.time[fresh])
    else:
        table.id_calendar.add(rows, rewards.time)
    return fresh


def _match(table: Table, rule: JoinRule, refusals: Refusals) -> None:
    """Join the waiting rewards whose request is known by now."""
    rewards = table.waiting
    if not rewards.time.size:
        return
    row = table.by_request.find(rewards.request, table.exposures.request)
    known = row >= 0
    if _is_whole(known):
        table.waiting = JoinRewards.none()
        join(table, rule, row, rewards, refusals)
    elif np.count_nonzero(known):
        table.waiting = rewards.pick(~known)
        join(table, rule, row[known], rewards.pick(known), refusals)

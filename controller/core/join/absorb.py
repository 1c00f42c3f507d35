"""Taking in a micro-batch: which events count, and what already belongs together.

Within a micro-batch events are processed by (time, offset), exposures before rewards, so that the
order in which they stand in the log makes no difference.
"""

from __future__ import annotations

import numpy as np

from controller.core.join.attach import attach, credit, precedes
from controller.core.join.chains import entries_of, push_entries, starts
from controller.core.join.rule import (
    Absorbed,
    Cause,
    JoinExposures,
    JoinRewards,
    JoinRule,
    Refused,
)
from controller.core.join.store import ANALYSED, CLOSED, NONE, tally
from controller.core.join.table import Table
from controller.core.model import Bool, Int

Refusals = list[tuple[Int, Cause]]


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
    refused: Refusals = []
    accepted, entered = _absorb_exposures(table, rule, exposures, refused)
    _absorb_rewards(table, rule, rewards, refused)
    return Absorbed(accepted, entered, Refused.gather(refused))


def _absorb_exposures(
    table: Table, rule: JoinRule, exposures: JoinExposures, refused: Refusals
) -> tuple[Bool, Bool]:
    accepted = np.zeros(exposures.time.size, np.bool_)
    entered = np.zeros_like(accepted)
    if not accepted.size:
        return accepted, entered
    order = np.lexsort((exposures.offset, exposures.time))
    late = exposures.time[order] < table.clock - rule.grace_s
    known = np.zeros(order.size, np.bool_)
    keys = exposures.request[order[late]]
    known[late] = table.by_request.find(keys, table.exposures.request) >= 0
    refused.append((exposures.offset[order[late & ~known]], Cause.EXPOSURE_TOO_LATE))
    batch = exposures.pick(order[~late])
    rows, fresh = _store(table, batch)
    known[~late] = ~fresh
    refused.append((exposures.offset[order[known]], Cause.REPEATED_EXPOSURE))
    accepted[order[~late]] = fresh
    new = _enter(table, rule, rows, batch.in_rollout[fresh])
    entered[order[~late][fresh]] = np.isin(rows, new)
    return accepted, entered


def _store(table: Table, batch: JoinExposures) -> tuple[Int, Bool]:
    """Give rows to exposures whose request is new: (their rows, which ones they are)."""
    store = table.exposures
    rows = store.take(batch.time.size)
    store.request[rows] = batch.request
    fresh: Bool = table.by_request.add(batch.request, rows, store.request) == rows
    store.give_back(rows[~fresh])
    rows = rows[fresh]
    store.time[rows] = batch.time[fresh]
    store.unit[rows] = batch.unit[fresh]
    store.arm[rows] = batch.arm[fresh]
    store.stratum[rows] = batch.stratum[fresh]
    store.rewards[rows] = NONE
    store.flags[rows] = 0
    table.calendar.add(rows, batch.time[fresh])
    table.pending = tally(table.pending, store.arm[rows], 1)
    if table.maturing is not None:
        named = rows[store.unit[rows] != 0]
        table.maturing.add(named, store.time[named])
    return rows, fresh


def _enter(table: Table, rule: JoinRule, rows: Int, in_rollout: Bool) -> Int:
    """Mark the exposures that are analysed: every one, or the first of each unit.

    Gives the rows with which a unit enters that was not there before.
    """
    store = table.exposures
    alone: Int = rows[in_rollout]
    if rule.units:
        has_unit = store.unit[alone] != 0
        alone, rows = alone[~has_unit], alone[has_unit]
    store.flags[alone] |= ANALYSED
    if not rule.units or not rows.size:
        return alone
    rows = rows[np.lexsort((store.request[rows], store.time[rows], store.unit[rows]))]
    roots = _root(table, rule, rows[starts(store.unit[rows])])
    entered: Int = np.concatenate([alone, roots])
    return entered


def _root(table: Table, rule: JoinRule, rows: Int) -> Int:
    """Make exposures of distinct units the roots of those units that have no earlier one.

    Gives the rows whose unit was not there before.

    A root whose predecessor by event time comes in a later micro-batch gives way to it: which one
    came first must not depend on how the events travelled. It is still pending then, since an
    exposure is only accepted at or after the watermark.
    """
    units = table.units
    unit = table.claim_units(table.exposures.unit[rows])
    root = units.root[unit].astype(np.int64)
    is_moved = (root >= 0) & precedes(table, rows, root)
    _hand_over(table, rule, root[is_moved], rows[is_moved])
    table.exposures.flags[root[is_moved]] &= ~ANALYSED
    is_new = ~units.entered[unit]
    enters = is_moved | is_new
    table.exposures.flags[rows[enters]] |= ANALYSED
    units.root[unit[enters]] = rows[enters]
    units.entered[unit[enters]] = True
    _recredit(table, rule)
    return rows[is_new]


def _hand_over(table: Table, rule: JoinRule, old: Int, new: Int) -> None:
    """Credit to new roots what old ones were given, as far as it lies in the new window."""
    owner, entry = entries_of(table.exposures, table.entries, old)
    time = table.entries.time[entry]
    inside = time <= table.exposures.time[new[owner]] + rule.window_s
    owner, entry = owner[inside], entry[inside]
    credited = _as_rewards(table, entry)
    push_entries(table.exposures, table.entries, new[owner], credited, own=False)


def _as_rewards(table: Table, entry: Int) -> JoinRewards:
    store, none = table.entries, np.zeros(entry.size, np.uint64)
    offset = np.zeros(entry.size, np.int64)
    return JoinRewards(offset, store.time[entry], store.id[entry], none, none, store.value[entry])


def _recredit(table: Table, rule: JoinRule) -> None:
    rows, rewards = table.early
    if rows.size:
        table.early = (np.empty(0, np.int64), JoinRewards.none())
        credit(table, rule, rows, rewards)


def _absorb_rewards(table: Table, rule: JoinRule, rewards: JoinRewards, refused: Refusals) -> None:
    if rewards.time.size:
        rewards = rewards.pick(np.lexsort((rewards.offset, rewards.time)))
        rewards = _sift(rewards, _remember(table, rewards), Cause.REPEATED_REWARD, refused)
        inside = (rewards.value >= rule.low) & (rewards.value <= rule.high)
        inside &= np.isfinite(rewards.value)
        rewards = _sift(rewards, inside, Cause.OUT_OF_RANGE, refused)
        is_named = rewards.request != 0
        by_unit = ~is_named & (rewards.unit != 0) & (rule.by == "unit")
        rewards = _sift(rewards, is_named | by_unit, Cause.NO_REQUEST, refused)
        by_unit = rewards.request == 0
        table.unit_waiting = table.unit_waiting.followed_by(rewards.pick(by_unit))
        table.waiting = table.waiting.followed_by(rewards.pick(~by_unit))
    _match(table, rule, refused)


def _sift(rewards: JoinRewards, good: Bool, cause: Cause, refused: Refusals) -> JoinRewards:
    if good.all():
        return rewards
    refused.append((rewards.offset[~good], cause))
    return rewards.pick(good)


def _remember(table: Table, rewards: JoinRewards) -> Bool:
    """Whether each reward's id is new; it is known from now on."""
    store = table.ids
    rows = store.take(rewards.time.size)
    store.id[rows] = rewards.id
    store.time[rows] = rewards.time
    fresh: Bool = table.by_id.add(rewards.id, rows, store.id) == rows
    store.give_back(rows[~fresh])
    table.id_calendar.add(rows[fresh], rewards.time[fresh])
    return fresh


def _match(table: Table, rule: JoinRule, refused: Refusals) -> None:
    """Join the waiting rewards whose request is known by now."""
    rewards = table.waiting
    if not rewards.time.size:
        return
    row = table.by_request.find(rewards.request, table.exposures.request)
    known = row >= 0
    table.waiting = rewards.pick(~known)
    join(table, rule, row[known], rewards.pick(known), refused)


def join(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards, refused: Refusals) -> None:
    """Join rewards to the exposures that they belong to, unless they are late."""
    time = table.exposures.time[rows]
    is_closed = (table.exposures.flags[rows] & CLOSED) != 0
    after = ~is_closed & (rewards.time > time + rule.window_s)
    before = ~is_closed & (rewards.time < time - rule.grace_s)
    refused.append((rewards.offset[is_closed], Cause.AFTER_CLOSE))
    refused.append((rewards.offset[after], Cause.AFTER_WINDOW))
    refused.append((rewards.offset[before], Cause.BEFORE_EXPOSURE))
    good = ~(is_closed | after | before)
    attach(table, rule, rows[good], rewards.pick(good))

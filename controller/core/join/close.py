"""Closing what is due: exposures become outcomes, and what waited in vain is refused.

The watermark is clock - grace. Whatever has an event time up to it is here: rewards that name a
unit are joined then and not before, because the last exposure of the unit is not known earlier.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from controller.core.join.attach import join
from controller.core.join.chains import by_place, entries_of, link, starts
from controller.core.join.refuse import Cause, Refusals
from controller.core.join.rule import Closed, Joined, JoinRule
from controller.core.join.settle import settle
from controller.core.join.store import ANALYSED, CLOSED, NONE, OWN, SCORED, tally
from controller.core.join.table import Table
from controller.core.model import Bool, Float, Int, Outcomes


def close(table: Table, rule: JoinRule, clock: float) -> Closed:
    """What is certain at `clock`; consumes the table.

    Outcomes are those of the exposures with time + window <= watermark, in exposure order: by time,
    then by request key.
    """
    watermark = table.advance(clock) - rule.grace_s
    return _NOTHING if table.is_empty else _certain(table, rule, watermark)


def _certain(table: Table, rule: JoinRule, watermark: float) -> Closed:
    refusals = Refusals()
    if table.maturing is not None:
        _mature(table, watermark)
        _match_units(table, rule, watermark, refusals)
    _orphan(table, rule, refusals)
    matured, events = settle(table, rule, watermark)
    outcomes = _close_due(table, rule, watermark)
    _forget(table, rule)
    joined, table.lately = table.lately, Joined.none()
    return Closed(outcomes, matured, events, refusals.dropped(), joined, refusals.refused())


def _mature(table: Table, watermark: float) -> None:
    """Put the exposures up to the watermark into the chains of their units, in order of time."""
    assert table.maturing is not None
    store, units = table.exposures, table.units
    rows = table.maturing.due(0.0, watermark, store.time)
    if not rows.size:
        return
    unit = table.claim_units(store.unit[rows])
    order = np.lexsort((store.request[rows], store.time[rows], unit))
    rows, unit = rows[order], unit[order]
    sizes = link(units.newest, store.prev, unit, rows)
    units.count[unit[starts(unit)]] += sizes.astype(np.int32)


def _match_units(table: Table, rule: JoinRule, watermark: float, refusals: Refusals) -> None:
    """Join the rewards up to the watermark to the last exposure of their unit before them."""
    ripe = table.unit_waiting.time <= watermark
    if not ripe.any():
        return
    rewards = table.unit_waiting.pick(ripe)
    table.unit_waiting = table.unit_waiting.pick(~ripe)
    unit = table.by_unit.find(rewards.unit, table.units.unit)
    row = _last_before(table, unit, rewards.time)
    known = row >= 0
    refusals.refuse(rewards.offset[~known], Cause.NO_EXPOSURE)
    join(table, rule, row[known], rewards.pick(known), refusals)


def _last_before(table: Table, unit: Int, time: Float) -> Int:
    """The newest exposure in each unit's chain that is not after `time`, else -1."""
    found = np.full(unit.size, NONE, np.int64)
    todo = np.flatnonzero(unit >= 0)
    row = table.units.newest[unit[todo]].astype(np.int64)
    left = table.units.count[unit[todo]]
    while todo.size:
        # Rows beyond the count were forgotten and may serve another exposure by now.
        todo, row, left = todo[left > 0], row[left > 0], left[left > 0]
        hit = table.exposures.time[row] <= time[todo]
        found[todo[hit]] = row[hit]
        todo, left = todo[~hit], left[~hit] - 1
        row = table.exposures.prev[row[~hit]].astype(np.int64)
    return found


def _orphan(table: Table, rule: JoinRule, refusals: Refusals) -> None:
    if not table.waiting.time.size:
        return
    ripe = table.waiting.time + rule.grace_s <= table.clock
    refusals.refuse(table.waiting.offset[ripe], Cause.NO_EXPOSURE)
    table.waiting = table.waiting.pick(~ripe)


def _close_due(table: Table, rule: JoinRule, watermark: float) -> Outcomes:
    store = table.exposures
    # Without a window an exposure at the very watermark is due, but not settled before the next.
    limit = watermark if rule.window_s > 0 else math.nextafter(watermark, -math.inf)
    rows = by_place(store, table.calendar.due(rule.window_s, limit, store.time))
    if not rows.size:
        return NO_OUTCOMES
    flags = store.flags[rows]
    analysed = (flags & ANALYSED) != 0
    value, analysed_value, joined = _values(table, rule, rows, analysed)
    outcomes = Outcomes(
        time=store.time[rows],
        arm=store.arm[rows].astype(np.int64),
        stratum=store.stratum[rows].astype(np.int64),
        value=value,
        joined=joined,
        analysed=analysed,
        analysed_value=analysed_value,
        unit=store.unit[rows],
        bin=store.bin[rows].astype(np.int64),
        base=store.bases(rows) * analysed,
        scored=(flags & SCORED) != 0,
    )
    _retire(table, rows, rows[analysed])
    return outcomes


def _values(table: Table, rule: JoinRule, rows: Int, analysed: Bool) -> tuple[Float, Float, Bool]:
    """Per exposure: value, value that enters the analysis, whether it has rewards of its own."""
    store = table.entries
    owner, entry = entries_of(table.exposures, store, rows)
    if not entry.size:
        value = np.full(rows.size, float(rule.default))
        return value, value, np.zeros(rows.size, np.bool_)
    order = np.lexsort((store.id[entry], store.time[entry], owner))
    owner, entry = owner[order], entry[order]
    together = _aggregate(rule, owner, store.value[entry], rows.size)
    value = analysed_value = together
    own = (store.flags[entry] & OWN) != 0
    own_owner = owner[own]
    if own_owner.size < owner.size:
        value = _aggregate(rule, own_owner, store.value[entry[own]], rows.size)
        analysed_value = np.where(analysed, together, value)
    joined = np.zeros(rows.size, np.bool_)
    joined[own_owner] = True
    store.flags[entry] = 0  # not WAITING, should a shorter window have closed it before its time
    store.give_back(entry)
    return value, analysed_value, joined


def _aggregate(rule: JoinRule, owner: Int, value: Float, count: int) -> Float:
    """One value per exposure from its rewards, which come by owner and in order of time.

    A sum is capped at the ends of the range: whatever enters the analysis is inside it.
    """
    result = np.full(count, float(rule.default))
    if not owner.size:
        return result
    first = starts(owner)
    who = owner[first]
    match rule.aggregate:
        case "first":
            result[who] = value[first]
        case "last":
            result[who] = value[np.append(first[1:], owner.size) - 1]
        case "max":
            result[who] = np.maximum.reduceat(value, first)
        case "sum":
            result[who] = np.clip(_sums(owner, value)[who], rule.low, rule.high)
        case "mean":
            result[who] = (_sums(owner, value) / np.maximum(np.bincount(owner), 1))[who]
    return result


def _sums(owner: Int, value: Float) -> Float:
    # One addition after the other, in order of time: the last bit must not depend on batches.
    return np.bincount(owner, weights=value).astype(np.float64)


def _retire(table: Table, rows: Int, roots: Int) -> None:
    """Keep closed exposures for a while, only to know what comes too late for them."""
    store = table.exposures
    table.pending = tally(table.pending, store.arm[rows], -1)
    store.flags[rows] |= CLOSED
    store.rewards[rows] = NONE
    table.closed.append((table.clock, rows.astype(np.int32)))
    if not len(table.by_unit):
        return
    unit = table.find_units(roots)
    is_last = (unit >= 0) & (table.units.root[unit] == roots)
    table.units.root[unit[is_last]] = NONE


def _forget(table: Table, rule: JoinRule) -> None:
    """Free the rows of exposures and ids that nothing which is in time can refer to.

    A reward may precede its exposure by the grace, and that is closed a window and a grace later:
    until then the same reward once more must be known as such.
    """
    ids = table.id_calendar.due(rule.window_s + 2.0 * rule.grace_s, table.clock, table.ids.time)
    if ids.size:
        table.by_id.remove(ids, table.ids.id)
        table.ids.give_back(ids)
    while table.closed and table.closed[0][0] + rule.grace_s <= table.clock:
        rows = table.closed.popleft()[1].astype(np.int64)
        table.by_request.remove(rows, table.exposures.request)
        if table.maturing is not None:
            _unchain(table, rows)
        table.exposures.give_back(rows)


def _unchain(table: Table, rows: Int) -> None:
    """Shorten the chains of units by their oldest exposures.

    Exposures are forgotten in the order of their times, so it is always the ends that go.
    """
    unit = np.sort(table.find_units(rows))
    unit = unit[unit >= 0]
    first = starts(unit)
    sizes = np.diff(np.append(first, unit.size))
    table.units.count[unit[first]] -= sizes.astype(np.int32)
    table.drop_units(unit[first])


NO_OUTCOMES: Final = Outcomes(
    time=np.empty(0),
    arm=np.empty(0, np.int64),
    stratum=np.empty(0, np.int64),
    value=np.empty(0),
    joined=np.empty(0, np.bool_),
    analysed=np.empty(0, np.bool_),
    analysed_value=np.empty(0),
    unit=np.empty(0, np.uint64),
    bin=np.empty(0, np.int64),
    base=np.empty(0, np.int64),
    scored=np.empty(0, np.bool_),
)
"""Nothing is due."""

_NOTHING: Final = _certain(Table(), JoinRule(1.0, 1.0, 0.0, 0.0, 1.0), -np.inf)
"""What an empty table has to say."""

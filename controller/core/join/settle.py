"""What the watermark settles: who enters the analysis, and the first reward of each.

No exposure before the watermark can still come. So the order of a unit's exposures is final, and
with it which of them are its *roots*, those with which it enters the analysis (see `levels`). Each
exposure belongs to the last root of its unit at or before it.

Rewards up to the watermark are then credited to the root of their exposure. Intention to treat:
what a unit does within the window after it entered counts for the arm that it entered with,
whichever of its requests in the window led to it. The first of them is the root's row in `Events`.

Rejected: to call the first exposure that comes the root, and to move it when an earlier one turns
up (with several entries per unit, each such move changes all that follow); one root per unit (two
can be pending within one call, when the watermark moves by more than a window).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from controller.core.join.chains import by_place, precedes, push_entries
from controller.core.join.levels import Seen, enter
from controller.core.join.rule import Events, JoinRewards, JoinRule, Matured
from controller.core.join.store import (
    ANALYSED,
    CLOSED,
    NONE,
    SCORED,
    SETTLED,
    STALE,
    WAITING,
)
from controller.core.join.table import Table
from controller.core.model import Bool, Float, Int


def settle(table: Table, rule: JoinRule, watermark: float) -> tuple[Matured, Events]:
    """Exposures before the watermark become at risk; rewards up to it are credited and scored.

    Before, not up to: an exposure at the very watermark is still accepted, and precedes another one
    of that time if its request key is smaller.
    """
    matured = _mature(table, rule, math.nextafter(watermark, -math.inf))
    return matured, _score(table, rule, watermark)


def _mature(table: Table, rule: JoinRule, limit: float) -> Matured:
    store = table.exposures
    rows = by_place(store, table.settling.due(0.0, limit, store.time))
    if not rows.size:
        return NOBODY_MATURED
    flags = store.flags[rows]
    store.flags[rows] = flags | SETTLED
    if store.has("root"):
        _find_roots(table, rule, rows[(flags & (ANALYSED | STALE)) == 0])
        flags = store.flags[rows]
    return _described(table, rows[(flags & ANALYSED) != 0])


def _described(table: Table, rows: Int) -> Matured:
    store = table.exposures
    return Matured(
        time=store.time[rows],
        arm=store.arm[rows].astype(np.int64),
        stratum=store.stratum[rows].astype(np.int64),
        unit=store.unit[rows],
        bin=store.bin[rows].astype(np.int64),
        base=store.bases(rows),
    )


def _find_roots(table: Table, rule: JoinRule, rows: Int) -> None:
    """Decide with which of these exposures, given by place, their units enter."""
    store, units = table.exposures, table.units
    unit = table.find_units(rows)
    rows, unit = rows[unit >= 0], unit[unit >= 0]
    if not rows.size:
        return
    order = np.argsort(unit, kind="stable")
    rows, unit = rows[order], unit[order]
    seen = Seen.of(table, rows, unit)
    enters, base = enter(units.level, units.since, seen, rule.window_s)
    store.flags[rows[enters]] |= ANALYSED
    store.base[rows[enters]] = base[enters]
    store.root[rows] = np.where(_follows(enters, unit), rows[_last(enters)], units.root[unit])
    units.root[unit[enters]] = rows[enters]  # the last of repeated assignments stays


def _last(enters: Bool) -> Int:
    """For each position the last one that is marked, at or before it; 0 where there is none."""
    last: Int = np.maximum.accumulate(np.where(enters, np.arange(enters.size), 0))
    return last


def _follows(enters: Bool, unit: Int) -> Bool:
    """Whether a marked position of the same unit is at or before each."""
    last = _last(enters)
    follows: Bool = enters[last] & (unit[last] == unit)
    return follows


def _score(table: Table, rule: JoinRule, watermark: float) -> Events:
    """Credit rewards up to the watermark to the roots; the first of each root is its event."""
    store = table.entries
    entry = _ripe(table, watermark)
    if not entry.size:
        return NO_EVENTS
    owner = store.owner[entry].astype(np.int64)
    root = _root_of(table, owner)
    order = np.lexsort((store.id[entry], store.time[entry]))
    order = order[root[order] >= 0]
    entry, root, owner = entry[order], root[order], owner[order]
    strays = (owner != root).nonzero()[0]
    if not strays.size:
        return _first(table, rule, entry, root)
    end = table.exposures.time[root[strays]] + rule.window_s
    inside = (table.exposures.time[owner[strays]] < end) & (store.time[entry[strays]] <= end)
    outside, strays = strays[~inside], strays[inside]
    events = _first(table, rule, np.delete(entry, outside), np.delete(root, outside))
    copies = JoinRewards.of(store, entry[strays])
    push_entries(table.exposures, store, root[strays], copies, flags=0)
    return events


def _ripe(table: Table, watermark: float) -> Int:
    """Take out the joined rewards up to the watermark whose exposures are settled, too.

    A reward can precede its exposure, by as much as clocks differ: then it waits for it.
    """
    store, exposures = table.entries, table.exposures
    due = table.scoring.due(0.0, watermark, store.time)
    if not due.size:
        return due
    # A row may stand here twice, or for a reward that closed before its time: see `_values`.
    if due.size > 1:
        due = np.unique(due)
    due = due[(store.flags[due] & WAITING) != 0]
    owner = store.owner[due]
    is_settled = (exposures.flags[owner] & SETTLED) != 0
    ripe: Int = due
    if np.count_nonzero(is_settled) < due.size:
        table.scoring.add(due[~is_settled], exposures.time[owner[~is_settled]])
        ripe = due[is_settled]
    store.flags[ripe] &= ~WAITING
    return ripe


def _root_of(table: Table, rows: Int) -> Int:
    """The pending root to which each settled exposure belongs, -1 where there is none."""
    store = table.exposures
    root = rows.copy()
    if store.has("root"):
        is_member = (store.flags[rows] & ANALYSED) == 0
        root[is_member] = store.root[rows[is_member]]
    pending = (root >= 0) & ((store.flags[root] & (ANALYSED | CLOSED)) == ANALYSED)
    if store.has("root"):
        # A root that closed may have given its row to another exposure, which then comes later.
        pending &= (root == rows) | (
            (store.unit[root] == store.unit[rows]) & precedes(store, root, rows)
        )
    root[~pending] = NONE
    return root


def _first(table: Table, rule: JoinRule, entry: Int, root: Int) -> Events:
    """The first rewards of roots that had none; they come in order of (time, id)."""
    store, entries = table.exposures, table.entries
    at = np.sort(np.unique(root, return_index=True)[1]) if root.size > 1 else np.arange(root.size)
    at = at[(store.flags[root[at]] & SCORED) == 0]
    entry, root = entry[at], root[at]
    store.flags[root] |= SCORED
    who, value = _described(table, root), entries.value[entry]
    return Events(
        time=who.time,
        arm=who.arm,
        stratum=who.stratum,
        unit=who.unit,
        bin=who.bin,
        base=who.base,
        value=value,
        delay=np.maximum(entries.time[entry] - who.time, 0.0),
        is_event=_is_event(rule, value),
    )


def _is_event(rule: JoinRule, value: Float) -> Bool:
    """Whether rewards are better than none; see `Events`."""
    is_event: Bool = value > rule.default if rule.default < rule.high else value < rule.default
    return is_event


NOBODY_MATURED: Final = _described(Table(), np.empty(0, np.int64))
NO_EVENTS: Final = Events(
    **{name: getattr(NOBODY_MATURED, name) for name in Matured.__dataclass_fields__},
    value=np.empty(0),
    delay=np.empty(0),
    is_event=np.empty(0, np.bool_),
)

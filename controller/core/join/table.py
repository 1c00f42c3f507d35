"""All that the joiner remembers, and the few movements that absorbing and closing share.

A `Table` is changed in place: whoever passes it to `absorb` or `close` gives it away, and goes on
with the same object. What must not be lost is taken out with `snapshot.to_arrays` first.

Invariants, for every live exposure row r:
    by_request.find(request[r]) = r
    r is in `calendar` or CLOSED; CLOSED rows stand in `closed`, in the order of their closing
    a unit's root is its earliest exposure, by (time, request), of those absorbed in the rollout
"""

from __future__ import annotations

from collections import deque

import numpy as np

from controller.core.join.calendar import Calendar
from controller.core.join.index import HashIndex
from controller.core.join.rule import JoinRewards, JoinRule
from controller.core.join.store import (
    ANALYSED,
    CLOSED,
    NONE,
    STALE,
    ExposureStore,
    IdStore,
    RewardStore,
    Slot,
    UnitStore,
)
from controller.core.model import Bool, Float, Int, Key


class Table:
    """The joiner's memory of one model.

    clock         the latest clock it was given; time never goes back
    joined        (n_arms,) int64, rewards joined so far, by arm
    pending       (n_arms,) int64, exposures not yet closed, by arm
    waiting       rewards that name a request without exposure so far
    unit_waiting  rewards that name a unit, until the watermark reaches them
    early         (rows, entries): joined to an exposure that precedes any root of its unit, as long
                  as a still earlier root may come
    """

    def __init__(self) -> None:
        self.clock = -np.inf
        self.joined: Int = np.zeros(0, np.int64)
        self.pending: Int = np.zeros(0, np.int64)
        self.exposures = ExposureStore()
        self.by_request = HashIndex()
        self.calendar = Calendar()
        self.closed: deque[tuple[float, Slot]] = deque()
        self.entries = RewardStore()
        self.ids = IdStore()
        self.by_id = HashIndex()
        self.id_calendar = Calendar()
        self.units = UnitStore()
        self.by_unit = HashIndex()
        self.maturing: Calendar | None = None
        self.waiting = JoinRewards.none()
        self.unit_waiting = JoinRewards.none()
        self.early: tuple[Int, JoinRewards] = (np.empty(0, np.int64), self.waiting)

    @property
    def nbytes(self) -> int:
        """Memory of everything that grows with what is pending."""
        stores = (self.exposures, self.entries, self.ids, self.units)
        indexes = (self.by_request, self.by_id, self.by_unit)
        total = sum(store.nbytes for store in stores) + sum(index.nbytes for index in indexes)
        total += self.calendar.nbytes + self.id_calendar.nbytes
        total += self.maturing.nbytes if self.maturing is not None else 0
        return total + sum(rows.nbytes for _, rows in self.closed)

    def advance(self, clock: float) -> float:
        """The clock from now on: never earlier than before."""
        self.clock = max(self.clock, clock)
        return self.clock

    def live_rows(self) -> Int:
        """All exposure rows in use, in no order of meaning."""
        return self.by_request.rows()

    def follow_units(self) -> None:
        """Begin to keep each unit's exposures in a chain, so that rewards can name a unit."""
        if self.maturing is not None:
            return
        self.maturing = Calendar()
        self.exposures.add_prev()
        rows = self.live_rows()
        rows = rows[(self.exposures.unit[rows] != 0) & ((self.exposures.flags[rows] & CLOSED) == 0)]
        rows = rows[np.argsort(self.exposures.time[rows], kind="stable")]
        self.maturing.add(rows, self.exposures.time[rows])

    def claim_units(self, units: Key) -> Int:
        """The rows of units, distinct or not; those not yet known are given one."""
        store = self.units
        rows = store.take(units.size)
        store.unit[rows] = units
        store.root[rows] = store.newest[rows] = NONE
        store.count[rows] = 0
        store.entered[rows] = False
        owner = self.by_unit.add(units, rows, store.unit)
        store.give_back(rows[owner != rows])
        return owner

    def drop_units(self, rows: Int) -> None:
        """Forget those of the units that nothing refers to."""
        idle = rows[(self.units.count[rows] == 0) & ~self.units.entered[rows]]
        self.by_unit.remove(idle, self.units.unit)
        self.units.give_back(idle)

    def find_units(self, rows: Int) -> Int:
        """The unit row of each exposure row; -1 for a request that is its own unit."""
        found = self.by_unit.find(self.exposures.unit[rows], self.units.unit)
        found[self.exposures.unit[rows] == 0] = NONE
        return found


def new_rollout(table: Table) -> Table:
    """Forget which units entered: the next exposure of each is a root again; consumes the table.

    Exposures that are still pending go on to be joined and closed, but are never analysed.
    """
    rows = table.live_rows()
    flags = table.exposures.flags
    flags[rows] = (flags[rows] & ~ANALYSED) | STALE
    units = table.by_unit.rows()
    table.units.entered[units] = False
    table.units.root[units] = NONE
    table.drop_units(units)
    table.early = (np.empty(0, np.int64), JoinRewards.none())
    return table


def attach(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards) -> None:
    """Join rewards to pending exposures, and credit them to the roots of the exposures' units."""
    if not rows.size:
        return
    push_entries(table, rows, rewards, own=True)
    table.joined = tally(table.joined, table.exposures.arm[rows], 1)
    if rule.units:
        credit(table, rule, rows, rewards)


def credit(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards) -> None:
    """Count rewards of later exposures for the pending roots of their units.

    Intention to treat: what a unit does within the window after it entered counts for the arm that
    it entered with, whichever of its requests led to it.
    """
    store = table.exposures
    mine = np.flatnonzero((store.unit[rows] != 0) & ((store.flags[rows] & STALE) == 0))
    rows, rewards = rows[mine], rewards.pick(mine)
    unit = table.find_units(rows)
    root = np.where(unit >= 0, table.units.root[unit], NONE).astype(np.int64)
    closed_root = (unit >= 0) & table.units.entered[unit] & (root < 0)
    follows = (root >= 0) & precedes(table, root, rows)
    counts = follows & (rewards.time <= store.time[root] + rule.window_s)
    push_entries(table, root[counts], rewards.pick(counts), own=False)
    # A root that is earlier than the exposure may still come, until the watermark passes it.
    early = ~follows & ~closed_root & (root != rows)
    early &= store.time[rows] >= table.clock - rule.grace_s
    old_rows, old = table.early
    table.early = (np.concatenate([old_rows, rows[early]]), old.followed_by(rewards.pick(early)))


def precedes(table: Table, first: Int, second: Int) -> Bool:
    """Whether the first exposure comes before the second, by (time, request)."""
    store = table.exposures
    before, after = store.time[first], store.time[second]
    tie = (before == after) & (store.request[first] < store.request[second])
    earlier: Bool = (before < after) | tie
    return earlier


def push_entries(table: Table, rows: Int, rewards: JoinRewards, *, own: bool) -> None:
    """Put rewards at the heads of the chains of exposures."""
    if not rows.size:
        return
    store = table.entries
    items = store.take(rows.size)
    store.time[items] = rewards.time
    store.id[items] = rewards.id
    store.value[items] = rewards.value
    store.own[items] = own
    order = np.argsort(rows, kind="stable")
    link(table.exposures.rewards, store.next, rows[order], items[order])


def link(head: Slot, following: Slot, owners: Int, items: Int) -> Int:
    """Push items onto the chains of their owners, which must be grouped; gives each group's size.

    The last item of a group becomes its owner's head.
    """
    first = starts(owners)
    last = np.append(first[1:], owners.size) - 1
    following[items[1:]] = items[:-1]
    following[items[first]] = head[owners[first]]
    head[owners[last]] = items[last]
    return last - first + 1


def starts(grouped: Int | Key) -> Int:
    """Where each run of equal values begins."""
    if not grouped.size:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))


def entries_of(table: Table, rows: Int) -> tuple[Int, Int]:
    """All entries in the chains of exposures: (position in `rows`, entry), in no order."""
    owner = np.arange(rows.size)
    entry = table.exposures.rewards[rows].astype(np.int64)
    owners, entries = [], []
    while True:
        some = np.flatnonzero(entry >= 0)
        if not some.size:
            break
        owner, entry = owner[some], entry[some]
        owners.append(owner)
        entries.append(entry)
        entry = table.entries.next[entry].astype(np.int64)
    none = np.empty(0, np.int64)
    return np.concatenate([none, *owners]), np.concatenate([none, *entries])


def tally(counts: Int, arms: Slot, sign: int) -> Int:
    """The counts by arm after adding one, times `sign`, for each of `arms`."""
    more = np.bincount(arms, minlength=counts.size)
    grown = np.zeros(more.size, np.int64)
    grown[: counts.size] = counts
    return grown + sign * more


def sorted_rows(time: Float, request: Key, rows: Int) -> Int:
    """Rows in exposure order: by time, then by request key."""
    return rows[np.lexsort((request[rows], time[rows]))]

"""All that the joiner remembers between two micro-batches.

A `Table` is changed in place: whoever passes it to `absorb` or `close` gives it away, and goes on
with the same object. What must not be lost is written down from `to_arrays` first.

Invariants, for every live exposure row r:
    by_request.find(request[r]) = r
    r is in `calendar` or CLOSED; CLOSED rows stand in `closed`, in the order of their closing
    r is SETTLED or in `settling`
    a joined reward is WAITING exactly while it is in `scoring`
"""

from __future__ import annotations

from collections import deque
from typing import Self

import numpy as np

from controller.core.join import compact, snapshot
from controller.core.join.calendar import Calendar
from controller.core.join.index import HashIndex
from controller.core.join.rule import Joined, JoinRewards
from controller.core.join.store import (
    ANALYSED,
    CLOSED,
    NONE,
    STALE,
    Arrays,
    ExposureStore,
    IdStore,
    RewardStore,
    Slot,
    UnitStore,
)
from controller.core.model import Int, Key


class Table:
    """The joiner's memory of one model.

    clock         the latest clock it was given; time never goes back
    joined        (n_arms,) int64, rewards joined so far, by arm
    pending       (n_arms,) int64, exposures not yet closed, by arm
    waiting       rewards that name a request without exposure so far
    unit_waiting  rewards that name a unit, until the watermark reaches them
    lately        rewards joined since the last `close`
    settling      exposures that may be analysed, until the watermark has passed them
    scoring       rewards that may count for a root, until the watermark reaches them
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
        self.lately = Joined.none()
        self.settling = Calendar()
        self.scoring = Calendar()

    def to_arrays(self) -> Arrays:
        """Everything that is remembered, as plain arrays; views, good until the table changes."""
        return snapshot.to_arrays(self)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The table that `to_arrays` was made from; it behaves as that one from then on.

        Uses up the arrays. Raises what NumPy does where they are of another shape.
        """
        table = cls()
        (compact.restore if compact.is_compact(arrays) else snapshot.restore)(table, arrays)
        return table

    @classmethod
    def counts_of(cls, arrays: Arrays) -> Self:
        """A table with the counts of the one that `to_arrays` was made from, and without a row."""
        if compact.is_compact(arrays):
            return cls.from_arrays(arrays)
        table = cls()
        snapshot.restore_counts(table, arrays)
        return table

    @property
    def nbytes(self) -> int:
        """Memory of everything that grows with what is pending."""
        stores = (self.exposures, self.entries, self.ids, self.units)
        indexes = (self.by_request, self.by_id, self.by_unit)
        total = sum(store.nbytes for store in stores) + sum(index.nbytes for index in indexes)
        calendars = (self.calendar, self.id_calendar, self.settling, self.scoring)
        total += sum(calendar.nbytes for calendar in calendars)
        total += self.maturing.nbytes if self.maturing is not None else 0
        return total + sum(rows.nbytes for _, rows in self.closed)

    @property
    def rows(self) -> int:
        """How many exposures, rewards, ids and units are remembered, or were at the same time."""
        return sum(s.high for s in (self.exposures, self.entries, self.ids, self.units))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered that a `close` could say anything of."""
        waits = self.waiting.time.size or self.unit_waiting.time.size or self.lately.arm.size
        return not (len(self.by_request) or len(self.by_id) or waits)

    def advance(self, clock: float) -> float:
        """The clock from now on: never earlier than before."""
        self.clock = max(self.clock, clock)
        return self.clock

    def live_rows(self) -> Int:
        """All exposure rows in use, by row number: about in order of time, and fast to read."""
        is_live = np.zeros(self.exposures.capacity, np.bool_)
        is_live[self.by_request.rows()] = True
        return np.flatnonzero(is_live)

    def arm_counts(self) -> Int:
        """How many of the exposures in use each arm has, by its number."""
        return np.bincount(self.exposures.arm[self.live_rows()])

    def keep_arms(self, kept: Int) -> None:
        """Number the arms anew: `kept` are the numbers so far of those that stay, rising.

        No exposure in use has any other.
        """
        rows = self.live_rows()
        self.exposures.arm[rows] = np.searchsorted(kept, self.exposures.arm[rows])
        self.joined = self.joined[kept[kept < len(self.joined)]]
        self.pending = self.pending[kept[kept < len(self.pending)]]

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

    def analyse_units(self) -> None:
        """Begin to keep what decides how units enter the analysis."""
        if not self.exposures.has("root"):
            self.exposures.add_roots()

    def claim_units(self, units: Key) -> Int:
        """The rows of units, distinct or not; those not yet known are given one."""
        store = self.units
        rows = store.take(units.size)
        store.unit[rows] = units
        store.root[rows] = store.newest[rows] = NONE
        store.count[rows] = 0
        store.level[rows] = store.seen[rows] = 0
        store.since[rows] = store.came[rows] = -np.inf
        owner = self.by_unit.add(units, rows, store.unit)
        store.give_back(rows[owner != rows])
        return owner

    def drop_units(self, rows: Int) -> None:
        """Forget those of the units that nothing refers to."""
        idle = rows[(self.units.count[rows] == 0) & (self.units.seen[rows] == 0)]
        self.by_unit.remove(idle, self.units.unit)
        self.units.give_back(idle)

    def find_units(self, rows: Int) -> Int:
        """The unit row of each exposure row; -1 for a request that is its own unit."""
        found = self.by_unit.find(self.exposures.unit[rows], self.units.unit)
        found[self.exposures.unit[rows] == 0] = NONE
        return found


def new_rollout(table: Table) -> Table:
    """Forget which units entered and at what level: each may enter again; consumes the table.

    Exposures that are still pending go on to be joined and closed, but are never analysed.
    """
    rows = table.live_rows()
    flags = table.exposures.flags
    flags[rows] = (flags[rows] & ~ANALYSED) | STALE
    units = table.by_unit.rows()
    table.units.level[units] = table.units.seen[units] = 0
    table.units.root[units] = NONE
    table.drop_units(units)
    return table

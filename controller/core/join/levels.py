"""With which of its exposures a unit enters the analysis.

A unit enters with its first exposure in the rollout. Where units keep their place on the circle
while the candidate's share grows, it may enter again: a unit that was the champion's at share a
has, at the first exposure under a share b > a, the conditional probability (b - a) / (1 - a) to be
the candidate's, whatever happened before. So it enters anew, with *base* a and a stratum of its
own.

Whether it may is decided by what came before that exposure, because the arm that answers it must
not have a say:

    its last entry's window is over:  time > time of that entry + window
    it was never seen in the candidate nor under an unknown split, nor entered under level 0
    its level, the greatest under which the champion answered it since it entered, is below b

An exposure under a higher level that does not qualify (too early, or not in the rollout) uses that
level up: the unit's arm there is known by now. An exposure by the candidate ends it for good, and
so does one under an unknown split, whoever answered: else only units of the candidate would be
missing among those that enter again. So along its exposures in order of (time, request) a unit's
level only rises, 0 -> a -> b -> ..., until it is SPENT.

The rule is applied twice. By arrival, for what must be known at once (errors, sample ratio), and in
final order once the watermark has passed, for everything else; see `table` for the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.join.chains import starts
from controller.core.join.store import IN_ROLLOUT, SPENDING
from controller.core.join.table import Table
from controller.core.model import Bool, Float, Int, Key

SPENT: Final = -1
"""The level of a unit that can tell nothing more in this rollout."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Exposures of units, grouped by unit, those of a unit in order of (time, request).

    unit    int64, row in the unit store
    spends  the candidate answered it, or its split is unknown
    """

    unit: Int
    time: Float
    level: Int
    in_rollout: Bool
    spends: Bool

    @classmethod
    def of(cls, table: Table, rows: Int, unit: Int) -> Self:
        """What the table knows of these exposures."""
        store = table.exposures
        flags, level = store.flags[rows], store.level[rows].astype(np.int64)
        return cls(
            unit=unit,
            time=store.time[rows],
            level=level,
            in_rollout=(flags & IN_ROLLOUT) != 0,
            spends=(flags & SPENDING) != 0,
        )

    def pick(self, chosen: Int | Bool) -> Self:
        """The exposures at these positions."""
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def levels(table: Table, units: Key) -> Int:
    """Per unit key, what is known of it by the exposures that were absorbed so far.

    0: it has not entered this rollout. 1..10 000: the greatest level, in basis points, at which the
    champion answered it since it entered. SPENT: it will not enter again.
    """
    row = table.by_unit.find(units, table.units.unit)
    known: Int = np.where(row >= 0, table.units.seen[row], 0).astype(np.int64)
    known[units == 0] = 0
    return known


def enter(level: NDArray[np.int16], since: Float, seen: Seen, window_s: float) -> tuple[Bool, Int]:
    """Which exposures their units enter with, and the base of each, 0 where that is the first.

    level, since  columns of the unit store: each unit's level, and the time of its last entry; both
                  are brought up to date
    """
    enters, base = np.zeros(seen.unit.size, np.bool_), np.zeros(seen.unit.size, np.int64)
    at = _telling(level, seen)
    seen = seen.pick(at)
    goes = np.zeros(at.size, np.bool_)
    from_level = np.zeros(at.size, np.int64)
    todo = starts(seen.unit)
    # The first of each unit, then the second of those that have one: a few steps, one per level.
    while todo.size:
        unit = seen.unit[todo]
        known = level[unit].astype(np.int64)
        goes[todo] = _qualifies(known, since[unit], seen.pick(todo), window_s)
        from_level[todo] = np.where(goes[todo], known, 0)
        level[unit] = _level_after(known, seen.pick(todo))
        mine = goes[todo]
        since[unit[mine]] = seen.time[todo[mine]]
        onward = todo[(level[unit] != SPENT) & (todo + 1 < at.size)] + 1
        todo = onward[seen.unit[onward] == seen.unit[onward - 1]]
    enters[at], base[at] = goes, from_level
    return enters, base


def _telling(level: NDArray[np.int16], seen: Seen) -> Int:
    """Positions of the exposures that may change what is known of their units."""
    known = level[seen.unit].astype(np.int64)
    at = np.flatnonzero((known > 0) | ((known == 0) & _has_entered(seen)))
    if not at.size:
        return at
    known, seen = known[at], seen.pick(at)
    first = starts(seen.unit)
    group = np.repeat(np.arange(first.size), np.diff(np.append(first, at.size)))
    # A running maximum that begins anew with each group, because groups lie a span apart.
    span = np.int64(1 << 20)
    highest = np.maximum.accumulate(seen.level + group * span) - group * span
    before = np.append(0, highest[:-1])
    before[first] = 0
    record = seen.level > np.maximum(before, known)
    is_first = np.zeros(at.size, np.bool_)
    is_first[first] = known[first] == 0
    telling: Int = at[record | is_first | seen.spends]
    return telling


def _has_entered(seen: Seen) -> Bool:
    """Whether an exposure is its unit's first in the rollout here, or comes after that."""
    first = starts(seen.unit)
    size = np.diff(np.append(first, seen.unit.size))
    running = np.cumsum(seen.in_rollout)
    before = np.append(0, running[:-1])[first]
    entered: Bool = running > np.repeat(before, size)
    return entered


def _qualifies(known: Int, since: Float, seen: Seen, window_s: float) -> Bool:
    again = (known > 0) & (seen.level > known) & (seen.time > since + window_s)
    qualifies: Bool = seen.in_rollout & ((known == 0) | again)
    return qualifies


def _level_after(known: Int, seen: Seen) -> Int:
    is_over = (known == SPENT) | seen.spends | ((known == 0) & (seen.level <= 0))
    return np.where(is_over, SPENT, np.maximum(known, seen.level))

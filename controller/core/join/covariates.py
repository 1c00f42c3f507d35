"""What is known of units before they enter a rollout: one number each, by unit key.

For CUPED: an arm's units are compared with what was to be expected of them. Who uses it asks `find`
when an exposure comes and keeps the answer with it (`JoinExposures.bin`); what is learnt of a unit
after it entered must not count for that rollout, since the arm may have caused it.

Whoever sends events can invent units. Of the first `MOST_UNITS` something is known, and what is
said of more is refused: those compare as units do of which nothing is known, never wrongly.

Rejected: forgetting the units that were told of longest ago (an invented one would drive out a real
one, and they all would have to be kept in order).
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

import numpy as np

from controller.core.join.index import HashIndex
from controller.core.join.store import Arrays, Store
from controller.core.model import Bool, Float, Key

MOST_UNITS: Final = 10_000_000
"""Units of which something is known at the same time: some 250 MB."""


class _CovariateStore(Store):
    """Units and the newest value of each: 16 bytes."""

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {"unit": np.uint64, "value": np.float64}
    __slots__ = ("unit", "value")
    unit: Key
    value: Float


class CovariateTable:
    """The newest covariate of each unit; some 25 bytes a unit."""

    __slots__ = ("_by_unit", "_store")

    def __init__(self) -> None:
        self._store = _CovariateStore()
        self._by_unit = HashIndex()

    def __len__(self) -> int:
        """How many units are known."""
        return len(self._by_unit)

    @property
    def nbytes(self) -> int:
        """Memory of the columns and of their index."""
        return self._store.nbytes + self._by_unit.nbytes

    def learn(self, units: Key, values: Float) -> Bool:
        """From now on these are the values, of equal units the last; a unit 0 is nobody's.

        Gives which of them are of one unit too many; of those nothing is learnt.
        """
        beyond = self._beyond(units)
        named = (units != 0) & ~beyond
        units, values = units[named], values[named]
        store = self._store
        rows = store.take(units.size)
        store.unit[rows] = units
        owner = self._by_unit.add(units, rows, store.unit)
        store.give_back(rows[owner != rows])
        store.value[owner] = values  # the last of repeated assignments stays
        return beyond

    def _beyond(self, units: Key) -> Bool:
        """Which of these are not known and come after the first for which there is room."""
        beyond = np.zeros(units.size, np.bool_)
        room = MOST_UNITS - len(self)
        if units.size <= room:
            return beyond
        unknown = (self._by_unit.find(units, self._store.unit) < 0) & (units != 0)
        _, first, which = np.unique(units[unknown], return_index=True, return_inverse=True)
        beyond[unknown] = np.argsort(np.argsort(first))[which] >= room
        return beyond

    def find(self, units: Key) -> Float:
        """(n,) the value of each unit, NaN where none is known."""
        row = self._by_unit.find(units, self._store.unit)
        return np.where(row >= 0, self._store.value[row], np.nan)

    def values(self) -> Float:
        """(n,) all that is known, in no order of meaning."""
        return self._store.value[self._by_unit.rows()]

    def to_arrays(self) -> Arrays:
        """All that is known, as plain arrays; views, good until the table changes."""
        return self._store.to_arrays("store")

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The table that `to_arrays` was made from, now or by 0.2.0; uses up the arrays."""
        table = cls()
        if "store.free" in arrays:
            table._store.refill("store", arrays)
            table._by_unit = HashIndex.of(table._store.live(), table._store.unit)
        else:
            table.learn(arrays["unit"].astype(np.uint64), arrays["value"].astype(np.float64))
        return table

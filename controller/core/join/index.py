"""An open-addressing hash index on 64-bit keys, all of whose operations take whole arrays.

It answers "which row has this key?". The keys themselves stay in a column of the caller: the index
keeps only row numbers, 4 bytes a slot, and reads the column to compare. That is what makes some
7 to 10 bytes a row possible; keys beside the rows would be a little faster and three times as big.

Linear probing in lockstep: every key of a call takes one step at a time, and those that are done
leave. Keys that are equal therefore meet at the same free slot in the same step, where the first of
them wins; that is how duplicates inside one call are found without a sort.

Invariant: from a key's home slot to the slot that holds its row there is no EMPTY slot. A removed
row leaves a TOMB; tombs that stand before an EMPTY slot become EMPTY at once, so that a table in
which as many rows come as go seldom has to be rebuilt.

A handful of keys is walked one by one: three would cost as many calls as three thousand.

Rejected: sorted segments with `searchsorted` (0.3 million look-ups/s at 10^7 keys, against
some ten), a Python dict (100 bytes a key, one object per event), a power of two as capacity (the
load would fall to 0.3 at each growth; with any capacity it stays between 0.4 and 0.6).
"""

from __future__ import annotations

from typing import Final, Self

import numpy as np

from controller.core.join.store import FEW, Slot
from controller.core.model import Bool, Int, Key

EMPTY: Final = -1
TOMB: Final = -2
_FULL: Final = 0.6
"""Rebuild when more than this share of the slots is taken by rows and tombs."""
_ROOMY: Final = 0.4
"""The share of slots taken by rows after a rebuild."""
_LEAST: Final = 1024
_CHUNK: Final = 1 << 18
_FACTOR: Final = 0x9E3779B97F4A7C15
_MIX: Final = np.uint64(_FACTOR)
_HALF: Final = np.uint64(32)
_WORD: Final = (1 << 64) - 1


class HashIndex:
    """Rows by key. `column` is the caller's column of keys, which holds each row's key."""

    __slots__ = ("_live", "_slots", "_tombs")

    def __init__(self) -> None:
        self._slots: Slot = np.full(_LEAST, EMPTY, np.int32)
        self._live = 0
        self._tombs = 0

    @classmethod
    def of(cls, rows: Int, column: Key) -> Self:
        """The index of rows with distinct keys."""
        index = cls()
        index._fill(rows.astype(np.int32), 0, column)
        return index

    def __len__(self) -> int:
        return self._live

    @property
    def nbytes(self) -> int:
        """Memory of the slots."""
        return self._slots.nbytes

    def rows(self) -> Int:
        """All rows, in no order of meaning."""
        return self._slots[self._slots >= 0].astype(np.int64)

    def find(self, keys: Key, column: Key) -> Int:
        """The row of each key, -1 where there is none."""
        if keys.size <= FEW:
            return np.array([self._sought(key, column)[0] for key in keys.tolist()], np.int64)
        return self._found(keys, self._home(keys), column)

    def _found(self, keys: Key, slot: Int, column: Key) -> Int:
        """The row of each key, whose search begins at `slot`."""
        found = np.empty(keys.size, np.int64)
        found.fill(-1)
        if not self._live:
            return found
        todo = np.arange(keys.size)
        while todo.size:
            row = self._slots.take(slot)
            hit = (row >= 0) & (column.take(row, mode="clip") == keys)
            found[todo[hit]] = row[hit]
            onward = ((row != EMPTY) > hit).nonzero()[0]
            if not onward.size:
                break
            todo, keys, slot = todo[onward], keys[onward], self._next(slot[onward])
        return found

    def add(self, keys: Key, rows: Int, column: Key) -> Int:
        """Give each key to its row unless it has one; the rows that own the keys after that.

        Of equal keys in one call the first wins. `column[rows]` must hold `keys` already.
        """
        if keys.size <= FEW:
            self._made_room(keys.size, column)
            pairs = zip(keys.tolist(), rows.tolist(), strict=True)
            return np.array([self._owner(key, row, column) for key, row in pairs], np.int64)
        home = self._home(keys)
        owner = self._found(keys, home, column)
        absent = (owner < 0).nonzero()[0]
        if not absent.size:
            return owner
        if self._made_room(absent.size, column):
            home = self._home(keys)
        if absent.size == keys.size:
            return self._place(keys, rows, home, column)
        owner[absent] = self._place(keys[absent], rows[absent], home[absent], column)
        return owner

    def remove(self, rows: Int, column: Key) -> None:
        """Forget rows; each must be present, once."""
        if rows.size <= FEW:
            keys = column[rows].tolist()
            self._bury(np.array([self._sought(key, column)[1] for key in keys], np.int64))
            return
        slot = self._home(column[rows])
        wanted, at = rows, []
        while wanted.size:
            here = self._slots.take(slot) == wanted
            at.append(slot[here])
            onward = (~here).nonzero()[0]
            if not onward.size:
                break
            wanted, slot = wanted[onward], self._next(slot[onward])
        self._bury(at[0] if len(at) == 1 else np.concatenate(at))

    def _bury(self, gone: Int) -> None:
        self._slots[gone] = TOMB
        self._live -= gone.size
        self._tombs += gone.size
        if gone.size > FEW:
            self._sweep(gone)
            return
        for slot in gone.tolist():
            self._sweep_from(slot)

    def _sweep(self, tombs: Int) -> None:
        """Turn tombs before an EMPTY slot into EMPTY, and so on backwards."""
        while tombs.size:
            idle = tombs[self._slots[self._next(tombs.copy())] == EMPTY]
            self._slots[idle] = EMPTY
            self._tombs -= idle.size
            before = idle - 1  # the slot before the first is -1, which is the last one
            tombs = before[self._slots[before] == TOMB]

    def _place(self, keys: Key, rows: Int, slot: Int, column: Key) -> Int:
        """Put rows whose keys are absent into free slots, from the keys' homes on; the owners."""
        owner = rows.copy()
        todo = np.arange(keys.size)
        while todo.size:
            mine = rows[todo]
            before = self._slots.take(slot)
            free = before < 0
            # The last of repeated assignments stays, hence backwards: the first of equals wins.
            self._slots[slot[free][::-1]] = mine[free][::-1]
            holder = self._slots.take(slot)
            won = holder == mine
            self._count(won, before)
            if np.count_nonzero(won) == won.size:
                break
            twin = ~won & (column.take(holder) == keys[todo])
            owner[todo[twin]] = holder[twin]
            onward = np.flatnonzero(~(won | twin))
            todo, slot = todo[onward], self._next(slot[onward])
        return owner

    def _count(self, won: Bool, before: Slot) -> None:
        self._live += int(np.count_nonzero(won))
        if self._tombs:
            self._tombs -= int(np.count_nonzero(won & (before == TOMB)))

    def _made_room(self, extra: int, column: Key) -> bool:
        """Whether the slots had to be made anew for so many more rows."""
        if self._live + self._tombs + extra <= _FULL * self._slots.size:
            return False
        self._fill(self._slots[self._slots >= 0], extra, column)
        return True

    def _fill(self, rows: Slot, extra: int, column: Key) -> None:
        size = max(_LEAST, int((rows.size + extra) / _ROOMY) + 1)
        self._slots = np.full(size, EMPTY, np.int32)
        self._live = self._tombs = 0
        # In chunks: the arrays of a probe are many times bigger than the slots they fill.
        for start in range(0, rows.size, _CHUNK):
            chunk = rows[start : start + _CHUNK].astype(np.int64)
            keys = column[chunk]
            self._place(keys, chunk, self._home(keys), column)

    def _sought(self, key: int, column: Key) -> tuple[int, int]:
        """The row of one key and its slot, or EMPTY and the first free slot of the key's walk."""
        slots, size, free = self._slots, self._slots.size, -1
        mixed = ((key ^ key >> 32) * _FACTOR & _WORD) >> 32
        slot = mixed * size >> 32
        row = slots.item(slot)
        while row != EMPTY and (row == TOMB or column.item(row) != key):
            if row == TOMB and free < 0:
                free = slot
            slot = slot + 1 if slot + 1 < size else 0
            row = slots.item(slot)
        return row, slot if row >= 0 or free < 0 else free

    def _owner(self, key: int, row: int, column: Key) -> int:
        """The row that owns one key, after giving it to this one unless it has one."""
        known, slot = self._sought(key, column)
        if known >= 0:
            return known
        self._tombs -= self._slots.item(slot) == TOMB
        self._slots[slot] = row
        self._live += 1
        return row

    def _sweep_from(self, slot: int) -> None:
        """As `_sweep`, of one tomb; the slot before the first is -1, which is the last one."""
        slots, size = self._slots, self._slots.size
        while slots.item(slot) == TOMB and slots.item((slot + 1) % size) == EMPTY:
            slots[slot] = EMPTY
            self._tombs -= 1
            slot -= 1

    def _home(self, keys: Key) -> Int:
        """The slot at which the search for a key begins: multiply-shift, onto any capacity."""
        mixed = (keys ^ (keys >> _HALF)) * _MIX >> _HALF
        return ((mixed * np.uint64(self._slots.size)) >> _HALF).astype(np.int64)

    def _next(self, slot: Int) -> Int:
        slot += 1
        slot[slot == self._slots.size] = 0
        return slot

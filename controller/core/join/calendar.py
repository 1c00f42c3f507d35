"""Which rows are due: rows by time, for times that are almost sorted already.

Rows come in blocks; a block is left alone until its earliest row is due. Then all its rows join the
*front*, a small sorted array from which the due ones are cut. A row is thus sorted once or twice in
its life, whatever else is pending, and costs 4 bytes meanwhile.

Invariant: every row that was added and is not yet due stands in one of heap, tail and front.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from controller.core.join.store import Slot
from controller.core.model import Float, Int

_BLOCK: Final = 4_096
_NO_ROWS: Final = np.empty(0, np.int64)


class Calendar:
    """Rows by time."""

    __slots__ = ("_front", "_front_time", "_heap", "_serial", "_tail", "_tail_min", "_tail_size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Slot]] = []
        self._serial = 0
        self._front: Slot = np.empty(0, np.int32)
        self._front_time: Float = np.empty(0)
        self._tail: list[Slot] = []
        self._tail_size = 0
        self._tail_min = float("inf")

    @property
    def nbytes(self) -> int:
        """Memory of the row numbers."""
        blocks = sum(rows.nbytes for _, _, rows in self._heap)
        tail = sum(rows.nbytes for rows in self._tail)
        return blocks + tail + self._front.nbytes + self._front_time.nbytes

    def rows(self) -> Slot:
        """All rows, in no order of meaning."""
        return np.concatenate([self._front, *(rows for _, _, rows in self._heap), *self._tail])

    def add(self, rows: Int, time: Float) -> None:
        """Remember rows with their times, best in order of time."""
        if not rows.size:
            return
        short = rows.astype(np.int32)
        for start in range(0, rows.size, _BLOCK):
            block = time[start : start + _BLOCK]
            self._append(short[start : start + _BLOCK], float(block[block.argmin()]))

    def due(self, span: float, limit: float, time: Float) -> Int:
        """Take out the rows with time + span <= limit, in order of time.

        `time` is the column in which the rows' times stand.
        """
        opened = self._open(span, limit)
        if opened:
            rows = np.concatenate([self._front, *opened])
            times = time[rows]
            order = times.argsort(kind="stable")
            self._front, self._front_time = rows[order], times[order]
        if not self._front.size:
            return _NO_ROWS
        cut = int((self._front_time + span).searchsorted(limit, side="right"))
        if not cut:
            return _NO_ROWS
        rows, self._front = self._front[:cut], self._front[cut:]
        self._front_time = self._front_time[cut:]
        return rows.astype(np.int64)

    def _open(self, span: float, limit: float) -> list[Slot]:
        opened = []
        while self._heap and self._heap[0][0] + span <= limit:
            opened.append(heapq.heappop(self._heap)[2])
        if self._tail and self._tail_min + span <= limit:
            opened += self._tail
            self._clear_tail()
        return opened

    def _append(self, rows: Slot, earliest: float) -> None:
        self._tail.append(rows)
        self._tail_size += rows.size
        self._tail_min = min(self._tail_min, earliest)
        if self._tail_size < _BLOCK:
            return
        block = np.concatenate(self._tail) if len(self._tail) > 1 else rows
        # The serial number keeps the heap from comparing arrays.
        heapq.heappush(self._heap, (self._tail_min, self._serial, block))
        self._serial += 1
        self._clear_tail()

    def _clear_tail(self) -> None:
        self._tail = []
        self._tail_size = 0
        self._tail_min = float("inf")

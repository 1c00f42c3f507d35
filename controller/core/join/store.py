"""Columns that grow, and whose rows are used again: where the joiner keeps what is pending.

A store is a set of equally long columns and a stack of rows that are free. Taking and giving back
rows costs the same whatever the store holds; nothing is ever compacted, so that a row keeps its
number from birth to death and one exposure with a time far in the future pins only itself.

Rejected: a ring (one straggler pins all that came after it), compaction (a pause of a second at
10^7 rows), a list of objects (200 bytes and a microsecond each).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from controller.core.model import Float, Int, Key

Slot: TypeAlias = NDArray[np.int32]
"""Row numbers as they are stored; in calculations they are int64."""

Flags: TypeAlias = NDArray[np.uint8]

Level: TypeAlias = NDArray[np.int16]
"""Levels of units in basis points, as they are stored; in calculations they are int64."""

Kind = TypeVar("Kind", bound=np.generic)

Arrays: TypeAlias = dict[str, NDArray[np.generic]]

NONE: Final = -1
"""The row number that means "no row"."""

FEW: Final = 16
"""Keys or rewards of a call up to which plain numbers, one by one, are faster than arrays."""

_LEAST: Final = 16
_LARGE: Final = 1 << 16

ANALYSED: Final = np.uint8(1)
"""The exposure enters the inference: with units, it is its unit's root."""
CLOSED: Final = np.uint8(2)
"""Its outcome is out; the row is kept so that what comes too late is known as such."""
STALE: Final = np.uint8(4)
"""It was absorbed before the present rollout began."""
SETTLED: Final = np.uint8(8)
"""Whether it is analysed is decided for good; not so: it stands in the calendar `settling`."""
SCORED: Final = np.uint8(16)
"""It is analysed and had its row in `Events`."""
IN_ROLLOUT: Final = np.uint8(32)
"""It belongs to the rollout that was on when it was absorbed."""
SPENDING: Final = np.uint8(64)
"""Its unit can tell nothing after it: see `levels`."""

OWN: Final = np.uint8(1)
"""The reward was joined to this very exposure; otherwise the exposure is the root of a unit, and
the reward was joined to a later exposure of that unit."""
WAITING: Final = np.uint8(2)
"""The reward may be some root's first; it stands in the calendar `scoring`."""


class Store:
    """Rows of the columns that `FIELDS` declares; every column is an attribute."""

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {}
    __slots__ = ("_fields", "_free", "_free_count", "_high")

    def __init__(self) -> None:
        self._fields = dict(self.FIELDS)
        self._free: Slot = np.empty(_LEAST, np.int32)
        self._free_count = 0
        self._high = 0
        for name, kind in self._fields.items():
            setattr(self, name, np.zeros(_LEAST, kind))

    @property
    def capacity(self) -> int:
        """How many rows the columns have room for."""
        return len(self._columns()[0])

    @property
    def nbytes(self) -> int:
        """Memory of all columns and of the free list."""
        return self._free.nbytes + sum(column.nbytes for column in self._columns())

    @property
    def high(self) -> int:
        """How many rows were ever in use at the same time."""
        return self._high

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the columns there are."""
        return tuple(self._fields)

    def has(self, name: str) -> bool:
        """Whether there is such a column; some are made when they are needed first."""
        return name in self._fields

    def take(self, count: int) -> Int:
        """Rows that nobody uses; their fields hold nothing of meaning."""
        again = min(count, self._free_count)
        old = self._free[self._free_count - again : self._free_count].astype(np.int64)
        self._free_count -= again
        if again == count:
            return old
        new = np.arange(self._high, self._high + count - again)
        self._high += new.size
        if self._high > self.capacity:
            self._grow(self._high)
        return np.concatenate([old, new])

    def give_back(self, rows: Int) -> None:
        """Rows that are used no more; each once."""
        count = self._free_count + rows.size
        if count > self._free.size:
            self._free = _longer(self._free, _roomy(count, self._free.size))
        self._free[self._free_count : count] = rows
        self._free_count = count

    def live(self) -> Int:
        """The rows in use, by number."""
        is_live = np.ones(self._high, np.bool_)
        is_live[self._free[: self._free_count]] = False
        return np.flatnonzero(is_live)

    def to_arrays(self, prefix: str, *, without: tuple[str, ...] = ()) -> Arrays:
        """All rows ever taken, and which of them are free; views, good until the next change."""
        names = [name for name in self._fields if name not in without]
        arrays: Arrays = {f"{prefix}.{name}": getattr(self, name)[: self._high] for name in names}
        return arrays | {f"{prefix}.free": self._free[: self._free_count]}

    def refill(self, prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """The rows that `to_arrays` gave, each with its number; columns left out hold zeros.

        Raises:
            KeyError, ValueError: the columns are not those of such a store.
        """
        self._free = _owned(arrays[f"{prefix}.free"], np.int32)
        self._free_count = self._free.size
        first, *_ = (name for name in self._fields if f"{prefix}.{name}" in arrays)
        self._high = arrays[f"{prefix}.{first}"].size
        for name, kind in self._fields.items():
            given = arrays.get(f"{prefix}.{name}")
            column = np.zeros(self._high, kind) if given is None else _owned(given, kind)
            if column.size != self._high:
                raise ValueError(f"{prefix}.{name} has {column.size} of {self._high} rows")
            setattr(self, name, column if column.size >= _LEAST else _longer(column, _LEAST))

    def _add(self, name: str, kind: type[np.generic], fill: int) -> None:
        """One more column."""
        setattr(self, name, np.full(self.capacity, fill, kind))
        self._fields[name] = kind

    def _columns(self) -> list[NDArray[np.generic]]:
        return [getattr(self, name) for name in self._fields]

    def _grow(self, needed: int) -> None:
        size = _roomy(needed, self.capacity)
        for name in self._fields:
            setattr(self, name, _longer(getattr(self, name), size))


def _roomy(needed: int, size: int) -> int:
    """A capacity that keeps growth amortised: halves while small, eighths when memory counts."""
    return max(needed, size + (size // 2 if size < _LARGE else size // 8))


def _longer(column: NDArray[Kind], size: int) -> NDArray[Kind]:
    grown = np.zeros(size, column.dtype)  # not `empty`: rows without meaning are kept, too
    grown[: column.size] = column
    return grown


def _owned(column: NDArray[np.generic], kind: type[Kind]) -> NDArray[Kind]:
    """The column as it is where nobody else has it, else a copy."""
    if column.dtype != kind or column.ndim != 1:
        raise ValueError(f"found {column.ndim} dimensions of {column.dtype}, expected {kind}")
    is_ours = column.flags.owndata and column.flags.writeable
    owned: NDArray[Kind] = column if is_ours else column.copy()  # type: ignore[assignment]
    return owned


def tally(counts: Int, arms: Slot, sign: int) -> Int:
    """The counts by arm after adding one, times `sign`, for each of `arms`."""
    more = np.bincount(arms, None, counts.size)
    if more.size > counts.size:
        counts = np.concatenate([counts, np.zeros(more.size - counts.size, np.int64)])
    return counts + more if sign > 0 else counts - more


class ExposureStore(Store):
    """Exposures that are pending or were closed a short while ago.

    38 bytes each; 8 more where units are analysed, 4 more where rewards may name units.

    rewards      the newest entry of the exposure's chain in the reward store
    prev         where rewards may name units: the exposure of the same unit before it
    level, base  where units are analysed: the level that it came with; of a root, the level from
                 which its unit re-entered, 0 if it entered for the first time
    root         where units are analysed: of a settled exposure, the root that it belongs to, while
                 that is pending; else of no meaning
    """

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {
        "time": np.float64,
        "request": np.uint64,
        "unit": np.uint64,
        "arm": np.int32,
        "stratum": np.int32,
        "rewards": np.int32,
        "flags": np.uint8,
        "bin": np.int8,
    }
    __slots__ = (*FIELDS, "base", "level", "prev", "root")
    time: Float
    request: Key
    unit: Key
    arm: Slot
    stratum: Slot
    rewards: Slot
    flags: Flags
    bin: NDArray[np.int8]
    prev: Slot
    level: Level
    base: Level
    root: Slot

    def add_prev(self) -> None:
        """Make room for the chains of units."""
        self._add("prev", np.int32, NONE)

    def add_roots(self) -> None:
        """Make room for what decides how units enter."""
        self._add("level", np.int16, 0)
        self._add("base", np.int16, 0)
        self._add("root", np.int32, NONE)

    def bases(self, rows: Int) -> Int:
        """The base of each exposure that is analysed, 0 for the others."""
        if not self.has("base"):
            return np.zeros(rows.size, np.int64)
        return self.base[rows].astype(np.int64)


class RewardStore(Store):
    """Rewards that were joined to a pending exposure: 33 bytes each.

    next   the entry before it in the chain of its exposure
    owner  that exposure
    flags  OWN, WAITING
    """

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {
        "time": np.float64,
        "id": np.uint64,
        "value": np.float64,
        "next": np.int32,
        "owner": np.int32,
        "flags": np.uint8,
    }
    __slots__ = tuple(FIELDS)
    time: Float
    id: Key
    value: Float
    next: Slot
    owner: Slot
    flags: Flags


class IdStore(Store):
    """Ids of rewards that were seen: 16 bytes each."""

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {"id": np.uint64, "time": np.float64}
    __slots__ = ("id", "time")
    id: Key
    time: Float


class UnitStore(Store):
    """Units that entered the rollout, and by unit those with exposures: 40 bytes each.

    root          its last root while that is pending, else NONE
    newest        by unit: its newest exposure up to the watermark; `count` how many its chain has
    level, since  its level, 0 if it has not entered, and the time of its last entry, by exposures
                  before the watermark: see `levels`
    seen, came    the same by all exposures that were absorbed, in the order in which they came
    """

    FIELDS: ClassVar[dict[str, type[np.generic]]] = {
        "unit": np.uint64,
        "root": np.int32,
        "newest": np.int32,
        "count": np.int32,
        "level": np.int16,
        "seen": np.int16,
        "since": np.float64,
        "came": np.float64,
    }
    __slots__ = tuple(FIELDS)
    unit: Key
    root: Slot
    newest: Slot
    count: Slot
    level: Level
    seen: Level
    since: Float
    came: Float

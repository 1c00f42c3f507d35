"""What a partition remembers between ticks, where its log is, and the same as plain arrays."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Final, get_type_hints

import numpy as np

from controller.core.arms import MOST_STRANGERS
from controller.core.join import Table
from controller.core.model import EventBatch, Float, Int, evolved, key
from controller.core.state import default_of

MOST_STRATA: Final = 64
"""Strata that are kept whether or not an exposure has them."""

MOST_IDLE: Final = MOST_STRANGERS // 2
"""The same of arms that no split names."""


def log_name(model: str, number: int) -> str:
    """The name of a partition's log."""
    return f"{model}/{number}"


def place(request_id: str, count: int) -> int:
    """The partition of `count` in whose log everything about a request stands."""
    return key(request_id) % count if request_id else 0


@dataclass(frozen=True)
class Partition:
    """What the fold over a partition's log has made so far; the tables are changed in place.

    told         offset up to which ticks were told; what lies behind it waits for its tick
    policy       digest of the policy of the last tick
    rewards      events that `joins` ask for
    arms         names behind the arm columns
    segments     header values behind the segment column
    epochs, propensities, segment  (S,) int64, float64, int64: split, chance and segment (-1: none)
                 behind each stratum
    most_strata  when there are more of them, those that nobody refers to are forgotten
    marks        (m,) float64, watermarks since the oldest exposure that is open, rising
    """

    model: str
    number: int
    offset: int = 0
    told: int = 0
    clock: float = float("-inf")
    policy: str = ""
    rewards: tuple[str, ...] = ()
    joins: tuple[Table, ...] = ()
    arms: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    epochs: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    propensities: Float = field(default_factory=lambda: np.zeros(0))
    segment: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    most_strata: int = MOST_STRATA
    marks: Float = field(default_factory=lambda: np.zeros(0))
    waiting: tuple[EventBatch, ...] = ()

    @property
    def open(self) -> int:
        """Exposures and rewards that are not settled yet."""
        return max(
            (int(t.pending.sum()) + len(t.waiting.time) for t in self.joins),
            default=0,
        )


def groups(*keys: Int | Float) -> tuple[Int, Int]:
    """Rows that have the same keys: the first of each group, and the group of each row."""
    n = len(keys[0])
    # Mostly all requests have one split, and few say more: what is equal in all need not be sorted.
    keys = tuple(k for k in keys if n and np.count_nonzero(k == k[0]) < n)
    if not keys:
        return np.zeros(min(n, 1), np.int64), np.zeros(n, np.int64)
    order = np.lexsort(keys[::-1])
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = np.any([k[order][1:] != k[order][:-1] for k in keys], axis=0)
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    return order[is_new], inverse


def compacted(partition: Partition, named: Collection[str]) -> Partition:
    """The partition without arms and strata that no exposure has any more, when there are many.

    named  arms that stay, because exposures may come
    """
    if len(partition.epochs) <= partition.most_strata and not _has_idle(partition, named):
        return partition
    live = [(table, table.live_rows()) for table in partition.joins]
    used = np.unique(np.concatenate([t.exposures.stratum[rows] for t, rows in live]))
    for table, rows in live:
        table.exposures.stratum[rows] = np.searchsorted(used, table.exposures.stratum[rows])
    is_used = np.array([name in named for name in partition.arms], np.bool_)
    for table in partition.joins:
        counts = table.arm_counts()
        is_used[: len(counts)] |= counts > 0
    arms = np.flatnonzero(is_used)
    segment = partition.segment[used]
    named_by = np.unique(segment[segment >= 0])
    for table in partition.joins:
        table.keep_arms(arms)
    return evolved(
        partition,
        arms=tuple(partition.arms[i] for i in arms.tolist()),
        epochs=partition.epochs[used],
        propensities=partition.propensities[used],
        segments=tuple(partition.segments[i] for i in named_by.tolist()),
        segment=np.where(segment < 0, -1, np.searchsorted(named_by, segment)),
        most_strata=max(MOST_STRATA, 2 * len(used)),
    )


def _has_idle(partition: Partition, named: Collection[str]) -> bool:
    """Whether many arms have nothing open and take the room of strangers."""
    if len(partition.arms) < len(named) + MOST_IDLE:
        return False
    is_open = np.zeros(len(partition.arms), np.bool_)
    for table in partition.joins:
        is_open[: len(table.pending)] |= table.pending > 0
    idle = (i for i, name in enumerate(partition.arms) if name not in named and not is_open[i])
    return len(list(idle)) >= MOST_IDLE


# --- snapshots --------------------------------------------------------------------------------


def _image_class() -> type[Any]:
    """`Partition` without what waits for its tick, and with the tables as plain arrays."""
    hints = get_type_hints(Partition) | {"joins": tuple[dict[str, np.ndarray], ...]}
    kept = [f for f in fields(Partition) if f.name != "waiting"]
    columns = [(f.name, hints[f.name], default_of(f)) for f in kept]
    return make_dataclass("PartitionImage", columns, frozen=True, slots=True)


IMAGE: Final = _image_class()
"""The type of a snapshot."""


def image(partition: Partition) -> Any:
    """The partition as a value that can be written down; events that wait are read again."""
    values = {f.name: getattr(partition, f.name) for f in fields(IMAGE)}
    joins = tuple(table.to_arrays() for table in partition.joins)
    return IMAGE(**values | {"offset": partition.told, "joins": joins})


def oldest_needed(partition: Partition) -> int:
    """The offset of the oldest event that a fold which goes on from an `image` may ask for.

    A reward that waits for its exposure may be refused, and is kept with its text then.
    """
    waits = [w.offset for table in partition.joins for w in (table.waiting, table.unit_waiting)]
    oldest = [int(column.min()) for column in waits if column.size]
    return max(0, min([partition.told - 1, *oldest]))


def revived(snapshot: Any) -> Partition:
    """The partition behind an `image`; it goes on exactly as the one that was written down."""
    values = {f.name: getattr(snapshot, f.name) for f in fields(IMAGE)}
    joins = tuple(Table.from_arrays(arrays) for arrays in snapshot.joins)
    known, n = snapshot.segment, len(snapshot.epochs)
    # From before there were segments: what is open is of none.
    segment = known if len(known) == n else np.full(n, -1, np.int64)
    return Partition(**values | {"joins": joins, "segment": segment})

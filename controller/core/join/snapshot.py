"""The table as plain arrays, and back.

A row keeps its number from birth to death, so the stores are given as they stand: whole columns,
with free rows among the others and a list of those. What changed between two snapshots is then a
few stretches of each column, and whoever keeps snapshots can keep the rest from the last one (see
`ledger.parts`). Indexes, chains and calendars are made again from the columns: nothing that comes
out depends on the layout of an index, the order of a chain or the blocks of a calendar.

    exposure, entry, id, unit   a store each: its columns, and `free`
    closed.clock, .count, .row  when how many exposures were closed, and which
    maturing.row                exposures that will be put into the chains of their units

Rejected: live rows only, with references as positions (as up to 0.2.0, see `compact`: one row that
goes moves all that follow, so nothing stays as it was), a journal of changed rows (has to be
compacted, which takes seconds at 10^7 rows, at a time of its own choosing).
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from controller.core.join.calendar import Calendar
from controller.core.join.chains import link
from controller.core.join.index import HashIndex
from controller.core.join.rule import Joined, JoinRewards
from controller.core.join.store import CLOSED, NONE, SETTLED, WAITING, Arrays
from controller.core.model import Float, Int, Key

if TYPE_CHECKING:
    from controller.core.join.table import Table

_WAITING = ("waiting", "unit_waiting")


def to_arrays(table: Table) -> Arrays:
    """Everything that the table remembers; views, good until the table changes."""
    arrays: Arrays = {
        "clock": np.array([table.clock]),
        "joined": table.joined,
        "pending": table.pending,
        "closed.clock": np.array([clock for clock, _ in table.closed], np.float64),
        "closed.count": np.array([rows.size for _, rows in table.closed], np.int64),
        "closed.row": np.concatenate(
            [np.empty(0, np.int32), *(rows for _, rows in table.closed)], dtype=np.int32
        ),
    }
    arrays |= table.exposures.to_arrays("exposure", without=("rewards",))
    arrays |= table.entries.to_arrays("entry", without=("next",))
    arrays |= table.ids.to_arrays("id")
    arrays |= table.units.to_arrays("unit")
    if table.maturing is not None:
        arrays["maturing.row"] = table.maturing.rows()
    for name in (*_WAITING, "lately"):
        columns = getattr(table, name)
        arrays |= {f"{name}.{f.name}": getattr(columns, f.name) for f in fields(columns)}
    return arrays


def restore(table: Table, arrays: Arrays) -> None:
    """Fill a new table with what `to_arrays` gave. Uses up arrays that nobody else has.

    Raises:
        KeyError, ValueError, IndexError: they are of another shape.
    """
    restore_counts(table, arrays)
    _restore_exposures(table, arrays)
    _restore_entries(table, arrays)
    table.units.refill("unit", arrays)
    table.by_unit = HashIndex.of(table.units.live(), table.units.unit)
    table.ids.refill("id", arrays)
    ids = _by_time(table.ids.live(), table.ids.time)
    table.by_id = HashIndex.of(ids, table.ids.id)
    table.id_calendar.add(ids, table.ids.time[ids])
    table.waiting, table.unit_waiting = (rewards_of(name, arrays) for name in _WAITING)
    table.lately = Joined(*(arrays[f"lately.{f.name}"].astype(np.int64) for f in fields(Joined)))


def restore_counts(table: Table, arrays: Arrays) -> None:
    """Only what reports tell of a table."""
    table.clock = float(floats(arrays, "clock")[0])
    table.joined = arrays["joined"].astype(np.int64)
    table.pending = arrays["pending"].astype(np.int64)


def _restore_exposures(table: Table, arrays: Arrays) -> None:
    store = table.exposures
    if "exposure.root" in arrays:
        store.add_roots()
    if "exposure.prev" in arrays:
        store.add_prev()
    store.refill("exposure", arrays)
    store.rewards[:] = NONE
    rows = store.live()
    table.by_request = HashIndex.of(rows, store.request)
    pending = _by_time(rows[(store.flags[rows] & CLOSED) == 0], store.time)
    table.calendar.add(pending, store.time[pending])
    is_open = _by_time(rows[(store.flags[rows] & SETTLED) == 0], store.time)
    table.settling.add(is_open, store.time[is_open])
    _restore_closed(table, arrays)
    if "maturing.row" in arrays:
        table.maturing = Calendar()
        young = arrays["maturing.row"].astype(np.int64)
        table.maturing.add(young, store.time[young])


def _restore_closed(table: Table, arrays: Arrays) -> None:
    rows = arrays["closed.row"].astype(np.int32)
    ends = np.cumsum(arrays["closed.count"].astype(np.int64))
    if rows.size != (ends[-1] if ends.size else 0):
        raise ValueError(f"closed.row has {rows.size} rows, closed.count other ones")
    groups = np.split(rows, ends)[:-1]
    table.closed.extend(zip(floats(arrays, "closed.clock").tolist(), groups, strict=True))


def _restore_entries(table: Table, arrays: Arrays) -> None:
    store = table.entries
    store.refill("entry", arrays)
    items = store.live()
    items = items[np.argsort(store.owner[items], kind="stable")]
    if items.size:
        link(table.exposures.rewards, store.next, store.owner[items].astype(np.int64), items)
    waiting = items[(store.flags[items] & WAITING) != 0]
    table.scoring.add(waiting, store.time[waiting])


def _by_time(rows: Int, time: Float) -> Int:
    return rows[np.argsort(time[rows], kind="stable")]


def rewards_of(prefix: str, arrays: Arrays) -> JoinRewards:
    """Rewards that wait."""
    return JoinRewards(
        offset=arrays[f"{prefix}.offset"].astype(np.int64),
        time=floats(arrays, f"{prefix}.time"),
        id=keys(arrays, f"{prefix}.id"),
        request=keys(arrays, f"{prefix}.request"),
        unit=keys(arrays, f"{prefix}.unit"),
        value=floats(arrays, f"{prefix}.value"),
    )


def floats(arrays: Arrays, name: str) -> Float:
    """The array of this name, as times and values are."""
    return arrays[name].astype(np.float64)


def keys(arrays: Arrays, name: str) -> Key:
    """The array of this name, as keys are."""
    return arrays[name].astype(np.uint64)

"""The table as plain arrays, live rows only, and back.

Row numbers mean nothing outside a table, so references between rows become positions. A restored
table behaves as the old one from then on: nothing that comes out depends on row numbers, on the
layout of an index or on the blocks of a calendar.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from controller.core.join.calendar import Calendar
from controller.core.join.chains import entries_of, push_entries
from controller.core.join.index import HashIndex
from controller.core.join.rule import Joined, JoinRewards
from controller.core.join.store import CLOSED, NONE, SETTLED, WAITING, Store, tally
from controller.core.model import Bool, Float, Int, Key

if TYPE_CHECKING:
    from controller.core.join.table import Table

Arrays: TypeAlias = dict[str, NDArray[np.generic]]

_WAITING = ("waiting", "unit_waiting")


def to_arrays(table: Table) -> Arrays:
    """Everything that the table remembers; copies, safe to keep while the table goes on."""
    store = table.exposures
    rows = table.live_rows()
    position = np.full(store.capacity + 1, NONE, np.int32)  # the last one answers for NONE
    position[rows] = np.arange(rows.size)
    arrays: Arrays = {"clock": np.array([table.clock]), "joined": table.joined.copy()}
    arrays |= _copies("lately", table.lately)
    names = [name for name in store.fields if name not in ("rewards", "prev", "root")]
    arrays |= {f"exposure.{name}": getattr(store, name)[rows] for name in names}
    arrays["exposure.closed_at"] = _closing_times(table)[rows]
    arrays |= _entry_arrays(table, rows)
    arrays |= _unit_arrays(table, rows, position)
    ids = table.by_id.rows()
    arrays |= {"id.id": table.ids.id[ids], "id.time": table.ids.time[ids]}
    for name in _WAITING:
        arrays |= _copies(name, getattr(table, name))
    if store.has("root"):
        # Where the root was forgotten this is the position of whatever has its row now: as there.
        arrays["exposure.root"] = position[store.root[rows]]
    return arrays


def restore(table: Table, arrays: Arrays) -> None:
    """Fill a new table with what `to_arrays` gave."""
    table.clock = float(_floats(arrays, "clock")[0])
    table.joined = np.array(arrays["joined"], np.int64)
    rows = _restore_exposures(table, arrays)
    _restore_units(table, arrays, rows)
    _restore_entries(table, arrays, rows)
    _restore_ids(table, arrays)
    table.waiting, table.unit_waiting = (_rewards(name, arrays) for name in _WAITING)
    table.lately = Joined(*(arrays[f"lately.{f.name}"].astype(np.int64) for f in fields(Joined)))


def _closing_times(table: Table) -> Float:
    """When each exposure row was closed; NaN while it is pending."""
    closed_at = np.full(table.exposures.capacity, np.nan)
    for clock, rows in table.closed:
        closed_at[rows] = clock
    return closed_at


def _entry_arrays(table: Table, rows: Int) -> Arrays:
    owner, entry = entries_of(table.exposures, table.entries, rows)
    arrays: Arrays = {"entry.row": owner.astype(np.int32)}
    names = [name for name in table.entries.FIELDS if name not in ("next", "owner")]
    return arrays | {f"entry.{name}": getattr(table.entries, name)[entry] for name in names}


def _unit_arrays(table: Table, rows: Int, position: NDArray[np.int32]) -> Arrays:
    units = table.by_unit.rows()
    store = table.units
    arrays: Arrays = {f"unit.{name}": getattr(store, name)[units] for name in store.FIELDS}
    # A stale reference to a row that was forgotten becomes NONE, or a position beyond the count.
    arrays["unit.root"] = position[store.root[units]]
    arrays["unit.newest"] = np.where(store.count[units] > 0, position[store.newest[units]], NONE)
    if table.maturing is None:
        return arrays
    matured = _matured(table)[rows]
    arrays["exposure.matured"] = matured
    prev = np.where(matured, table.exposures.prev[rows], NONE)
    arrays["exposure.prev"] = position[prev]
    return arrays


def _matured(table: Table) -> Bool:
    """Whether each exposure row stands in the chain of its unit."""
    matured = np.zeros(table.exposures.capacity, np.bool_)
    units = table.by_unit.rows()
    left = table.units.count[units]
    row = table.units.newest[units].astype(np.int64)
    while (left > 0).any():
        row, left = row[left > 0], left[left > 0] - 1
        matured[row] = True
        row = table.exposures.prev[row].astype(np.int64)
    return matured


def _copies(prefix: str, columns: JoinRewards | Joined) -> Arrays:
    return {f"{prefix}.{f.name}": getattr(columns, f.name).copy() for f in fields(columns)}


def _rewards(prefix: str, arrays: Arrays) -> JoinRewards:
    return JoinRewards(
        offset=arrays[f"{prefix}.offset"].astype(np.int64),
        time=_floats(arrays, f"{prefix}.time"),
        id=_keys(arrays, f"{prefix}.id"),
        request=_keys(arrays, f"{prefix}.request"),
        unit=_keys(arrays, f"{prefix}.unit"),
        value=_floats(arrays, f"{prefix}.value"),
    )


def _floats(arrays: Arrays, name: str) -> Float:
    return arrays[name].astype(np.float64)


def _keys(arrays: Arrays, name: str) -> Key:
    return arrays[name].astype(np.uint64)


def _fill(store: Store, prefix: str, arrays: Arrays, count: int) -> Int:
    """New rows with the fields that `arrays` has."""
    rows = store.take(count)
    for name in (name for name in store.fields if f"{prefix}.{name}" in arrays):
        getattr(store, name)[rows] = arrays[f"{prefix}.{name}"]
    return rows


def _restore_exposures(table: Table, arrays: Arrays) -> Int:
    store = table.exposures
    closed_at = _floats(arrays, "exposure.closed_at")
    if "exposure.root" in arrays:
        store.add_roots()
    rows = _fill(store, "exposure", arrays, closed_at.size)
    if store.has("root"):
        store.root[rows] = np.append(rows, NONE)[store.root[rows]]
    store.rewards[rows] = NONE
    table.by_request = HashIndex.of(rows, store.request)
    is_pending = (store.flags[rows] & CLOSED) == 0
    pending = rows[is_pending]
    table.calendar.add(pending, store.time[pending])
    is_open = (store.flags[rows] & SETTLED) == 0
    table.settling.add(rows[is_open], store.time[rows[is_open]])
    table.pending = tally(np.zeros(table.joined.size, np.int64), store.arm[pending], 1)
    for clock in np.unique(closed_at[~is_pending]):
        table.closed.append((float(clock), rows[closed_at == clock].astype(np.int32)))
    return rows


def _restore_units(table: Table, arrays: Arrays, rows: Int) -> None:
    store = table.units
    units = _fill(store, "unit", arrays, arrays["unit.unit"].size)
    table.by_unit = HashIndex.of(units, store.unit)
    back = np.append(rows, NONE)  # so that the position NONE answers NONE
    store.root[units] = back[store.root[units]]
    store.newest[units] = back[store.newest[units]]
    if "exposure.prev" not in arrays:
        return
    table.maturing = Calendar()
    table.exposures.add_prev()
    table.exposures.prev[rows] = back[arrays["exposure.prev"].astype(np.int64)]
    young = rows[~arrays["exposure.matured"].astype(np.bool_)]
    young = young[table.exposures.unit[young] != 0]
    table.maturing.add(young, table.exposures.time[young])


def _restore_entries(table: Table, arrays: Arrays, rows: Int) -> None:
    owner = rows[arrays["entry.row"].astype(np.int64)]
    flags = arrays["entry.flags"].astype(np.uint8)
    none = np.zeros(owner.size, np.uint64)
    entries = JoinRewards(
        offset=none.astype(np.int64),
        time=_floats(arrays, "entry.time"),
        id=_keys(arrays, "entry.id"),
        request=none,
        unit=none,
        value=_floats(arrays, "entry.value"),
    )
    items = push_entries(table.exposures, table.entries, owner, entries, flags=flags)
    is_waiting = (flags & WAITING) != 0
    table.scoring.add(items[is_waiting], entries.time[is_waiting])


def _restore_ids(table: Table, arrays: Arrays) -> None:
    store = table.ids
    rows = _fill(store, "id", arrays, arrays["id.id"].size)
    rows = rows[np.argsort(store.time[rows], kind="stable")]
    table.by_id = HashIndex.of(rows, store.id)
    table.id_calendar.add(rows, store.time[rows])

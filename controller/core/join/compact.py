"""Tables as versions up to 0.2.0 wrote them: live rows only, references as positions.

Their snapshots can be read for ever: the log before one may be gone. What is written today, see
`snapshot`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from controller.core.join.calendar import Calendar
from controller.core.join.chains import push_entries
from controller.core.join.index import HashIndex
from controller.core.join.rule import Joined, JoinRewards
from controller.core.join.snapshot import floats, keys, rewards_of
from controller.core.join.store import CLOSED, NONE, SETTLED, WAITING, Arrays, Store, tally
from controller.core.model import Int

if TYPE_CHECKING:
    from controller.core.join.table import Table

_WAITING = ("waiting", "unit_waiting")


def is_compact(arrays: Arrays) -> bool:
    """Whether such a version wrote them."""
    return "exposure.closed_at" in arrays


def restore(table: Table, arrays: Arrays) -> None:
    """Fill a new table with what such a version wrote."""
    table.clock = float(floats(arrays, "clock")[0])
    table.joined = np.array(arrays["joined"], np.int64)
    rows = _restore_exposures(table, arrays)
    _restore_units(table, arrays, rows)
    _restore_entries(table, arrays, rows)
    _restore_ids(table, arrays)
    table.waiting, table.unit_waiting = (rewards_of(name, arrays) for name in _WAITING)
    table.lately = Joined(*(arrays[f"lately.{f.name}"].astype(np.int64) for f in fields(Joined)))


def _fill(store: Store, prefix: str, arrays: Arrays, count: int) -> Int:
    """New rows with the fields that `arrays` has."""
    rows = store.take(count)
    for name in (name for name in store.fields if f"{prefix}.{name}" in arrays):
        getattr(store, name)[rows] = arrays[f"{prefix}.{name}"]
    return rows


def _restore_exposures(table: Table, arrays: Arrays) -> Int:
    store = table.exposures
    closed_at = floats(arrays, "exposure.closed_at")
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
        time=floats(arrays, "entry.time"),
        id=keys(arrays, "entry.id"),
        request=none,
        unit=none,
        value=floats(arrays, "entry.value"),
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

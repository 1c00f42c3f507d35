"""What 0.2.0 wrote of a joiner's table: live rows only, with references as positions."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from controller.core.join.chains import entries_of
from controller.core.join.store import NONE

_WAITING = ("waiting", "unit_waiting")


def to_arrays(table):
    """Everything that the table remembers; copies."""
    store = table.exposures
    rows = table.live_rows()
    position = np.full(store.capacity + 1, NONE, np.int32)  # the last one answers for NONE
    position[rows] = np.arange(rows.size)
    arrays = {"clock": np.array([table.clock]), "joined": table.joined.copy()}
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


def _closing_times(table):
    """When each exposure row was closed; NaN while it is pending."""
    closed_at = np.full(table.exposures.capacity, np.nan)
    for clock, rows in table.closed:
        closed_at[rows] = clock
    return closed_at


def _entry_arrays(table, rows):
    owner, entry = entries_of(table.exposures, table.entries, rows)
    arrays = {"entry.row": owner.astype(np.int32)}
    names = [name for name in table.entries.FIELDS if name not in ("next", "owner")]
    return arrays | {f"entry.{name}": getattr(table.entries, name)[entry] for name in names}


def _unit_arrays(table, rows, position):
    units = table.by_unit.rows()
    store = table.units
    arrays = {f"unit.{name}": getattr(store, name)[units] for name in store.FIELDS}
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


def _matured(table):
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


def _copies(prefix, columns):
    return {f"{prefix}.{f.name}": getattr(columns, f.name).copy() for f in fields(columns)}

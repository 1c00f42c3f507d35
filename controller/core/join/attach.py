"""What a reward does once its exposure is found: to the exposure, and to the root of its unit."""

from __future__ import annotations

import numpy as np

from controller.core.join.chains import push_entries
from controller.core.join.rule import JoinRewards, JoinRule
from controller.core.join.store import NONE, STALE, tally
from controller.core.join.table import Table
from controller.core.model import Bool, Int


def attach(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards) -> None:
    """Join rewards to pending exposures, and credit them to the roots of the exposures' units."""
    if not rows.size:
        return
    push_entries(table.exposures, table.entries, rows, rewards, own=True)
    table.joined = tally(table.joined, table.exposures.arm[rows], 1)
    if rule.units:
        credit(table, rule, rows, rewards)


def credit(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards) -> None:
    """Count rewards of later exposures for the pending roots of their units.

    Intention to treat: what a unit does within the window after it entered counts for the arm that
    it entered with, whichever of its requests led to it.
    """
    store = table.exposures
    mine = np.flatnonzero((store.unit[rows] != 0) & ((store.flags[rows] & STALE) == 0))
    rows, rewards = rows[mine], rewards.pick(mine)
    unit = table.find_units(rows)
    root = np.where(unit >= 0, table.units.root[unit], NONE).astype(np.int64)
    closed_root = (unit >= 0) & table.units.entered[unit] & (root < 0)
    follows = (root >= 0) & precedes(table, root, rows)
    counts = follows & (rewards.time <= store.time[root] + rule.window_s)
    push_entries(table.exposures, table.entries, root[counts], rewards.pick(counts), own=False)
    # A root that is earlier than the exposure may still come, until the watermark passes it.
    early = ~follows & ~closed_root & (root != rows)
    early &= store.time[rows] >= table.clock - rule.grace_s
    old_rows, old = table.early
    table.early = (np.concatenate([old_rows, rows[early]]), old.followed_by(rewards.pick(early)))


def precedes(table: Table, first: Int, second: Int) -> Bool:
    """Whether the first exposure comes before the second, by (time, request)."""
    store = table.exposures
    before, after = store.time[first], store.time[second]
    tie = (before == after) & (store.request[first] < store.request[second])
    earlier: Bool = (before < after) | tie
    return earlier

"""What a reward does once its exposure is found."""

from __future__ import annotations

import numpy as np

from controller.core.join.chains import push_entries
from controller.core.join.refuse import Cause, Refusals
from controller.core.join.rule import JoinRewards, JoinRule
from controller.core.join.store import ANALYSED, CLOSED, OWN, STALE, WAITING, tally
from controller.core.join.table import Table
from controller.core.model import Bool, Int


def join(table: Table, rule: JoinRule, rows: Int, rewards: JoinRewards, refusals: Refusals) -> None:
    """Join rewards to the exposures that they belong to, unless they are late."""
    store = table.exposures
    time = store.time[rows]
    is_closed = (store.flags[rows] & CLOSED) != 0
    too_late = rewards.time > time + rule.window_s
    too_early = rewards.time < time - rule.grace_s
    bad = is_closed | too_late | too_early
    if not np.count_nonzero(bad):
        _attach(table, rows, rewards)
        return
    refusals.refuse(rewards.offset[is_closed], Cause.AFTER_CLOSE)
    refusals.refuse(rewards.offset[too_late & ~is_closed], Cause.AFTER_WINDOW)
    refusals.refuse(rewards.offset[too_early & ~is_closed], Cause.BEFORE_EXPOSURE)
    lost = rows[is_closed & ~too_late & ~too_early]
    arm, stratum = store.arm[lost].astype(np.int64), store.stratum[lost].astype(np.int64)
    refusals.drop(arm, stratum, is_exposure=False)
    good = ~bad
    _attach(table, rows[good], rewards.pick(good))


def _attach(table: Table, rows: Int, rewards: JoinRewards) -> None:
    """Join rewards to pending exposures; which roots they count for is seen when it is settled."""
    if not rows.size:
        return
    store = table.exposures
    arm, stratum = store.arm[rows], store.stratum[rows]
    table.joined = tally(table.joined, arm, 1)
    table.lately = table.lately.and_also(arm.astype(np.int64), stratum.astype(np.int64))
    may_count = _may_count(table, rows)
    flags = OWN | (WAITING * may_count.astype(np.uint8))
    items = push_entries(store, table.entries, rows, rewards, flags=flags)
    table.scoring.add(items[may_count], rewards.time[may_count])


def _may_count(table: Table, rows: Int) -> Bool:
    """Whether rewards of these exposures can count for a root: that exposure, or its unit's."""
    store = table.exposures
    flags = store.flags[rows]
    may_count: Bool = (flags & ANALYSED) != 0
    if store.has("root"):
        may_count |= ((flags & STALE) == 0) & (store.unit[rows] != 0)
    return may_count

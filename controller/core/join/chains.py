"""Chains and order: linked lists over columns, and the places of exposures.

All chains of a call are walked at once, one link a step.

An exposure has a chain of the rewards that were joined to it, a unit one of its exposures. The
newest item comes first: `head[owner]`, then `following[item]`, and so on to NONE.

A walk takes as many steps as the longest chain has links. Chains are short; a request that collects
rewards by the thousand costs some microseconds for each, and nobody else anything.
"""

from __future__ import annotations

import numpy as np

from controller.core.join.rule import JoinRewards
from controller.core.join.store import FEW, ExposureStore, Flags, RewardStore, Slot
from controller.core.model import Bool, Int, Key


def push_entries(
    exposures: ExposureStore,
    store: RewardStore,
    rows: Int,
    rewards: JoinRewards,
    *,
    flags: int | Flags,
) -> Int:
    """Put rewards at the heads of the chains of exposures; gives their rows."""
    if not rows.size:
        return rows
    items = store.take(rows.size)
    store.time[items] = rewards.time
    store.id[items] = rewards.id
    store.value[items] = rewards.value
    store.owner[items] = rows
    store.flags[items] = flags
    if rows.size <= FEW:
        for row, item in zip(rows.tolist(), items.tolist(), strict=True):
            store.next[item], exposures.rewards[row] = exposures.rewards[row], item
        return items
    order = rows.argsort(kind="stable")
    link(exposures.rewards, store.next, rows[order], items[order])
    return items


def link(head: Slot, following: Slot, owners: Int, items: Int) -> Int:
    """Push items onto the chains of their owners, which must be grouped; gives each group's size.

    The last item of a group becomes its owner's head.
    """
    first = starts(owners)
    last = np.append(first[1:], owners.size) - 1
    following[items[1:]] = items[:-1]
    following[items[first]] = head[owners[first]]
    head[owners[last]] = items[last]
    return last - first + 1


def starts(grouped: Int | Key) -> Int:
    """Where each run of equal values begins."""
    if not grouped.size:
        return np.empty(0, np.int64)
    is_first = np.ones(grouped.size, np.bool_)
    is_first[1:] = grouped[1:] != grouped[:-1]
    return is_first.nonzero()[0]


def entries_of(exposures: ExposureStore, store: RewardStore, rows: Int) -> tuple[Int, Int]:
    """All entries in the chains of exposures: (position in `rows`, entry), in no order."""
    owner = np.arange(rows.size)
    entry = exposures.rewards[rows].astype(np.int64)
    owners, entries = [], []
    while True:
        some = (entry >= 0).nonzero()[0]
        if not some.size:
            break
        owner, entry = owner[some], entry[some]
        owners.append(owner)
        entries.append(entry)
        entry = store.next[entry].astype(np.int64)
    if len(owners) == 1:
        return owners[0], entries[0]
    none = np.empty(0, np.int64)
    return np.concatenate([none, *owners]), np.concatenate([none, *entries])


def by_place(store: ExposureStore, rows: Int) -> Int:
    """Exposures by (time, request), given by time: only those of equal times have to be sorted."""
    time = store.time[rows]
    equal = time[1:] == time[:-1]
    if not np.count_nonzero(equal):
        return rows
    tied = np.append(equal, False) | np.append(False, equal)
    some = rows[tied]
    rows = rows.copy()
    rows[tied] = some[np.lexsort((store.request[some], time[tied]))]
    return rows


def precedes(store: ExposureStore, first: Int, second: Int) -> Bool:
    """Whether the first exposure comes before the second, by (time, request)."""
    before, after = store.time[first], store.time[second]
    tie = (before == after) & (store.request[first] < store.request[second])
    earlier: Bool = (before < after) | tie
    return earlier

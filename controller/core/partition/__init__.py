"""A partition: the joiner of a share of a hot model's events, which tells sums instead of events.

    fold    events of the partition's log -> the state after them, and what each tick brought
    take    what goes into the joiners
    tell    what comes out of them, as rows
    table   what is remembered between ticks, and its snapshot

Every tick of the log gives the sums of what became certain with it, by the split that exposures
were routed with and by arm (`TalliesEvent`). Which of it counts is the leader's matter: a partition
knows no rollout, and joins each exposure as if it were of one.

Invariant: what a tick gives is a function of the log up to that tick, and of the policies that its
ticks name. Not of batches, of crashes, or of who folds it: two workers that both think that they
hold a partition say the same, and the leader takes whichever it meets first.

Sums are exact where the estimators only need sums. Two tests look closer, and rows are cut finer
for their sake: the fast path compares exposures that matured between the same two watermarks, so
what becomes of them later is told by that interval (`marks`, and `time` is its begin); the bandit
looks at sixteenths of a window, and at delays in steps. Amounts are told by value, latencies by
bin. At worst a row stands for one reward, and is still a third of its size on the log.

What clients invent is bounded: ticks name the arms and the segments that splits have, and the last
split. Of other arms a few are counted, of other header values the most frequent.

Rejected: telling the leader's rollouts to the partitions (a log that is folded under what another
log says is no function of itself); one row per split and arm (the fast path would compare units
that were not at risk together).
"""

from __future__ import annotations

from controller.core.partition.fold import Told, fold
from controller.core.partition.table import (
    IMAGE,
    Partition,
    image,
    log_name,
    oldest_needed,
    place,
    revived,
)

__all__ = [
    "IMAGE",
    "Partition",
    "Told",
    "fold",
    "image",
    "log_name",
    "oldest_needed",
    "place",
    "revived",
]

"""The fold over a partition's log: spells the order of a tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controller.core import join
from controller.core.batch import MicroBatch, micro_batches
from controller.core.model import EventBatch, Rejected, Tallies, TalliesEvent, evolved
from controller.core.partition.table import Partition, compacted, log_name
from controller.core.partition.take import (
    rule_of,
    taken_in,
    with_arms,
    with_mark,
    with_rewards,
)
from controller.core.partition.tell import rows_of
from controller.core.policy import Policy
from controller.errors import InvariantError

MOST_ROWS: Final = 1_000
"""Rows in one event; a tick that brings more is told in several."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a stretch of the log brought: an event or more for each tick, and what was refused."""

    events: tuple[TalliesEvent, ...] = ()
    rejected: tuple[Rejected, ...] = ()


def fold(
    policies: Mapping[str, Policy], partition: Partition, events: EventBatch
) -> tuple[Partition, Told]:
    """The partition after the events. Uses up the one that is given.

    policies  by their digest, all that ticks of the batch name

    Raises:
        InvariantError: a gap in the log, or a tick that names no policy.
    """
    if events.start != partition.offset:
        where = log_name(partition.model, partition.number)
        raise InvariantError(f"expected event {partition.offset} of {where}, got {events.start}")
    told: list[TalliesEvent] = []
    rejected: list[Rejected] = []
    for micro, waiting in micro_batches(partition.waiting, events):
        partition = evolved(partition, waiting=waiting)
        if micro is None:
            continue
        named_by = micro.tick.policy or partition.policy
        if named_by not in policies:
            where = log_name(partition.model, partition.number)
            raise InvariantError(f"tick {micro.tick.offset} of {where} names no known policy")
        partition, more, refused = _tick(policies[named_by], partition, micro)
        partition = evolved(partition, policy=named_by)
        told += more
        rejected += refused
    partition = evolved(partition, offset=events.start + events.count)
    return partition, Told(tuple(told), tuple(rejected))


def _tick(
    policy: Policy, partition: Partition, micro: MicroBatch
) -> tuple[Partition, list[TalliesEvent], list[Rejected]]:
    rejected = list(micro.rejected)
    partition = with_rewards(policy, partition)
    partition = evolved(partition, clock=max(partition.clock, micro.tick.time))
    partition, micro, strange = with_arms(partition, micro)
    rejected += strange
    partition, came = taken_in(policy, partition, micro, rejected)
    closed = []
    for table, reward in zip(partition.joins, policy.all_rewards, strict=True):
        closed.append(join.close(table, rule_of(policy, reward), partition.clock))
        rejected += closed[-1].refused.listed()
    partition = with_mark(policy, partition)
    whole, names = rows_of(policy, partition, micro, came, closed)
    told = _events(partition, micro, (whole, names), rejected)
    partition = evolved(compacted(partition, micro.tick.arms), told=micro.tick.offset + 1)
    return partition, told, rejected


def _events(
    partition: Partition,
    micro: MicroBatch,
    told: tuple[Tallies, tuple[str, ...]],
    rejected: list[Rejected],
) -> list[TalliesEvent]:
    """What a tick brought, in as many events as it takes."""
    whole, segments = told
    counts: dict[str, int] = {}
    for event in rejected:
        counts[event.reason.value] = counts.get(event.reason.value, 0) + 1
    parts = max(1, -(-len(whole.time) // MOST_ROWS))
    return [
        TalliesEvent(
            offset=-1,
            partition=partition.number,
            start=partition.told,
            end=micro.tick.offset + 1,
            part=i,
            parts=parts,
            time=partition.clock,
            open=partition.open,
            rejected=counts if i == 0 else {},
            arms=partition.arms,
            segments=segments,
            rows=whole.pick(slice(i * MOST_ROWS, (i + 1) * MOST_ROWS)),
        )
        for i in range(parts)
    ]

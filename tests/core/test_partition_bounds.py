"""What clients invent does not grow a partition, nor what it tells, nor its leader."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from controller.core import engine
from controller.core.arms import MOST_STRANGERS
from controller.core.attribution import MOST_SIGHTINGS, MOST_STATED
from controller.core.model import Reason, Tick
from controller.core.partition import Partition, Told, fold, image, revived
from controller.core.policy import digest
from controller.core.report import report
from controller.core.state import initial
from controller.stream import codec
from tests.core.logs import CANARY, MODEL, Log, policy

RULES = policy(CANARY)
KNOWN = {digest(RULES): RULES}
MANY = 20_000


class Shard:
    """A partition and what it tells; its ticks name two arms and two splits."""

    def __init__(self, number: int = 0) -> None:
        self.folded, self.now = Partition(MODEL, number), 0.0
        self.told: list[Told] = []

    def turn(self, log: Log, seconds: float = 1.0, arms: tuple[str, ...] = ("v1", "v2")) -> Told:
        self.now += seconds
        batch = codec.decode(MODEL, self.folded.offset, log.lines)
        tick = Tick(batch.start + batch.count, self.now, policy=digest(RULES), arms=arms, epoch=2)
        batch = replace(batch, count=batch.count + 1, control=(tick,))
        self.folded, told = fold(KNOWN, self.folded, batch)
        self.told.append(told)
        return told

    def told_bytes(self) -> int:
        events = [event for told in self.told for event in told.events]
        return sum(len(codec.tallies_line(MODEL, event)) for event in events)


def strangers(first: int, count: int, at: float) -> Log:
    log = Log(requests=first)
    for number in range(first, first + count):
        log.exposure(at, f"x{number}")
    return log


@pytest.mark.parametrize("per_tick", [MANY, 500])
def test_invented_arms_are_counted_and_kept_and_do_not_grow_a_partition(per_tick: int) -> None:
    shard, began = Shard(), time.process_time()
    for first in range(0, MANY, per_tick):
        shard.turn(strangers(first, per_tick, shard.now), seconds=0.1)
    assert time.process_time() - began < 10, "the time is not quadratic in the names"
    # The first ones, in the order of the log, however it is cut.
    assert set(shard.folded.arms) == {f"x{i}" for i in range(MOST_STRANGERS)}
    refused = [rejected for told in shard.told for rejected in told.rejected]
    assert {rejected.reason for rejected in refused} == {Reason.UNKNOWN_ARM}
    assert len(refused) == MANY - MOST_STRANGERS
    assert refused[0].detail == f"x{MOST_STRANGERS}"
    counts = [event.rejected.get("unknown_arm", 0) for t in shard.told for event in t.events]
    assert sum(counts) == MANY - MOST_STRANGERS
    assert shard.told_bytes() < 300_000


def test_arms_of_splits_are_counted_whatever_was_invented_before() -> None:
    shard = Shard()
    shard.turn(strangers(0, 2 * MOST_STRANGERS, 0.5))
    log = Log(requests=10_000)
    log.exposure(1.5, "v1", epoch=2)
    log.exposure(1.5, "v3", epoch=2)
    (event,) = shard.turn(log, arms=("v1", "v3")).events
    counted = {event.arms[arm] for arm in event.rows.arm[event.rows.exposures > 0].tolist()}
    assert counted == {"v1", "v3"}


def test_invented_arms_are_forgotten_once_nothing_of_them_is_open() -> None:
    shard = Shard()
    for first in (0, 1_000, 2_000):
        shard.turn(strangers(first, MOST_STRANGERS, shard.now + 0.5))
        shard.turn(Log(), seconds=60)  # all has closed,
        shard.turn(Log(), seconds=60)  # and is forgotten
        shard.folded = revived(image(shard.folded))
    assert len(shard.folded.arms) < MOST_STRANGERS
    told = [event for t in shard.told for event in t.events]
    assert sum(float(event.rows.outcomes.sum()) for event in told) == 3 * MOST_STRANGERS


def test_mirrored_copies_to_invented_arms_do_not_grow_a_partition() -> None:
    shard, log = Shard(), Log()
    for number in range(MANY):
        log.add("shadow", 0.5, model=MODEL, request_id=f"q{number}", arm=f"x{number}")
    log.add("shadow", 0.5, model=MODEL, request_id="q", arm="v2")
    (event,) = shard.turn(log).events
    assert len(shard.folded.arms) <= 1 + MOST_STRANGERS
    assert event.rows.copies[event.rows.arm == event.arms.index("v2")].sum() == 1


def test_splits_that_never_were_and_stated_chances_do_not_grow_a_partition() -> None:
    shard, log = Shard(), Log()
    count, began = MOST_STATED + 3_000, time.process_time()
    for number in range(count):
        log.exposure(0.5, "v1", epoch=3 + number)
        log.exposure(0.5, "v2", propensity=(number + 1) / (count + 1))
    log.exposure(0.5, "v1", epoch=2)
    shard.turn(log)
    assert time.process_time() - began < 10, "the time is not quadratic in what is named"
    # Those of unknown splits are all alike; so are those that are one too many.
    assert len(shard.folded.epochs) == MOST_STATED + 2
    told = [event.rows for event in shard.told[0].events]
    assert sum(float(rows.exposures.sum()) for rows in told) == 2 * count + 1


def test_invented_header_values_are_told_up_to_a_bound_and_are_no_strata() -> None:
    stage = {"thompson": {"segments": {"header": "x-country", "max": 3}}}
    rules = policy(stage, guardrails=[])
    shard, log = Partition(MODEL, 0), Log()
    for number in range(MANY):
        log.exposure(0.5, "v1", segment="de" if number % 2 else f"s{number}", epoch=2)
    batch = codec.decode(MODEL, 0, log.lines)
    tick = Tick(batch.count, 1.0, policy=digest(rules), arms=("v1",), epoch=2, segments=("de",))
    batch = replace(batch, count=batch.count + 1, control=(tick,))
    shard, told = fold({digest(rules): rules}, shard, batch)
    assert (shard.segments, shard.segment.tolist()) == (("de",), [-1, 0])
    seen = {
        event.segments[row]: n
        for event in told.events
        for row, n in zip(event.rows.segment.tolist(), event.rows.sighted.tolist(), strict=True)
        if n
    }
    assert len(seen) == MOST_SIGHTINGS
    assert seen["de"] == MANY / 2
    assert sum(len(codec.tallies_line(MODEL, event)) for event in told.events) < 200_000


def test_a_leader_counts_as_many_strangers_as_if_it_joined_itself() -> None:
    shards, state = [Shard(n) for n in range(3)], initial(RULES)
    per_shard = 2 * MOST_STRANGERS
    for number, shard in enumerate(shards):
        shard.turn(strangers(1_000 * number, per_shard, 0.5))
    events = [e for shard in shards for told in shard.told for e in told.events]
    control = [*events, Tick(0, 2.0)]
    control = [replace(event, offset=i) for i, event in enumerate(control)]
    batch = codec.decode(MODEL, 0, [])
    batch = replace(batch, count=len(control), control=tuple(control))
    state, _, _ = engine.step(RULES, state, batch)
    assert len(state.arms) <= 1 + MOST_STRANGERS
    assert state.totals.exposures.sum() == MOST_STRANGERS
    assert state.rejected == {Reason.UNKNOWN_ARM: 3 * per_shard - MOST_STRANGERS}
    assert len(report(RULES, state).arms) == 1 + MOST_STRANGERS

"""P partitions and a merge give the evidence of one joiner: for any P, and any cut into batches."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import fields, make_dataclass, replace
from functools import lru_cache

import numpy as np
import pytest

from controller.core import engine, estimate
from controller.core.arms import routed
from controller.core.merge import borne
from controller.core.model import Tick
from controller.core.partition import IMAGE, Partition, fold, image, place, revived
from controller.core.policy import digest
from controller.core.report import evidence_summary, report
from controller.core.state import IMAGE as STATE
from controller.core.state import image as of_state
from controller.core.state import initial
from controller.core.state import revived as state_revived
from controller.errors import PolicyError
from controller.ledger.codec import decode, encode
from controller.stream import codec
from tests.core.logs import CANARY, MODEL, Log, policy

TICK_S = 5.0
GUARDS = [
    {"metric": "error_rate", "max_increase": "5%"},
    {"metric": "reward", "event": "refund", "max_increase": "30%", "window": "20s"},
]
AMOUNT = {"event": "click", "window": "10s", "grace": "5s", "range": [0, 30]}
SHARES = {"event": "click", "window": "10s", "grace": "5s", "aggregate": "mean"}
THOMPSON = {"thompson": {"floor": "10%", "update_every": "10s", "half_life": "1h"}}
SHADOW = {"shadow": {"duration": "40s", "percent": "50%"}}
POLICIES = {
    "canary": policy(CANARY, guardrails=GUARDS),
    "shadow first": policy(SHADOW, CANARY),
    "bandit": policy(THOMPSON),
    "shares": policy(THOMPSON, reward=SHARES),
    "amounts": policy(CANARY, reward=AMOUNT),
    "amounts, by a bandit": policy(THOMPSON, reward=AMOUNT),
}
PATIENT = CANARY["canary"] | {"min_duration": "59m", "false_rollback": "0.01%"}
SLOW = [*GUARDS, {"metric": "latency", "quantile": 0.9, "max_increase": "10%"}]
POLICIES["latency"] = policy({"canary": PATIENT}, guardrails=SLOW)
POLICIES["latency, by a bandit"] = policy(THOMPSON, guardrails=SLOW)
LANDS = {"segments": {"header": "x-country", "max": 3}}
POLICIES["segments"] = policy({"thompson": THOMPSON["thompson"] | LANDS}, guardrails=GUARDS)
POLICIES["patient"] = policy({"canary": PATIENT}, guardrails=GUARDS)


class Traffic:
    """Requests of one seed: what comes between two ticks depends on the split and the seed only.

    With rewards that are late, early, doubled, of nobody, out of range and of another name;
    exposures that are doubled, late, under an old split, and that state their own chances.
    """

    def __init__(self, seed, kind):
        self.rng, self.kind = np.random.default_rng(seed), kind
        self.last, self.later = None, []
        self.number = 0

    def lines(self, split, now):
        """(request id, line) of what the log holds up to the tick at `now`."""
        rng, found = self.rng, []
        for _ in range(int(rng.poisson(12 * TICK_S))):
            self.number += 1
            request, at = f"q{self.number}", float(now - rng.random() * TICK_S)
            land = self.land()
            weights = split.segments.get(land.get("segment"), split.weights)
            arm = "v2" if rng.random() < weights.get("v2", 0) / 1e4 else "v1"
            rest = {"epoch": split.epoch, "status": 500 if rng.random() < 0.03 else 200}
            # Before, its time could be earlier than the rollout: then it is dated, and left out.
            if rng.random() < 0.03 and weights.get("v2") and now > 4 * TICK_S:
                rest = {"propensity": weights[arm] / 1e4}
            if self.kind.startswith("latency") and rng.random() < 0.9:
                longer = 1.15 if arm == "v2" else 1.0
                rest |= {"latency_ms": longer * float(rng.lognormal(3.0, 0.6))}
            rest |= land
            if rng.random() < 0.03:
                at -= float(rng.random() * 12)  # some of these are too late
            self.exposed(found, request, at, arm, rest)
            if rng.random() < 0.3:
                copy = {"request_id": request, "status": 500 if rng.random() < 0.1 else 200}
                self.line(found, request, "shadow", at, arm="v2", **copy)
            if rng.random() < 0.4:
                self.rewarded(request, at)
        for name in ("click", "refund", "other"):
            if rng.random() < 0.1:
                self.reward(f"nobody{self.number}", now - 1.0, name, 1.0)
        due = [each for each in self.later if each[0] <= now]
        self.later = [each for each in self.later if each[0] > now]
        found += [(request, line) for _, request, line in due]
        order = rng.permutation(len(found))
        return [found[i] for i in order]

    def land(self):
        """The header of a request: some values of many, and many of few."""
        if self.kind != "segments" or self.rng.random() < 0.1:
            return {}
        some = ["de", "fr", "it", "es", f"x{self.rng.integers(500)}", "a,b"]
        return {"segment": some[int(self.rng.choice(6, p=[0.4, 0.2, 0.1, 0.1, 0.15, 0.05]))]}

    def exposed(self, found, request, at, arm, rest):
        self.line(found, request, "exposure", at, arm=arm, request_id=request, **rest)
        if self.rng.random() < 0.02:
            self.line(found, request, "exposure", at, arm=arm, request_id=request, **rest)

    def rewarded(self, request, at):
        rng = self.rng
        for _ in range(1 + (rng.random() < 0.1)):
            name = "click" if rng.random() < 0.8 else "refund"
            value = 1.0
            if self.kind.startswith("amounts") and name == "click":
                value = float(np.round(rng.exponential(8.0), 2))
            elif self.kind == "shares" or rng.random() < 0.05:
                value = float(np.round(rng.random() * 1.05, 2))
            self.reward(request, at + float(rng.exponential(6.0)) - 1.0, name, value)

    def reward(self, request, at, name, value):
        lines = []
        self.number += 1
        id_ = f"w{self.number}"
        fields = {"request_id": request, "name": name, "value": value, "id": id_}
        self.line(lines, request, "reward", at, **fields)
        again = lines * (2 if self.rng.random() < 0.03 else 1)
        shipped = at + float(self.rng.exponential(1.5))
        self.later += [(shipped, *each) for each in again]

    @staticmethod
    def line(found, request, kind, at, **fields):
        log = Log()
        log.add(kind, max(at, 0.0), model=MODEL, **fields)
        found.append((request, log.lines[0]))


class Leader:
    """The engine on the model's own log."""

    def __init__(self, rules):
        self.rules, self.state, self.decisions = rules, initial(rules), []
        self.told = []

    def step(self, lines=(), control=()):
        batch = codec.decode(MODEL, self.state.offset, lines)
        events = []
        for event in control:
            events.append(replace(event, offset=batch.start + batch.count + len(events)))
        batch = replace(batch, count=batch.count + len(events), control=(*batch.control, *events))
        self.state, decisions, _ = engine.step(self.rules, self.state, batch)
        self.decisions += decisions

    def begin(self, count=0):
        self.step((), [Tick(0, 0.0, partitions=count)])

    def announce(self, at):
        log = Log()
        log.version(at)
        self.step(log.lines, [Tick(0, at + 0.5)])

    def confirm(self, now):
        split = self.state.split
        log = Log()
        rest = {"weights": split.weights, "segments": split.segments or None}
        log.add("split", now, model=MODEL, epoch=split.epoch, **rest)
        self.step(log.lines)


class Shards:
    """The partitions of a model, each folded in pieces of any size."""

    def __init__(self, rules, count, seed):
        self.rules, self.count = rules, count
        self.known = {digest(rules): rules}
        self.folded = [Partition(MODEL, number) for number in range(count)]
        self.rng = np.random.default_rng(seed)

    def edit(self, rules):
        self.rules = rules
        self.known[digest(rules)] = rules

    def tell(self, events, now, state, **instead):
        named = {
            "policy": digest(self.rules),
            "arms": routed(state),
            "epoch": max(state.split.epoch, state.last_epoch),
            "segments": state.segments,
            "increase": borne(state),
        } | instead
        told = [e for n in range(self.count) for e in self.one(n, events, now, named)]
        told = [codec.decode(MODEL, 0, [codec.tallies_line(MODEL, e)]).control[0] for e in told]
        order = self.rng.permutation(self.count)  # within a partition a log has an order
        return [e for n in order for e in told if e.partition == n]

    def one(self, number, events, now, named):
        mine = [line for request, line in events if place(request, self.count) == number]
        shard, told, at = self.folded[number], [], 0
        while at <= len(mine):
            size = int(self.rng.integers(1, 40))
            piece = mine[at : at + size]
            batch = codec.decode(MODEL, shard.offset, piece)
            at += size
            if at > len(mine):
                tick = Tick(batch.start + batch.count, now, **named)
                batch = replace(batch, count=batch.count + 1, control=(tick,))
            shard, more = fold(self.known, shard, batch)
            told += more.events
        if self.rng.random() < 0.2 and not shard.waiting:
            shard = revived(image(shard))
        self.folded[number] = shard
        return told


def run(kind, seed, count, ticks=40, *, late=False, since=1, edits=()):
    """The leader after `ticks`: with one joiner, or with `count` partitions.

    late   each partition tells up to four ticks late, and some of them twice
    since  the tick before which the candidate is announced
    edits  by tick: another policy from there on
    """
    rules = POLICIES[kind]
    leader, traffic = Leader(rules), Traffic(seed, kind)
    leader.begin(count)
    shards = Shards(rules, count, seed + 1) if count else None
    kept = []
    for number in range(1, ticks + 1):
        now = number * TICK_S
        if number in edits:
            leader.rules = edits[number]
            if shards is not None:
                shards.edit(edits[number])
        if number == since:
            leader.announce(now - TICK_S)
        leader.confirm(now - TICK_S)
        events = traffic.lines(leader.state.split, now)
        if shards is None:
            leader.step([line for _, line in events], [Tick(0, now)])
            continue
        kept += shards.tell(events, now, leader.state)
        told, kept = (kept, []) if not late or number == ticks else drawn(shards.rng, kept)
        if late:
            told += [told[i] for i in np.flatnonzero(shards.rng.random(len(told)) < 0.2)]
        leader.told += told
        leader.step((), [*told, Tick(0, now)])
    return leader


def drawn(rng, kept):
    """Of each partition's events the first few; and those that are told later."""
    told, left = [], []
    for number in sorted({event.partition for event in kept}):
        mine = [event for event in kept if event.partition == number]
        n = max(int(rng.integers(0, len(mine) + 1)), len(mine) - 4)
        told, left = told + mine[:n], left + mine[n:]
    return told, left


@lru_cache
def alone(kind, seed):
    return run(kind, seed, 0)


def nearly(left, right, where=""):
    """Equal to 1e-9, whatever the shape."""
    if isinstance(left, dict):
        assert set(left) == set(right), where
        for name in left:
            nearly(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right, strict=True)):
            nearly(*pair, f"{where}[{i}]")
    elif isinstance(left, float) and isinstance(right, float | int):
        assert right == pytest.approx(left, rel=2e-9, abs=1e-9, nan_ok=True), where
    else:
        assert left == right, where


def same_evidence(kind, one, many):
    rules = POLICIES[kind]
    summaries = [evidence_summary(rules, leader.state) for leader in (one, many)]
    nearly(*({k: v for k, v in each.items() if k != "rejected"} for each in summaries))
    left, right = report(rules, one.state), report(rules, many.state)
    for name in ("exposures", "outcomes", "rewards", "pending", "errors", "units", "mean"):
        columns = [[getattr(arm, name) for arm in each.arms] for each in (left, right)]
        nearly(*columns, name)
    assert one.state.unattributed == many.state.unattributed
    assert {"late", "orphan", "duplicate", "unknown_name", "out_of_range"} <= set(left.rejected)
    return left.rejected, right.rejected


@pytest.mark.parametrize(("kind", "count"), [*((kind, 3) for kind in POLICIES), ("canary", 7)])
def test_partitions_give_the_evidence_and_the_decisions_of_one_joiner(kind, count):
    one, many = alone(kind, 1), run(kind, 1, count)
    assert [(d.time, d.verdict, d.cause, d.weights) for d in one.decisions] == [
        (d.time, d.verdict, d.cause, d.weights) for d in many.decisions
    ]
    assert len(one.decisions) >= 2
    rejected, told = same_evidence(kind, one, many)
    assert rejected == told


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_latencies_add_up_to_the_last_bit(count, seed):
    """Limits, bets and wealth: counts of bins are whole numbers, whatever their order."""
    one, many = alone("latency", seed), run("latency", seed, count)
    left, right = (leader.state.estimators.latency for leader in (one, many))
    assert left.game.waiting.settled[0, 0] > 300, "something was bet on"
    assert encode(left) == encode(right)
    assert [(d.time, d.verdict, d.reason) for d in one.decisions] == [
        (d.time, d.verdict, d.reason) for d in many.decisions
    ]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_segments_are_those_of_one_joiner(count, seed):
    one, many = alone("segments", seed), run("segments", seed, count)
    left, right = one.state, many.state
    assert len(left.segments) == 3
    assert left.segments == right.segments
    assert left.sightings == right.sightings
    assert left.split.segments.keys() == set(left.segments), "each has a split of its own"
    assert set(right.strata.segment.tolist()) == {-1, 0, 1, 2}
    for segment in (None, 0, 1, 2):
        best = [estimate.best(s.spec, s.estimators, segment) for s in (left, right)]
        nearly(*best)
    assert [(d.time, d.verdict, d.weights) for d in one.decisions] == [
        (d.time, d.verdict, d.weights) for d in many.decisions
    ]


def test_who_was_routed_by_a_segment_is_told_with_it_however_late_all_is_told():
    """Else the chances of an exposure would be those of the pooled split, which were not its."""
    rules, routed_by, told = POLICIES["segments"], Counter(), Counter()
    leader, traffic, shards = Leader(rules), Traffic(5, "segments"), Shards(rules, 3, 5)
    leader.begin(3)
    leader.announce(0.0)
    kept = []
    for number in range(1, 61):
        now = number * TICK_S
        leader.confirm(now - TICK_S)
        split = leader.state.split
        events = traffic.lines(split, now)
        for event in (json.loads(line) for _, line in events):
            if event["type"] == "exposure" and "epoch" in event:
                land = event.get("segment", "")
                routed_by[split.epoch, land if land in split.segments else ""] += 1
        new = shards.tell(events, now, leader.state)
        some, kept = drawn(shards.rng, kept + new)
        leader.step((), [*some, Tick(0, now)])
        for event in new:
            lands = [*event.segments, ""]
            rows = event.rows.pick(event.rows.exposures > 0)
            for row in zip(rows.epoch, rows.segment, rows.exposures, strict=True):
                told[int(row[0]), lands[row[1]]] += float(row[2])
    assert len({land for _, land in told}) == 4
    own = {key for key in told if key[1] and key in routed_by}
    assert len(own) > 20
    # Some come too late, or twice.
    assert all(told[key] <= routed_by[key] for key in own)
    assert sum(told[key] for key in own) > 0.9 * sum(routed_by[key] for key in own)
    assert not {key for key in routed_by if key[1] and key not in told}


@pytest.mark.parametrize("since", [1, 20])
def test_latencies_told_late_are_those_of_the_rollout_and_known_in_time(since):
    one, many = (run("latency", 3, n, late=n > 0, since=since) for n in (0, 3))
    left, right = (leader.state.estimators.latency for leader in (one, many))
    assert left.game.waiting.seen.any()
    assert encode(left) == encode(right)


def test_latencies_told_for_another_bound_compare_nothing_and_are_learnt():
    rules = POLICIES["latency"]
    edited = policy({"canary": PATIENT}, guardrails=[*GUARDS, SLOW[-1] | {"max_increase": "30%"}])
    leader, traffic = Leader(rules), Traffic(1, "latency")
    leader.begin(2)
    leader.announce(0.0)
    shards = Shards(rules, 2, 2)
    for number in range(1, 31):
        if number == 16:
            before = leader.state.estimators.latency
            leader.rules = edited
            shards.edit(edited)
        leader.confirm(number * TICK_S - TICK_S)
        events = traffic.lines(leader.state.split, number * TICK_S)
        told = shards.tell(events, number * TICK_S, leader.state, increase=None)
        leader.step((), [*told, Tick(0, number * TICK_S)])
    after = leader.state.estimators.latency
    assert before.game.waiting.seen.any()
    assert (after.game.waiting.seen == before.game.waiting.seen).all()
    assert after.past.counts.sum() > 1.5 * before.past.counts.sum()


@pytest.mark.parametrize(
    "edit",
    [[*GUARDS, SLOW[-1] | {"max_increase": "30%"}], GUARDS],
    ids=["another bound", "no guardrail on latency"],
)
def test_after_an_edit_latencies_are_compared_by_the_bound_that_the_rollout_began_with(edit):
    edits = {16: policy({"canary": PATIENT}, guardrails=edit)}
    one, many = (run("latency", 1, count, edits=edits) for count in (0, 3))
    left, right = (leader.state.estimators.latency for leader in (one, many))
    assert left.game.waiting.seen.any()
    assert encode(left) == encode(right)


def test_a_tick_that_brings_many_rows_is_told_in_parts_and_counts_as_one(monkeypatch):
    monkeypatch.setattr(sys.modules[fold.__module__], "MOST_ROWS", 7)
    one, many = alone("bandit", 1), run("bandit", 1, 2, late=False)
    assert [d.time for d in one.decisions] == [d.time for d in many.decisions]
    same_evidence("bandit", one, many)
    parts = [event for event in many.told if event.parts > 3]
    assert len(parts) > 20
    assert "repeated" not in many.state.rejected


@pytest.mark.parametrize("seed", range(2))
def test_partitions_that_tell_late_each_in_its_time_change_nothing_but_when_it_is_known(seed):
    """Four ticks late; now and then told twice, as by a worker that another one replaced."""
    one, many = alone("patient", seed), run("patient", seed, 3, late=True)
    assert len(one.decisions) == len(many.decisions)
    rejected, told = same_evidence("patient", one, many)
    assert told.pop("repeated") > 10
    assert rejected == told


def earlier(value, without, **instead):
    """The value as a version that did not have some fields would have written it."""
    kept = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
    return make_dataclass("Earlier", [(name, object) for name in kept])(**kept | instead)


def test_snapshots_from_before_latency_and_segments_are_read():
    leader, traffic = Leader(POLICIES["canary"]), Traffic(1, "canary")
    leader.begin(2)
    leader.announce(0.0)
    shards = Shards(POLICIES["canary"], 2, 1)
    told = shards.tell(traffic.lines(leader.state.split, TICK_S), TICK_S, leader.state)
    leader.step((), [told[0], Tick(0, TICK_S)])
    state = leader.state
    assert len(state.partitions.held.time) > 0, "something waits for the other partition"
    new = {"sighted", "timed", "pace", "pace_borne", "increase"}
    known = earlier(state.partitions, {"names"}, held=earlier(state.partitions.held, new))
    snapshot = earlier(of_state(state), {"forgotten"}, partitions=known)
    again = state_revived(decode(STATE, encode(snapshot), copy=True))
    assert encode(again.partitions) == encode(state.partitions)

    shard = shards.folded[0]
    snapshot = earlier(image(shard), {"segments", "segment"})
    again = revived(decode(IMAGE, encode(snapshot), copy=True))
    assert len(again.epochs) > 0
    assert encode(image(again)) == encode(image(shard))


UNMERGEABLE = {
    "no spec.route.unit": {"route": {"prefix": "/m/", "unit": {"header": "x-user-id"}}},
    "request_id in spec.reward.join": {"reward": {"event": "click", "join": "unit"}},
}


@pytest.mark.parametrize("remedy", UNMERGEABLE)
def test_what_cannot_be_merged_is_refused_with_what_to_change(remedy):
    with pytest.raises(PolicyError) as caught:
        policy(CANARY, partitions=4, **UNMERGEABLE[remedy])
    (fault,) = caught.value.problems
    assert (fault.path, fault.found) == ("spec.partitions", "4")
    assert fault.expected.startswith(f"1, or {remedy}")


def test_a_policy_without_partitions_keeps_the_digest_that_it_had():
    assert digest(policy(CANARY, partitions=1)) == digest(policy(CANARY))
    assert digest(policy(CANARY, partitions=2)) != digest(policy(CANARY))


def test_a_request_and_all_about_it_are_in_one_partition():
    counts = Counter(place(f"request-{n}", 7) for n in range(70_000))
    assert sorted(counts) == list(range(7))
    assert max(counts.values()) < 10_600  # 6 standard deviations
    assert {place("a", 5) for _ in range(3)} == {place("a", 5)}

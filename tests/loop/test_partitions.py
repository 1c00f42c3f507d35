"""A controller and workers in one process, on real stores: turned by hand, cut short anywhere."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from controller.core.arms import MOST_STRANGERS
from controller.core.model import Operation
from controller.core.partition import place
from controller.core.policy import parse
from controller.ledger import Limits, open_ledger
from controller.loop import partitions
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource, derive
from controller.loop.wheel import Wheel
from controller.loop.worker import Worker
from controller.sim.replay import replay
from controller.stream import open_stream
from controller.stream.codec import intake

TEXT = """apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: m}
spec:
  partitions: 3
  route: {prefix: /m/}
  champion: {version: v1, endpoints: ["127.0.0.1:1"]}
  reward: {event: ok, window: 20s, grace: 5s}
  gates: {cooldown: 0s}
  stages:
    - canary: {steps: [50%], min_duration: 10s, min_outcomes: 20, margin: 10%}
"""


class Accepting:
    """A router that accepts everything."""

    def __init__(self):
        self.published = []

    async def publish(self, models):
        self.published = list(models)

    async def confirmed(self, _timeout_s):
        return {model.name: model.split.epoch for model in self.published}

    def status(self):
        return {"connected": 1, "nacks": 0, "last_nack": None}


class House:
    """Stores, a controller, and workers, with one clock for all."""

    def __init__(self, folder: Path):
        self.folder, self.now = folder, 1_000.0
        self.names = itertools.count(1)
        self.worked = 0.0
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = self.opened()
        self.workers: list[Worker] = []
        self.start()

    def opened(self):
        return open_ledger(f"sqlite:///{self.folder}/ledger.db", clock=lambda: self.now)

    def start(self, text=TEXT):
        """A controller that knows nothing but what the stores hold."""
        self.policy = parse(text, "test")
        self.backend = LoopBackend(
            ["m"], ledger=self.ledger, router=Accepting(), clock=lambda: self.now
        )
        self.backend.wheel = Wheel(
            [Fold(PolicySource(self.policy, text), self.stream, self.ledger)],
            stream=self.stream,
            ledger=self.ledger,
            router=self.backend._router,
            sources=[],
            clock=lambda: self.now,
            told=self.backend.told,
            worried=self.backend.worried,
        )

    def hire(self):
        self.workers.append(
            Worker(
                f"w{next(self.names)}",
                stream=self.stream,
                ledger=self.ledger,
                slots=9,
                clock=lambda: self.worked,
            )
        )
        return self.workers[-1]

    def turn(self, seconds=1.0):
        self.now += seconds
        asyncio.run(self.backend.wheel._try_turn())
        assert self.backend.wheel.troubles == {}

    def work(self):
        self.worked += 2.0
        for each in self.workers:
            each.turn()
            assert each._troubles == {}

    def turns(self, count, seconds=1.0):
        for _ in range(count):
            self.turn(seconds)
            self.work()

    def post(self, *events):
        body = "\n".join(json.dumps({"model": "m", "time": self.now} | each) for each in events)
        errors = asyncio.run(self.backend.ingest(intake(body.encode(), "application/x-ndjson")))
        assert set(errors) <= {None}

    def ask(self, requests, arm="v1", **rest):
        epoch = self.state.split.epoch
        kind = {"type": "exposure", "arm": arm, "epoch": epoch} | rest
        self.post(*({**kind, "request_id": r} for r in requests))

    def reward(self, requests, value=1):
        kind = {"type": "reward", "name": "ok", "value": value}
        self.post(*({**kind, "request_id": r, "id": f"w-{r}"} for r in requests))

    @property
    def state(self):
        return self.backend._turned["m"].state

    @property
    def report(self):
        return self.backend.report("m")

    def count(self, name):
        return {arm.arm: getattr(arm, name) for arm in self.report.arms}

    def lines(self, log):
        return [line for block in self.stream.read(log, 0) for line in block.lines]


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.stream.close()
    made.ledger.close()


def ids(count, start=0):
    return [f"q{n}" for n in range(start, start + count)]


def test_events_go_to_the_partition_of_their_request_and_are_counted_by_its_worker(house):
    house.turns(2)  # a tick says how many partitions; the next finds them in the ledger
    house.hire()
    house.turns(1)
    house.ask(ids(60))
    house.turns(1)
    house.reward(ids(20))
    house.turns(3)
    for number in range(3):
        told = [json.loads(line) for line in house.lines(f"m/{number}")]
        requests = {e["request_id"] for e in told if e["type"] in {"exposure", "reward"}}
        assert requests == {r for r in ids(60) if place(r, 3) == number}
        ticks = [e for e in told if e["type"] == "tick"]
        assert all(len(each["policy"]) == 64 for each in ticks)
    own = {json.loads(line)["type"] for line in house.lines("m")}
    assert own == {"tick", "split", "tallies"}
    assert house.count("exposures") == {"v1": 60}
    assert house.count("pending") == {"v1": 60}
    assert house.count("rewards") == {"v1": 20}
    house.turns(30)
    assert house.count("outcomes") == {"v1": 60}
    assert house.count("pending") == {"v1": 0}
    rows = house.report.health["partitions"]
    assert [row["holder"] for row in rows] == ["w1"] * 3
    assert [row["open"] for row in rows] == [0] * 3
    assert house.report.rejected == {}


def test_a_candidate_is_counted_whatever_arms_clients_invented_before(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    for number in range(400):
        house.ask([f"x{number}"], arm=f"x{number}")
    house.turns(2)
    house.post({"type": "version", "version": "v2", "role": "candidate"})
    house.turns(2)
    house.ask(ids(30), arm="v2")
    house.ask(ids(30, 30))
    house.turns(2)
    counts = house.count("exposures")
    assert (counts["v1"], counts["v2"]) == (30, 30)
    assert sum(counts.values()) == 60 + MOST_STRANGERS
    assert house.report.rejected == {"unknown_arm": 400 - MOST_STRANGERS}
    last = [json.loads(house.lines(f"m/{number}")[-1]) for number in range(3)]
    epoch = house.state.split.epoch
    assert [(tick["arms"], tick["epoch"]) for tick in last] == [(["v1", "v2"], epoch)] * 3


def told_by_segment(house, epoch):
    """Exposures of a split by segment, as the partitions' lines tell them."""
    found = Counter()
    for event in map(json.loads, house.lines("m")):
        columns = event["columns"] if event["type"] == "tallies" else {}
        for i, number in enumerate(columns.get("exposures", [])):
            if columns["epoch"][i] == epoch:
                names = ["", *event["segments"]]
                found[names[columns.get("segment", {i: 0})[i]]] += number
    return found


def test_requests_of_a_segment_are_told_with_it_once_it_has_a_split_of_its_own(house):
    stage = "thompson: {update_every: 1s, segments: {header: x-country, max: 2}, floor: 20%}"
    house.start(TEXT[: TEXT.index("    - canary")] + f"    - {stage}\n")
    house.turns(2)
    house.hire()
    house.post({"type": "version", "version": "v2", "role": "candidate"})
    house.turns(2)
    for start in range(0, 200, 40):
        house.ask(ids(40, start), arm=("v1", "v2")[start % 80 // 40], segment="de")
        house.turns(1)
    house.turns(4)
    assert house.state.segments == ("de",)
    assert "de" in house.state.split.segments
    epoch = house.state.split.epoch
    before = told_by_segment(house, epoch)
    house.ask(ids(50, 1_000), arm="v2", segment="de")
    house.ask(ids(20, 2_000), arm="v2", segment="fr")
    house.turns(3)
    strata = house.state.strata
    assert {(epoch, 0), (epoch, -1)} <= set(
        zip(strata.epoch.tolist(), strata.segment.tolist(), strict=True)
    )
    assert told_by_segment(house, epoch) - before == {"de": 50, "": 20}
    assert house.state.sightings == {"de": 250, "fr": 20}


@pytest.mark.parametrize("together", [20_000, 3])
def test_a_worker_that_was_long_away_tells_what_many_ticks_brought_at_once(
    house, monkeypatch, together
):
    monkeypatch.setattr(partitions, "TOGETHER", together)
    house.turns(2)
    for start in range(0, 120, 4):
        house.ask(ids(4, start))
        house.turn()
    waiting = sum(len(house.lines(f"m/{number}")) for number in range(3))
    appended = []
    append = house.stream.append

    def noted(lines, *, mark=None, trim=None):
        if mark is not None:
            appended.append(mark.source)
        return append(lines, mark=mark, trim=trim)

    house.stream.append = noted
    house.hire()
    house.work()
    if together > waiting:
        assert sorted(appended) == ["tallies/m/0", "tallies/m/1", "tallies/m/2"]
    else:
        assert len(appended) > 3 * 5
    house.turn()
    assert house.count("exposures") == {"v1": 120}


def test_snapshots_that_are_damaged_cost_a_worker_time_and_nothing_else(house):
    house.turns(2)
    first = house.hire()
    house.turns(1)
    for start in range(0, 400, 10):
        house.ask(ids(10, start))
        house.turns(1)
    stopping = threading.Event()
    stopping.set()
    first.run(stopping)  # a last snapshot of each partition
    house.workers.remove(first)
    with house.ledger._engine.begin() as connection:
        oldest = "SELECT min(offset) FROM snapshots AS s WHERE s.model = snapshots.model"
        connection.exec_driver_sql(
            f"UPDATE snapshots SET state = x'5553' WHERE model LIKE 'm/%' AND offset > ({oldest})"
        )
    house.hire()
    house.reward(ids(20, 380))
    house.turns(40)
    assert house.count("exposures") == {"v1": 400}
    assert house.count("outcomes") == {"v1": 400}
    assert house.count("rewards") == {"v1": 20}
    assert house.report.rejected == {}


def test_a_worker_that_dies_is_followed_by_one_that_tells_the_rest(house):
    house.turns(2)
    first = house.hire()
    house.turns(1)
    house.ask(ids(50))
    house.turns(2)
    assert len(first.held) == 3
    house.workers.remove(first)  # it says nothing any more, and gives nothing back
    house.ask(ids(50, 50))
    house.hire()
    house.turns(2)
    assert house.count("exposures") == {"v1": 50}
    with house.ledger._engine.begin() as connection:  # six seconds later
        connection.exec_driver_sql("UPDATE leases SET until = until - 7 WHERE holder = 'w1'")
    house.reward(ids(100))
    house.turns(2)
    assert house.count("exposures") == {"v1": 100}
    # The first was only stopped, and goes on with what it has: all of it was told.
    first._renewed = house.worked
    first.turn()
    house.turns(3)
    assert house.count("exposures") == {"v1": 100}
    assert house.count("rewards") == {"v1": 100}


def test_what_a_worker_told_before_it_could_note_it_counts_once(house, monkeypatch):
    house.turns(2)
    house.hire()
    house.turns(1)
    house.ask(ids(40))
    house.turn()

    def fails(*_, **__):
        raise OSError("killed here")

    with monkeypatch.context() as cut:
        cut.setattr(house.ledger.__class__, "commit", fails)
        house.worked += 2.0
        house.workers[0].turn()
    house.reward([*ids(40), *ids(5, 900)])
    house.turns(30)
    assert house.count("exposures") == house.count("outcomes") == {"v1": 40}
    assert house.count("rewards") == {"v1": 40}
    assert house.report.rejected == {"orphan": 5}
    letters = [house.ledger.count_dead_letters(f"m/{n}") for n in range(3)]
    assert sum(each.get("orphan", 0) for each in letters) == 5


def test_a_source_that_does_not_name_its_requests_is_looked_at(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    layout = house.backend.wheel.layout
    kinds = {"exposure": {"arm": "v1"}, "reward": {"name": "ok", "value": 1, "id": "w"}}
    lines = [
        json.dumps({"type": kind, "time": 1.0, "model": "m", "request_id": r, **rest}).encode()
        for r in ids(20)
        for kind, rest in kinds.items()
    ]
    other = b'{"type":"covariate","time":1.0,"model":"m","unit":"u1","value":2.5}'
    found = layout.routed({"m": [*lines, other], "unsplit": [b"x"]}, {})
    assert found.pop("m") == [other]
    assert found.pop("unsplit") == [b"x"]
    named = [json.loads(line)["request_id"] for line in lines]
    assert found == layout.routed({"m": lines}, {"m": named})
    assert sorted(found) == ["m/0", "m/1", "m/2"]


def test_workers_share_partitions_and_one_that_ends_gives_its_own_back_at_once(house):
    house.turns(2)
    first = house.hire()
    house.turns(1)
    second = house.hire()
    house.ask(ids(60))
    house.turns(3)
    assert (len(first.held), len(second.held)) == (2, 1)
    stopping = threading.Event()
    stopping.set()
    house.workers.remove(second)
    second.run(stopping)
    house.reward(ids(60))
    house.turns(2)
    assert sorted(first.held) == ["m/0", "m/1", "m/2"]
    assert house.count("exposures") == house.count("rewards") == {"v1": 60}
    assert [row["holder"] for row in house.report.health["partitions"]] == ["w1"] * 3


def test_a_line_that_is_told_again_is_refused_and_kept(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    house.ask(ids(30))
    house.turns(2)
    told = [line for line in house.lines("m") if b'"tallies"' in line]
    house.stream.append({"m": told})
    house.turns(2)
    assert house.count("exposures") == {"v1": 30}
    assert house.report.rejected == {"repeated": len(told)}
    assert house.ledger.count_dead_letters("m") == {"repeated": len(told)}


def test_a_leader_that_starts_again_goes_on_and_the_log_leads_to_the_same_decisions(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    offer = {"version": "v2", "endpoints": ["127.0.0.1:2"]}
    asyncio.run(house.backend.candidate("m", offer))
    made = 0
    for step in range(80):
        made += 20
        house.ask(ids(10, made), "v1")
        house.ask(ids(10, made + 10), "v2")
        house.reward(ids(4, made))
        house.reward(ids(5, made + 10))
        house.turns(1)
        if step in {20, 45}:
            house.start()
            house.turn()
        if house.report.phase in {"promoting", "promoted"}:
            break
    house.turns(35)
    assert house.report.phase == "promoted"
    assert house.count("exposures") == {"v1": made // 2, "v2": made // 2}
    assert house.count("outcomes") == house.count("exposures")
    written = house.ledger.decisions("m")
    assert list(derive(house.ledger, house.stream, "m")) == list(written)
    assert len(written) >= 3
    # The same from a file with the lines of the model's own log, and nothing else.
    *replayed, final = replay(house.policy, [house.lines("m")])
    assert [row["reason"] for row in replayed] == [each.reason for each in written]
    assert final["phase"] == "promoted"


def test_a_partition_that_nobody_folds_holds_the_rollout_and_says_so(house):
    house.turns(2)
    worker = house.hire()
    house.turns(1)
    asyncio.run(house.backend.candidate("m", {"version": "v2", "endpoints": ["127.0.0.1:2"]}))
    house.ask(ids(15))
    house.ask(ids(15, 15), "v2")
    house.turns(3)
    house.workers.remove(worker)
    house.turns(20)
    assert house.report.phase == "ramping"
    house.turns(20)
    assert house.report.phase == "holding"
    assert house.report.cause == "unreported"
    said = "partition 0 has told nothing for"
    assert house.report.reason.startswith(said)
    assert house.report.health["unreported"].startswith(said)
    house.workers.append(worker)
    house.turns(3)
    assert house.report.phase == "ramping"


def test_the_number_of_partitions_changes_when_no_rollout_is_on(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    house.ask(ids(40))
    house.turns(2)
    asyncio.run(house.backend.candidate("m", {"version": "v2", "endpoints": ["127.0.0.1:2"]}))
    house.turns(1)
    text = TEXT.replace("partitions: 3", "partitions: 5")
    house.backend.wheel.adopt("m", PolicySource(parse(text, "test"), text))
    house.turns(2)
    assert house.state.partitions.count == 3
    assert "over 5, not 3" in house.report.health["partitioning"]
    asyncio.run(house.backend.command("m", Operation.ROLLBACK, by="ana", reason="no"))
    house.turns(4)
    assert house.state.partitions.count == 5
    house.ask(ids(40, 100))
    house.turns(3)
    assert house.count("exposures")["v1"] == 80
    text = TEXT.replace("partitions: 3", "partitions: 1")
    house.backend.wheel.adopt("m", PolicySource(parse(text, "test"), text))
    house.turns(4)
    house.ask(ids(40, 200))
    house.turns(3)
    assert house.count("exposures")["v1"] == 120
    house.turns(40)
    assert house.count("outcomes")["v1"] == 120
    house.turns(5, seconds=200.0)
    assert house.state.partitions.open == ()
    house.turns(1)
    assert house.ledger.leases.holders() == {}
    assert house.report.rejected == {}


def test_partitions_that_get_nothing_any_more_are_kept_until_a_worker_has_told_the_rest(house):
    house.turns(2)
    house.hire()
    house.turns(1)
    house.ask(ids(40))
    house.turns(30)  # until nothing is open
    house.ask(ids(40, 100))  # of which no worker tells: none is there
    text = TEXT.replace("partitions: 3", "partitions: 1")
    house.backend.wheel.adopt("m", PolicySource(parse(text, "test"), text))
    for _ in range(70):
        house.turn(10.0)
    assert house.state.partitions.count == 1
    assert house.state.partitions.open == (0, 1, 2)
    house.turns(3)
    assert house.count("exposures")["v1"] == 80
    assert house.state.partitions.open == ()
    assert house.report.rejected == {}


def test_refused_events_that_are_folded_again_after_a_crash_are_counted_once(house, monkeypatch):
    monkeypatch.setattr(partitions, "SNAPSHOT_S", 1e9)
    house.ledger._limits = Limits(letters=10)
    house.turns(2)
    house.hire()
    house.turns(1)
    for turn in range(8):
        house.post(
            *(
                {"type": "reward", "name": "no", "value": 1, "request_id": r, "id": f"{turn}{r}"}
                for r in ids(20)
            )
        )
        house.turns(1)
    house.workers[0]._folds.clear()  # a crash: what it knew is gone, and no snapshot was written
    house.workers[0]._renewed = float("-inf")
    house.post({"type": "reward", "name": "no", "value": 1, "request_id": "q1", "id": "last"})
    house.turns(2)
    logs = [f"m/{n}" for n in range(3)]
    kept = sum(sum(house.ledger.count_dead_letters(log).values()) for log in logs)
    dropped = sum(sum(house.ledger.count_dropped(log).values()) for log in logs)
    assert house.report.rejected == {"unknown_name": 161}
    assert kept + dropped == 161
    assert kept <= 33

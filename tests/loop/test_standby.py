"""A controller that does not lead: what it shows, takes in and refuses, and how it takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from controller.core.model import Operation, Phase
from controller.core.policy import parse
from controller.core.record import decision_document
from controller.errors import Deposed, Standby
from controller.ledger import open_ledger
from controller.loop.backend import LoopBackend
from controller.loop.fold import Fold, PolicySource, Turned
from controller.loop.standby import StandbyWheel
from controller.loop.wheel import Wheel
from controller.stream import open_stream
from controller.stream.codec import intake
from tests.core.logs import Log, Traffic, drive
from tests.loop.home import DOCUMENT

OTHER = DOCUMENT.replace("name: m", "name: n").replace("/m/", "/n/")
STOPPED = 1_000.0


def source(document: str) -> PolicySource:
    return PolicySource(parse(document, "a file"), document)


class Routers:
    """Routers that accept every split."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}

    async def publish(self, models: Any) -> None:
        self.epochs = {model.name: model.split.epoch for model in models}

    async def confirmed(self, _timeout_s: float) -> dict[str, int]:
        return self.epochs

    def status(self) -> dict[str, Any]:
        return {"connected": 0}


class Controller:
    """One controller's stores, API backend and, at first, standby wheel."""

    def __init__(self, folder: Path, *documents: str, name: str) -> None:
        self.name = name
        self.database = f"sqlite:///{folder}/ledger.db"
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(self.database, clock=lambda: STOPPED)
        self.sources = [source(document) for document in documents]
        models = [each.policy.model for each in self.sources]
        self.router = Routers()
        self.backend = LoopBackend(
            models, ledger=self.ledger, router=self.router, clock=lambda: STOPPED
        )
        self.looks: list[str] = []
        self.standby = self.backend.wheel = StandbyWheel(
            lambda: self.sources,
            stream=self.stream,
            ledger=self.ledger,
            leader=lambda: self.ledger.newest_term().holder,
            told=self._told,
            worried=self.backend.worried,
        )

    def _told(self, model: str, turned: Turned) -> None:
        self.looks.append(model)
        self.backend.told(model, turned)

    def lead(self) -> Wheel:
        self.ledger.begin_term(self.name)
        self.backend.wheel = wheel = Wheel(
            [Fold(each, self.stream, self.ledger) for each in self.sources],
            stream=self.stream,
            ledger=self.ledger,
            router=self.router,
            sources=[],
            clock=lambda: STOPPED,
            told=self.backend.told,
            worried=self.backend.worried,
        )
        return wheel

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


@pytest.fixture
def make(tmp_path: Path):
    made: list[Controller] = []

    def make(name: str, *documents: str) -> Controller:
        made.append(Controller(tmp_path, *(documents or (DOCUMENT,)), name=name))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def history() -> list[bytes]:
    """The log of two minutes in which v2 was tried."""
    log = Log()
    log.tick(0)
    log.version(1)
    traffic = Traffic({"v1": 0.3, "v2": 0.3}, rate=15)
    drive(parse(DOCUMENT, "m.yaml"), log, traffic, seconds=120, seed=2)
    return log.lines


def led(leader: Controller, lines: list[bytes]) -> Turned:
    """What the leader has of a log, with a snapshot of it."""
    leader.ledger.begin_term(leader.name)
    leader.stream.append({"m": lines})
    fold = Fold(leader.sources[0], leader.stream, leader.ledger)
    turned = fold.turn()
    fold.snapshot()
    return turned


def test_a_standby_shows_what_the_leader_wrote_down(make, history):
    leader, standby = make("one"), make("two")
    turned = led(leader, history[: len(history) // 2])
    asyncio.run(standby.standby.look())
    backend = standby.backend
    assert backend.report("m") == turned.report
    assert turned.report.phase is Phase.RAMPING
    assert backend.is_complete
    written = [decision_document(each) for each in leader.ledger.decisions("m")]
    assert backend.decisions("m", newest_first=False) == written
    assert backend.explain("m", None)["last_decision"] == written[-1]
    assert len(written) > 1
    (row,) = backend.assign("m", ["u1"])
    assert row["epoch"] == turned.state.split.epoch
    assert (backend.leads(), backend.ready()) == (False, {"log and ledger": True, "models": True})


def test_a_standby_reads_a_model_again_only_when_the_leader_wrote_something_new(make, history):
    leader, standby = make("one"), make("two")
    half = len(history) // 2
    led(leader, history[:half])
    for _ in range(3):
        asyncio.run(standby.standby.look())
    assert standby.looks == ["m"]
    turned = led(leader, history[half:])
    asyncio.run(standby.standby.look())
    assert standby.looks == ["m", "m"]
    assert standby.backend.report("m") == turned.report
    assert len(standby.backend.history("m")) == 2


def test_a_model_that_the_leader_has_not_begun_looks_as_it_will_begin(make, history):
    leader, standby = make("one"), make("two", DOCUMENT, OTHER)
    led(leader, history)
    asyncio.run(standby.standby.look())
    assert standby.backend.models() == ("m", "n")
    report = standby.backend.report("n")
    assert (report.phase, report.epoch_in_force, report.champion) == (Phase.IDLE, 0, "v1")


def test_a_standby_reads_under_the_policy_that_the_leader_has_adopted(make, history):
    newer = DOCUMENT.replace("champion: {version: v1}", "champion: {version: v1, endpoints: []}")
    leader, standby = make("one", newer.replace("50%", "40%")), make("two")
    led(leader, history[:100])
    asyncio.run(standby.standby.look())
    assert standby.backend._turned["m"].policy == leader.sources[0].policy
    assert standby.backend._turned["m"].policy != standby.sources[0].policy


def test_events_that_reach_a_standby_are_folded_by_the_leader(make):
    leader, standby = make("one"), make("two")
    wheel = leader.lead()
    asyncio.run(wheel._try_turn())
    asyncio.run(standby.standby.look())
    reward = b'{"type":"reward","time":9,"model":"m","id":"r1","unit":"u","name":"click","value":1}'
    body = b"\n".join((reward, reward.replace(b'"m"', b'"q"'), b'{"type":"tick","time":9}'))
    events = intake(body, "application/x-ndjson", {})
    errors = asyncio.run(standby.backend.ingest(events))
    assert errors[0] is None
    assert ["expected one of m" in str(each) for each in errors] == [False, True, False]
    assert {each.source for each in leader.ledger.rejections()} == {"api"}
    wheel._ticks.stir(["m"])
    asyncio.run(wheel._try_turn())
    lines = [line for block in leader.stream.read("m", 0) for line in block.lines]
    assert sum(b'"r1"' in line for line in lines) == 1
    assert leader.backend._turned["m"].state.offset >= len(lines) - 1


@pytest.mark.parametrize("operation", [Operation.PAUSE, Operation.RESUME])
def test_commands_are_refused_with_the_leaders_name_and_leave_no_trace(make, operation):
    leader, standby = make("one"), make("two")
    asyncio.run(leader.lead()._try_turn())
    asyncio.run(standby.standby.look())
    before = list(leader.stream.read("m", 0))
    with pytest.raises(Standby, match="one leads") as caught:
        asyncio.run(standby.backend.command("m", operation, by="ana", reason=""))
    assert caught.value.leader == "one"
    with pytest.raises(Standby):
        asyncio.run(standby.backend.candidate("m", {"version": "v2"}))
    assert list(leader.stream.read("m", 0)) == before


def test_a_standby_without_its_ledger_shows_what_it_knew_and_says_so(make, history):
    leader, standby = make("one"), make("two")
    turned = led(leader, history)
    asyncio.run(standby.standby.look())
    engine = create_engine(leader.database)
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("ALTER TABLE snapshots RENAME TO away")
        connection.commit()
    asyncio.run(standby.standby.look())
    report = standby.backend.report("m")
    assert "no such table" in str(report.health["trouble"])
    assert report.arms == turned.report.arms
    assert standby.backend.ready()["log and ledger"] is not True
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO snapshots"))
    engine.dispose()
    asyncio.run(standby.standby.look())
    assert standby.backend.report("m") == turned.report
    assert standby.backend.ready()["log and ledger"] is True


def test_a_snapshot_that_cannot_be_read_is_the_trouble_of_its_model_alone(make, history):
    leader, standby = make("one"), make("two", DOCUMENT, OTHER)
    led(leader, history[:200])
    asyncio.run(standby.standby.look())
    known = standby.backend.report("m").arms
    engine = create_engine(leader.database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE snapshots SET state = x'00', time = 5"))
    engine.dispose()
    asyncio.run(standby.standby.look())
    assert "snapshot" in str(standby.backend.report("m").health["trouble"])
    assert standby.backend.report("m").arms == known
    assert "trouble" not in standby.backend.report("n").health


def test_a_leader_in_which_nothing_happens_is_deposed_at_its_next_turn_all_the_same(make):
    leader, other = make("one"), make("two")
    asyncio.run(_deposed(leader, other))


async def _deposed(leader: Controller, other: Controller) -> None:
    wheel = leader.lead()
    await wheel._try_turn()
    await wheel._try_turn()
    other.ledger.begin_term("two")
    published, log_end = dict(leader.router.epochs), len(list(leader.stream.read("m", 0)))
    wheel._states.clear()  # an idle model is not folded for ten seconds
    with pytest.raises(Deposed, match="two leads since term 2 began"):
        await wheel.run()
    assert leader.router.epochs == published
    assert len(list(leader.stream.read("m", 0))) == log_end


def test_a_standby_that_takes_over_goes_on_where_the_leader_ended(make, history):
    asyncio.run(_taken_over(make("one"), make("two"), history))


async def _taken_over(leader: Controller, standby: Controller, history: list[bytes]) -> None:
    half = len(history) // 2
    led(leader, history[:half])
    running = asyncio.create_task(standby.standby.run())
    heard: list[Any] = []
    listening = asyncio.create_task(_listen(standby.backend, heard))
    await _until(lambda: standby.backend.is_complete)
    seen = standby.backend.report("m")
    leader.stream.append({"m": history[half:]})  # what the leader did not live to fold

    standby.standby.stop()
    await running
    wheel = standby.lead()
    turning = asyncio.create_task(wheel.run())
    await _until(lambda: wheel.is_settled and len(heard) > 1)
    assert standby.backend.leads()
    assert standby.backend.history("m")[0] == seen
    assert heard[0] == seen
    await _until(lambda: len(heard) > 1)
    await standby.backend.command("m", Operation.PAUSE, by="ana", reason="")
    assert standby.backend.report("m").phase is Phase.PAUSED
    assert not leader.ledger.is_current()
    assert leader.ledger.verify_chain("m") is None
    wheel.stop()
    await turning
    listening.cancel()


async def _listen(backend: LoopBackend, heard: list[Any]) -> None:
    async for report in backend.changes():
        heard.append(report)  # noqa: PERF401 - it is looked at meanwhile


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)

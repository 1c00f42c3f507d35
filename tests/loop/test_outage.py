"""After an outage time stands until what waited for its end has come."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from controller.core.policy import parse
from controller.errors import Retryable
from controller.ledger import open_ledger
from controller.loop.fold import Fold, PolicySource, Turned
from controller.loop.outage import GAP_S, LONGEST_S, QUIET_S, WAIT_S, Outage
from controller.loop.wheel import Wheel
from controller.stream import open_stream
from tests.loop.home import DOCUMENT


def test_time_goes_on_as_ever_while_there_is_no_outage() -> None:
    outage = Outage()
    assert outage.time(-math.inf, 1e9) == 1e9
    assert outage.time(100.0, 100.0 + GAP_S) == 100.0 + GAP_S
    assert outage.time(100.0, 40.0) == 40.0


def test_time_stands_for_a_while_and_as_long_as_old_exposures_come() -> None:
    outage, last, end = Outage(), 100.0, 1000.0
    assert outage.time(last, end) == last
    assert outage.time(last, end + WAIT_S - 0.1) == last
    outage.heard(200.0, end + WAIT_S)
    assert outage.time(last, end + WAIT_S + QUIET_S - 0.1) == last
    outage.heard(end + WAIT_S, end + WAIT_S + 1)  # as fresh as ever
    assert outage.time(last, end + WAIT_S + QUIET_S) == end + WAIT_S + QUIET_S
    assert outage.time(end + 20, end + 21) == end + 21


def test_a_router_that_stays_behind_does_not_hold_time_for_ever() -> None:
    outage, last, end = Outage(), 100.0, 1000.0
    now = end
    while outage.time(last, now) == last:
        outage.heard(now - 300.0, now)
        now += 1.0
    assert now == end + LONGEST_S


class Routers:
    """Accept every split at once."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}

    async def publish(self, models: Sequence[object]) -> None:
        self.epochs = {each.name: each.split.epoch for each in models}  # type: ignore[attr-defined]

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        return self.epochs

    def status(self) -> dict[str, int]:
        return {"connected": 1}


class Controller:
    """A wheel whose clock is ours; `restart` as after a kill."""

    def __init__(self, folder: Path) -> None:
        self.stream = open_stream(f"sqlite:///{folder}/events.db")
        self.ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: 0.0)
        self.now, self.turned = 1000.0, Turned
        self.restart()

    def restart(self) -> None:
        source = PolicySource(parse(DOCUMENT, "m.yaml"), DOCUMENT)
        self.wheel = Wheel(
            [Fold(source, self.stream, self.ledger)],
            stream=self.stream,
            ledger=self.ledger,
            router=Routers(),
            sources=[],
            clock=lambda: self.now,
            told=self.told,
            worried=lambda: None,
        )

    def told(self, model: str, turned: Turned) -> None:
        self.report = turned.report

    def turn(self, seconds: float = 1.0) -> None:
        self.now += seconds
        asyncio.run(self.wheel._try_turn())

    def expose(self, *times: float) -> None:
        lines = [
            json.dumps(
                {
                    "type": "exposure",
                    "time": time,
                    "model": "m",
                    "request_id": f"q{time:g}",
                    "arm": "v1",
                    "epoch": 1,
                    "status": 200,
                }
            ).encode()
            for time in times
        ]
        asyncio.run(self.wheel.append({"m": lines}))

    def reward(self, of: float, time: float) -> None:
        event = {"type": "reward", "time": time, "model": "m", "id": f"r{of:g}", "value": 1}
        line = json.dumps(event | {"request_id": f"q{of:g}", "name": "click"}).encode()
        asyncio.run(self.wheel.append({"m": [line]}))

    @property
    def arm(self) -> tuple[int, int, int]:
        (arm,) = self.report.arms
        return arm.exposures, arm.rewards, arm.outcomes


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path)
    yield made
    made.stream.close()
    made.ledger.close()


def test_what_waited_for_a_controller_that_was_away_for_long_counts(controller: Controller) -> None:
    """Window 10 s, grace 5 s; the controller is away for 300 s; routers go on."""
    controller.turn()
    controller.expose(1001.0)
    controller.turn()
    controller.restart()
    controller.turn(300)
    assert controller.report.time == 1002.0
    controller.turn(WAIT_S - 2)
    controller.reward(of=1001.0, time=1004.0)
    controller.expose(1010.0, 1150.0)
    controller.turn()
    controller.turn(QUIET_S - 2)
    controller.expose(1290.0)
    controller.turn()
    assert controller.report.time == 1002.0
    assert controller.arm == (4, 1, 0)
    controller.turn(QUIET_S)
    assert controller.report.time == controller.now
    assert controller.arm == (4, 1, 4)
    assert not any(controller.report.rejected.values())


def test_so_it_does_when_the_log_was_away(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.turn()

    def away(*_: object, **__: object) -> None:
        raise Retryable("no log")

    with monkeypatch.context() as patched:
        patched.setattr(controller.stream, "append", away)
        for _ in range(20):
            controller.turn()
    controller.turn()
    controller.expose(1003.0)
    controller.turn()
    assert controller.report.time == 1001.0
    controller.turn(WAIT_S + QUIET_S)
    assert controller.arm == (1, 0, 1)
    assert not any(controller.report.rejected.values())

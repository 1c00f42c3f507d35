"""Routers elsewhere when something is wrong: what is lost is counted, and what differs is said."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from controller.core.model import Split
from controller.core.split import assign
from controller.ledger import open_ledger
from controller.router.admin import Admin
from tests.processes import until
from tests.service.test_fleet import (
    Controller,
    Router,
    arm_of,
    controller,
    exposures,
    is_in_force,
    make_router,
    routers,
)

__all__ = ["controller", "make_router"]  # fixtures


def is_said(controller: Controller, word: str) -> bool:
    return bool(controller.arms()["health"]["split"] == word)


def wanted_split(controller: Controller) -> Split:
    with closing(open_ledger(f"sqlite:///{controller.state}/ledger.db", clock=time.time)) as ledger:
        found = ledger.last_split("m")
    assert found is not None
    return found


def test_a_router_says_what_it_could_not_write(
    controller: Controller, make_router: Callable[..., Router]
) -> None:
    controller.start()
    router = make_router("one", log=Path("/dev/full")).start_envoy()
    until("the router serves", router.is_ready, 20)
    admin = Admin(f"http://127.0.0.1:{router.admin}")
    assert asyncio.run(admin.failed_writes()) == 0
    router.ask(10)
    until("the disk is full", lambda: asyncio.run(admin.failed_writes()) > 0, 5)


def test_beyond_the_disk_limit_lines_are_dropped_and_counted_to_the_event(
    controller: Controller, make_router: Callable[..., Router]
) -> None:
    controller.start()
    router = make_router("one").start_envoy().start_shipper("--rotate", "1", "--disk", "2")
    until("the router serves", router.is_ready, 20)
    router.ask(10)
    until("the first ones are counted", lambda: exposures(controller) == {"v1": 10}, 20)
    controller.kill()
    asked = 10
    padding = "x" * 90  # of the units, so that fewer requests fill the disk

    def has_dropped() -> bool:
        nonlocal asked
        router.ask(500, padding)
        asked += 500
        return router.figures()["dropped_total"] > 0

    until("the oldest file is dropped", has_dropped, 60)
    used = sum(each.stat().st_size for each in router.folder.glob("access.log*"))
    assert used < 3 << 20
    controller.start()
    until("all that is left is shipped", lambda: router.figures()["waiting_bytes"] == 0, 30)
    dropped = int(router.figures()["dropped_total"])
    until("all others are counted", lambda: exposures(controller) == {"v1": asked - dropped}, 10)
    said = (router.folder / "ship.err").read_text().splitlines()
    losses = [json.loads(row) for row in said if "lines are dropped" in row]
    assert sum(each["lines"] for each in losses) == dropped


def test_an_exposure_says_which_split_it_had_while_routers_differ(
    controller: Controller, make_router: Callable[..., Router], models: list[int]
) -> None:
    """One router is stopped while a split is pushed; then it answers what it was asked meanwhile.

    With the split that it has: what the other one has had for long is pushed to it after that.
    """
    controller.start()
    pair = [make_router(name).start_envoy().start_shipper() for name in ("one", "two")]
    until("both routers serve", lambda: all(each.is_ready() for each in pair), 20)
    until("both are connected", lambda: routers(controller) == 2, 5)
    until("the first split is in force", lambda: is_said(controller, "in force"), 5)
    splits = [wanted_split(controller)]
    assert pair[0].envoy is not None
    pair[0].envoy.send_signal(signal.SIGSTOP)
    controller.offer("v2", models[1])
    until("the split is in force at the other one", lambda: is_in_force(controller), 25)
    splits.append(wanted_split(controller))
    waiting = [pair[0].ask_later(f"w{i}") for i in range(40)]
    seen = pair[1].arms_of([f"w{i}" for i in range(200)])
    pair[0].envoy.send_signal(signal.SIGCONT)
    old = {f"w{i}": arm_of(connection) for i, connection in enumerate(waiting)}
    for connection in waiting:
        connection.close()
    moved = next(unit for unit, arm in seen.items() if arm == "v2")
    polls = itertools.count(1)
    until("both have it", lambda: next(polls) and pair[0].arms_of([moved])[moved] == "v2", 25)
    assert pair[0].arms_of(list(seen)) == seen

    total = 440 + next(polls) - 1
    until("every exposure is counted", lambda: sum(exposures(controller).values()) == total, 20)
    asked: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for line in controller.cli("events", "m").out.splitlines():
        event = json.loads(line)
        if event["type"] == "exposure":
            asked[event["epoch"]].append(event)
    assert {each.epoch for each in splits} == set(asked)
    for split in splits:
        for event in asked[split.epoch]:
            assert event["arm"] == assign(split, event["unit"])
    first, second = (asked[split.epoch] for split in splits)
    assert old.items() <= {event["unit"]: event["arm"] for event in first}.items()
    assert {event["unit"]: event["arm"] for event in second} == seen
    assert controller.arms()["health"]["unattributed"] == 0
    assert controller.cli("ledger", "m", "--verify").code == 0

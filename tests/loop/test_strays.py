"""Requests that an arm answered though the split in force gives it none."""

from __future__ import annotations

import json

import pytest

from controller.loop.strays import LATE_S, Stray, strays
from controller.stream import codec
from controller.stream.codec import decode
from tests.core.clusters import Cluster
from tests.core.logs import MODEL, Log


def rolled_back(epoch: int = 3) -> Cluster:
    """v2 was rolled back, and the split without it has been in force for a while."""
    model = Cluster().ramping()
    assert model.state.split.epoch == epoch - 1
    model.command("rollback")
    model.tick()
    model.confirm()
    model.tick()
    assert model.state.in_force == {"v1": 10_000}
    return model


def read(model: Cluster, log: Log) -> dict[str, Stray]:
    return dict(strays(model.state, decode(MODEL, 0, log.lines, others="reject")))


def told(arms: list[str], epochs: list[int], times: list[float], answered: list[int]) -> Log:
    """What a partition tells."""
    columns = {
        "time": times,
        "epoch": epochs,
        "arm": list(range(len(arms))),
        "exposures": answered,
    }
    counts = {"partition": 0, "start": 0, "end": 9, "part": 0, "parts": 1, "open": 0}
    line = {"type": "tallies", "time": max(times), "model": MODEL, "rejected": {}, "arms": arms}
    return Log([json.dumps(line | counts | {"columns": columns}).encode()])


def test_the_last_request_that_came_after_the_split_was_in_force_is_a_stray() -> None:
    model, log = rolled_back(), Log()
    since = model.state.known[3].since
    for late_s in (1.0, LATE_S + 7.0, LATE_S + 2.0):
        log.exposure(since + late_s, "v2", epoch=2)
    log.exposure(since + LATE_S + 9.0, "v1", epoch=3)
    assert read(model, log) == {"v2": Stray(since + LATE_S + 7.0, 2)}


def test_what_was_asked_before_and_is_told_late_is_none() -> None:
    model, log = rolled_back(), Log()
    log.exposure(model.state.known[3].since + LATE_S - 0.5, "v2", epoch=2)
    assert read(model, log) == {}


def test_requests_of_arms_that_are_given_some_are_none() -> None:
    model, log = Cluster().ramping(), Log()
    log.exposure(model.now + 60, "v2", epoch=1)
    log.exposure(model.now + 60, "v1", epoch=2)
    assert read(model, log) == {}


def test_a_split_that_gives_the_arm_nothing_cannot_have_led_to_it() -> None:
    model, log = rolled_back(), Log()
    since = model.state.known[3].since
    log.exposure(since + LATE_S + 9.0, "v2", epoch=3)  # forged
    assert read(model, log) == {}
    log.exposure(since + LATE_S + 1.0, "v2", epoch=2)
    log.exposure(since + LATE_S + 2.0, "v2", epoch=77)  # of a log that is gone
    assert read(model, log) == {"v2": Stray(since + LATE_S + 2.0, 77)}


def test_an_arm_is_without_traffic_since_the_earliest_split_that_gives_it_none() -> None:
    model, log = rolled_back(), Log()
    since = model.state.known[3].since
    model.offered("v3")
    model.capacity("v3", 1)
    model.ticks(30)
    assert set(model.state.in_force) == {"v1", "v3"}
    log.exposure(since + LATE_S + 1.0, "v2")
    assert since + LATE_S + 1.0 < model.state.known[model.state.in_force_epoch].since + LATE_S
    assert read(model, log) == {"v2": Stray(since + LATE_S + 1.0, -1)}


@pytest.mark.parametrize("answered", [0, 4])
def test_partitions_tell_of_strays(answered: int) -> None:
    model = rolled_back()
    late = model.state.known[3].since + LATE_S + 3.0
    log = told(["v1", "v2"], [3, 2], [late, late], [5, answered])
    assert codec.decode(MODEL, 0, log.lines, others="reject").control
    assert read(model, log) == ({"v2": Stray(late, 2)} if answered else {})

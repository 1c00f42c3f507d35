"""Floods: `serve` stays alive, answers, folds what is good, and stays within a stated memory.

Small ones, which every test run makes; `python -m tests.bench flood` makes them whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from controller.api.connections import LIMIT
from controller.api.live import MOST_STREAMS
from controller.core.arms import MOST_STRANGERS
from tests.processes import until
from tests.service import floods
from tests.service.conftest import Serve, policy_text
from tests.service.floods import Target, Watch
from tests.service.test_pressure import metric

MEMORY = 512 << 20
"""What docs/failure-modes.md states."""


@pytest.fixture(scope="module")
def flooded(
    tmp_path_factory: pytest.TempPathFactory, models: list[int]
) -> Iterator[tuple[Serve, Target]]:
    """One `serve` for all floods, as it would be."""
    serve = Serve(tmp_path_factory.mktemp("flood"), {"m": policy_text(models[0])})
    try:
        serve.start()
        assert serve.process is not None
        yield serve, Target(serve.process.pid, serve.api_port)
    finally:
        serve.end()


@pytest.fixture
def watched(flooded: tuple[Serve, Target]) -> Iterator[tuple[Serve, Target]]:
    """A good client goes on meanwhile; afterwards all that it sent is counted."""
    serve, target = flooded
    before = _good(serve)
    target.forget_peak()
    with Watch(target) as watch:
        yield serve, target
    assert watch.faults == []
    assert watch.slowest_probe_s < 5
    until("what was good is folded", lambda: _good(serve) == before + watch.sent, 30)
    assert target.peak_bytes() < MEMORY


def _good(serve: Serve) -> int:
    arms = serve.arms()["arms"]
    return int(next(arm for arm in arms if arm["role"] == "champion")["rewards"])


def test_malformed_events_are_counted_and_the_first_are_kept(
    watched: tuple[Serve, Target],
) -> None:
    serve, target = watched
    before = metric(serve, "understudy_intake_refused_total")
    assert floods.malformed(target, 60_000, per_body=30_000) == {202: 2}
    assert metric(serve, "understudy_intake_refused_total") == before + 60_000
    unkept = metric(serve, "understudy_intake_unkept_total")
    assert 30_000 <= unkept < 60_000

    def kept() -> int:
        query = "SELECT count(*) FROM intake_rejections WHERE reason = 'malformed'"
        path = f"file:{serve.state / 'ledger.db'}?mode=ro"
        connection = sqlite3.connect(path, uri=True)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    until("those that were kept are in the table", lambda: kept() == 60_000 - unkept, 10)


def test_bombs_are_413_before_they_unpack(watched: tuple[Serve, Target]) -> None:
    _, target = watched
    assert floods.bombs(target, 1_000_000) == {413: 3}


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_without_end_is_413(watched: tuple[Serve, Target], is_chunked: bool) -> None:
    _, target = watched
    # A sender that goes on sending may find its line cut before it reads the answer.
    line = floods.huge(target, 1 << 28, is_chunked=is_chunked)
    assert line in {
        b"HTTP/1.1 413 Content Too Large",
        b"HTTP/1.1 413 Request Entity Too Large",
        b"",
    }


def test_orphans_and_rewards_of_unknown_models_hold_nobody_up(
    watched: tuple[Serve, Target],
) -> None:
    serve, target = watched
    assert floods.orphans(target, 20_000) == 20_000
    assert floods.orphans(target, 20_000, model="elsewhere") == 0
    until("the fold has caught up", lambda: metric(serve, "understudy_lag_events") < 100, 30)


def test_invented_names_do_not_grow_reports_and_metrics(watched: tuple[Serve, Target]) -> None:
    serve, target = watched
    assert floods.inventions(target, 20_000) == 20_000

    def refused() -> int:
        return int(serve.arms()["rejected"].get("unknown_arm", 0))

    until("strangers are refused", lambda: refused() == 20_000 - MOST_STRANGERS, 30)
    assert len(serve.arms()["arms"]) == 1 + MOST_STRANGERS
    assert len(target.get("/metrics")) < 1 << 20


def test_connections_that_say_nothing_make_room_for_those_that_do(
    watched: tuple[Serve, Target],
) -> None:
    serve, target = watched
    with floods.idlers(target, LIMIT + 300) as lines:
        assert serve.get("/healthz")["status"] == "alive"
        assert sum(map(floods.is_closed, lines)) >= 300


def test_clients_of_the_stream_are_as_many_as_may_be(watched: tuple[Serve, Target]) -> None:
    serve, target = watched
    with floods.listeners(target, MOST_STREAMS + 20) as seen:
        assert seen[b"HTTP/1.1 200 OK"] <= MOST_STREAMS
        assert seen[b"HTTP/1.1 503 Service Unavailable"] >= 20
        assert serve.get("/healthz")["status"] == "alive"

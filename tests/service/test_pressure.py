"""A ledger that is slow or away, a log that is: decisions wait, intake goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.processes import until
from tests.service.conftest import Serve, policy_text
from tests.service.test_events import champion, exposure, post, reward, rows
from tests.stores.postgres import Postgres


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process writes, and takes its time."""
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process and its children do nothing, but their connections stay."""
    found = [pid, *_children(pid)]
    for each in found:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in found:
            os.kill(each, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def metric(serve: Serve, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{serve.api_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    assert any(line.startswith(f"# HELP {name.removesuffix('_total')}") for line in lines), name
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


def intake_goes_on(serve: Serve, seconds: float) -> int:
    """Good and bad events are answered in time; how many bodies there were."""
    sent, end = 0, time.monotonic() + seconds
    slowest = 0.0
    while time.monotonic() < end:
        number = 1_000 + 10 * sent
        events = [exposure(number), reward(number), {"type": "reward", "model": "m"}]
        answer, took = timed(lambda: post(serve, *events))  # noqa: B023 - called at once
        assert answer["accepted"] == 2
        assert [row["index"] for row in answer["rejected"]] == [2]
        slowest = max(slowest, took)
        sent += 1
        time.sleep(0.1)
    assert slowest < 2, "good events waited for the ledger"
    return sent


def all_is_as_it_should_be(serve: Serve, sent: int) -> None:
    until("all exposures are folded", lambda: champion(serve)["exposures"] == sent, 30)
    until("all rewards are joined", lambda: champion(serve)["rewards"] == sent, 10)
    until("the fold has caught up", lambda: metric(serve, "understudy_lag_events") < 5, 10)
    assert metric(serve, "understudy_intake_refused_total") == sent
    assert metric(serve, "understudy_intake_unkept_total") == 0
    assert serve.get("/readyz")["status"] == "ready"


def test_a_locked_ledger_delays_decisions_and_never_intake(serve: Serve) -> None:
    with locked(serve.state / "ledger.db"):
        sent = intake_goes_on(serve, 6)
        assert "health" in serve.arms()
    all_is_as_it_should_be(serve, sent)
    query = "SELECT count(*) FROM intake_rejections WHERE source = 'api'"
    until("what was refused is kept", lambda: rows(serve, query) == [(sent,)], 10)
    assert serve.cli("ledger", "m", "--verify").code == 0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def test_a_postgresql_that_hangs_delays_decisions_and_never_intake(
    make_serve: Callable[..., Serve], models: list[int], postgres: Postgres
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    serve.stores = {"UNDERSTUDY_LEDGER": postgres.database()}
    serve.start()
    assert postgres.pid
    with stopped(postgres.pid):
        time.sleep(1.1)  # the wheel is in the middle of a question
        status, _ = serve.call("GET", "/v1/models/m/decisions")
        assert status == 503
        sent = intake_goes_on(serve, 3)
        assert metric(serve, "understudy_turn_seconds") > 3
        assert metric(serve, "understudy_lag_events") >= 2 * sent
        assert serve.get("/healthz")["status"] == "alive"
    all_is_as_it_should_be(serve, sent)
    assert serve.get("/v1/models/m/decisions")["decisions"]
    kept = serve.cli("events", "m", "--rejected")
    assert kept.out.count('"malformed"') == sent, kept


def test_a_serve_whose_postgresql_hangs_ends_when_it_is_told_twice(
    make_serve: Callable[..., Serve], models: list[int], postgres: Postgres
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    serve.stores = {"UNDERSTUDY_LEDGER": postgres.database()}
    process = serve.start().process
    assert process is not None
    assert postgres.pid
    with stopped(postgres.pid):
        time.sleep(1.1)  # the wheel is in the middle of a question
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(2) == 1
    assert "understudy: told twice to end: ended at once" in serve.tail()


def test_a_locked_log_answers_429_or_503_and_goes_on_when_it_is_free(serve: Serve) -> None:
    post(serve, exposure(1))
    with locked(serve.state / "events.db"):
        body = b'{"type":"exposure","time":1,"model":"m","request_id":"q","arm":"v1","epoch":1}'
        (status, answer), took = timed(lambda: serve.call("POST", "/v1/events", body))
        assert status == 503
        assert "another process is writing" in answer["detail"]
        assert took < 9
        assert serve.get("/healthz")["status"] == "alive"
    until("intake goes on", lambda: serve.call("POST", "/v1/events", body)[0] == 202, 10)
    until("the wheel goes on", lambda: serve.get("/readyz")["status"] == "ready", 10)

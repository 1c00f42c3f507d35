"""Envoy and `serve` live and die independently of each other, and end together when asked."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from urllib.request import urlopen

import pytest

from tests.processes import free_port, until
from tests.service.conftest import Serve, Users, policy_text, processes_of
from tests.service.test_kill import counted, logged


def agreeing(serve: Serve, count: int) -> int:
    """How many of `count` units the router sends where `/assignments` says."""
    units = [f"unit-{n}" for n in range(count)]
    status, answer = serve.call("POST", "/v1/models/m/assignments", {"units": units})
    assert status == 200, answer
    said = {row["unit"]: row["arm"] for row in answer["assignments"]}
    assert set(said.values()) == {"v1", "v2"}
    return sum(serve.ask(x_user_id=unit)[1]["x-understudy-arm"] == said[unit] for unit in units)


def is_settled(serve: Serve) -> bool:
    report = serve.arms()
    return len(report["arms"]) == 2 and all(
        arm["weight"] == arm["weight_in_force"] for arm in report["arms"]
    )


def test_an_envoy_killed_under_load_comes_back_and_nothing_counts_twice(
    serve: Serve, models: list[int]
) -> None:
    serve.offer("v2", models[1])
    until("the split is in force", lambda: is_settled(serve), 10)
    first = serve.envoy_pid
    with Users(serve, rate_hz=150) as users:
        time.sleep(1)
        os.kill(first, signal.SIGKILL)
        until("another Envoy", lambda: serve.envoy_pid != first, 10)
        before = len(users.answers)
        until("it answers on the same port", lambda: len(users.answers) > before + 200, 10)
    assert serve.get("/v1/models")["router"]["restarts"] == 1
    time.sleep(2.5)  # the log is flushed every 200 ms, the wheel turns every second
    found = counted(serve)
    assert sum(logged(serve).values()) <= found.total()  # older files go once they are read
    assert found.total() <= len(users.answers) + len(users.lost)
    assert found.total() > len(users.answers) - 150  # one second of what was not yet flushed
    assert agreeing(serve, 300) == 300
    assert serve.cli("ledger", "m", "--verify").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_killed_serve_finds_its_envoy_and_ends_it_when_told_to_end(
    serve: Serve,
    models: list[int],
    tell: Callable[[int, int, float], None],
    number: signal.Signals,
) -> None:
    envoy = serve.envoy_pid
    serve.kill()
    assert serve.ask()[0] == 200
    if number == signal.SIGINT:
        serve.router_port = free_port()
    serve.start()
    assert serve.envoy_pid == envoy  # a listener's address needs no new process
    assert serve.ask()[0] == 200
    tell(models[0], 200, 0.7)
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(serve.ask()[0]))
    stream = http.client.HTTPConnection("127.0.0.1", serve.api_port, timeout=10)
    stream.request("GET", "/v1/stream")
    events = stream.getresponse()
    assert events.readline() == b"retry: 2000\n"
    asking.start()
    time.sleep(0.2)
    assert serve.stop(number) < 5
    asking.join()
    stream.close()
    assert answers == [200]
    assert processes_of(serve.folder) == []


def test_a_split_that_the_router_has_not_accepted_is_not_shown_as_in_force(
    serve: Serve, models: list[int]
) -> None:
    os.kill(serve.envoy_pid, signal.SIGSTOP)
    try:
        serve.offer("v2", models[1])
        arms = {arm["arm"]: arm for arm in serve.arms()["arms"]}
        assert (arms["v2"]["weight"], arms["v2"]["weight_in_force"]) == (2000, 0)
        assert arms["v1"]["weight_in_force"] == 10_000
        status, problem = serve.call("GET", "/readyz")
        assert status == 503
        assert "the router has not accepted" in json.dumps(problem)
    finally:
        os.kill(serve.envoy_pid, signal.SIGCONT)
    until("the split is in force", lambda: is_settled(serve), 15)
    until("ready again", lambda: serve.call("GET", "/readyz")[0] == 200, 5)


def test_metrics_and_dashboard_are_served(serve: Serve) -> None:
    for path, word in (("/metrics", b"understudy"), ("/", b"<html"), ("/healthz", b"alive")):
        with urlopen(f"http://127.0.0.1:{serve.api_port}{path}", timeout=5) as answer:
            assert word in answer.read()


def test_a_model_whose_log_cannot_be_folded_keeps_its_route(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    other = policy_text(models[1], name="n", prefix="/n/")
    serve = make_serve(m=policy_text(models[0]), n=other).start()
    assert serve.ask("/m/x")[0] == serve.ask("/n/x")[0] == 200
    serve.kill()
    ledger = sqlite3.connect(serve.state / "ledger.db")
    ledger.execute("delete from snapshots where model = 'n'")
    ledger.execute("update decisions set reason = 'forged' where model = 'n' and number = 1")
    ledger.commit()
    ledger.close()
    serve.spawn()
    until("the model to be held", lambda: "InvariantError" in serve.tail(), 30)
    # The other model's split has been published by now, and n answers all the same.
    for _ in range(20):
        assert serve.ask("/n/x")[0] == serve.ask("/m/x")[0] == 200
        time.sleep(0.2)

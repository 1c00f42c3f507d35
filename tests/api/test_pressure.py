"""Bodies, connections and questions: how many there may be at once, and for how long."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from controller.api import connections, guard, pressure
from controller.api.connections import Door
from controller.api.pressure import Budget, Readers
from controller.api.problems import ProblemError
from controller.errors import Busy, Retryable
from controller.stream.intake import MAX_EVENTS
from tests.api.conftest import Served, serving
from tests.api.test_events import ONE
from tests.processes import until
from tests.service.floods import is_closed

POST = b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture
def alone() -> Iterator[Served]:
    with serving("digits") as served:
        yield served


def app_state(served: Served):
    return served.running.config.loaded_app.app.state


@contextmanager
def line(served: Served, text: bytes = b"") -> Iterator[socket.socket]:
    where = httpx.URL(served.url)
    with socket.create_connection((where.host, where.port), timeout=10) as opened:
        opened.sendall(text)
        yield opened


def door_of(served: Served) -> Door:
    found = served.running.config.http_protocol_class
    assert isinstance(found, Door)
    return found


# --- bodies -----------------------------------------------------------------------------------


def test_bodies_that_do_not_fit_together_are_429_until_the_others_are_in(alone: Served) -> None:
    budget = app_state(alone).budget
    half = pressure.BODIES_BYTES // 2
    held = [budget.body(), budget.body()]
    for each in held:
        each.grow(half)
    answer = alone.client.post("/v1/events", content=ONE)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:understudy:problem:busy"
    assert alone.client.get("/healthz").status_code == 200
    assert "understudy_intake_busy_total 1.0" in alone.client.get("/metrics").text
    held[0].release()
    assert alone.client.post("/v1/events", content=ONE).status_code == 202
    held[1].release()
    until("the bodies are let go", lambda: budget.bytes == 0)


def test_what_a_body_holds_is_given_back_however_it_ends(alone: Served) -> None:
    budget = app_state(alone).budget
    bomb = gzip.compress(bytes(17 << 20))
    for body, headers in (
        (ONE, {}),
        (bytes(17 << 20), {}),
        (bomb, {"content-encoding": "gzip"}),
        (gzip.compress(ONE), {"content-encoding": "gzip"}),
        (b"x", {"content-encoding": "br"}),
    ):
        alone.client.post("/v1/events", content=body, headers=headers)
        until("the bodies are let go", lambda: budget.bytes == 0)
    with line(alone, POST + b"content-length: 100\r\n\r\nhalf") as leaving:
        until("the body is held", lambda: budget.bytes == 4)
        leaving.close()
        until("the bodies are let go", lambda: budget.bytes == 0)


def test_a_promise_of_a_large_body_holds_nothing(alone: Served) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(line(alone, POST + b"content-length: 16000000\r\n\r\n"))
        assert alone.client.post("/v1/events", content=ONE).status_code == 202


def test_a_body_that_does_not_come_is_408(alone: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    with line(alone, POST + b"content-length: 100\r\n\r\nhalf") as slow:
        answer = slow.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_more_requests_than_may_wait_are_429() -> None:
    budget = Budget(requests=2)
    with budget.request(), budget.request():
        with pytest.raises(ProblemError) as refused, budget.request():
            pass
        assert refused.value.status_code == 429
    with budget.request():
        assert budget.requests == 1


def test_a_log_that_cannot_follow_is_429_with_its_own_time(served: Served) -> None:
    async def busy(_events):
        raise Busy("64 MiB of events wait", after_s=6.2)

    served.fake.ingest = busy
    try:
        answer = served.client.post("/v1/events", content=ONE)
    finally:
        del served.fake.ingest
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_large_bodies_take_turns() -> None:
    async def story() -> int:
        budget, most, now = Budget(), 0, 0

        async def one() -> None:
            nonlocal most, now
            async with budget.large(10 << 20):
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.01)
                now -= 1

        await asyncio.gather(*(one() for _ in range(5)))
        return most

    assert asyncio.run(story()) == 1


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"x\n" * MAX_EVENTS, "application/x-ndjson", 202),
        (b"x\n" * (MAX_EVENTS + 1), "application/x-ndjson", 413),
        (b"\n" * (MAX_EVENTS + 1), "text/plain", 413),
        (b"[" + b"1," * (16 * MAX_EVENTS + 1) + b"1]", "application/json", 413),
        (json.dumps([{"a": 1}] * 1_000, indent=8).encode(), "application/json", 202),
    ],
)
def test_a_body_has_so_many_events_and_no_more(
    client: httpx.Client, body: bytes, media_type: str, status: int
) -> None:
    answer = client.post(
        "/v1/events", content=body, headers={"content-type": media_type}, timeout=60
    )
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["limit_events"] == MAX_EVENTS


# --- connections ------------------------------------------------------------------------------


def test_one_connection_too_many_takes_the_place_of_the_longest_idle(alone: Served) -> None:
    door = door_of(alone)
    door.limit = len(door.open) + 3
    with ExitStack() as stack:
        lines = [stack.enter_context(line(alone)) for _ in range(3)]
        until("the door is full", lambda: len(door.open) == door.limit)
        answer = httpx.get(f"{alone.url}/healthz")
        assert answer.status_code == 200
        closed = [each for each in lines if is_closed(each)]
        assert closed == lines[:1]


def test_where_all_are_busy_a_new_connection_is_503(
    alone: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = door_of(alone)
    alone.client.close()
    until("all have gone", lambda: not door.open)
    door.limit = 2
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(line(alone, POST + b"content-length: 9\r\n\r\n{"))
        until("two are served", lambda: len(door.open) == 2 and not door.idle)
        with line(alone, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as third:
            assert third.recv(1_000).startswith(b"HTTP/1.1 503 ")
    until("all have gone", lambda: not door.open)


def test_a_connection_without_a_request_is_closed_and_one_that_asks_is_not(alone: Served) -> None:
    door = door_of(alone)
    door.head_s = 0.3
    with line(alone) as silent, line(alone, b"GET /healthz HT") as half:
        until("both are cut off", lambda: is_closed(silent) and is_closed(half))
    ask = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with line(alone, ask) as asking:
        for _ in range(4):
            _read(asking)
            time.sleep(0.15)
            asking.sendall(ask)
    with line(alone, b"GET /v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as stream:
        time.sleep(0.6)
        assert not is_closed(stream)


@pytest.mark.parametrize("keeps_alive", [True, False])
def test_a_client_that_does_not_read_its_answer_is_cut_off(
    alone: Served, monkeypatch: pytest.MonkeyPatch, *, keeps_alive: bool
) -> None:
    monkeypatch.setattr(connections, "FLUSH_BYTES_PER_S", 64 << 20)
    door_of(alone).head_s = 0.3
    alone.client.close()
    body = gzip.compress(b"{}\n" * MAX_EVENTS)
    head = POST + b"content-encoding: gzip\r\ncontent-type: application/x-ndjson\r\n"
    head += b"" if keeps_alive else b"connection: close\r\n"
    held = alone.running.server_state.connections
    until("nobody is there", lambda: not held)
    with line(alone, head + b"content-length: %d\r\n\r\n" % len(body) + body) as lazy:
        until("it is served", lambda: len(held) == 1)
        until("it is cut off", lambda: not held)
        got = 0
        with suppress(OSError):
            while part := lazy.recv(1 << 20):
                got += len(part)
    assert got < 90 * MAX_EVENTS, "it was answered whole"


def test_heads_are_bounded(alone: Served) -> None:
    with line(alone, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ") as endless:
        sent = 0
        with suppress(OSError):
            while sent < 4 << 20:
                sent += endless.send(b"x" * 4_096)
                time.sleep(0.001)
    assert sent < 4 << 20


def test_an_answer_is_not_held_back_for_an_ack(alone: Served) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with line(alone) as asking:

        def took() -> float:
            began = time.perf_counter()
            asking.sendall(ask)
            _read(asking)
            return time.perf_counter() - began

        # With Nagle's algorithm, each would take 40 ms; on a busy machine some do without it.
        until("a quarter is quick", lambda: sorted(took() for _ in range(20))[5] < 0.03, 20)


def _read(asking: socket.socket) -> None:
    """The whole answer of `/healthz`."""
    got = b""
    while not got.endswith(b"}"):
        part = asking.recv(10_000)
        assert part, "the connection was closed"
        got += part


# --- the ledger's readers ---------------------------------------------------------------------


def test_questions_to_a_ledger_that_hangs_end_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pressure, "READ_S", 0.2)
    monkeypatch.setattr(pressure, "READS_WAITING", 3)
    goes_on = threading.Event()

    def hang() -> str:
        goes_on.wait(10)
        return "answer"

    async def story() -> None:
        readers = Readers()
        asked = [readers.ask(hang) for _ in range(10)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, Retryable) for each in told)
        goes_on.set()
        for _ in range(100):
            if readers._asked == 0:
                break
            await asyncio.sleep(0.05)
        assert await readers.ask(hang) == "answer"

    asyncio.run(story())

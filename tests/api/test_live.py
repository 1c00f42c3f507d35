"""The stream: present first, then every change; nobody blocks, nothing hangs."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from controller.api import live
from controller.api.app import create_app
from controller.api.serving import server
from tests.api.conftest import Served


def reports(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: {") and line != "data: {}":
            yield json.loads(line.removeprefix("data: "))


def test_the_stream_begins_with_the_present_and_goes_on_with_changes(served: Served) -> None:
    with served.client.stream("GET", "/v1/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = reports(answer.iter_lines())
        first = next(found)
        assert first == served.client.get("/v1/models/digits/arms").json()
        served.publish(replace(served.fake.reports["digits"], reason="changed"))
        assert next(found)["reason"] == "changed"


def test_a_quiet_stream_says_that_it_lives(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.1)
    with served.client.stream("GET", "/v1/stream") as answer:
        lines = answer.iter_lines()
        assert ": heartbeat" in (next(lines) for _ in range(20))


def test_a_mailbox_keeps_only_the_newest_report_of_each_model(served: Served) -> None:
    hub = live.Hub()
    mailbox = hub.join()
    report = served.fake.reports["digits"]
    for n in range(1_000):
        hub.publish(replace(report, reason=f"{n}"))
    assert len(mailbox.frames) == 1
    assert b'"reason":"999"' in mailbox.frames["digits"]


def test_a_client_that_does_not_read_is_dropped_and_hinders_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALL_S", 0.3)
    hub = served.running._hub
    port = int(served.url.rpartition(":")[2])
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        end = time.monotonic() + 10
        while not hub._mailboxes:
            assert time.monotonic() < end
            time.sleep(0.01)
        big = replace(served.fake.reports["digits"], reason="x" * 1_000_000)
        while hub._mailboxes:
            assert time.monotonic() < end, "the client that does not read was not dropped"
            served.publish(big)
            started = time.monotonic()
            assert served.client.get("/healthz").status_code == 200
            assert time.monotonic() - started < 3
            time.sleep(0.05)


def test_a_server_with_open_streams_ends_within_five_seconds() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.api.serve_fake", "0", "digits"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child, httpx.Client(base_url=child.stdout.readline().strip()) as client:
        with client.stream("GET", "/v1/stream") as answer:
            lines = answer.iter_lines()
            assert next(reports(lines))["model"] == "digits"
            started = time.monotonic()
            child.send_signal(signal.SIGTERM)
            assert list(reports(lines)) == []  # the stream ends by itself, and properly
        child.wait(5)
        assert time.monotonic() - started < 5
        assert child.returncode == 0


def test_a_port_that_is_taken_is_an_error_of_the_caller(served: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        server(create_app(served.fake), port=int(served.url.rpartition(":")[2]))

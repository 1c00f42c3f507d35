"""What a watcher does with an API server that talks nonsense, or whose place another one takes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from controller.deploy.client import Connection
from controller.deploy.objects import DEPLOYMENTS, Change, Object
from controller.deploy.watching import Feed, Watcher
from tests.processes import until

LISTING = json.dumps({"metadata": {"resourceVersion": "5"}, "items": []}).encode()
ADDED = {"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "6"}}}


class Server(ThreadingHTTPServer):
    """Gives the same answer to every list, and the same line to every watch."""

    listing = LISTING
    line = json.dumps(ADDED).encode()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        is_watch = "watch=true" in self.path
        body = self.server.line + b"\n" if is_watch else self.server.listing
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Kept:
    """A sink that remembers what it was told, or breaks."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_broken = False

    def replaced(self, _feed: Feed, items: list[Object]) -> None:
        if self.is_broken:
            raise RuntimeError("a bug")
        self.told.append(f"listed {len(items)}")

    def changed(self, _feed: Feed, change: Change) -> None:
        self.told.append(change.object["metadata"]["name"])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def configuration(server: Server) -> Configuration:
    made = Configuration()
    made.host = f"http://127.0.0.1:{server.server_port}"
    return made


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def watcher(configuration: Configuration, kept: Kept) -> Iterator[Watcher]:
    connection = Connection(configuration, namespace="models", clock=time.monotonic)
    made = Watcher(connection, Feed(DEPLOYMENTS, "models"), kept, time.monotonic)
    yield made
    made.stop()
    made.join()
    connection.close()


def test_an_answer_that_is_not_json_is_no_answer(
    server: Server, watcher: Watcher, kept: Kept
) -> None:
    server.listing = b"<html>maintenance</html>"
    watcher.start()
    until("it says so", lambda: watcher.trouble)
    assert "cannot be reached" in str(watcher.trouble)
    server.listing = LISTING
    until("it goes on", lambda: "a" in kept.told)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"type": "ADDED"}',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "no reason"}}',
    ],
)
def test_what_is_no_event_does_not_end_the_watch(
    server: Server, watcher: Watcher, kept: Kept, line: bytes
) -> None:
    good, server.line = server.line, line
    watcher.start()
    until("it says so", lambda: watcher.trouble)
    assert kept.told == ["listed 0"]
    server.line = good
    until("it goes on", lambda: "a" in kept.told)


def test_credentials_that_cannot_be_renewed_for_a_moment_do_not_end_the_watch(
    configuration: Configuration, watcher: Watcher, kept: Kept
) -> None:
    tokens = iter(["", "", "a token"])

    def renew(_configuration: Configuration) -> None:
        if next(tokens, "a token") == "":
            raise ConfigException("Token file exists but empty.")

    configuration.api_key["BearerToken"] = "a token"
    configuration.refresh_api_key_hook = renew
    watcher.start()
    until("it says so", lambda: watcher.trouble)
    assert "Token file exists but empty" in str(watcher.trouble)
    until("it goes on", lambda: "a" in kept.told)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_a_bug_has_ended_is_lost(watcher: Watcher, kept: Kept) -> None:
    kept.is_broken = True
    watcher.lost_at = None
    watcher.start()
    watcher.join()
    assert watcher.trouble == "nobody watches any more, see the log"
    assert watcher.lost_at is not None

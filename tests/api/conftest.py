"""The app under a real uvicorn on a free port, over a fake controller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from controller.api.app import create_app
from controller.api.serving import Server, server
from controller.core.model import Report
from tests.api.fake import Fake
from tests.api.screenshot import Page, browser


@dataclass
class Served:
    """A server in a thread of its own."""

    fake: Fake
    running: Server
    loop: asyncio.AbstractEventLoop
    url: str
    client: httpx.Client

    def publish(self, report: Report) -> None:
        """A new report of the controller."""
        self.loop.call_soon_threadsafe(self.fake.publish, report)


@contextmanager
def serving(*names: str, hosts: frozenset[str] | None = None) -> Iterator[Served]:
    """A server of one's own, for tests that end it or set it up otherwise."""
    fake = Fake(*names)
    running = server(create_app(fake, hosts=hosts))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(running.serve(),))
    thread.start()
    end = time.monotonic() + 10
    while not (running.started and fake.listeners):
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.01)
    with httpx.Client(base_url=running.url, timeout=10) as client:
        yield Served(fake, running, loop, running.url, client)
    running.stop()
    thread.join(10)
    assert not thread.is_alive(), "the server did not end within 10 s"
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="session")
def shared() -> Iterator[Served]:
    with serving("digits") as one:
        yield one


@pytest.fixture
def names() -> tuple[str, ...]:
    return ("digits",)


@pytest.fixture
def served(shared: Served, names: tuple[str, ...]) -> Served:
    """The shared server, over a controller that knows nothing of other tests."""
    shared.fake.reset(*names)
    return shared


@pytest.fixture
def client(served: Served) -> httpx.Client:
    return served.client


@pytest.fixture(scope="session")
def tab() -> Iterator[Page]:
    with browser() as one:
        yield one


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """An empty tab; left empty, so that it does not go on listening."""
    tab.errors.clear()
    yield tab
    tab.open("about:blank", width=100, height=100)

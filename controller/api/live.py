"""`GET /v1/stream`: every new report, as server-sent events.

One task reads the controller's changes and puts each into the mailbox of every client. A mailbox
keeps only the newest report of each model, so it is bounded by the number of models and the
publisher never waits: a client that reads slowly skips reports that were out of date anyway. One
that does not read at all for `stall_s` is dropped.

Invariant: a stream begins with the present report of every model, so that a client that
reconnects knows everything without asking for anything else.

Rejected: an event id to resume from. Reports replace one another; the past is in `/history`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controller.api.backend import Backend
from controller.api.problems import ProblemError
from controller.api.reports import ModelReport
from controller.core.model import Report

HEARTBEAT_S = 15.0
STALL_S = 10.0
MOST_STREAMS = 200
"""Clients at the same time; each holds a connection for as long as it likes."""

_HEARTBEAT = b": heartbeat\nevent: heartbeat\ndata: {}\n\n"
"""A comment, which keeps proxies awake, and an event, by which a page knows that we are there."""


def frame(report: Report) -> bytes:
    """One report as a server-sent event."""
    return b"event: report\ndata: " + ModelReport.of(report).model_dump_json().encode() + b"\n\n"


@dataclass(slots=True, eq=False)
class Mailbox:
    """What one client has not been sent yet: the newest frame per model."""

    frames: dict[str, bytes] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False

    def put(self, model: str, data: bytes) -> None:
        """Replace what waits for `model`."""
        self.frames[model] = data
        self.news.set()

    def close(self) -> None:
        """End the stream as soon as its client is not in the middle of a write."""
        self.is_closed = True
        self.news.set()

    async def take(self) -> bytes:
        """All that waits, a heartbeat when nothing came in time, nothing when closed."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self.news.wait()
        except TimeoutError:
            return _HEARTBEAT
        self.news.clear()
        data = b"".join(self.frames.values())
        self.frames.clear()
        return data


class Hub:
    """Spreads reports to the clients that are connected."""

    def __init__(self) -> None:
        self._mailboxes: set[Mailbox] = set()
        self.is_closed = False

    async def pump(self, backend: Backend) -> None:
        """Publish the changes of `backend` until they end; then end the streams."""
        try:
            async for report in backend.changes():
                self.publish(report)
        finally:
            self.close()

    def publish(self, report: Report) -> None:
        """Give every client this report; never waits."""
        if not self._mailboxes:
            return
        data = frame(report)
        for mailbox in self._mailboxes:
            mailbox.put(report.model, data)

    def join(self) -> Mailbox:
        """A mailbox that gets every report from now on."""
        mailbox = Mailbox()
        self._mailboxes.add(mailbox)
        return mailbox

    @property
    def is_full(self) -> bool:
        """Whether there are as many clients as there may be."""
        return len(self._mailboxes) >= MOST_STREAMS

    def leave(self, mailbox: Mailbox) -> None:
        """Forget a mailbox."""
        self._mailboxes.discard(mailbox)

    def close(self) -> None:
        """End every stream, and refuse new ones."""
        self.is_closed = True
        for mailbox in self._mailboxes:
            mailbox.close()


class EventStream(Response):
    """A response that sends what comes into a mailbox until one of both ends closes."""

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, mailbox: Mailbox) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._hub = hub
        self._mailbox = mailbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the client is gone, stalls, or the hub closes."""
        watch = asyncio.create_task(_close_when_gone(receive, self._mailbox))
        try:
            await self._run(send)
        except TimeoutError:
            return  # a client that does not read; the server closes an unfinished response
        finally:
            self._hub.leave(self._mailbox)
            watch.cancel()

    async def _run(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await _send_body(send, b"retry: 2000\n\n")
        while not self._mailbox.is_closed:
            await _send_body(send, await self._mailbox.take())
        await _send_body(send, b"", more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(STALL_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _close_when_gone(receive: Receive, mailbox: Mailbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    mailbox.close()


router = APIRouter(tags=["live"])


@router.get(
    "/v1/stream",
    response_class=Response,
    responses={
        200: {
            "description": "Events: `report`, whose data is a ModelReport, and `heartbeat`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def stream(request: Request) -> Response:
    """Every report from now on, beginning with the present one of each model."""
    hub: Hub = request.app.state.hub
    backend: Backend = request.app.state.backend
    if hub.is_closed:
        raise ProblemError(503, "closing", "Understudy is ending.", headers={"Retry-After": "2"})
    if hub.is_full:
        detail = f"{MOST_STREAMS} clients are being told of changes, which is as many as may be."
        raise ProblemError(503, "busy", detail, headers={"Retry-After": "10"})
    mailbox = hub.join()
    for model in backend.models():
        mailbox.put(model, frame(backend.report(model)))
    return EventStream(hub, mailbox)

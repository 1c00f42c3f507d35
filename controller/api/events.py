"""`POST /v1/events`: exposures and rewards come in.

Answers 202 once the accepted events are durable, naming each that was not. One bad event never
costs the others; a body that is no body of events at all is a 400. The body is bounded as sent
(by the guard), as decompressed and in its number of events (here), so that a small bomb cannot fill
the memory; and all bodies together are (`controller.api.pressure`): 429 says when to come again.

What takes long is done in a thread: a body is unpacked, taken apart and answered beside the loop.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from controller.api.guard import BODY_LIMIT, too_large
from controller.api.pressure import Budget, Reservation
from controller.api.problems import ProblemError
from controller.api.routes import Controller
from controller.api.schemas import Intake, Problem
from controller.errors import EventError
from controller.stream.codec import Canonical
from controller.stream.intake import MAX_EVENTS, holds_too_many, intake

_LARGE_BYTES = 64 * 1024
_LARGE_LINES = 250
"""A body of more waits for its turn and is taken apart in a thread, so that the loop goes on."""

_UNPACKED_BYTES = 1 << 20
"""How much is unpacked between two looks at the budget."""

_REWARD = {
    "type": "reward", "time": 1795423625.9, "model": "digits", "id": "evt-1",
    "request_id": "7310cb0f", "name": "correct", "value": 1,
}  # fmt: skip
_CLOUD = {
    "specversion": "1.0", "id": "evt-1", "source": "/shop", "type": "dev.understudy.reward",
    "time": "2026-11-23T09:27:05Z",
    "data": {"model": "digits", "request_id": "7310cb0f", "name": "correct", "value": 1},
}  # fmt: skip
_ANY = {"type": "object", "additionalProperties": True}

router = APIRouter(tags=["events"])


@router.post(
    "/v1/events",
    status_code=202,
    response_model=Intake,
    responses={code: {"model": Problem} for code in (400, 403, 408, 413, 415, 429, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": json.dumps(_REWARD),
                },
                "application/json": {
                    "schema": {"oneOf": [_ANY, {"type": "array", "items": _ANY}]},
                    "examples": {
                        "one": {"value": _REWARD},
                        "several": {"value": [_REWARD]},
                    },
                },
                "application/cloudevents+json": {"schema": _ANY, "example": _CLOUD},
                "application/cloudevents-batch+json": {
                    "schema": {"type": "array", "items": _ANY},
                    "example": [_CLOUD],
                },
            },
        }
    },
)
async def post_events(request: Request, backend: Controller) -> Response:
    """Take in events: JSON Lines, a JSON array, one object, CloudEvents; gzip is welcome.

    At most 100,000 in one body. 429 says that nothing was kept, and when to send it again.
    """
    budget: Budget = request.app.state.budget
    held: Reservation = request.state.body
    sent = Sent(await request.body(), dict(request.headers))
    with budget.request():
        if not sent.is_large:
            return _answer(await backend.ingest(sent.events(held)))
        async with budget.large(len(sent.body)):
            events = await budget.in_thread(lambda: sent.events(held))
            errors = await backend.ingest(events)
            return await budget.in_thread(lambda: _answer(errors))


class Sent:
    """A body and the headers that say what it is."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.body = body
        self._headers = headers
        self._coding = headers.get("content-encoding", "identity")

    @property
    def is_large(self) -> bool:
        """Whether taking it apart would keep others waiting; unknown of one that is packed."""
        is_plain = self._coding.strip().lower() in {"", "identity"}
        return (
            not is_plain or len(self.body) > _LARGE_BYTES or self.body.count(b"\n") > _LARGE_LINES
        )

    def events(self, held: Reservation) -> list[Canonical | EventError]:
        """The events, each in its canonical form or with what is wrong about it."""
        body = _plain(self.body, self._coding, held)
        media_type = self._headers.get("content-type", "")
        if holds_too_many(body, media_type):
            detail = f"A body may have {MAX_EVENTS:,} events; send it in parts."
            raise ProblemError(413, "too-large", detail, extra={"limit_events": MAX_EVENTS})
        return intake(body, media_type, self._headers)


def _answer(errors: Sequence[str | None]) -> Response:
    """The answer in the form of `Intake`, which may have to name very many events."""
    rejected = [
        {"index": index, "error": error} for index, error in enumerate(errors) if error is not None
    ]
    answer = {"accepted": len(errors) - len(rejected), "rejected": rejected}
    return Response(msgspec.json.encode(answer), status_code=202, media_type="application/json")


def _plain(body: bytes, encoding: str, held: Reservation) -> bytes:
    coding = encoding.strip().lower()
    if coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip"}:
        detail = f"The content encoding {encoding!r} is not known; send gzip or none."
        raise ProblemError(415, "content-encoding", detail, headers={"Accept-Encoding": "gzip"})
    return _gunzip(body, held)


def _gunzip(body: bytes, held: Reservation) -> bytes:
    """The members of a gzip body, one after another, at most BODY_LIMIT bytes of them."""
    plain = bytearray()
    while body:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not member.eof:
            try:
                part = member.decompress(body, _UNPACKED_BYTES)
            except zlib.error as exc:
                raise ProblemError(400, "gzip", f"The body is not gzip: {exc}.") from exc
            if not part and not member.eof:
                raise ProblemError(400, "gzip", "The gzip body ends too early.")
            held.grow(len(part))
            plain += part
            if len(plain) > BODY_LIMIT:
                raise too_large()
            body = member.unconsumed_tail
        body = member.unused_data
    return bytes(plain)

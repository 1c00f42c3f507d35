"""`POST /v1/events`: exposures and rewards come in.

Answers 202 once the accepted events are durable, naming each that was not. One bad event never
costs the others; a body that is no body of events at all is a 400. The body is bounded as sent
(by the guard) and as decompressed (here), so that a small bomb cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence

from fastapi import APIRouter, Request

from controller.api.guard import BODY_LIMIT, too_large
from controller.api.problems import ProblemError
from controller.api.routes import Controller
from controller.api.schemas import Intake, Problem, RejectedEvent
from controller.errors import EventError
from controller.stream.codec import Canonical, intake

_THREAD_FROM = 256 * 1024
"""Bytes of a body from which on it is decoded in a thread, so that the stream does not stutter."""

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
    responses={code: {"model": Problem} for code in (400, 403, 413, 415, 503)},
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
async def post_events(request: Request, backend: Controller) -> Intake:
    """Take in events: JSON Lines, a JSON array, one object, CloudEvents; gzip is welcome."""
    body = _plain(await request.body(), request.headers.get("content-encoding", "identity"))
    media_type = request.headers.get("content-type", "")
    headers = dict(request.headers)
    if len(body) < _THREAD_FROM:
        events = intake(body, media_type, headers)
    else:
        events = await asyncio.to_thread(intake, body, media_type, headers)
    return await _keep(backend, events)


async def _keep(backend: Controller, events: Sequence[Canonical | EventError]) -> Intake:
    errors = await backend.ingest(events)
    rejected = [
        RejectedEvent(index=index, error=error)
        for index, error in enumerate(errors)
        if error is not None
    ]
    return Intake(accepted=len(errors) - len(rejected), rejected=rejected)


def _plain(body: bytes, encoding: str) -> bytes:
    coding = encoding.strip().lower()
    if coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip"}:
        detail = f"The content encoding {encoding!r} is not known; send gzip or none."
        raise ProblemError(415, "content-encoding", detail, headers={"Accept-Encoding": "gzip"})
    return _gunzip(body)


def _gunzip(body: bytes) -> bytes:
    """The members of a gzip body, one after another, at most BODY_LIMIT bytes of them."""
    plain = bytearray()
    while body:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            plain += member.decompress(body, BODY_LIMIT + 1 - len(plain))
        except zlib.error as exc:
            raise ProblemError(400, "gzip", f"The body is not gzip: {exc}.") from exc
        if len(plain) > BODY_LIMIT:
            raise too_large()
        if not member.eof:
            raise ProblemError(400, "gzip", "The gzip body ends too early.")
        body = member.unused_data
    return bytes(plain)

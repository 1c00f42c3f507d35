"""What a sender posts, taken apart into events.

Decides where one event ends and the next begins; what an event must be is the matter of
`controller.stream.wire`. One bad event never costs its neighbours: each is judged alone, in the
sender's order, so that `rejected[i].index` of the answer is the place in what was sent.

Known forms: NDJSON, a JSON array, a single JSON object, and CloudEvents 1.0 over HTTP in its three
modes (structured, batch, binary). Only binary mode is told by headers alone. The others are told by
their first character rather than by `Content-Type`, because `curl --data-binary @events.jsonl`
sends what no registry has a name for; blank lines are not events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec

from controller.core.model import Json
from controller.errors import EventError
from controller.stream.wire import UNREADABLE, Canonical, canonical, malformed

MAX_EVENTS: Final = 100_000
"""The most events of one request; each costs several hundred bytes of memory, however short."""

_COMMAS: Final = 16
"""An array is counted by its commas, before it is taken apart: an event has some of its own."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_LINES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def holds_too_many(body: bytes, content_type: str) -> bool:
    """Whether a request may hold more than `MAX_EVENTS`; told without taking it apart."""
    is_array = body.lstrip(_BOM + _BLANK)[:1] == b"[" and not _is_lines(content_type)
    if is_array:
        return body.count(b",") > _COMMAS * MAX_EVENTS
    return body.count(b"\n") > MAX_EVENTS


def intake(
    body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> list[Canonical | EventError]:
    """Every event of a request, in the sender's order: its canonical form, or what is wrong.

    `headers` are needed for CloudEvents in binary mode (`ce-type` …) only. A body that can not be
    taken apart is one error. An empty body is no event.
    """
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    if "ce-type" in lowered or "ce-specversion" in lowered:
        return [_binary(body, lowered)]
    try:
        documents = _documents(
            body.removeprefix(_BOM).strip(_BLANK), is_lines=_is_lines(content_type)
        )
    except UNREADABLE as exc:
        error = malformed(f"body: found no JSON array ({exc}), expected a JSON array of events")
        error.event = body
        return [error]
    return [_judged(document) for document in documents]


def _is_lines(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in _LINES


def _documents(body: bytes, *, is_lines: bool) -> Sequence[bytes]:
    if is_lines:
        return _lines(body)
    if body.startswith(b"["):
        return [bytes(raw) for raw in _RAWS.decode(body)]
    return [body] if b"\n" in body and _is_one_document(body) else _lines(body)


def _is_one_document(body: bytes) -> bool:
    """Whether a body of several lines is one object, printed for people."""
    try:
        _RAW.decode(body)
    except UNREADABLE:
        return False
    return True


def _lines(body: bytes) -> list[bytes]:
    return [stripped for line in body.split(b"\n") if (stripped := line.strip(_BLANK))]


def _judged(event: bytes | Json) -> Canonical | EventError:
    try:
        return canonical(event)
    except EventError as error:
        error.event = event if isinstance(event, bytes) else msgspec.json.encode(event)
        # It is a value from here on, one of perhaps very many: what led to it would keep several
        # kilobytes of frames alive.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error


def _binary(body: bytes, headers: Mapping[str, str]) -> Canonical | EventError:
    """CloudEvents HTTP binding 1.0.2, 3.1: attributes are encoded headers, `data` is the body."""
    envelope: dict[str, Json] = {
        name.removeprefix("ce-"): unquote(value)
        for name, value in headers.items()
        if name.startswith("ce-") and name != "ce-data"
    }
    envelope.setdefault("specversion", None)
    try:
        envelope["data"] = msgspec.json.decode(body)
    except UNREADABLE as exc:
        return malformed(f"data: found no JSON ({exc}), expected a JSON object")
    return _judged(envelope)

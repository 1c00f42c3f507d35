r"""The access log: one line of Envoy -> one exposure event. Both ends of the format stand here.

A line is made of fields between unit separators (0x1f), in this order:

    time (epoch s, us) | exposure or shadow | route | cluster | status | time to last byte (us)
    | response flags | gRPC status | request id | NAME=value of unit and segment headers, bounded

The route is `model 0x1e epoch 0x1e source of the unit`, and `0x1e source of the segment` where the
request is in a segment. Our own configuration writes it, so a line says all about itself: neither
history nor policy is needed to read it. What a client controls
stands last and bounded; it cannot hold a separator, because HTTP allows no control characters in
header values and Envoy refuses requests that have them (a test forges them all).

Which line is what:

    route empty               no model was asked for (404, malformed request): not an exposure
    unit empty or not there   the request is its own unit
    status 0                  the client left before an answer came
    2xx and a flag of a broken answer   502: the headers came, the answer did not
    HTTP 200 and a gRPC status          the HTTP status that means the same

A router that was killed, or whose disk was full, can leave the beginning of a line, and the next
one, perhaps of another process, then goes on behind it. Where a line begins is known by its time
and its second field, which no client can forge; so the whole one is read, and the beginning is a
line that cannot be read.

Times to the last byte are microseconds in the log and become milliseconds. The propensity is left
out: the epoch names the split. Units longer than UNIT_LENGTH bytes are cut, which is far beyond any
id; bytes that are not UTF-8 are written as `\xNN`.

Which segment a request is in is judged by the route that Envoy chose, because the log does not show
what Envoy compared: of a header that was sent twice it logs the first value, and may have compared
another. So the name of a route that matched a segment says the segment itself (`value:de`). Where
the name says `header:x-country`, no segment with weights matched, and the logged value is one that
the split does not know. A value that no route could match is in no segment: an empty one, one with
a comma (it may be two values), one of more than SEGMENT_LENGTH characters. The log has room for one
byte more than the longest segment takes, so a value that was cut is too long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from controller.core.split import SEGMENT_LENGTH, is_segment
from controller.errors import EventError

UNIT_LENGTH = 128
COOKIES_LENGTH = 4096
SEGMENT_BYTES = 4 * SEGMENT_LENGTH + 1
"""One more than the longest segment takes in UTF-8."""

_FIELD = "\x1f"
_PART = "\x1e"
_FIXED = 9

_FORMAT = _FIELD.join(
    (
        "%START_TIME(%s.%6f)%",
        "{kind}",
        "%ROUTE_NAME%",
        "%UPSTREAM_CLUSTER%",
        "%RESPONSE_CODE%",
        "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "%RESPONSE_FLAGS%",
        "%GRPC_STATUS_NUMBER%",
        "%REQ(X-REQUEST-ID):64%",
    )
)

GRPC_TO_HTTP = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""google.rpc.Code -> HTTP, as google/rpc/code.proto maps them (2 and 15 are server errors)."""

_Reader: TypeAlias = Callable[[list[bytes]], "str | None"]
_BEGIN = re.compile(rb"\d{10}\.\d{6}\x1f(?:exposure|shadow)\x1f")
_BROKEN = frozenset({b"UC", b"UR", b"UPE", b"UT", b"SI", b"LR", b"OM"})


class Exposure(msgspec.Struct, omit_defaults=True):
    """The event of contract 4.2, in its canonical order."""

    type: str
    time: float
    model: str
    request_id: str
    unit: str | None = None
    arm: str = ""
    epoch: int = -1
    status: int = -1
    latency_ms: float | None = None
    segment: str | None = None


@dataclass(slots=True)
class Decoded:
    """What lines of the log became.

    events     model -> canonical JSON events, in the order of the log
    requests   model -> for each of these the id of its request
    bad        (line, what is wrong with it), for the dead-letter table
    unmatched  requests that belong to no model
    """

    events: dict[str, list[bytes]] = field(default_factory=dict)
    requests: dict[str, list[str]] = field(default_factory=dict)
    bad: list[tuple[bytes, str]] = field(default_factory=list)
    unmatched: int = 0


# --- writing ----------------------------------------------------------------------------------


def route_name(model: str, epoch: int, unit: str, segment: str = "") -> str:
    """What a route is called; `unit` and `segment` are where these stand, empty for nowhere.

    `unit` is `header:NAME` or `cookie:NAME`; `segment` is `header:NAME` or `value:SEGMENT`.
    """
    parts = (model, str(epoch), unit)
    return _PART.join((*parts, segment) if segment else parts)


def log_format(
    kind: Literal["exposure", "shadow"], units: Sequence[str], segments: Sequence[str] = ()
) -> str:
    """Envoy's format of a line, for all sources of units and headers of segments of every model."""
    bounds = dict.fromkeys(segments, SEGMENT_BYTES)
    for each in units:
        place, _, name = each.partition(":")
        header, bound = (name, UNIT_LENGTH) if place == "header" else ("cookie", COOKIES_LENGTH)
        bounds[header] = max(bound, bounds.get(header, 0))
    last = [f"{name}=%REQ({name}):{bound}%" for name, bound in sorted(bounds.items())]
    return _FIELD.join((_FORMAT.format(kind=kind), *last)) + "\n"


# --- reading ----------------------------------------------------------------------------------


def exposure_lines(raw: Sequence[bytes]) -> Decoded:
    """The events that lines of the log are; each line without its line end."""
    decoded = Decoded()
    events, requests = decoded.events, decoded.requests
    encode = msgspec.json.Encoder().encode
    for each in raw:
        line = each
        if half := _half(line):
            decoded.bad.append((line[:half], "the beginning of a line, another one behind it"))
            line = line[half:]
        try:
            event = _event(line)
        except (EventError, ValueError) as exc:
            decoded.bad.append((line, str(exc)))
            continue
        if event is None:
            decoded.unmatched += 1
            continue
        events.setdefault(event.model, []).append(encode(event))
        requests.setdefault(event.model, []).append(event.request_id)
    return decoded


def _half(line: bytes) -> int:
    """How many bytes at the start of a line are the beginning of one before it."""
    is_one = line.find(b"\x1fexposure\x1f", 18) == line.find(b"\x1fshadow\x1f", 18) == -1
    if is_one and line[17:18] == b"\x1f":
        return 0
    return max((found.start() for found in _BEGIN.finditer(line)), default=0)


def _event(line: bytes) -> Exposure | None:
    fields = line.split(b"\x1f")
    if len(fields) < _FIXED:
        raise EventError("malformed", f"{len(fields)} fields in a log line, not {_FIXED}")
    time, kind, route, cluster, status, latency_us, flags, grpc_status, request_id = fields[:_FIXED]
    if kind not in (b"exposure", b"shadow"):
        raise EventError("malformed", f"neither an exposure nor a shadow: {kind!r}")
    if not route:
        return None
    model, epoch, unit_of, segment_of = _route(route)
    last = fields[_FIXED:]
    return Exposure(
        "exposure" if kind == b"exposure" else "shadow",
        float(time),
        model,
        request_id.decode("ascii"),
        unit_of(last),
        _arm(cluster, model),
        epoch,
        int(status) if flags == b"-" and not grpc_status else _status(status, flags, grpc_status),
        int(latency_us) / 1000 if latency_us else None,
        segment_of(last),
    )


@lru_cache(maxsize=4096)
def _arm(cluster: bytes, model: str) -> str:
    name = cluster.decode("ascii")
    if not name.startswith(f"{model}/"):
        raise EventError("malformed", f"cluster {name!r} is not one of model {model!r}")
    return name[len(model) + 1 :]


@lru_cache(maxsize=4096)
def _route(route: bytes) -> tuple[str, int, _Reader, _Reader]:
    """Model, epoch, and how to find unit and segment among the last fields."""
    parts = route.decode().split(_PART)
    if len(parts) not in {3, 4}:
        raise EventError("malformed", f"the name of a route has {len(parts)} parts, not 3 or 4")
    model, epoch, unit = parts[:3]
    return model, int(epoch), _unit_reader(unit), _segment_reader(*parts[3:])


def _unit_reader(source: str) -> _Reader:
    place, _, name = source.partition(":")
    if not source:
        return lambda _fields: None
    if place == "header":
        value_of = _value_reader(name)
        return lambda fields: _text(value_of(fields)[:UNIT_LENGTH])
    cookies_of = _value_reader("cookie")
    pair = re.compile(rb"(?:.*?;\s*)??" + re.escape(name.encode()) + rb"=([^;]+)")

    def read_cookie(fields: list[bytes]) -> str | None:
        found = pair.match(cookies_of(fields))
        return _text(found[1][:UNIT_LENGTH]) if found else None

    return read_cookie


def _segment_reader(source: str = "") -> _Reader:
    place, _, name = source.partition(":")
    if place != "header":
        return lambda _fields: name or None
    value_of = _value_reader(name)

    def read(fields: list[bytes]) -> str | None:
        try:
            value = value_of(fields).decode()
        except UnicodeDecodeError:
            return None  # cut within a character, or in the UTF-8 that only Envoy accepts
        return value if is_segment(value) else None

    return read


def _value_reader(name: str) -> Callable[[list[bytes]], bytes]:
    start = name.encode() + b"="
    width = len(start)

    def read(fields: list[bytes]) -> bytes:
        for each in fields:
            if each.startswith(start):
                return each[width:]
        raise EventError("malformed", f"the line lacks the header {name}, which its route names")

    return read


def _text(value: bytes) -> str | None:
    return value.decode("utf-8", "backslashreplace") or None


def _status(status: bytes, flags: bytes, grpc_status: bytes) -> int:
    """The HTTP status that says what the user got."""
    code = int(status)
    if not 200 <= code < 300:
        return code
    if not _BROKEN.isdisjoint(flags.split(b",")):
        return 502
    return GRPC_TO_HTTP.get(int(grpc_status), code) if grpc_status else code

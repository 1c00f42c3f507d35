r"""The access log: one line of Envoy -> one exposure event. Both ends of the format stand here.

A line is made of fields between unit separators (0x1f), in this order:

    time (epoch s, us) | exposure or shadow | route | cluster | status | time to last byte (us)
    | response flags | gRPC status | request id | NAME=value of every unit header, bounded

The route is `model 0x1e epoch 0x1e source of the unit`, written by our own configuration, so a line
says all about itself: neither history nor policy is needed to read it. What a client controls
stands last and bounded; it cannot hold a separator, because HTTP allows no control characters in
header values and Envoy refuses requests that have them (a test forges them all).

Which line is what:

    route empty               no model was asked for (404, malformed request): not an exposure
    unit empty or not there   the request is its own unit
    status 0                  the client left before an answer came
    2xx and a flag of a broken answer   502: the headers came, the answer did not
    HTTP 200 and a gRPC status          the HTTP status that means the same

Times to the last byte are microseconds in the log and become milliseconds. The propensity is left
out: the epoch names the split. Units longer than UNIT_LENGTH bytes are cut, which is far beyond any
id; bytes that are not UTF-8 are written as `\xNN`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import msgspec

from controller.errors import EventError

UNIT_LENGTH = 128
COOKIES_LENGTH = 4096
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


@dataclass(slots=True)
class Decoded:
    """What lines of the log became.

    events     model -> canonical JSON events, in the order of the log
    bad        (line, what is wrong with it), for the dead-letter table
    unmatched  requests that belong to no model
    """

    events: dict[str, list[bytes]] = field(default_factory=dict)
    bad: list[tuple[bytes, str]] = field(default_factory=list)
    unmatched: int = 0


# --- writing ----------------------------------------------------------------------------------


def route_name(model: str, epoch: int, source: str) -> str:
    """What a route is called; `source` is where its unit stands, empty where there is none."""
    return _PART.join((model, str(epoch), source))


def log_format(kind: Literal["exposure", "shadow"], units: Sequence[str]) -> str:
    """Envoy's format of a line; `units` are all sources of units, of every model."""
    written = [_FORMAT.format(kind=kind)]
    headers = sorted({each.removeprefix("header:") for each in units if each.startswith("header:")})
    written += [f"{name}=%REQ({name}):{UNIT_LENGTH}%" for name in headers if name != "cookie"]
    if any(each.startswith("cookie:") for each in units):
        written.append(f"cookie=%REQ(cookie):{COOKIES_LENGTH}%")
    return _FIELD.join(written) + "\n"


# --- reading ----------------------------------------------------------------------------------


def exposure_lines(raw: Sequence[bytes]) -> Decoded:
    """The events that lines of the log are; each line without its line end."""
    decoded = Decoded()
    events, encode = decoded.events, msgspec.json.Encoder().encode
    for line in raw:
        try:
            event = _event(line)
        except (EventError, ValueError) as exc:
            decoded.bad.append((line, str(exc)))
            continue
        if event is None:
            decoded.unmatched += 1
            continue
        events.setdefault(event.model, []).append(encode(event))
    return decoded


def _event(line: bytes) -> Exposure | None:
    fields = line.split(b"\x1f")
    if len(fields) < _FIXED:
        raise EventError("malformed", f"{len(fields)} fields in a log line, not {_FIXED}")
    time, kind, route, cluster, status, latency_us, flags, grpc_status, request_id = fields[:_FIXED]
    if kind not in (b"exposure", b"shadow"):
        raise EventError("malformed", f"neither an exposure nor a shadow: {kind!r}")
    if not route:
        return None
    model, epoch, unit_of = _route(route)
    return Exposure(
        "exposure" if kind == b"exposure" else "shadow",
        float(time),
        model,
        request_id.decode("ascii"),
        unit_of(fields[_FIXED:]),
        _arm(cluster, model),
        epoch,
        int(status) if flags == b"-" and not grpc_status else _status(status, flags, grpc_status),
        int(latency_us) / 1000 if latency_us else None,
    )


@lru_cache(maxsize=4096)
def _arm(cluster: bytes, model: str) -> str:
    name = cluster.decode("ascii")
    if not name.startswith(f"{model}/"):
        raise EventError("malformed", f"cluster {name!r} is not one of model {model!r}")
    return name[len(model) + 1 :]


@lru_cache(maxsize=1024)
def _route(route: bytes) -> tuple[str, int, Callable[[list[bytes]], str | None]]:
    """Model, epoch, and how to find the unit among the last fields."""
    parts = route.decode("ascii").split(_PART)
    if len(parts) != 3:
        raise EventError("malformed", f"the name of a route has {len(parts)} parts, not 3")
    model, epoch, source = parts
    return model, int(epoch), _unit_reader(source)


def _unit_reader(source: str) -> Callable[[list[bytes]], str | None]:
    place, _, name = source.partition(":")
    if not source:
        return lambda _fields: None
    start = b"cookie=" if place == "cookie" else name.encode() + b"="
    width = len(start)
    pair = re.compile(rb"(?:.*?;\s*)??" + re.escape(name.encode()) + rb"=([^;]+)")

    def read(fields: list[bytes]) -> str | None:
        for each in fields:
            if each.startswith(start):
                return _text(each[width:])
        raise EventError("malformed", f"the line lacks {source}, which its route names")

    def read_cookie(fields: list[bytes]) -> str | None:
        for each in fields:
            if each.startswith(start):
                found = pair.match(each, width)
                return _text(found[1][:UNIT_LENGTH]) if found else None
        raise EventError("malformed", f"the line lacks {source}, which its route names")

    return read_cookie if place == "cookie" else read


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

"""The events of the contract as they stand on a line, and how one event becomes canonical.

Decides which events may enter the log, and in which form. An event that `canonical` lets through
is a line on which `WIRE.decode` succeeds: the line is checked by the very decoder that will read
it later, so intake and log can not disagree.

A canonical line is one JSON object without line end, `time` in epoch seconds, no envelope, optional
fields left out instead of null. Unknown fields stay, because senders join their own data to the
log; they are bounded in size and depth, so that no line is accepted here and unreadable there.

Rejected: checking the parsed object instead of its line (a second set of rules that can differ);
keeping the sender's bytes (skipped fields are not checked for valid UTF-8, and a duplicate key
would mean one thing to us and another to the next reader); CloudEvents attributes as top-level
fields (an extension named `unit` would become the event's unit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from controller.core.model import BASIS, NO_EPOCH, Json, Operation, Presence, Reason, Role
from controller.core.policy.manifest import MOST_PARTITIONS
from controller.core.policy.quantities import ENDPOINT
from controller.core.split import SEGMENT_LENGTH
from controller.errors import EventError
from controller.stream.tallies import EXPECTED as EXPECTED_OF_TALLIES
from controller.stream.tallies import TalliesLine

MAX_EVENT_BYTES: Final = 65_536
"""The longest event, in bytes of JSON."""

MAX_DEPTH: Final = 32
"""The deepest nesting of an event, itself included. Decoders recurse, and their limit moves."""

MAX_REPLICAS: Final = 2**31 - 1
"""The most replicas that Kubernetes can count."""

CLOUD_EVENT_PREFIX: Final = "dev.understudy."

_NAN: Final = float("nan")

_Time: TypeAlias = Annotated[
    float, Meta(ge=0, lt=1e11)
]  # 1e11 s is the year 5138; now in ms is more
_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
_Endpoint: TypeAlias = Annotated[str, Meta(pattern=ENDPOINT, max_length=256)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
_Segment: TypeAlias = Annotated[str, Meta(min_length=1, max_length=SEGMENT_LENGTH)]
_Text: TypeAlias = Annotated[str, Meta(max_length=2_048)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
_Uri: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2_048)]
_Replicas: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_REPLICAS)]
_Weight: TypeAlias = Annotated[int, Meta(ge=0, le=BASIS)]
_Weights: TypeAlias = dict[_Name, _Weight]


class Exposure(Struct, tag="exposure", frozen=True, gc=False):
    """A request was answered by an arm. An exposure without status was answered well."""

    time: _Time
    model: _Name
    request_id: _Id
    arm: _Name
    unit: _Id = ""
    epoch: _Count = NO_EPOCH
    propensity: Annotated[float, Meta(gt=0, le=1)] = _NAN
    status: Annotated[int, Meta(ge=0, le=999)] = 200
    latency_ms: Annotated[float, Meta(ge=0)] = _NAN
    segment: _Segment = ""


class Shadow(Exposure, tag="shadow", frozen=True, gc=False):
    """A mirrored request was answered by an arm; no user saw the answer."""


class Reward(Struct, tag="reward", frozen=True, gc=False):
    """A user gave a value for a request or a unit."""

    time: _Time
    model: _Name
    name: _Name
    value: float
    request_id: _Id = ""
    unit: _Id = ""
    id: _Id = ""

    def __post_init__(self) -> None:
        if not (self.request_id or self.unit):
            raise ValueError("request_id: found nothing, expected a request_id or a unit")


class Covariate(Struct, tag="covariate", frozen=True, gc=False):
    """What was known of a unit before it was given an arm."""

    time: _Time
    model: _Name
    unit: _Id
    value: float


class SplitLine(Struct, tag="split", frozen=True):
    """A split is in force; `segments` have weights of their own."""

    time: _Time
    model: _Name
    epoch: _Count
    weights: _Weights
    segments: dict[_Segment, _Weights] = {}

    def __post_init__(self) -> None:
        if (total := sum(self.weights.values())) != BASIS:
            raise ValueError(f"weights: found a sum of {total}, expected {BASIS}")
        for segment, weights in self.segments.items():
            if (total := sum(weights.values())) != BASIS:
                where = shown(segment)
                raise ValueError(f"segments: found a sum of {total} in {where}, expected {BASIS}")


class VersionLine(Struct, tag="version", frozen=True):
    """A version exists."""

    time: _Time
    model: _Name
    version: _Name
    role: Role
    parent: _Name | None = None
    endpoints: tuple[_Endpoint, ...] = ()
    trained_at: _Name | None = None
    metrics: dict[_Name, float] = {}
    covariates: dict[_Id, float] = {}
    uri: _Uri | None = None


class CapacityLine(Struct, tag="capacity", frozen=True):
    """How much of an arm runs in the cluster."""

    time: _Time
    model: _Name
    arm: _Name
    state: Presence
    ready: _Replicas = 0
    replicas: _Replicas = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] | None = None


class CommandLine(Struct, tag="command", frozen=True):
    """An operator asks for something."""

    time: _Time
    model: _Name
    command: Operation
    by: _Id | None = None
    reason: _Text = ""
    version: _Name | None = None


class TickLine(Struct, tag="tick", frozen=True, gc=False):
    """The wall clock; it is every model's."""

    time: _Time
    policy: Annotated[str, Meta(max_length=64)] = ""
    partitions: Annotated[int, Meta(ge=0, le=MOST_PARTITIONS)] = 0
    arms: tuple[_Name, ...] = ()
    epoch: Annotated[int, Meta(ge=0, le=2**53)] = 0
    segments: tuple[_Segment, ...] = ()
    increase: Annotated[float, Meta(ge=0)] | None = None
    model: ClassVar[None] = None


Event: TypeAlias = (
    Exposure
    | Shadow
    | Reward
    | Covariate
    | SplitLine
    | VersionLine
    | CapacityLine
    | CommandLine
    | TalliesLine
    | TickLine
)

TYPES: Final[tuple[type[Event], ...]] = (
    Exposure,
    Shadow,
    Reward,
    Covariate,
    SplitLine,
    VersionLine,
    CapacityLine,
    CommandLine,
    TalliesLine,
    TickLine,
)

WIRE: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
"""Reads a canonical line. Raises one of UNREADABLE."""

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises on bytes that are not the JSON it wants."""

_TAGS: Final = tuple(str(kind.__struct_config__.tag) for kind in TYPES)
_OPTIONAL: Final = {
    str(kind.__struct_config__.tag): tuple(
        f.name for f in msgspec.structs.fields(kind) if not f.required
    )
    for kind in TYPES
}


def _one_of(words: Iterable[str]) -> str:
    return f"one of {', '.join(words)}"


_A_NAME = "a text of 1 to 128 characters"
_AN_ID = "a text of 1 to 256 characters"
_EXPECTED: Final = {
    "type": _one_of(_TAGS),
    "time": "epoch seconds, or an RFC 3339 time such as 2026-11-23T12:00:00Z",
    "model": _A_NAME,
    "arm": _A_NAME,
    "name": _A_NAME,
    "version": _A_NAME,
    "parent": _A_NAME,
    "request_id": _AN_ID,
    "unit": _AN_ID,
    "id": _AN_ID,
    "by": _AN_ID,
    "value": "a finite number",
    "epoch": "a whole number from 0",
    "propensity": "a number above 0, at most 1",
    "status": "a whole number from 0 to 999",
    "latency_ms": "a finite number from 0",
    "segment": f"a text of 1 to {SEGMENT_LENGTH} characters",
    "weights": f"whole numbers from 0 per arm that sum to {BASIS}",
    "segments": f"whole numbers from 0 per arm that sum to {BASIS}, per segment",
    "role": _one_of(Role),
    "command": _one_of(Operation),
    "endpoints": "a list of HOST:PORT, such as 127.0.0.1:9001",
    "trained_at": "an RFC 3339 time",
    "metrics": "finite numbers by name",
    "covariates": "finite numbers by unit",
    "uri": "a text of 1 to 2048 characters, such as s3://models/digits/v2",
    "state": _one_of(get_args(Presence)),
    "ready": "a whole number from 0",
    "replicas": "a whole number from 0",
    "limit": "a whole number from 1",
    "reason": "a text of at most 2048 characters",
    "policy": "a text of at most 64 characters",
    "partitions": f"a whole number from 0 to {MOST_PARTITIONS}",
    **EXPECTED_OF_TALLIES,
}

_MISSING = re.compile(r"missing required field `(\w+)`")
_AT = re.compile(r"`\$\.(\w+)")
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Canonical:
    """One event as the log keeps it; `model` is None for a tick, which is every model's.

    time        epoch seconds
    request_id  which request it is about; "" where it is about none
    """

    model: str | None
    line: bytes
    type: str
    time: float
    request_id: str = ""


def canonical(event: bytes | Json) -> Canonical:
    """The canonical form of one event: its JSON text, or the value that the text stands for.

    Raises:
        EventError: saying at which field what was found, and what was expected.
    """
    document = _document(event)
    if "specversion" in document:
        document = _unwrapped(document)
    tag = document.get("type")
    if not isinstance(tag, str) or tag not in _OPTIONAL:
        raise _fault("type", document)
    if isinstance(time := document.get("time"), str):
        document["time"] = epoch_s(time)
    for name in _OPTIONAL[tag]:
        if name in document and document[name] is None:
            del document[name]
    return checked(document)


def checked(document: dict[str, Json]) -> Canonical:
    """An event whose `time` is a number and whose optional fields are not null, as a line.

    Raises:
        EventError: as `canonical`.
    """
    try:
        line = msgspec.json.encode(document)
    except UNREADABLE as exc:
        raise malformed(f"event: found a text that is no Unicode ({exc})") from exc
    if len(line) > MAX_EVENT_BYTES:
        raise _too_long(len(line))
    try:
        typed = WIRE.decode(line)
    except UNREADABLE as exc:
        raise _explained(exc, document) from exc
    request_id = typed.request_id if isinstance(typed, Exposure | Reward) else ""
    return Canonical(typed.model, line, str(document["type"]), typed.time, request_id)


def malformed(message: str) -> EventError:
    """The error of an event that can not be read."""
    return EventError(Reason.MALFORMED, message)


def shown(value: Json) -> str:
    """A value for an error message, cut to a readable length."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _document(event: bytes | Json) -> dict[str, Json]:
    try:
        # Python values go through JSON too: that is where NaN, bytes and lone surrogates end.
        raw = event if isinstance(event, bytes) else msgspec.json.encode(event)
        if len(raw) > MAX_EVENT_BYTES:
            raise _too_long(len(raw))
        document: Json = msgspec.json.decode(raw)
    except RecursionError as exc:
        raise _too_deep() from exc
    except (*UNREADABLE, TypeError, ValueError) as exc:
        raise malformed(f"event: found no JSON ({exc}), expected a JSON object") from exc
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deeper(document, MAX_DEPTH):
        raise _too_deep()
    if not isinstance(document, dict):
        raise malformed(f"event: found {shown(document)}, expected a JSON object")
    return document


def _is_deeper(value: Json, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(v, depth - 1) for v in inner)


def _unwrapped(envelope: dict[str, Json]) -> dict[str, Json]:
    """The event in a CloudEvents envelope, whose attributes are kept under `cloudevent`."""
    version, type_, data = envelope["specversion"], envelope.get("type"), envelope.get("data")
    if not isinstance(version, str) or not version.startswith("1."):
        raise malformed(f'specversion: found {shown(version)}, expected "1.0"')
    if not isinstance(type_, str) or not type_.startswith(CLOUD_EVENT_PREFIX):
        expected = _one_of(CLOUD_EVENT_PREFIX + tag for tag in _TAGS)
        raise malformed(f"type: found {shown(type_)}, expected {expected}")
    if not isinstance(data, dict):
        raise malformed(f"data: found {shown(data)}, expected a JSON object")
    attributes: dict[str, Json] = {k: v for k, v in envelope.items() if k != "data"}
    event: dict[str, Json] = {"type": type_.removeprefix(CLOUD_EVENT_PREFIX)}
    event |= {key: value for key, value in data.items() if key != "type"}
    event.setdefault("time", attributes.get("time"))
    if event["type"] == "reward" and "id" in attributes:
        event.setdefault("id", _identity(attributes))
    event["cloudevent"] = attributes
    return event


def _identity(attributes: dict[str, Json]) -> Json:
    """CloudEvents 1.0.2, 3.1.1: an id is unique within its source only."""
    source, id_ = attributes.get("source"), attributes["id"]
    return f"{source}#{id_}" if isinstance(source, str) and isinstance(id_, str) else id_


def epoch_s(text: str) -> float:
    """The time that an RFC 3339 text says, in epoch seconds; raises `EventError`."""
    if not _RFC_3339.fullmatch(text):
        raise _fault("time", {"time": text})
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as exc:
        raise _fault("time", {"time": text}) from exc


def _fault(field: str, document: dict[str, Json]) -> EventError:
    found = shown(document[field]) if field in document else "nothing"
    return malformed(f"{field}: found {found}, expected {_EXPECTED[field]}")


def _explained(exc: Exception, document: dict[str, Json]) -> EventError:
    """The decoder's complaint in our words; our own (of `__post_init__`) as it is."""
    text = str(exc)
    match = _MISSING.search(text) or _AT.search(text)
    if match and match[1] in _EXPECTED:
        return _fault(match[1], document)
    return malformed(text)


def _too_long(length: int) -> EventError:
    return malformed(f"event: found {length} bytes, expected at most {MAX_EVENT_BYTES}")


def _too_deep() -> EventError:
    return malformed(f"event: found deeper nesting, expected at most {MAX_DEPTH} levels")

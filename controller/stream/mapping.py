"""A record of somebody's topic becomes an event of ours, by the `map` of a policy.

Compiled once per source, because it runs for each record: paths become chains of look-ups, and the
fields of an event a list of them. The event goes through the same decoder as every other
(`wire.checked`), so the log and this can not disagree about what an event is.

What is there is taken at its word, and else is a fault: a path of `map` that finds nothing is one
where the event needs the field, or where it is its time (to put the record's own time in its place
without a word would move rewards in or out of the attribution window). Some differences are only of
spelling, since producers' languages spell them so:

    a text       may be a whole number: ids often are
    a number     may be text ("12.50": decimals are sent so), a value also true (1) or false (0)
    null         is as if it was not there

Records that `when` does not choose are skipped: a topic of clicks has other things, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from controller.core.model import Json
from controller.core.policy import Map, Source
from controller.core.policy.paths import Scalar, Step, is_path, steps
from controller.errors import EventError
from controller.stream.intake import intake
from controller.stream.records import MAX_RECORD_BYTES, Record
from controller.stream.wire import UNREADABLE, Canonical, checked, epoch_s, malformed, shown

_NOWHERE: Final = (KeyError, IndexError, TypeError)
_NUMBER: Final = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][-+]?[0-9]{1,3})?", re.ASCII)
_PER_S: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_OPEN: Final = msgspec.json.Decoder()

_Look: TypeAlias = Callable[[Json], Json]
"""What is at a place in a document; one of `_NOWHERE` where there is nothing."""


class Opened:
    """A record, taken apart once for all who look into it.

    origin  what the record's place is in; the two are its identity
    field   the one that has the document, as JSON; None: the body is it, or the fields are
    """

    __slots__ = ("_document", "_events", "_field", "origin", "record")

    def __init__(self, record: Record, origin: str, field: str | None = None) -> None:
        self.record = record
        self.origin = origin
        self._field = field
        self._document: Json | _Unread = _UNREAD
        self._events: Sequence[Canonical | EventError] | None = None

    def document(self) -> Json:
        """What the record says. Raises `EventError` when that cannot be read."""
        if self._document is _UNREAD:
            body = self.record.body
            self._document = (
                _document(body)
                if isinstance(body, bytes)
                else _texts(body)
                if self._field is None
                else _document(self._body())
            )
        return self._document  # type: ignore[return-value]

    def events(self) -> Sequence[Canonical | EventError]:
        """The events that the record is, or has, as at `POST /v1/events`."""
        if self._events is None:
            headers = dict(self.record.headers or {})
            named = {
                name.replace("ce_", "ce-", 1): text
                for name, text in headers.items()
                if name.startswith("ce_")
            }
            self._events = intake(_short(self._body()), headers.get("content-type", ""), named)
        return self._events

    def _body(self) -> bytes:
        body = self.record.body
        if isinstance(body, bytes):
            return body
        assert self._field is not None
        if self._field not in body:
            raise malformed(f"record: found no field {self._field}, expected one with JSON")
        return body[self._field]


class _Unread:
    """What stands for a document before it was read."""


_UNREAD: Final = _Unread()


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of the records of one source of one model."""

    model: str
    chooses: Callable[[Opened], bool]
    events: Callable[[Opened], Sequence[Canonical | EventError]]


def route(model: str, source: Source) -> Route:
    """How the records of `source` become events of `model`."""
    is_flat = source.redis is not None and source.redis.field is None
    chosen = _chooser(source.records.when, is_flat=is_flat)
    given = source.records.map
    if given is None:
        return Route(model, chosen, _events_of(model))
    make = _maker(model, given)
    return Route(model, chosen, lambda opened: [make(opened)])


def _document(body: bytes) -> Json:
    try:
        document: Json = _OPEN.decode(_short(body))
    except UNREADABLE as exc:
        raise malformed(f"record: found no JSON ({exc}), expected a JSON object") from exc
    return document


def _short(body: bytes) -> bytes:
    if len(body) > MAX_RECORD_BYTES:
        raise malformed(f"record: found {len(body)} bytes, expected at most {MAX_RECORD_BYTES}")
    return body


def _texts(fields: dict[str, bytes]) -> Json:
    try:
        return {name: value.decode() for name, value in fields.items()}
    except UnicodeDecodeError as exc:
        raise malformed(f"record: found a field that is no text ({exc})") from exc


# --- which records ----------------------------------------------------------------------------


def _chooser(when: dict[str, tuple[Scalar, ...]], *, is_flat: bool) -> Callable[[Opened], bool]:
    if not when:
        return lambda _: True
    wishes = [
        (_look(steps(path)), frozenset(_told_apart(v, is_flat=is_flat) for v in values))
        for path, values in when.items()
    ]

    def chooses(opened: Opened) -> bool:
        document = opened.document()
        try:
            return all(_told_apart(look(document)) in wanted for look, wanted in wishes)
        except _NOWHERE:
            return False

    return chooses


def _told_apart(value: Json, *, is_flat: bool = False) -> tuple[bool, Scalar | None]:
    """A scalar, so that true and 1 differ; flat records say everything as text."""
    if is_flat and not isinstance(value, str):
        return False, shown(value)
    is_scalar = isinstance(value, bool | int | float | str)
    return isinstance(value, bool), value if is_scalar else None  # type: ignore[return-value]


# --- records that are events ------------------------------------------------------------------


def _events_of(model: str) -> Callable[[Opened], Sequence[Canonical | EventError]]:
    def events(opened: Opened) -> Sequence[Canonical | EventError]:
        return [
            each
            for each in opened.events()
            if isinstance(each, EventError) or each.model in {model, None}
        ]

    return events


# --- records that are mapped ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of an event: where it stands, what it becomes, and whether the event needs it."""

    name: str
    path: str
    look: _Look
    becomes: Callable[[Json], Json]
    expected: str
    is_needed: bool


def _maker(model: str, given: Map) -> Callable[[Opened], Canonical]:
    constants, fields = _parts(model, given)
    when_s = _Clock(given)
    is_reward = given.type == "reward"
    has_id = given.id is not None

    def make(opened: Opened) -> Canonical:
        document, record = opened.document(), opened.record
        event: dict[str, Json] = {**constants, "time": when_s(document, record)}
        for each in fields:
            try:
                value = each.look(document)
            except _NOWHERE:
                value = None
            if value is not None:
                event[each.name] = each.becomes(value)
            elif each.is_needed:
                raise _fault(each, "nothing")
        if is_reward and not (has_id and "id" in event):
            event["id"] = opened.origin + record.place
        return checked(event)

    return make


def _parts(model: str, given: Map) -> tuple[dict[str, Json], tuple[_Field, ...]]:
    """What is the same in every event, and what is looked up."""
    constants: dict[str, Json] = {"type": given.type, "model": model}
    fields = []
    for name, (kind, expected) in _KINDS.items():
        said = getattr(given, name)
        if said is None:
            continue
        if not is_path(said):
            constants[name] = said
            continue
        needed = {"name", "value", "arm"} | ({"request_id"} if given.type == "exposure" else set())
        fields.append(_Field(name, said, _look(steps(said)), lambda v: v, expected, name in needed))
        fields[-1] = _typed(fields[-1], kind)
    return constants, tuple(fields)


def _typed(field: _Field, kind: Callable[[Json], Json]) -> _Field:
    """The field, with what turns what was found into what is expected, or says what is wrong."""

    def becomes(value: Json) -> Json:
        found = kind(value)
        if found is None:
            raise _fault(field, shown(value))
        return found

    return _Field(field.name, field.path, field.look, becomes, field.expected, field.is_needed)


def _fault(field: _Field, found: str) -> EventError:
    return malformed(f"{field.name}: found {found} at {field.path}, expected {field.expected}")


def _text(value: Json) -> Json:
    if isinstance(value, str):
        return value
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole and -(2**63) <= value < 2**64 else None  # type: ignore[operator]


def _number(value: Json) -> Json:
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        found = float(value) if _NUMBER.fullmatch(value) else math.inf
        return found if math.isfinite(found) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _value(value: Json) -> Json:
    return float(value) if isinstance(value, bool) else _number(value)


def _whole(value: Json) -> Json:
    found = _number(value)
    if isinstance(found, float) and found.is_integer() and abs(found) < 2**53:
        return int(found)
    return found


_A_NUMBER: Final = "a number, or a text that is one"
_A_TEXT: Final = "a text or a whole number"
_KINDS: Final[dict[str, tuple[Callable[[Json], Json], str]]] = {
    "request_id": (_text, _A_TEXT),
    "unit": (_text, _A_TEXT),
    "id": (_text, _A_TEXT),
    "name": (_text, _A_TEXT),
    "value": (_value, f"{_A_NUMBER}, or true or false"),
    "arm": (_text, _A_TEXT),
    "status": (_whole, "a whole number"),
    "latency_ms": (_number, _A_NUMBER),
    "epoch": (_whole, "a whole number"),
    "propensity": (_number, _A_NUMBER),
    "segment": (_text, _A_TEXT),
}


class _Clock:
    """When a record says that it happened, in epoch seconds."""

    __slots__ = ("_look", "_path", "_per_s", "_unit")

    def __init__(self, given: Map) -> None:
        self._path = given.time
        self._look = None if given.time is None else _look(steps(given.time))
        self._unit = given.time_unit
        self._per_s = _PER_S[given.time_unit]

    def __call__(self, document: Json, record: Record) -> float:
        if self._look is None:
            if math.isnan(record.time):
                raise malformed("time: the topic keeps none; expected `time` in the map")
            return record.time
        try:
            found = self._look(document)
        except _NOWHERE:
            found = None
        if isinstance(found, str) and not _NUMBER.fullmatch(found):
            return epoch_s(found)
        number = _number(found)
        if not isinstance(number, int | float):
            said = "nothing" if found is None else shown(found)
            raise self._fault(said, "an RFC 3339 time, or a number")
        if not 0 <= number < 1e11 * self._per_s:
            raise self._fault(shown(int(number)), f"{self._unit} since 1970 (see time_unit)")
        return number / self._per_s

    def _fault(self, found: str, expected: str) -> EventError:
        return malformed(f"time: found {found} at {self._path}, expected {expected}")


def _look(places: tuple[Step, ...]) -> _Look:
    """A chain of look-ups; those of one and two names, which are most, without a loop."""
    if any(isinstance(place, int) for place in places):
        return lambda document: _walk(document, places)
    if len(places) == 1:
        (only,) = places
        return lambda document: document[only]  # type: ignore[index]
    if len(places) == 2:
        first, second = places
        return lambda document: document[first][second]  # type: ignore[index]
    return lambda document: _walk(document, places)


def _walk(document: Json, places: tuple[Step, ...]) -> Json:
    for place in places:
        if isinstance(place, int) and not isinstance(document, list):
            raise KeyError(place)
        document = document[place]  # type: ignore[index]
    return document

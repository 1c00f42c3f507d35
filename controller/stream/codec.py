"""Lines of the log <-> columns: the only door between bytes and the core.

`decode` turns consecutive lines of a log into an `EventBatch`. Its invariant: what a line becomes
depends on that line alone, never on its neighbours or on where a batch was cut, because replay cuts
elsewhere than the live run did. So a line that the strict decoder refuses is tried a second time,
alone, in the forms that senders may use (times as text, envelopes), and only then rejected. Every
line has an offset, also one that is rejected or another model's.

Where the time goes, of about a microsecond per event: two fifths in msgspec making one small object
per line, two fifths in NumPy pulling one column after the other out of them (a fifth of that for
the hashes), the rest in sorting events by type. Rejected: columns of the whole batch at once (a
third slower: the objects have left the cache when their fields are read), `zip(*map(astuple, …))`
(twice as slow: it keeps every tuple alive), one JSON array instead of many lines (a quarter
slower, and one bad line spoils it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from typing import Final, Literal, TypeAlias, TypeVar, assert_never

import msgspec
import numpy as np
from xxhash import xxh64_intdigest

from controller.core.model import (
    CommandEvent,
    ControlEvent,
    EventBatch,
    Exposures,
    Float,
    Int,
    Json,
    Key,
    Operation,
    Reason,
    Rejected,
    Rewards,
    Role,
    SplitEvent,
    Tick,
    Version,
    VersionEvent,
    key,
)
from controller.errors import EventError
from controller.stream.intake import intake
from controller.stream.wire import (
    TYPES,
    UNREADABLE,
    WIRE,
    Canonical,
    CommandLine,
    Event,
    Exposure,
    Reward,
    Shadow,
    SplitLine,
    TickLine,
    VersionLine,
    canonical,
)

__all__ = [
    "Canonical",
    "canonical",
    "command_line",
    "control_line",
    "decode",
    "intake",
    "key",
    "split_line",
    "tick_line",
    "version_line",
]

Others: TypeAlias = Literal["skip", "reject"]
_Control: TypeAlias = SplitLine | VersionLine | CommandLine | TickLine
_Columns = TypeVar("_Columns", Exposures, Rewards)

_CHUNK: Final = 2_048
"""Lines turned into columns in one go: few enough that their objects stay in the cache."""

_EMPTY: Final = xxh64_intdigest(b"")


@dataclass(frozen=True, slots=True)
class _Fault:
    """A line that is no event of this model; without detail, nobody needs to hear of it."""

    detail: str | None
    model: None = None


_Found: TypeAlias = Event | _Fault
_CODE: Final[dict[type, int]] = {kind: code for code, kind in enumerate((*TYPES, _Fault))}
_FIRST_CONTROL: Final = _CODE[SplitLine]


# --- lines -> columns -------------------------------------------------------------------------


def decode(
    model: str, start: int, lines: Sequence[bytes], *, others: Others = "reject"
) -> EventBatch:
    """The columns of consecutive lines of `model`'s log, the first of which has the offset `start`.

    `others` says what becomes of events of other models, as a file for replay may hold them.
    """
    index: dict[str, int] = {}
    parts = []
    for begin in range(0, max(len(lines), 1), _CHUNK):
        found = _ours(model, _read(lines[begin : begin + _CHUNK]), others)
        parts.append(_part(start + begin, found, index))
    return _joined(start, parts, tuple(index))


def _read(lines: Sequence[bytes]) -> Sequence[_Found]:
    try:
        return list(map(WIRE.decode, lines))
    except UNREADABLE:
        return [_read_alone(line) for line in lines]


def _read_alone(line: bytes) -> _Found:
    try:
        return WIRE.decode(line)
    except UNREADABLE:
        pass
    try:
        return WIRE.decode(canonical(line).line)
    except EventError as error:
        return _Fault(str(error))


def _ours(model: str, found: Sequence[_Found], others: Others) -> Sequence[_Found]:
    """The same, with other models' events put aside."""
    ours = {model, None}
    if set(map(attrgetter("model"), found)) <= ours:
        return found
    return [e if e.model in ours else _stranger(model, e.model, others) for e in found]


def _stranger(model: str, name: str | None, others: Others) -> _Fault:
    return _Fault(None if others == "skip" else f'model: found "{name}", expected "{model}"')


def _part(start: int, found: Sequence[_Found], index: dict[str, int]) -> EventBatch:
    """The columns of one chunk. `index`, the dictionary of names, grows."""
    code = np.fromiter(map(_CODE.__getitem__, map(type, found)), np.int64, len(found))
    exposure_at, exposures = _of(Exposure, found, code)
    reward_at, rewards = _of(Reward, found, code)
    shadow_at, shadows = _of(Shadow, found, code)
    rest = np.flatnonzero(code >= _FIRST_CONTROL).tolist()
    return EventBatch(
        start=start,
        count=len(found),
        names=(),
        exposures=_exposures(start + exposure_at, exposures, index),
        rewards=_rewards(start + reward_at, rewards, index),
        shadows=_exposures(start + shadow_at, shadows, index),
        control=tuple(
            _control(start + i, e) for i in rest if not isinstance(e := found[i], _Fault)
        ),
        rejected=tuple(
            Rejected(start + i, Reason.MALFORMED, e.detail)
            for i in rest
            if isinstance(e := found[i], _Fault) and e.detail is not None
        ),
    )


def _joined(start: int, parts: Sequence[EventBatch], names: tuple[str, ...]) -> EventBatch:
    return EventBatch(
        start=start,
        count=sum(part.count for part in parts),
        names=names,
        exposures=_stacked([part.exposures for part in parts]),
        rewards=_stacked([part.rewards for part in parts]),
        shadows=_stacked([part.shadows for part in parts]),
        control=tuple(chain.from_iterable(part.control for part in parts)),
        rejected=tuple(chain.from_iterable(part.rejected for part in parts)),
    )


def _stacked(parts: Sequence[_Columns]) -> _Columns:
    if len(parts) == 1:
        return parts[0]
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(kind)))


def _of(kind: type[Event], found: Sequence[_Found], code: Int) -> tuple[Int, list[_Found]]:
    at = np.flatnonzero(code == _CODE[kind])
    return at, [found[i] for i in at.tolist()]


def _exposures(offset: Int, events: Sequence[object], index: dict[str, int]) -> Exposures:
    return Exposures(
        offset=offset,
        time=_floats(events, "time"),
        request=_keys(events, "request_id"),
        unit=_keys(events, "unit"),
        arm=_indices(events, "arm", index),
        epoch=_ints(events, "epoch"),
        propensity=_floats(events, "propensity"),
        status=_ints(events, "status"),
        latency_ms=_floats(events, "latency_ms"),
        segment=np.full(len(events), -1),
    )


def _rewards(offset: Int, events: Sequence[object], index: dict[str, int]) -> Rewards:
    id_ = _keys(events, "id")
    for at in np.flatnonzero(id_ == 0).tolist():
        id_[at] = _content_key(events[at])
    return Rewards(
        offset=offset,
        time=_floats(events, "time"),
        id=id_,
        request=_keys(events, "request_id"),
        unit=_keys(events, "unit"),
        name=_indices(events, "name", index),
        value=_floats(events, "value"),
    )


def _content_key(event: object) -> int:
    """What identifies a reward without id: sent again, it is the same reward."""
    assert isinstance(event, Reward)
    content = [event.request_id, event.unit, event.name, event.time, event.value]
    return xxh64_intdigest(msgspec.json.encode(content)) or 1


def _floats(events: Sequence[object], field: str) -> Float:
    return np.fromiter(map(attrgetter(field), events), np.float64, len(events))


def _ints(events: Sequence[object], field: str) -> Int:
    return np.fromiter(map(attrgetter(field), events), np.int64, len(events))


def _keys(events: Sequence[object], field: str) -> Key:
    """`key` of every text, as a column."""
    texts = map(str.encode, map(attrgetter(field), events))
    keys = np.fromiter(map(xxh64_intdigest, texts), np.uint64, len(events))
    keys[keys == 0] = 1
    keys[keys == _EMPTY] = 0
    return keys


def _indices(events: Sequence[object], field: str, index: dict[str, int]) -> Int:
    names = list(map(attrgetter(field), events))
    for name in dict.fromkeys(names):
        index.setdefault(name, len(index))
    return np.fromiter(map(index.__getitem__, names), np.int64, len(names))


def _control(offset: int, event: object) -> ControlEvent:
    assert isinstance(event, _Control)
    match event:
        case SplitLine():
            return SplitEvent(offset, event.time, event.epoch, event.weights)
        case VersionLine():
            return VersionEvent(
                offset=offset,
                time=event.time,
                version=event.version,
                role=event.role,
                parent=event.parent,
                endpoints=event.endpoints,
                trained_at=event.trained_at,
                metrics=event.metrics,
            )
        case CommandLine():
            by = event.by or ""
            return CommandEvent(offset, event.time, event.command, by, event.reason, event.version)
        case TickLine():
            return Tick(offset, event.time)
    assert_never(event)


# --- control events -> lines ------------------------------------------------------------------


def tick_line(time: float) -> bytes:
    """The line of a tick; `time` in epoch seconds."""
    return _line(type="tick", time=time)


def split_line(model: str, *, time: float, epoch: int, weights: Mapping[str, int]) -> bytes:
    """The line that says that a split is in force; weights in basis points."""
    return _line(type="split", time=time, model=model, epoch=epoch, weights=dict(weights))


def version_line(model: str, *, time: float, version: Version, role: Role) -> bytes:
    """The line that says that a version exists."""
    return _line(
        type="version",
        time=time,
        model=model,
        version=version.name,
        role=role.value,
        parent=version.parent,
        endpoints=list(version.endpoints),
        trained_at=version.trained_at,
        metrics=dict(version.metrics),
    )


def command_line(  # noqa: PLR0913 - the event's own fields, by keyword
    model: str,
    *,
    time: float,
    command: Operation,
    by: str = "",
    reason: str = "",
    version: str | None = None,
) -> bytes:
    """The line that says what an operator asked for."""
    return _line(
        type="command",
        time=time,
        model=model,
        command=command.value,
        by=by or None,
        reason=reason or None,
        version=version,
    )


def control_line(model: str, event: ControlEvent) -> bytes:
    """The line of a control event, its offset left out: the log gives that."""
    match event:
        case Tick():
            return tick_line(event.time)
        case SplitEvent():
            return split_line(model, time=event.time, epoch=event.epoch, weights=event.weights)
        case VersionEvent():
            version = Version(
                name=event.version,
                endpoints=event.endpoints,
                parent=event.parent,
                trained_at=event.trained_at,
                metrics=event.metrics,
            )
            return version_line(model, time=event.time, version=version, role=event.role)
        case CommandEvent():
            return command_line(
                model,
                time=event.time,
                command=event.command,
                by=event.by,
                reason=event.reason,
                version=event.version,
            )
    assert_never(event)


def _line(**fields: Json) -> bytes:
    """A canonical line of our own making: held to the same rules as a sender's, by EventError."""
    return canonical(fields).line

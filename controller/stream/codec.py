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
(twice as slow: it keeps every tuple alive), `map(attrgetter(field), events)` (a tenth slower than
comprehensions, whose attribute access the interpreter specialises), one JSON array instead of many
lines (a quarter slower, and one bad line spoils it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Final, Literal, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
from xxhash import xxh64_intdigest

from controller.core.model import (
    Covariates,
    EventBatch,
    Exposures,
    Float,
    Int,
    Key,
    Reason,
    Rejected,
    Rewards,
    key,
)
from controller.errors import EventError
from controller.stream.control import (
    ControlLine,
    capacity_line,
    command_line,
    control_event,
    control_line,
    split_line,
    tick_line,
    version_line,
)
from controller.stream.intake import intake
from controller.stream.wire import (
    TYPES,
    UNREADABLE,
    WIRE,
    Canonical,
    Covariate,
    Event,
    Exposure,
    Reward,
    Shadow,
    SplitLine,
    canonical,
)

__all__ = [
    "Canonical",
    "canonical",
    "capacity_line",
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
_Kind = TypeVar("_Kind", bound=Event)
_Columns = TypeVar("_Columns", Exposures, Rewards, Covariates)

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
    if {event.model for event in found} <= ours:
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
    covariate_at, covariates = _of(Covariate, found, code)
    rest = np.flatnonzero(code >= _FIRST_CONTROL).tolist()
    return EventBatch(
        start=start,
        count=len(found),
        names=(),
        exposures=_exposures(start + exposure_at, exposures, index),
        rewards=_rewards(start + reward_at, rewards, index),
        shadows=_exposures(start + shadow_at, shadows, index),
        control=tuple(
            control_event(start + i, e) for i in rest if isinstance(e := found[i], ControlLine)
        ),
        rejected=tuple(
            Rejected(start + i, Reason.MALFORMED, e.detail)
            for i in rest
            if isinstance(e := found[i], _Fault) and e.detail is not None
        ),
        covariates=_covariates(start + covariate_at, covariates) if covariates else None,
    )


def _joined(start: int, parts: Sequence[EventBatch], names: tuple[str, ...]) -> EventBatch:
    covariates = [part.covariates for part in parts if part.covariates is not None]
    return EventBatch(
        start=start,
        count=sum(part.count for part in parts),
        names=names,
        exposures=_stacked([part.exposures for part in parts]),
        rewards=_stacked([part.rewards for part in parts]),
        shadows=_stacked([part.shadows for part in parts]),
        control=tuple(chain.from_iterable(part.control for part in parts)),
        rejected=tuple(chain.from_iterable(part.rejected for part in parts)),
        covariates=_stacked(covariates) if covariates else None,
    )


def _stacked(parts: Sequence[_Columns]) -> _Columns:
    if len(parts) == 1:
        return parts[0]
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(kind)))


def _of(kind: type[_Kind], found: Sequence[_Found], code: Int) -> tuple[Int, list[_Kind]]:
    at = np.flatnonzero(code == _CODE[kind])
    return at, cast("list[_Kind]", [found[i] for i in at.tolist()])


def _exposures(offset: Int, events: Sequence[Exposure], index: dict[str, int]) -> Exposures:
    return Exposures(
        offset=offset,
        time=_floats([e.time for e in events]),
        request=_keys([e.request_id for e in events]),
        unit=_keys([e.unit for e in events]),
        arm=_indices([e.arm for e in events], index),
        epoch=_ints([e.epoch for e in events]),
        propensity=_floats([e.propensity for e in events]),
        status=_ints([e.status for e in events]),
        latency_ms=_floats([e.latency_ms for e in events]),
        segment=_segments([e.segment for e in events], index),
    )


def _rewards(offset: Int, events: Sequence[Reward], index: dict[str, int]) -> Rewards:
    id_ = _keys([e.id for e in events])
    for at in np.flatnonzero(id_ == 0).tolist():
        id_[at] = _content_key(events[at])
    return Rewards(
        offset=offset,
        time=_floats([e.time for e in events]),
        id=id_,
        request=_keys([e.request_id for e in events]),
        unit=_keys([e.unit for e in events]),
        name=_indices([e.name for e in events], index),
        value=_floats([e.value for e in events]),
    )


def _covariates(offset: Int, events: Sequence[Covariate]) -> Covariates:
    return Covariates(
        offset=offset,
        unit=_keys([e.unit for e in events]),
        value=_floats([e.value for e in events]),
    )


def _content_key(event: Reward) -> int:
    """What identifies a reward without id: sent again, it is the same reward."""
    content = [event.request_id, event.unit, event.name, event.time, event.value]
    return xxh64_intdigest(msgspec.json.encode(content)) or 1


def _floats(values: list[float]) -> Float:
    return np.fromiter(values, np.float64, len(values))


def _ints(values: list[int]) -> Int:
    return np.fromiter(values, np.int64, len(values))


def _keys(texts: list[str]) -> Key:
    """`key` of every text, as a column."""
    digests = [xxh64_intdigest(text.encode()) for text in texts]
    keys = np.fromiter(digests, np.uint64, len(texts))
    keys[keys == 0] = 1
    keys[keys == _EMPTY] = 0
    return keys


def _indices(names: list[str], index: dict[str, int]) -> Int:
    for name in dict.fromkeys(names):
        index.setdefault(name, len(index))
    return np.fromiter(map(index.__getitem__, names), np.int64, len(names))


def _segments(names: list[str], index: dict[str, int]) -> Int:
    """As `_indices`, -1 for no text; quick where no event of the chunk is in a segment."""
    if not any(names):
        return np.full(len(names), -1, np.int64)
    known = dict.fromkeys(names)
    code = {name: index.setdefault(name, len(index)) if name else -1 for name in known}
    return np.fromiter(map(code.__getitem__, names), np.int64, len(names))

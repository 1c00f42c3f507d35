"""Lines of the log <-> columns: the only door between bytes and the core.

`decode` turns consecutive lines of a log into an `EventBatch`. Its invariant: what a line becomes
depends on that line alone, never on its neighbours or on where a batch was cut, because replay cuts
elsewhere than the live run did. So a line that the strict decoder refuses is tried a second time,
alone, in the forms that senders may use (times as text, envelopes), and only then rejected. Every
line has an offset, also one that is rejected or another model's.

Lines that look alike are read together, without objects (`shapes`); what is left over becomes one
object per line (a microsecond: two fifths in msgspec, two fifths in pulling one column after the
other out of them). Rejected for these: columns of the whole batch at once (a third slower: the
objects have left the cache when their fields are read), `zip(*map(astuple, …))` (twice as slow: it
keeps every tuple alive), `map(attrgetter(field), events)` (a tenth slower than comprehensions,
whose attribute access the interpreter specialises), one JSON array instead of many lines (a quarter
slower, and one bad line spoils it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from operator import attrgetter
from typing import Final, Literal, TypeAlias, TypeVar, cast

import numpy as np

from controller.core.batch import select
from controller.core.model import (
    ControlEvent,
    Covariates,
    EventBatch,
    Exposures,
    Int,
    Reason,
    Rejected,
    Rewards,
    key,
)
from controller.errors import EventError
from controller.stream.columns import covariates_of, exposures_of, filled, rewards_of
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
from controller.stream.shapes import Alike, Shapes
from controller.stream.tallies import tallies_line
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
    "tallies_line",
    "tick_line",
    "version_line",
]

Others: TypeAlias = Literal["skip", "reject"]
_Kind = TypeVar("_Kind", bound=Event)
_Columns = TypeVar("_Columns", Exposures, Rewards, Covariates)
_Numbered = TypeVar("_Numbered", ControlEvent, Rejected)

_CHUNK: Final = 20_000
"""Lines that are looked through for shapes in one go: their columns still fit into the cache."""

_OBJECTS: Final = 2_048
"""Lines that are objects at the same time, for the same reason."""


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
    shapes = Shapes(model, index)
    parts = [_NOTHING]
    for begin in range(0, len(lines), _CHUNK):
        chunk = lines[begin : begin + _CHUNK]
        offset = start + begin + np.arange(len(chunk))
        alike, rest = shapes.read(chunk)
        parts += [_alike(each, offset[each.at]) for each in alike]
        for first in range(0, len(rest), _OBJECTS):
            some = rest[first : first + _OBJECTS]
            found = _ours(model, _read([chunk[i] for i in some.tolist()]), others)
            parts.append(_part(found, offset[some], index))
    return _joined(start, len(lines), parts, tuple(index))


def _alike(alike: Alike, offset: Int) -> EventBatch:
    """Lines of one shape."""
    if alike.kind is Reward:
        rewards = filled(Rewards, alike, offset)
        return replace(_NOTHING, rewards=rewards)
    exposures = filled(Exposures, alike, offset)
    if alike.kind is Shadow:
        return replace(_NOTHING, shadows=exposures)
    return replace(_NOTHING, exposures=exposures)


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


def _part(found: Sequence[_Found], offset: Int, index: dict[str, int]) -> EventBatch:
    """The columns of some events. `index`, the dictionary of names, grows."""
    code = np.fromiter(map(_CODE.__getitem__, map(type, found)), np.int64, len(found))
    counts = np.bincount(code, None, len(_CODE)).tolist()
    exposure_at, exposures = _of(Exposure, found, code, counts)
    reward_at, rewards = _of(Reward, found, code, counts)
    shadow_at, shadows = _of(Shadow, found, code, counts)
    covariate_at, covariates = _of(Covariate, found, code, counts)
    rest = [(int(offset[i]), found[i]) for i in np.flatnonzero(code >= _FIRST_CONTROL).tolist()]
    return EventBatch(
        start=0,
        count=len(found),
        names=(),
        exposures=_exposures(offset[exposure_at], exposures, index),
        rewards=rewards_of(offset[reward_at], rewards, index) if rewards else _NO_REWARDS,
        shadows=_exposures(offset[shadow_at], shadows, index),
        control=tuple(control_event(at, e) for at, e in rest if isinstance(e, ControlLine)),
        rejected=tuple(
            Rejected(at, Reason.MALFORMED, e.detail)
            for at, e in rest
            if isinstance(e, _Fault) and e.detail is not None
        ),
        covariates=covariates_of(offset[covariate_at], covariates) if covariates else None,
    )


def _joined(
    start: int, count: int, parts: Sequence[EventBatch], names: tuple[str, ...]
) -> EventBatch:
    covariates = [part.covariates for part in parts if part.covariates is not None]
    return EventBatch(
        start=start,
        count=count,
        names=names,
        exposures=_stacked([part.exposures for part in parts]),
        rewards=_stacked([part.rewards for part in parts]),
        shadows=_stacked([part.shadows for part in parts]),
        control=_sorted(part.control for part in parts),
        rejected=_sorted(part.rejected for part in parts),
        covariates=_stacked(covariates) if covariates else None,
    )


def _sorted(parts: Iterable[Sequence[_Numbered]]) -> tuple[_Numbered, ...]:
    return tuple(sorted(chain.from_iterable(parts), key=attrgetter("offset")))


def _stacked(parts: Sequence[_Columns]) -> _Columns:
    """The rows of all parts, in log order."""
    some = [part for part in parts if len(part.offset)]
    if not some:
        return parts[0]
    kind = type(parts[0])
    whole = some[0]
    if len(some) > 1:
        whole = kind(*(np.concatenate([getattr(p, f.name) for p in some]) for f in fields(kind)))
    is_sorted = bool((whole.offset[1:] > whole.offset[:-1]).all())
    return whole if is_sorted else select(whole, np.argsort(whole.offset, kind="stable"))


def _exposures(offset: Int, found: Sequence[Exposure], index: dict[str, int]) -> Exposures:
    return exposures_of(offset, found, index) if found else _NO_EXPOSURES


def _of(
    kind: type[_Kind], found: Sequence[_Found], code: Int, counts: list[int]
) -> tuple[Int, list[_Kind]]:
    """Which of the events are of this kind, and these; `counts` are how many there are of each."""
    if not counts[_CODE[kind]]:
        return _NOWHERE, []
    at = np.flatnonzero(code == _CODE[kind])
    return at, cast("list[_Kind]", [found[i] for i in at.tolist()])


_NOWHERE: Final = np.empty(0, np.int64)
_NO_EXPOSURES: Final = exposures_of(_NOWHERE, [], {})
_NO_REWARDS: Final = rewards_of(_NOWHERE, [], {})
_NOTHING: Final = _part([], _NOWHERE, {})

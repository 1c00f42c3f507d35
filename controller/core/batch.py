"""Micro-batches: a log cut at its ticks.

Whatever the blocks in which events arrive, the engine works on all events between two ticks at
once. So its results do not depend on how the log was cut into blocks: live, replay and recovery
see the same micro-batches. Events after the last tick wait in the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar, get_args, get_type_hints

import numpy as np

from controller.core.model import (
    CapacityEvent,
    CommandEvent,
    Covariates,
    EventBatch,
    Exposures,
    Rejected,
    Rewards,
    SplitEvent,
    Tallies,
    TalliesEvent,
    Tick,
    VersionEvent,
    quick,
)

Columns = TypeVar("Columns", Exposures, Rewards, Covariates, Tallies)
Exposed = TypeVar("Exposed", Exposures, Tallies)


@quick
@dataclass(frozen=True)
class MicroBatch:
    """All events after one tick up to and with the next; `arm` and `name` index into `names`."""

    tick: Tick
    names: tuple[str, ...]
    exposures: Exposures
    rewards: Rewards
    shadows: Exposures
    control: tuple[SplitEvent | VersionEvent | CapacityEvent | CommandEvent | TalliesEvent, ...]
    rejected: tuple[Rejected, ...]
    covariates: Covariates
    tallies: Tallies


def micro_batches(
    waiting: Sequence[EventBatch], batch: EventBatch
) -> Iterator[tuple[MicroBatch | None, tuple[EventBatch, ...]]]:
    """Each complete micro-batch, then once (None, what waits for its tick)."""
    open_pieces = list(waiting)
    start = batch.start
    for tick in (event for event in batch.control if isinstance(event, Tick)):
        open_pieces.append(between(batch, start, tick.offset))
        yield _merge(open_pieces, tick), ()
        open_pieces = []
        start = tick.offset + 1
    end = batch.start + batch.count
    if start < end:
        open_pieces.append(between(batch, start, end))
    yield None, tuple(open_pieces)


def between(batch: EventBatch, start: int, end: int) -> EventBatch:
    """The events of `batch` with offsets in [start, end)."""
    if start == batch.start and end == batch.start + batch.count:
        return batch
    return EventBatch(
        start=start,
        count=end - start,
        names=batch.names,
        exposures=_between(batch.exposures, start, end),
        rewards=_between(batch.rewards, start, end),
        shadows=_between(batch.shadows, start, end),
        control=tuple(event for event in batch.control if start <= event.offset < end),
        rejected=tuple(event for event in batch.rejected if start <= event.offset < end),
        covariates=None if batch.covariates is None else _between(batch.covariates, start, end),
        tallies=None if batch.tallies is None else _between(batch.tallies, start, end),
    )


def _between(columns: Columns, start: int, end: int) -> Columns:
    if not len(columns.offset):
        return columns
    if isinstance(columns, Tallies):  # which stand in any order
        return select(columns, (columns.offset >= start) & (columns.offset < end))
    if columns.offset[0] >= start and columns.offset[-1] < end:
        return columns
    low, high = np.searchsorted(columns.offset, (start, end))
    return type(columns)(*(getattr(columns, f.name)[low:high] for f in fields(columns)))


def _merge(pieces: Sequence[EventBatch], tick: Tick) -> MicroBatch:
    names: dict[str, int] = {}
    if len(pieces) == 1:
        return _whole(pieces[0], tick)
    for piece in pieces:
        for name in piece.names:
            names.setdefault(name, len(names))
    translations = [np.array([names[n] for n in p.names], dtype=np.int64) for p in pieces]
    pairs = list(zip(pieces, translations, strict=True))
    tallies = [(p.tallies, t) for p, t in pairs if p.tallies is not None]
    covariates = [p.covariates for p in pieces if p.covariates is not None]
    return MicroBatch(
        tick=tick,
        names=tuple(names),
        exposures=_concatenate([_exposures(p.exposures, t) for p, t in pairs], Exposures),
        rewards=_concatenate([_renamed(p.rewards, "name", t) for p, t in pairs], Rewards),
        shadows=_concatenate([_exposures(p.shadows, t) for p, t in pairs], Exposures),
        control=tuple(e for p in pieces for e in p.control if not isinstance(e, Tick)),
        rejected=tuple(e for p in pieces for e in p.rejected),
        covariates=_concatenate(covariates, Covariates),
        tallies=_concatenate([_exposures(c, t) for c, t in tallies], Tallies),
    )


def _whole(piece: EventBatch, tick: Tick) -> MicroBatch:
    """A micro-batch that came in one piece: its names stay as they are."""
    nothing: Covariates = _NOTHING[Covariates]
    return MicroBatch(
        tick=tick,
        names=piece.names,
        exposures=piece.exposures,
        rewards=piece.rewards,
        shadows=piece.shadows,
        control=tuple(event for event in piece.control if not isinstance(event, Tick)),
        rejected=piece.rejected,
        covariates=nothing if piece.covariates is None else piece.covariates,
        tallies=_concatenate([] if piece.tallies is None else [piece.tallies], Tallies),
    )


def _exposures(columns: Exposed, translation: np.ndarray) -> Exposed:
    if not len(columns.offset):
        return columns
    renamed = _renamed(columns, "arm", translation)
    # -1, "none", must stay what it is
    return _renamed(renamed, "segment", np.append(translation, -1))


def _renamed(columns: Columns, column: str, translation: np.ndarray) -> Columns:
    if not len(columns.offset):
        return columns
    return replace(columns, **{column: translation[getattr(columns, column)]})


def _concatenate(parts: Sequence[Columns], kind: type[Columns]) -> Columns:
    some = [part for part in parts if len(part.offset)]
    if not some:
        nothing: Columns = _NOTHING[kind]
        return nothing
    if len(some) == 1:
        return some[0]
    return kind(*(np.concatenate([getattr(p, f.name) for p in some]) for f in fields(kind)))


def _dtypes(kind: type) -> dict[str, type[np.generic]]:
    """The scalar type that a column's annotation names."""
    hints = get_type_hints(kind)
    return {f.name: get_args(get_args(hints[f.name])[1])[0] for f in fields(kind)}


DTYPES = {kind: _dtypes(kind) for kind in (Exposures, Rewards, Covariates, Tallies)}
"""The types of the columns, for batches without rows."""

_NOTHING: Final[dict[type, Any]] = {
    kind: kind(*(np.empty(0, dtype=scalar) for scalar in types.values()))
    for kind, types in DTYPES.items()
}
"""No rows, of each kind."""


def select(columns: Columns, mask: np.ndarray) -> Columns:
    """The rows of `columns` for which the mask (bool or indices) is set."""
    return type(columns)(*(getattr(columns, name)[mask] for name in columns.__dataclass_fields__))

"""Replay: fold a recorded log and say what is decided.

A bounded file is a special case of the unbounded stream. What the live loop adds to a log (its
ticks) a recorded log has already; a log that was written by something else has none, and gets one
per `interval` of event time, and one behind each version and command, as the live loop gives. The
clock never passes the last event: windows that are still open at the end of the file stay open,
because a reward that was not recorded is not a reward that was not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from controller.core import engine
from controller.core.conduct import stage_kind
from controller.core.model import (
    CommandEvent,
    ControlEvent,
    Covariates,
    EventBatch,
    Exposures,
    Float,
    Int,
    Json,
    Rejected,
    Rewards,
    Tallies,
    Tick,
    VersionEvent,
)
from controller.core.policy import Policy
from controller.core.record import decision_document
from controller.core.report import evidence_summary
from controller.core.state import State, initial
from controller.stream import codec

_Columns: TypeAlias = Exposures | Rewards | Covariates | Tallies
_Single = TypeVar("_Single", ControlEvent, Rejected)

INTERVAL_S = 10.0
"""Event time between the ticks of a log that has none."""

BLOCK_LINES = 100_000


def replay(
    policy: Policy, blocks: Iterable[Sequence[bytes]], *, interval_s: float | None = None
) -> Iterator[dict[str, Json]]:
    """The decisions that recorded events lead to, then where the model stands, marked `final`.

    `blocks` are the log's lines in order. `interval_s` None means: the log has its own ticks.
    Events of other models are passed over.
    """
    state = initial(policy)
    clockwork = Clockwork(interval_s) if interval_s is not None else None
    for batch in _batches(policy.model, blocks, clockwork):
        state, decisions, _ = engine.step(policy, state, batch)
        yield from (decision_document(decision) for decision in decisions)
    yield final_document(policy, state)


def _batches(
    model: str, blocks: Iterable[Sequence[bytes]], clockwork: Clockwork | None
) -> Iterator[EventBatch]:
    start = 0
    for lines in blocks:
        batch = codec.decode(model, start, lines, others="skip")
        if clockwork is not None:
            batch = clockwork.with_ticks(replace(batch, start=start))
        yield batch
        start = batch.start + batch.count
    if clockwork is not None and clockwork.is_behind:
        yield clockwork.last(start)


class Clockwork:
    """Ticks for a log that has none: at each full `interval_s` of event time."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._latest = float("-inf")
        self._waits = False

    @property
    def is_behind(self) -> bool:
        """Whether events came after the last tick, of which at least one has a time."""
        return self._waits and bool(np.isfinite(self._latest))

    def last(self, start: int) -> EventBatch:
        """The tick that ends the log."""
        empty = codec.decode("", start, [])
        return replace(empty, count=1, control=(Tick(start, self._latest),))

    def with_ticks(self, batch: EventBatch) -> EventBatch:
        """The batch with ticks between its events; later offsets move up."""
        if not batch.count:
            return batch
        times = self._running(batch)
        placed = self._ticks(batch, times)
        ticks = [Tick(batch.start + p + i, t) for i, (p, t) in enumerate(placed)]
        self._latest = float(times[-1])
        before = np.array([place for place, _ in placed], dtype=np.int64)
        last = _last_index(batch)
        self._waits = last >= before[-1] if placed else self._waits or last >= 0

        def moved(offset: Int) -> Int:
            return offset + np.searchsorted(before, offset - batch.start, side="right")

        shifted = _shifted(batch, moved)
        control = sorted([*shifted.control, *ticks], key=lambda event: event.offset)
        return replace(shifted, count=batch.count + len(ticks), control=tuple(control))

    def _running(self, batch: EventBatch) -> Float:
        """(count,) the latest time seen up to and with each event."""
        times = np.full(batch.count, self._latest)
        for columns in (batch.exposures, batch.rewards, batch.shadows):
            times[columns.offset - batch.start] = columns.time
        if batch.tallies is not None:
            np.maximum.at(times, batch.tallies.offset - batch.start, batch.tallies.time)
        for event in batch.control:
            times[event.offset - batch.start] = event.time
        return np.maximum(np.maximum.accumulate(times), self._latest)

    def _ticks(self, batch: EventBatch, times: Float) -> list[tuple[int, float]]:
        """(before the event of this index, time) of each tick, in order."""
        size = self._interval_s
        periods = np.floor(times / size)
        earlier = np.concatenate([[np.floor(self._latest / size)], periods[:-1]])
        rises = np.flatnonzero((periods > earlier) & np.isfinite(times)).tolist()
        wanted = [(i, float(periods[i]) * size) for i in rises]
        for event in batch.control:
            if isinstance(event, VersionEvent | CommandEvent):
                place = event.offset - batch.start
                wanted.append((place + 1, float(times[place])))
        return sorted(wanted)


def _columns(batch: EventBatch) -> dict[str, _Columns]:
    """Every table of a batch, by its name in `EventBatch`."""
    found: dict[str, _Columns | None] = {
        "exposures": batch.exposures,
        "rewards": batch.rewards,
        "shadows": batch.shadows,
        "covariates": batch.covariates,
        "tallies": batch.tallies,
    }
    return {name: columns for name, columns in found.items() if columns is not None}


def _shifted(batch: EventBatch, moved: Callable[[Int], Int]) -> EventBatch:
    """The batch with other offsets."""

    def at(event: _Single) -> _Single:
        return replace(event, offset=int(moved(np.array([event.offset]))[0]))

    tables: dict[str, Any] = {
        name: replace(columns, offset=moved(columns.offset))
        for name, columns in _columns(batch).items()
    }
    return replace(
        batch,
        control=tuple(at(event) for event in batch.control),
        rejected=tuple(at(event) for event in batch.rejected),
        **tables,
    )


def _last_index(batch: EventBatch) -> int:
    """Index of the last event of this model, -1 where the batch has none."""
    offsets = [int(c.offset.max()) for c in _columns(batch).values() if c.offset.size]
    offsets += [event.offset for event in (*batch.control[-1:], *batch.rejected[-1:])]
    return max(offsets, default=batch.start - 1) - batch.start


def final_document(policy: Policy, state: State) -> dict[str, Json]:
    """Where the model stands after the last event."""
    rollout = state.rollout
    return {
        "time": state.clock if np.isfinite(state.clock) else None,
        "model": state.model,
        "stage": stage_kind(policy, rollout) if rollout else "",
        "step": rollout.step if rollout else 0,
        "phase": state.phase.value,
        "verdict": state.said.verdict.value,
        "champion": state.champion,
        "weights": dict(state.split.weights),
        "reason": state.said.reason,
        "evidence": evidence_summary(policy, state),
        "decisions": state.decisions,
        "final": True,
    }


def lines_of(path: Path) -> Iterator[list[bytes]]:
    """Blocks of the lines of a JSON Lines file; empty lines are passed over."""
    block: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            stripped = line.strip()
            if stripped:
                block.append(stripped)
            if len(block) >= BLOCK_LINES:
                yield block
                block = []
    if block:
        yield block


def _is_tick(line: bytes) -> bool:
    batch = codec.decode("", 0, [line], others="skip")
    return any(isinstance(event, Tick) for event in batch.control)


def has_ticks(path: Path) -> bool:
    """Whether the log carries its own clock."""
    return any(b'"tick"' in line and _is_tick(line) for block in lines_of(path) for line in block)

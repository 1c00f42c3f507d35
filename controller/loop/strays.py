"""Strays: requests that an arm answered though the split in force gives it none.

Somebody still routes by an older split: a router that was left behind, or a layer that is not ours
and keeps assignments. In the log it stands black on white, whether or not we are connected to it.

    t(arm) = when the earliest of the last known splits came into force that give the arm nothing
    stray  = an exposure of the arm whose request came later than t(arm) + `LATE_S`

What was asked before, and is told late or answered slowly, is none. Nor is what names a known split
that gives the arm nothing: no router routes so, and whoever can post exposures could keep an arm
running with it for ever. An epoch that is not known may be that of a log that was lost; it counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from controller.core.model import EventBatch, Float, Int, TalliesEvent
from controller.core.state import KnownSplit, State

LATE_S: Final = 10.0
"""Clocks of routers differ, and one that is slow is a moment behind."""


@dataclass(frozen=True, slots=True)
class Stray:
    """The last of an arm's strays: when its request came, and the split it names (-1: none)."""

    time: float
    epoch: int


def strays(state: State, batch: EventBatch) -> Mapping[str, Stray]:
    """The last stray of each arm of a cluster in a batch that `state` has taken in."""
    without = {arm: since for arm in state.capacities if (since := _without_since(state, arm))}
    found: dict[str, Stray] = {}
    for names, arms, times, epochs in _answers(batch) if without else ():
        for arm, since in without.items():
            if arm not in names:
                continue
            mine = (arms == names.index(arm)) & ~np.isin(epochs, _denials(state, arm))
            if not mine.any():
                continue
            last = Stray(float(times[mine].max()), int(epochs[mine].max()))
            if last.time > max(since + LATE_S, found[arm].time if arm in found else since):
                found[arm] = last
    return found


def _answers(batch: EventBatch) -> Iterator[tuple[tuple[str, ...], Int, Float, Int]]:
    """What was answered: by events of the log, and as partitions tell."""
    exposures = batch.exposures
    if len(exposures.time):
        yield batch.names, exposures.arm, exposures.time, exposures.epoch
    for event in batch.control:
        if isinstance(event, TalliesEvent):
            rows = event.rows.pick(event.rows.exposures > 0)
            yield event.arms, rows.arm, rows.time, rows.epoch


def _without_since(state: State, arm: str) -> float | None:
    """Since when the arm has been given nothing; None: it is given something."""
    wanted = KnownSplit(0, 0.0, state.split.weights, state.split.segments)
    if _gives(wanted, arm):
        return None
    since = None
    for epoch in sorted(state.known, reverse=True):
        if epoch > state.in_force_epoch:
            continue
        if _gives(state.known[epoch], arm):
            break
        since = state.known[epoch].since
    return since


def _denials(state: State, arm: str) -> list[int]:
    """The epochs under which nobody is sent to the arm."""
    return [epoch for epoch, split in state.known.items() if not _gives(split, arm)]


def _gives(split: KnownSplit, arm: str) -> bool:
    return any(weights.get(arm, 0) for weights in (split.weights, *split.segments.values()))

"""What a partition counted, as a line of its model's log: columns as JSON arrays.

One line tells one tick, or a part of one. Columns that say nothing are left out, and so are those
that follow from others: without units, every exposure enters the analysis and is analysed. Numbers
are written so that they come back to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from controller.core.model import Reason, Tallies, TalliesEvent
from controller.core.split import SEGMENT_LENGTH

_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
_Arm: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]

_Segment: TypeAlias = Annotated[str, Meta(min_length=1, max_length=SEGMENT_LENGTH)]
_A_SEGMENT: Final = "a header value for each number above 0 in columns.segment"

_FOLLOWING: Final = {
    "entered": "exposures",
    "entered_errors": "errors",
    "analysed": "outcomes",
    "analysed_value": "value",
}
_APART: Final = frozenset({"offset", "segment", "propensity", *_FOLLOWING})
_COLUMNS: Final = tuple(f.name for f in fields(Tallies) if f.name not in _APART)
_KNOWN: Final = frozenset({*_COLUMNS, "propensity", "segment"})


class TalliesLine(Struct, tag="tallies", frozen=True):
    """What became certain in a partition with one tick; `time` is that of the tick."""

    time: Annotated[float, Meta(ge=0, lt=1e11)]
    model: _Arm
    partition: Annotated[int, Meta(ge=0, lt=2**16)]
    start: _Count
    end: _Count
    part: _Count = 0
    parts: Annotated[int, Meta(ge=1, le=2**20)] = 1
    open: _Count = 0
    rejected: dict[Reason, _Count] = {}
    arms: tuple[_Arm, ...] = ()
    segments: tuple[_Segment, ...] = ()
    columns: dict[str, list[float]] = {}

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - _KNOWN):
            raise ValueError(f"columns: found {unknown[0]}, expected {EXPECTED['columns']}")
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1 or self.part >= self.parts:
            raise ValueError(f"columns: found unequal lengths, expected {EXPECTED['columns']}")
        if any(not 0 <= arm < len(self.arms) for arm in self.columns.get("arm", ())):
            raise ValueError("arms: found too few, expected a name for each number in columns.arm")
        if lengths - {0} and not self.arms:
            raise ValueError("arms: found none, expected a name for each number in columns.arm")
        if any(not 0 <= n <= len(self.segments) for n in self.columns.get("segment", ())):
            raise ValueError(f"segments: found too few, expected {_A_SEGMENT}")


EXPECTED: Final = {
    "partition": "a whole number from 0",
    "start": "a whole number from 0",
    "end": "a whole number from 0",
    "part": "a whole number from 0, below parts",
    "parts": "a whole number from 1",
    "open": "a whole number from 0",
    "rejected": "whole numbers by reason",
    "arms": "a list of texts of 1 to 128 characters",
    "columns": "lists of numbers of one length by name, as in the table of tallies",
}
"""What the author of a line is told, by field."""


def tallies_event(offset: int, line: TalliesLine) -> TalliesEvent:
    """The event of the core that a line is; the log gives its offset."""
    columns: dict[str, Any] = {n: np.array(column) for n, column in line.columns.items()}
    if "propensity" in columns:
        columns["propensity"][columns["propensity"] == 0.0] = math.nan
    if "segment" in columns:
        columns["segment"] -= 1
    columns |= {name: columns[same] for name, same in _FOLLOWING.items() if same in columns}
    n = len(next(iter(line.columns.values()), ()))
    return TalliesEvent(
        offset=offset,
        partition=line.partition,
        start=line.start,
        end=line.end,
        part=line.part,
        parts=line.parts,
        time=line.time,
        open=line.open,
        rejected={reason.value: count for reason, count in line.rejected.items()},
        arms=line.arms,
        segments=line.segments,
        rows=Tallies.of(n, **columns, offset=np.full(n, offset)),
    )


def tallies_line(model: str, event: TalliesEvent) -> bytes:
    """The line of what a partition of `model` counted."""
    rows = event.rows
    columns = {name: _numbers(getattr(rows, name)) for name in _COLUMNS}
    columns["propensity"] = _numbers(np.nan_to_num(rows.propensity, nan=0.0))
    columns["segment"] = _numbers(rows.segment + 1)
    document = {
        "type": "tallies",
        "time": event.time,
        "model": model,
        "partition": event.partition,
        "start": event.start,
        "end": event.end,
        "part": event.part,
        "parts": event.parts,
        "open": event.open,
        "rejected": event.rejected,
        "arms": event.arms,
        "segments": event.segments,
        "columns": {
            name: column for name, column in columns.items() if name == "time" or any(column)
        },
    }
    return msgspec.json.encode(document)


def _numbers(column: np.ndarray) -> list[int] | list[float]:
    """As whole numbers where all are."""
    whole = column.astype(np.int64)
    numbers: list[int] | list[float] = (whole if (whole == column).all() else column).tolist()
    return numbers

"""The split: weights -> ranges of the circle of units; unit -> arm; the propensity of an arm.

A unit sits at `xxh64(salt + unit) mod 10 000` on a circle of BASIS places, and belongs to the arm
whose range holds that place. The router computes the same formula over the same ranges in the same
order (Envoy's weighted clusters with a hash policy), so this module can say what the router will
do, and a test against the real router keeps it so.

Invariants, for every valid split:

    ranges cover [0, BASIS) without gap or overlap, in order
    sum(end - start of the ranges of an arm) = weights[arm]        so weight 0 is no range at all
    w <= w'  =>  places(arm, w) is a subset of places(arm, w')     others' weights being equal

The third is the *nesting* that keeps units with their arm while a canary grows: the candidate i of
K owns the anchor i * BASIS // K and grows clockwise from it, the champion fills the gaps and so may
have several ranges. Where a candidate has grown onto its neighbour's anchor the neighbour is pushed
ahead, and only then. A push never comes back to the arm that caused it, because it would have to
travel a circle that holds more than BASIS places of candidates.

A segment has weights of its own and everything else in common: the same circle, the same salt, the
same anchors. So all of the above holds inside each segment, and where two segments give an arm the
weights w <= w' (others' being equal), the units of the first are also those of the second. Whoever
is in no segment, or in one that the split does not name, gets the pooled weights.

Rejected: champion first and candidates after it in one row (a growing canary then moves every
border behind it, and units change arms that had nothing to do with the change); rendezvous or
`weight * hash` scores (PEERS: iter8's 90/10 became 94.4/5.6); rounding weights into percent (a
drained arm got traffic).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from controller.core.model import BASIS, Split
from controller.errors import InvariantError

SEGMENT_LENGTH = 64
"""The longest name of a segment, in characters; a longer value of the header is in no segment."""

_SEGMENT = re.compile(rf"[^,\x00-\x1f\x7f]{{1,{SEGMENT_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Range:
    """The places `start <= place < end` of the circle belong to `arm`."""

    arm: str
    start: int
    end: int


def validate(split: Split) -> None:
    """Raise InvariantError unless the split gives every unit of every segment exactly one arm."""
    _validate_weights(split.weights, split.champion, "")
    placed = {*split.weights, *split.anchors}
    if split.segments and not split.segment_header:
        raise InvariantError(f"segments {sorted(split.segments)} of no header")
    for name, weights in split.segments.items():
        if not 0 < len(name) <= SEGMENT_LENGTH:
            raise InvariantError(
                f"a segment is called {name!r}, not 1..{SEGMENT_LENGTH} characters"
            )
        _validate_weights(weights, split.champion, f"segment {name!r}: ")
        if strange := sorted(set(weights) - placed):
            raise InvariantError(f"segment {name!r}: no place for {strange} in {sorted(placed)}")
    if len(set(split.anchors)) != len(split.anchors):
        raise InvariantError(f"an arm has two anchors: {split.anchors}")
    for arm, share in split.mirror.items():
        if not 0 <= share <= BASIS:
            raise InvariantError(f"mirror share of {arm!r} is {share!r}, not within 0..{BASIS}")


def _validate_weights(weights: Mapping[str, int], champion: str, where: str) -> None:
    for arm, weight in weights.items():
        if type(weight) is not int or weight < 0:
            raise InvariantError(f"{where}weight of {arm!r} is {weight!r}, not basis points from 0")
    if (total := sum(weights.values())) != BASIS:
        raise InvariantError(f"{where}weights sum to {total}, not {BASIS}: {weights}")
    if champion not in weights:
        raise InvariantError(f"{where}champion {champion!r} is not among {sorted(weights)}")


def is_segment(value: str) -> bool:
    """Whether requests whose header has this value can be in a segment of their own.

    Not those with a comma, which may be two values of a header that was sent twice.
    """
    return _SEGMENT.fullmatch(value) is not None


def weights_of(split: Split, segment: str | None) -> Mapping[str, int]:
    """The weights that a segment has; the pooled ones for no segment and for one never seen."""
    return split.weights if segment is None else split.segments.get(segment, split.weights)


def ranges(split: Split, segment: str | None = None) -> tuple[Range, ...]:
    """Who owns which places, in order, covering [0, BASIS); arms of weight 0 do not occur."""
    validate(split)
    owned: list[Range] = []
    place = 0
    parts = _candidate_ranges(_candidates(split), weights_of(split, segment))
    for part in sorted(parts, key=lambda part: part.start):
        if part.start > place:
            owned.append(Range(split.champion, place, part.start))
        owned.append(part)
        place = part.end
    if place < BASIS:
        owned.append(Range(split.champion, place, BASIS))
    return tuple(owned)


def places(units: Sequence[str], salt: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each unit sits on the circle.  (n_units,) int64, in [0, BASIS)."""
    digest = xxhash.xxh64_intdigest
    count = len(units)
    return np.fromiter((digest((salt + unit).encode()) % BASIS for unit in units), np.int64, count)


def assign(split: Split, unit: str, segment: str | None = None) -> str:
    """The arm that the router gives this unit."""
    return assign_many(split, [unit], segment)[0]


def assign_many(split: Split, units: Sequence[str], segment: str | None = None) -> list[str]:
    """The arm of each unit of one segment, in the order of `units`."""
    owned = ranges(split, segment)
    ends = np.array([part.end for part in owned], dtype=np.int64)
    owner = np.searchsorted(ends, places(units, split.salt), side="right")
    arms = [part.arm for part in owned]
    return [arms[index] for index in owner.tolist()]


def propensity(split: Split, arm: str, segment: str | None = None) -> float:
    """The probability, over salts or over requests without a unit, of being given `arm`."""
    validate(split)
    weights = weights_of(split, segment)
    if arm not in weights:
        raise InvariantError(f"arm {arm!r} is not among {sorted(weights)}")
    return weights[arm] / BASIS


def _candidates(split: Split) -> tuple[str, ...]:
    """Who owns an anchor: those of `anchors`, then those that it forgot, never the champion."""
    named = [arm for arm in split.anchors if arm != split.champion]
    rest = [arm for arm in split.weights if arm not in split.anchors and arm != split.champion]
    return (*named, *rest)


def _candidate_ranges(arms: Sequence[str], weights: Mapping[str, int]) -> list[Range]:
    """Each candidate's places; one that grows over the end of the circle goes on at its start."""
    widths = [weights.get(arm, 0) for arm in arms]
    parts: list[Range] = []
    for arm, start, width in zip(arms, _starts(widths), widths, strict=True):
        begin, end = start % BASIS, start % BASIS + width
        if width == 0:
            continue
        parts.append(Range(arm, begin, min(end, BASIS)))
        if end > BASIS:
            parts.append(Range(arm, 0, end - BASIS))
    return parts


def _starts(widths: Sequence[int]) -> list[int]:
    """Where each candidate begins: at its anchor, or where its neighbour's growth pushed it.

    The second lap carries what the last candidate pushes over the end of the circle. As widths
    sum to at most BASIS, that push ends before it meets the candidate that started it.
    """
    starts = [i * BASIS // len(widths) for i in range(len(widths))]
    pushed = 0
    for _lap in range(2):
        for i, width in enumerate(widths):
            if width == 0:
                continue
            starts[i] = max(starts[i], pushed)
            pushed = starts[i] + width
        pushed = max(pushed - BASIS, 0)
    return starts

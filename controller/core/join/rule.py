"""What goes into the joiner and comes out of it, apart from outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.model import Bool, Float, Int, Key, Reason, Rejected


@dataclass(frozen=True, slots=True)
class JoinRule:
    """How the rewards of a policy are joined.

    window_s   how long after an exposure a reward still counts for it
    grace_s    by how much events may come out of order, and clocks differ
    default    the value of an exposure without a reward
    low, high  values outside are rejected; a sum is capped at `high`
    by         what joins a reward that names no request
    units      a unit is declared: each enters the analysis once
    """

    window_s: float
    grace_s: float
    default: float
    low: float
    high: float
    aggregate: Literal["first", "last", "sum", "max", "mean"] = "first"
    by: Literal["request_id", "unit"] = "request_id"
    units: bool = False


@dataclass(frozen=True, slots=True)
class JoinExposures:
    """Exposures as the joiner needs them; all arrays (n,), in any order.

    offset, time, request, unit  as in `model.Exposures`
    arm         int64, index into the state's arms
    stratum     int64, index into the state's strata, -1 unknown
    in_rollout  bool, whether it belongs to the present rollout
    """

    offset: Int
    time: Float
    request: Key
    unit: Key
    arm: Int
    stratum: Int
    in_rollout: Bool

    def pick(self, chosen: Int) -> Self:
        """The exposures at these positions."""
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class JoinRewards:
    """Rewards of the joiner's name; all arrays (n,), in any order; as in `model.Rewards`."""

    offset: Int
    time: Float
    id: Key
    request: Key
    unit: Key
    value: Float

    @classmethod
    def none(cls) -> Self:
        """No rewards."""
        keys, floats = np.empty(0, np.uint64), np.empty(0)
        return cls(np.empty(0, np.int64), floats, keys, keys, keys, floats)

    def pick(self, chosen: Int | Bool) -> Self:
        """The rewards at these positions."""
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def followed_by(self, other: Self) -> Self:
        """These and the others."""
        if not self.time.size:
            return other
        if not other.time.size:
            return self
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return type(self)(**{name: np.concatenate(pair) for name, pair in pairs.items()})


class Cause(IntEnum):
    """Why the joiner could not use an event, finer than `Reason`."""

    REPEATED_EXPOSURE = 0
    EXPOSURE_TOO_LATE = 1
    REPEATED_REWARD = 2
    OUT_OF_RANGE = 3
    AFTER_WINDOW = 4
    AFTER_CLOSE = 5
    BEFORE_EXPOSURE = 6
    NO_EXPOSURE = 7
    NO_REQUEST = 8


_WORDS = {
    Cause.REPEATED_EXPOSURE: (Reason.DUPLICATE, "an exposure with this request id is known"),
    Cause.EXPOSURE_TOO_LATE: (Reason.LATE, "the exposure came later than the grace allows"),
    Cause.REPEATED_REWARD: (Reason.DUPLICATE, "a reward with this id is known"),
    Cause.OUT_OF_RANGE: (Reason.OUT_OF_RANGE, "the value is outside the policy's range"),
    Cause.AFTER_WINDOW: (Reason.LATE, "the attribution window of its exposure had ended"),
    Cause.AFTER_CLOSE: (Reason.LATE, "its exposure was closed before it came"),
    Cause.BEFORE_EXPOSURE: (Reason.LATE, "it precedes its exposure by more than the grace"),
    Cause.NO_EXPOSURE: (Reason.ORPHAN, "no exposure came that it could belong to"),
    Cause.NO_REQUEST: (Reason.ORPHAN, "it names no request, and the policy joins by request_id"),
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Events that the joiner could not use; arrays (n,), in order of offset.

    offset  int64
    cause   int8, a `Cause`
    """

    offset: Int
    cause: NDArray[np.int8]

    @classmethod
    def gather(cls, parts: Iterable[tuple[Int, Cause]]) -> Self:
        """One column of all the parts: offsets, and why they were refused."""
        kept = [(offset, cause) for offset, cause in parts if offset.size]
        if not kept:
            return cls(np.empty(0, np.int64), np.empty(0, np.int8))
        offset = np.concatenate([offset for offset, _ in kept])
        cause = np.concatenate([np.full(offset.size, cause, np.int8) for offset, cause in kept])
        order = np.argsort(offset, kind="stable")
        return cls(offset[order], cause[order])

    def counts(self) -> dict[Reason, int]:
        """How many events were refused for each reason."""
        found: Counter[Reason] = Counter()
        for cause, count in enumerate(np.bincount(self.cause)):
            if count:
                found[_WORDS[Cause(cause)][0]] += int(count)
        return dict(found)

    def listed(self) -> tuple[Rejected, ...]:
        """The same as objects, for the dead-letter table."""
        pairs = zip(self.offset.tolist(), self.cause.tolist(), strict=True)
        return tuple(Rejected(offset, *_WORDS[Cause(cause)]) for offset, cause in pairs)


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What became of a micro-batch.

    accepted  (n_exposures,) bool, in the order in which the exposures were given
    entered   (n_exposures,) bool: it enters the analysis, alone or as the first of its unit that
              came; a unit enters once, also when an earlier exposure of it comes later
    refused   exposures and rewards that could not be used
    """

    accepted: Bool
    entered: Bool
    refused: Refused

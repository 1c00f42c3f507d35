"""What goes into the joiner and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal, Self

import numpy as np

from controller.core.join.refuse import Dropped, Refused
from controller.core.join.store import RewardStore
from controller.core.model import Bool, Float, Int, Key, Outcomes, quick

_NO_INT: Final = np.empty(0, np.int64)
_NO_FLOAT: Final = np.empty(0)
_NO_KEY: Final = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class JoinRule:
    """How the rewards of a policy are joined.

    window_s   how long after an exposure a reward still counts for it
    grace_s    by how much events may come out of order, and clocks differ
    default    the value of an exposure without a reward
    low, high  values outside are rejected; a sum is capped at both
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


@quick
@dataclass(frozen=True)
class JoinExposures:
    """Exposures as the joiner needs them; all arrays (n,), in any order.

    offset, time, request, unit  as in `model.Exposures`
    arm         int64, index into the state's arms
    stratum     int64, index into the state's strata, -1 unknown: its unit will not enter again
    in_rollout  bool, whether it belongs to the present rollout
    level       int64, basis points: the candidate's share when it was routed, where units keep
                their place on the circle as that share grows; 0: its unit is not re-bucketed
    is_candidate  bool, whether its arm is not the champion
    bin         int64 in 0..127, covariate bin of its unit, 0 unknown; it is kept and comes out
                again with whatever becomes of the exposure
    """

    offset: Int
    time: Float
    request: Key
    unit: Key
    arm: Int
    stratum: Int
    in_rollout: Bool
    level: Int
    is_candidate: Bool
    bin: Int

    def pick(self, chosen: Int | Bool) -> Self:
        """The exposures at these positions."""
        return type(self)(*(getattr(self, n)[chosen] for n in self.__dataclass_fields__))


@quick
@dataclass(frozen=True)
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
        return cls(_NO_INT, _NO_FLOAT, _NO_KEY, _NO_KEY, _NO_KEY, _NO_FLOAT)

    @classmethod
    def of(cls, store: RewardStore, rows: Int) -> Self:
        """Rewards that were joined, by their rows; whom they name is not kept."""
        none = np.zeros(rows.size, np.uint64)
        offset = np.zeros(rows.size, np.int64)
        return cls(offset, store.time[rows], store.id[rows], none, none, store.value[rows])

    def pick(self, chosen: Int | Bool) -> Self:
        """The rewards at these positions."""
        return type(self)(*(getattr(self, n)[chosen] for n in self.__dataclass_fields__))

    def followed_by(self, other: Self) -> Self:
        """These and the others."""
        if not self.time.size:
            return other
        if not other.time.size:
            return self
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return type(self)(**{name: np.concatenate(pair) for name, pair in pairs.items()})


@quick
@dataclass(frozen=True)
class Joined:
    """How many rewards were joined, by arm and stratum of their exposures; all arrays (m,), int64.

    No pair of arm and stratum stands in it twice.
    """

    arm: Int
    stratum: Int
    count: Int

    @classmethod
    def none(cls) -> Self:
        """No rewards."""
        return cls(_NO_INT, _NO_INT, _NO_INT)

    def and_also(self, arm: Int, stratum: Int) -> Self:
        """With one more reward for each of these."""
        count = np.ones(arm.size, np.int64)
        if self.arm.size:
            arm = np.concatenate([self.arm, arm])
            stratum = np.concatenate([self.stratum, stratum])
            count = np.concatenate([self.count, count])
        if arm.size == 1:
            return type(self)(arm, stratum, count)
        order = np.lexsort((arm, stratum))
        arm, stratum, count = arm[order], stratum[order], count[order]
        is_new = np.ones(arm.size, np.bool_)
        is_new[1:] = (arm[1:] != arm[:-1]) | (stratum[1:] != stratum[:-1])
        first = is_new.nonzero()[0]
        return type(self)(arm[first], stratum[first], np.add.reduceat(count, first))


@quick
@dataclass(frozen=True)
class Matured:
    """Analysed exposures that the watermark has passed: at risk of an event from now on.

    All arrays (n,), in exposure order. A root is here once, before or together with its row in
    `Events` and in the outcomes.

    time, arm, stratum, unit, bin, base  as in `model.Outcomes`
    """

    time: Float
    arm: Int
    stratum: Int
    unit: Key
    bin: Int
    base: Int


@quick
@dataclass(frozen=True)
class Events:
    """First rewards of analysed exposures: each is here at most once, and at risk no longer.

    All arrays (n,), in order of (reward time, reward id). It is the first reward that decides, by
    event time, whichever request of the unit led to it. It is an *event* if it is better than no
    reward at all, in the sense in which the default is the bad end of the range:

        value > default  where default < high, also where the default lies inside the range
        value < default  where default = high: a reward can only take something away

    A first reward that is no event (a label that says "wrong", a value equal to the default or, for
    a default inside the range, below it) takes the unit out of risk without one: later rewards
    count for the outcome's value, not here.

    time, arm, stratum, unit, bin, base  those of the analysed exposure, as in `model.Outcomes`
    value     float64, as it was reported
    delay     float64, seconds from the exposure to the reward; 0 where clocks make it negative
    is_event  bool
    """

    time: Float
    arm: Int
    stratum: Int
    unit: Key
    bin: Int
    base: Int
    value: Float
    delay: Float
    is_event: Bool


@quick
@dataclass(frozen=True)
class Absorbed:
    """What became of a micro-batch.

    accepted  (n_exposures,) bool, in the order in which the exposures were given
    entered   (n_exposures,) bool: it enters the analysis, alone or as the first of its unit that
              came, or as the first of its unit under a higher level. It is what is known now: an
              exposure that comes later and precedes it takes its place in `Matured` and in the
              outcomes, without being `entered`
    base      (n_exposures,) int64, basis points: the level from which it re-enters, else 0
    dropped   exposures that came too late, rewards that came after their exposure had closed
    refused   exposures and rewards that could not be used, the dropped ones among them
    """

    accepted: Bool
    entered: Bool
    base: Int
    dropped: Dropped
    refused: Refused


@quick
@dataclass(frozen=True)
class Closed:
    """What became certain with a tick.

    outcomes  exposures whose window has ended, in exposure order
    matured   analysed exposures that the watermark has passed
    events    their first rewards, up to the watermark
    dropped   rewards that name a unit and came after the exposure had closed
    joined    rewards joined since the last `close`
    refused   rewards that could not be used, the dropped ones among them
    """

    outcomes: Outcomes
    matured: Matured
    events: Events
    dropped: Dropped
    joined: Joined
    refused: Refused

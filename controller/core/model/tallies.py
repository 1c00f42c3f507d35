"""Sums instead of events: what another joiner counted, and where the partitions stand."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

import numpy as np

from controller.core.model.words import NO_EPOCH, Float, Int

_WHOLE: Final = frozenset({"offset", "epoch", "segment", "arm", "reward", "pace", "pace_borne"})
_UNLESS_GIVEN: Final[dict[str, float]] = {
    "epoch": NO_EPOCH,
    "segment": -1,
    "propensity": float("nan"),
}


@dataclass(frozen=True, slots=True)
class Tallies:
    """What somebody else's joiner counted: sums over exposures that share their columns.

    A partition's worker, or a simulation, joins events itself and sends these instead of the
    events; they are the same sums that this model's own joiner makes of a micro-batch. All arrays
    (n,), in any order.

    offset      int64
    time        float64, epoch seconds of the exposures: the latest of those that came, the middle
                of those that matured; else any time between the watermarks between which they did
    epoch       int64, the split that they were routed with
    propensity  float64, the chance of their arm where they say it themselves; NaN: they do not
    segment     int64, index into the batch's `names`; -1: none. Of what is counted as `sighted` the
                header value that exposures carried, else that which is a segment
    arm         int64, index into the batch's `names`
    reward      int64, which of the policy's rewards closed them; 0, the first, for all else
    exposures, errors              answered requests; failed ones
    entered, entered_errors        of these, those with which a unit enters the analysis
    matured                        analysed units whose exposure the watermark has reached
    events, event_value, delay     of these, units whose first reward above the default came now;
                                   the sum of these rewards; seconds to them, on average
    outcomes, joined, value, square  closed exposures; those with a reward; sum of their values and
                                   of the values' squares
    analysed, analysed_value       of these, those that are analysed; sum of their values
    lapsed                         analysed units that closed without an event
    credited                       rewards that were joined, closed or not
    late_exposures, late_rewards   what came too late to be used
    copies, copy_errors            answers to mirrored requests, which no user saw; failed ones
    sighted                        exposures that carried a header value
    timed, pace, pace_borne, increase  answers that say how long they took; int64, the bin of
                                   `estimate.latency` in which they all are, and that in which they
                                   are where latencies may be longer by this relative increase
    All counts are float64. Of a reward that is an amount, rows of outcomes share their value.
    """

    offset: Int
    time: Float
    epoch: Int
    segment: Int
    arm: Int
    exposures: Float
    errors: Float
    entered: Float
    entered_errors: Float
    matured: Float
    events: Float
    delay: Float
    outcomes: Float
    joined: Float
    value: Float
    analysed: Float
    analysed_value: Float
    lapsed: Float
    propensity: Float
    reward: Int
    event_value: Float
    square: Float
    credited: Float
    late_exposures: Float
    late_rewards: Float
    copies: Float
    copy_errors: Float
    # From here on with a default, so that a snapshot from before they were added can be read.
    sighted: Float = field(default_factory=lambda: np.zeros(0))
    timed: Float = field(default_factory=lambda: np.zeros(0))
    pace: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    pace_borne: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    increase: Float = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, n: int, **columns: Any) -> Self:
        """So many rows with these columns; the others say nothing."""
        given: dict[str, Any] = {
            f.name: np.asarray(
                columns.get(f.name, np.full(n, _UNLESS_GIVEN.get(f.name, 0.0))),
                np.int64 if f.name in _WHOLE else np.float64,
            )
            for f in fields(cls)
        }
        return cls(**given)

    def whole(self) -> Self:
        """The same rows; columns that a snapshot did not have say nothing."""
        n = len(self.time)
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return self.of(n, **{name: each for name, each in columns.items() if len(each) == n})

    def pick(self, rows: Any) -> Self:
        """These of the rows: a mask, or indices."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    def followed_by(self, other: Self) -> Self:
        """These rows, then the others."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return type(self)(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class TalliesEvent:
    """What a partition's worker counted between two ticks of its log: one event, or several parts.

    start, end   offsets of the partition's log: what it counts, the tick at its end included
    part, parts  which part of that it is, from 0, of how many
    time         of that tick
    open         exposures and rewards of the partition that are not settled yet
    rejected     reason -> events between the ticks that could not be used
    arms         what the rows' `arm` indexes into
    segments     what their `segment` indexes into
    """

    offset: int
    partition: int
    start: int
    end: int
    part: int
    parts: int
    time: float
    open: int
    rejected: dict[str, int]
    arms: tuple[str, ...]
    rows: Tallies
    segments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a partition is known.

    end, part  offset of its log up to which all is counted; parts taken of what begins there
    clock      event time of the last tick that it has told in full
    open       as it said itself
    is_open    it is told the time, and waited for
    """

    end: int = 0
    part: int = 0
    clock: float = float("-inf")
    open: int = 0
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Partitions:
    """A model's partitions as its leader knows them.

    count        over how many logs events are split; 1: they stand in the model's own
    changed      when that came to be
    standing     of each partition that ever was
    ticks        (n,) float64, the clock's times that not every open partition has told, rising
    clock        up to this tick everything was taken in; inf where no partition is open
    first_epoch  the first split of the present rollout
    held         sums that wait until all partitions have told their tick; arms are the state's
    held_clock   (n,) float64, that tick
    names        what the segments of `held` index into
    pending, rewards  (n_arms,) int64, exposures that are not closed, and rewards that were joined,
                 in the partitions
    """

    count: int = 1
    changed: float = float("-inf")
    standing: dict[int, Standing] = field(default_factory=dict)
    ticks: Float = field(default_factory=lambda: np.zeros(0))
    clock: float = float("inf")
    first_epoch: int = 0
    held: Tallies = field(default_factory=lambda: Tallies.of(0))
    held_clock: Float = field(default_factory=lambda: np.zeros(0))
    names: tuple[str, ...] = ()
    pending: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    rewards: Int = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def open(self) -> tuple[int, ...]:
        """The partitions that are told the time, in order."""
        return tuple(sorted(n for n, each in self.standing.items() if each.is_open))

    def behind_s(self, number: int, now: float) -> float:
        """For how long the oldest tick that a partition has not told has been waited for."""
        owed = self.ticks[self.ticks > self.standing[number].clock]
        return max(0.0, now - float(owed[0])) if len(owed) else 0.0

"""How the peers decide: their documented rules as pure values, side by side.

A rule is an immutable value with two functions. `start(runs)` gives the state of so many rollouts
at once; `judge(state, seen, time_s)` takes what was counted in the minute that ends at `time_s` and
gives the next state and a ruling. Every array has one entry per rollout, so a thousand rollouts
cost little more than one. A rule never sees what a monitoring system would not show it: rewards
are counted in the minute in which they come, whatever request they belong to.

Where a source documents an example, its numbers are the defaults; where it gives the form only,
the docstring says which numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


class Verdict(IntEnum):
    """What a rule says of one rollout."""

    HOLD = 0
    PROMOTE = 1
    ROLL_BACK = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What was counted in one interval; all arrays (runs, 2): champion, candidate.

    n         requests answered
    errors    of these, failed
    p99_ms    99th percentile of their latency; NaN without requests
    rewards   positive rewards that came in the interval, whenever their request was
    labels    rewards that came in the interval, positive or not
    """

    n: Float
    errors: Float
    p99_ms: Float
    rewards: Float
    labels: Float


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rule answers, for each rollout.

    verdict  (runs,) of `Verdict`
    weight   (runs,) share of the candidate from now on, while the verdict is HOLD
    """

    verdict: NDArray[np.int64]
    weight: Float


class Rule(Protocol):
    """The way in which one peer decides.

    name         for the table
    source       where the rule stands
    counts_once  whether a reward that is sent twice counts once
    by_unit      whether the units of analysis are users, not requests
    """

    name: str
    source: str
    counts_once: bool
    by_unit: bool

    def start(self, runs: int) -> Any:
        """The state before the first interval."""

    def judge(self, state: Any, seen: Seen, time_s: float) -> tuple[Any, Ruling]:
        """The next state and a ruling; `time_s` since the rollout began."""

    def first_weight(self) -> float:
        """The candidate's share in the first interval."""


def ruling(weight: Float | float, *, promote: Bool, roll_back: Bool) -> Ruling:
    """A ruling; where both are true, rolling back comes first."""
    verdict = np.where(roll_back, Verdict.ROLL_BACK, np.where(promote, Verdict.PROMOTE, 0))
    return Ruling(verdict.astype(np.int64), np.broadcast_to(weight, promote.shape).astype(float))


def is_due(time_s: float, every_s: float) -> bool:
    """Whether a rule that looks every so often looks now; time comes in whole seconds."""
    return round(time_s) % round(every_s) == 0


def ratio(part: Float, whole: Float) -> Float:
    """part / whole, NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


@dataclass(frozen=True, slots=True)
class Counts:
    """Running sums; arrays (runs, 2)."""

    n: Float
    s: Float

    def plus(self, n: Float, s: Float) -> Counts:
        """The sums with one interval more."""
        return Counts(self.n + n, self.s + s)

    @property
    def mean(self) -> Float:
        """(runs, 2); NaN without trials."""
        return ratio(self.s, self.n)

    @property
    def variance(self) -> Float:
        """(runs, 2) of a 0/1 outcome, unbiased; NaN below two trials."""
        m = self.mean
        return ratio(m * (1.0 - m) * self.n, np.maximum(self.n - 1.0, 0.0))


def no_counts(runs: int) -> Counts:
    """Nothing seen yet."""
    return Counts(np.zeros((runs, 2)), np.zeros((runs, 2)))

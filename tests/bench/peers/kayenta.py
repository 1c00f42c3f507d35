"""Kayenta's NetflixACAJudge: Mann-Whitney at 98 % on the points of each minute, looked at anew.

A metric fails where the confidence interval of the Hodges-Lehmann shift lies beyond a band of
0.25 of its estimate on the bad side. By the duality of tests and intervals that is a one-sided
test of the points moved by the band, at 1 %, which is how it is computed here (scipy's asymptotic
test with its continuity correction, as Kayenta's). The score is the share of metrics that
pass, two here (reward rate, error rate), so one failure is below the marginal score of 75. Each
look takes all points so far ("growing"); that there are several looks is not corrected for.

Spinnaker's example: three hours, a look every hour. The share of a quarter is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import mannwhitneyu

from tests.bench.peers import Bool, Float, Ruling, Seen, is_due, ratio, ruling


@dataclass(frozen=True, slots=True)
class State:
    """The points so far, one per minute: each (runs, 2)."""

    rewards: tuple[Float, ...]
    errors: tuple[Float, ...]


@dataclass(frozen=True, slots=True)
class Kayenta:
    """One analysis: the reward rate must not fall, the error rate must not rise."""

    confidence: float = 0.98
    band: float = 0.25
    every_s: float = 3600.0
    lifetime_s: float = 3 * 3600.0
    weight: float = 0.25
    name: str = "Kayenta"
    source: str = "kayenta, MannWhitneyClassifier.scala and NetflixACAJudge.scala"
    counts_once: bool = field(default=False, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return self.weight

    def start(self, runs: int) -> State:
        del runs
        return State((), ())

    def judge(self, state: State, seen: Seen, time_s: float) -> tuple[State, Ruling]:
        state = State(
            (*state.rewards, ratio(seen.rewards, seen.n)),
            (*state.errors, ratio(seen.errors, seen.n)),
        )
        nobody = np.zeros(len(seen.n), bool)
        if not is_due(time_s, self.every_s):
            return state, ruling(self.weight, promote=nobody, roll_back=nobody)
        failed = self.fails(np.stack(state.rewards), -1) | self.fails(np.stack(state.errors), 1)
        over = np.full(len(failed), time_s >= self.lifetime_s)
        return state, ruling(self.weight, promote=over, roll_back=failed)

    def fails(self, points: Float, bad: int) -> Bool:
        """points (minutes, runs, 2); bad: the sign of a shift that does harm."""
        return np.array([self._fails(run[:, 1], run[:, 0], bad) for run in points.swapaxes(0, 1)])

    def _fails(self, candidate: Float, champion: Float, bad: int) -> bool:
        x, y = candidate[np.isfinite(candidate)], champion[np.isfinite(champion)]
        if len(x) == 0 or len(y) == 0 or (np.ptp(x) == 0 and np.ptp(y) == 0):
            return False
        shift = float(np.median(x[:, np.newaxis] - y))
        side = "greater" if bad > 0 else "less"
        moved = x - bad * self.band * abs(shift)
        found = mannwhitneyu(moved, y, alternative=side, method="asymptotic")
        return bool(found.pvalue < (1.0 - self.confidence) / 2.0)

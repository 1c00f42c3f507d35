"""Flagger: each minute every metric lies in its range, or a failed check is counted.

`pkg/controller/scheduler.go`, advanceCanary: where `failedChecks >= threshold` the canary is rolled
back; a failed check (no traffic is one) halts the advance; otherwise the weight grows by a step up
to `maxWeight`, after which the canary is promoted. Failed checks are never forgiven.

The documented example: 2 % steps to 50 %, an interval of one minute, threshold 10, success rate
>= 99 %, P99 <= 500 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.bench.peers import Bool, Float, Ruling, Seen, is_due, ratio, ruling


@dataclass(frozen=True, slots=True)
class State:
    """failed: (runs,) checks; weight: (runs,) share of the candidate."""

    failed: Float
    weight: Float


@dataclass(frozen=True, slots=True)
class Flagger:
    """The documented example, on answers without error.

    on_rewards  adds a metric template: the candidate's reward rate over the champion's in the last
                minute is at least `least_ratio` (0.9 is our choice)
    """

    least: float = 0.99
    most_ms: float = 500.0
    step: float = 0.02
    most_weight: float = 0.5
    threshold: int = 10
    every_s: float = 60.0
    on_rewards: bool = False
    least_ratio: float = 0.9
    name: str = "Flagger"
    source: str = "flagger, pkg/controller/scheduler.go and the documented canary example"
    counts_once: bool = field(default=False, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return self.step

    def start(self, runs: int) -> State:
        return State(np.zeros(runs), np.full(runs, self.step))

    def judge(self, state: State, seen: Seen, time_s: float) -> tuple[State, Ruling]:
        if not is_due(time_s, self.every_s):
            nobody = np.zeros(len(state.failed), bool)
            return state, ruling(state.weight, promote=nobody, roll_back=nobody)
        passed = self._passes(seen)
        failed = state.failed + ~passed
        promote = passed & (state.weight > self.most_weight - 1e-9)
        grown = np.minimum(state.weight + self.step, self.most_weight)
        weight = np.where(passed, grown, state.weight)
        rolled_back = failed >= self.threshold
        return State(failed, weight), ruling(weight, promote=promote, roll_back=rolled_back)

    def _passes(self, seen: Seen) -> Bool:
        success = ratio(seen.n - seen.errors, seen.n)[:, 1]
        passed = (success >= self.least) & (seen.p99_ms[:, 1] <= self.most_ms)
        if self.on_rewards:
            rate = ratio(seen.rewards, seen.n)
            passed &= ratio(rate[:, 1], rate[:, 0]) >= self.least_ratio
        return passed


ON_REWARDS = Flagger(on_rewards=True, name="Flagger, metric on rewards")

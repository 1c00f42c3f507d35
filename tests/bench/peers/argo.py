"""Argo Rollouts: a measurement is a success or a failure; more failures than a limit abort.

`analysis/analysis.go`: `failed > failureLimit` aborts and sets the weight to 0. Failures add up
over the whole run and are never forgiven; there is no least sample. A measurement without data is
NaN, which satisfies no condition, so it counts as a failure.

The documented example: 20, 40, 60, 80 %, ten minutes each; a background analysis takes the
success rate of the last five minutes every five minutes; success is >= 0.95; failureLimit 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.bench.peers import Counts, Float, Ruling, Seen, is_due, no_counts, ratio, ruling


@dataclass(frozen=True, slots=True)
class State:
    """since: counts since the last measurement; failed: (runs,) measurements."""

    since: Counts
    failed: Float


@dataclass(frozen=True, slots=True)
class Argo:
    """The documented example, on answers without error.

    on_rewards  judges the candidate's reward rate over the champion's instead, as a user may write
                in PromQL; `least` is then the least ratio (0.9 is our choice)
    """

    least: float = 0.95
    on_rewards: bool = False
    steps: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    step_s: float = 600.0
    every_s: float = 300.0
    failure_limit: int = 3
    name: str = "Argo Rollouts"
    source: str = "argo-rollouts, analysis/analysis.go and the documented canary example"
    counts_once: bool = field(default=False, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return self.steps[0]

    def start(self, runs: int) -> State:
        return State(no_counts(runs), np.zeros(runs))

    def judge(self, state: State, seen: Seen, time_s: float) -> tuple[State, Ruling]:
        since = state.since.plus(seen.n, seen.rewards if self.on_rewards else seen.n - seen.errors)
        failed = state.failed
        if is_due(time_s, self.every_s):
            failed = failed + ~self._is_success(since)
            since = no_counts(len(failed))
        step = int(time_s // self.step_s)
        weight = self.steps[min(step, len(self.steps) - 1)]
        over = np.full(len(failed), step >= len(self.steps))
        aborted = failed > self.failure_limit
        return State(since, failed), ruling(weight, promote=over, roll_back=aborted)

    def _is_success(self, since: Counts) -> np.ndarray:
        rate = since.mean
        value = ratio(rate[:, 1], rate[:, 0]) if self.on_rewards else rate[:, 1]
        return np.nan_to_num(value, nan=-np.inf) >= self.least


ON_REWARDS = Argo(least=0.9, on_rewards=True, name="Argo, PromQL on rewards")

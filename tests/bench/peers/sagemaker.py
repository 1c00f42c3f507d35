"""Amazon SageMaker's deployment guardrails: a step, a baking time, any alarm takes all back.

The canary (25 % in the documentation's example) bakes; if no CloudWatch alarm trips, the rest of
the traffic follows. Without alarms there is no rollback. A missing datum breaches nothing. The
alarm of the documentation has the form "the average of Invocation5XXErrors is above a threshold in
k periods"; the numbers here are ours: 1 %, two periods of one minute, ten minutes of baking.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.bench.peers import Float, Ruling, Seen, ratio, ruling


@dataclass(frozen=True, slots=True)
class SageMaker:
    """The state is the number of breaching periods in a row, (runs,)."""

    weight: float = 0.25
    bake_s: float = 600.0
    most: float = 0.01
    periods: int = 2
    name: str = "SageMaker"
    source: str = "AWS documentation, deployment guardrails: canary traffic shifting, alarms"
    counts_once: bool = field(default=False, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return self.weight

    def start(self, runs: int) -> Float:
        return np.zeros(runs)

    def judge(self, state: Float, seen: Seen, time_s: float) -> tuple[Float, Ruling]:
        breaches = np.nan_to_num(ratio(seen.errors, seen.n)[:, 1]) > self.most
        in_a_row = np.where(breaches, state + 1, 0.0)
        over = np.full(len(in_a_row), time_s >= self.bake_s)
        return in_a_row, ruling(self.weight, promote=over, roll_back=in_a_row >= self.periods)

"""What people do by hand: look at a dashboard every so often, and stop when it looks clear.

`p_best_hourly`: the posterior probability to be best is at least 95 % (the Autotune kind), hourly.
`z_test`: the two-proportion z-test is significant at 5 % at some look. Both pool all that was seen
since the rollout began, though the split moved meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from tests.bench.peers import Counts, Float, Ruling, Seen, is_due, no_counts, ruling
from tests.bench.peers.growthbook import p_best


@dataclass(frozen=True, slots=True)
class Looks:
    """A rule that pools counts and looks at one number z, (runs,), every so often.

    steps, step_s  the ramp of the candidate's share; the last step stays
    """

    every_s: float
    limit: float
    name: str
    kind: str
    steps: tuple[float, ...] = (0.5,)
    step_s: float = 3600.0
    source: str = "what people do by hand"
    counts_once: bool = field(default=False, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return self.steps[0]

    def start(self, runs: int) -> Counts:
        return no_counts(runs)

    def judge(self, state: Counts, seen: Seen, time_s: float) -> tuple[Counts, Ruling]:
        counts = state.plus(seen.n, seen.rewards)
        weight = self.steps[min(int(time_s // self.step_s), len(self.steps) - 1)]
        z = self._z(counts) if is_due(time_s, self.every_s) else np.zeros(len(counts.n))
        return counts, ruling(weight, promote=z >= self.limit, roll_back=z <= -self.limit)

    def _z(self, counts: Counts) -> Float:
        return pooled_z(counts) if self.kind == "z" else _ndtri(p_best(counts))


def _ndtri(p: Float) -> Float:
    return ndtri(np.clip(p, 1e-300, 1.0 - 1e-16))


def pooled_z(counts: Counts) -> Float:
    """(runs,): the two-proportion z statistic with the pooled variance; 0 without variance."""
    n, s = counts.n, counts.s
    p = s.sum(axis=1) / np.maximum(n.sum(axis=1), 1.0)
    error = np.sqrt(np.maximum(p * (1 - p), 0.0) * (1 / np.maximum(n, 1.0)).sum(axis=1))
    gap = np.nan_to_num(counts.mean[:, 1] - counts.mean[:, 0])
    return np.divide(gap, error, out=np.zeros_like(gap), where=error > 0)


def p_best_hourly(steps: tuple[float, ...] = (0.5,), step_s: float = 3600.0) -> Looks:
    """P(best) >= 95 % at an hourly look names the winner."""
    return Looks(3600.0, float(ndtri(0.95)), "P(best) >= 95 %, hourly", "p", steps, step_s)


def z_test(
    steps: tuple[float, ...] = (0.5,), step_s: float = 3600.0, every_s: float = 600.0
) -> Looks:
    """p < 5 %, two-sided, at a look every ten minutes."""
    return Looks(every_s, float(ndtri(0.975)), "z-test at 5 %, each look", "z", steps, step_s)

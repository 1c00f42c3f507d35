"""GrowthBook: safe rollouts under a sequential interval, and bandits with normal posteriors.

Safe rollout: at each refresh (six hours) it rolls back if a guardrail is a significant loser under

    half-width = sqrt(s2 2 (n r^2 + 1) ln(sqrt(n r^2 + 1) / alpha) / (n r)^2)
    r = sqrt((-2 ln alpha + ln(-2 ln alpha + 1)) / N*),  N* = 5000

(Waudby-Smith et al. arXiv:2103.06476, eq. 9 and 161; n of both arms, s2 the variance of one
observation of the difference) and it *ships when the days are over*: absence of harm promotes.
Half of the enrolled units get each arm.

Bandit: weights are the probabilities to be best of normal posteriors, at least 1 % each, from 100
units per arm on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr

from tests.bench.peers import Counts, Float, Ruling, Seen, is_due, no_counts, ruling

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SafeRollout:
    """One guardrail: the reward. The state is the counts so far."""

    alpha: float = 0.05
    tuning: float = 5000.0
    every_s: float = 6 * 3600.0
    days: float = 7.0
    weight: float = 0.5
    name: str = "GrowthBook safe rollout"
    source: str = "growthbook, gbstats/frequentist/tests.py, safe rollouts"
    counts_once: bool = field(default=True, init=False)
    by_unit: bool = field(default=True, init=False)

    def first_weight(self) -> float:
        return self.weight

    def start(self, runs: int) -> Counts:
        return no_counts(runs)

    def judge(self, state: Counts, seen: Seen, time_s: float) -> tuple[Counts, Ruling]:
        counts = state.plus(seen.n, seen.rewards)
        nobody = np.zeros(len(counts.n), bool)
        if not is_due(time_s, self.every_s):
            return counts, ruling(self.weight, promote=nobody, roll_back=nobody)
        gap = counts.mean[:, 1] - counts.mean[:, 0]
        loses = np.nan_to_num(gap + self.half_width(counts)) < 0.0
        over = np.full(len(loses), time_s >= self.days * DAY_S)
        return counts, ruling(self.weight, promote=over, roll_back=loses)

    def half_width(self, counts: Counts) -> Float:
        """(runs,), of the difference of the means."""
        n = counts.n.sum(axis=1)
        s2 = n * (counts.variance / np.maximum(counts.n, 1.0)).sum(axis=1)
        t = n * self.rho() ** 2 + 1.0
        return np.sqrt(s2 * 2.0 * t * np.log(np.sqrt(t) / self.alpha)) / (n * self.rho())

    def rho(self) -> float:
        """The tuning of the interval, tightest near n = N*."""
        doubled = -2.0 * np.log(self.alpha)
        return float(np.sqrt((doubled + np.log(doubled + 1.0)) / self.tuning))


def p_best(counts: Counts) -> Float:
    """(runs,): probability of the candidate's mean to be higher, normal posteriors, flat priors."""
    error = (counts.variance / np.maximum(counts.n, 1.0)).sum(axis=1)
    gap = counts.mean[:, 1] - counts.mean[:, 0]
    z = np.divide(gap, np.sqrt(error), out=np.zeros_like(gap), where=error > 0)
    return ndtr(np.nan_to_num(z))


@dataclass(frozen=True, slots=True)
class Bandit:
    """Weights only: it never promotes and never rolls back by itself."""

    floor: float = 0.01
    least: int = 100
    every_s: float = 3600.0
    name: str = "GrowthBook bandit"
    source: str = "growthbook, gbstats/bayesian/bandits.py"
    counts_once: bool = field(default=True, init=False)
    by_unit: bool = field(default=True, init=False)

    def first_weight(self) -> float:
        return 0.5

    def start(self, runs: int) -> tuple[Counts, Float]:
        return no_counts(runs), np.full(runs, 0.5)

    def judge(
        self, state: tuple[Counts, Float], seen: Seen, time_s: float
    ) -> tuple[tuple[Counts, Float], Ruling]:
        counts, weight = state[0].plus(seen.n, seen.rewards), state[1]
        if is_due(time_s, self.every_s):
            weight = self.weights(counts, weight)
        nobody = np.zeros(len(weight), bool)
        return (counts, weight), ruling(weight, promote=nobody, roll_back=nobody)

    def weights(self, counts: Counts, before: Float) -> Float:
        """(runs,): the candidate's share from these counts on."""
        best = p_best(counts)
        raised = np.maximum(np.stack([1.0 - best, best]), self.floor)
        enough = (counts.n >= self.least).all(axis=1)
        return np.where(enough, raised[1] / raised.sum(axis=0), before)

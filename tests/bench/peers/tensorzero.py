"""TensorZero's track-and-stop: sample by the variances, stop at a generalised likelihood ratio.

    (m_lead - m_i + eps)^2 / (2 (s2_lead / n_lead + s2_i / n_i)) > ln((1 + ln n) / delta)

for every other arm i. Only requests that *received* feedback are averaged: where bad answers are
rated less often, or later, the means are not those of the requests. For two arms the optimal
shares are as the standard deviations (Neyman's). Refreshed every five minutes; no arm is judged
before ten samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.bench.peers import Counts, Float, Ruling, Seen, is_due, no_counts, ruling


@dataclass(frozen=True, slots=True)
class State:
    """labels: sums over feedback; weight: (runs,)."""

    labels: Counts
    weight: Float


@dataclass(frozen=True, slots=True)
class TensorZero:
    """delta 0.05, epsilon 0: its defaults."""

    delta: float = 0.05
    epsilon: float = 0.0
    every_s: float = 300.0
    least: int = 10
    least_variance: float = 1e-6
    name: str = "TensorZero"
    source: str = "tensorzero, experimentation/track_and_stop"
    counts_once: bool = field(default=True, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return 0.5

    def start(self, runs: int) -> State:
        return State(no_counts(runs), np.full(runs, 0.5))

    def judge(self, state: State, seen: Seen, time_s: float) -> tuple[State, Ruling]:
        labels = state.labels.plus(seen.labels, seen.rewards)
        if not is_due(time_s, self.every_s):
            nobody = np.zeros(len(state.weight), bool)
            return State(labels, state.weight), ruling(
                state.weight, promote=nobody, roll_back=nobody
            )
        enough = (labels.n >= self.least).all(axis=1)
        spread = np.sqrt(np.maximum(np.nan_to_num(labels.variance), self.least_variance))
        weight = np.where(enough, spread[:, 1] / spread.sum(axis=1), 0.5)
        leads = np.nan_to_num(labels.mean[:, 1] - labels.mean[:, 0])
        stops = enough & (self.glr(labels) > self.threshold(labels.n.sum(axis=1)))
        return State(labels, weight), ruling(
            weight, promote=stops & (leads > 0), roll_back=stops & (leads < 0)
        )

    def glr(self, labels: Counts) -> Float:
        """(runs,) of the leader against the other; NaN before there are two labels of each."""
        gap = np.abs(labels.mean[:, 1] - labels.mean[:, 0]) + self.epsilon
        error = np.maximum(labels.variance, self.least_variance) / np.maximum(labels.n, 1.0)
        return gap**2 / (2.0 * error.sum(axis=1))

    def threshold(self, n: Float) -> Float:
        """(runs,): what the ratio must exceed after n labels."""
        return np.log((1.0 + np.log(np.maximum(n, 1.0))) / self.delta)

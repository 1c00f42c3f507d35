"""Vowpal Wabbit's `--baseline_challenger_cb`: play the baseline while it is surely better.

`reductions/baseline_challenger_cb.cc`: the policy's importance-weighted mean and a lower bound of
the baseline's (chi-squared empirical likelihood, `distributionally_robust.cc`), both with decay
tau = 0.999 per request; the baseline is played where the bound exceeds the mean. Underneath,
epsilon-greedy exploration with 0.05 over two actions. Here the policy is the candidate. It never
stops by itself; when `days` are over, what is being played counts as its verdict (ours).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import chi2

from tests.bench.peers import Bool, Float, Ruling, Seen, ruling
from tests.bench.peers.growthbook import DAY_S


@dataclass(frozen=True, slots=True)
class State:
    """Decayed sums, (runs,); w is 1 / probability where the baseline was played, else 0.

    n, w, w2, wr, w2r  number, sums of w, w^2, w r, w^2 r (r is 0 or 1, so r^2 = r)
    policy_w, policy_wr   the same of the policy
    play_baseline         bool: what the last interval was played with
    """

    n: Float
    w: Float
    w2: Float
    wr: Float
    w2r: Float
    policy_w: Float
    policy_wr: Float
    play_baseline: Bool


@dataclass(frozen=True, slots=True)
class BaselineChallenger:
    """Its defaults: alpha 0.05, tau 0.999, epsilon 0.05."""

    alpha: float = 0.05
    tau: float = 0.999
    epsilon: float = 0.05
    days: float = 1.0
    name: str = "Vowpal Wabbit"
    source: str = "vowpal_wabbit, baseline_challenger_cb.cc and distributionally_robust.cc"
    counts_once: bool = field(default=True, init=False)
    by_unit: bool = field(default=False, init=False)

    def first_weight(self) -> float:
        return 1.0 - self.epsilon / 2

    def start(self, runs: int) -> State:
        zero = np.zeros(runs)
        return State(zero, zero, zero, zero, zero, zero, zero, np.zeros(runs, bool))

    def judge(self, state: State, seen: Seen, time_s: float) -> tuple[State, Ruling]:
        state = self._learn(state, seen)
        mean = np.divide(
            state.policy_wr, state.policy_w, out=np.zeros_like(state.n), where=state.policy_w > 0
        )
        baseline = self.lower_bound(state) > mean
        weight = np.where(baseline, self.epsilon / 2, 1.0 - self.epsilon / 2)
        over = time_s >= self.days * DAY_S
        after = State(*(getattr(state, f) for f in _SUMS), baseline)
        return after, ruling(weight, promote=over & ~baseline, roll_back=over & baseline)

    def _learn(self, state: State, seen: Seen) -> State:
        """One interval's requests, as if they came evenly mixed."""
        m = seen.n.sum(axis=1)
        kept = self.tau**m
        share = np.divide(1.0, m, out=np.zeros_like(m), where=m > 0) * (1 - kept) / (1 - self.tau)
        p1 = np.where(state.play_baseline, self.epsilon / 2, 1.0 - self.epsilon / 2)
        w0, w1 = 1.0 / (1.0 - p1), 1.0 / p1
        n0, s0, n1, s1 = seen.n[:, 0], seen.rewards[:, 0], seen.n[:, 1], seen.rewards[:, 1]
        added = (m, w0 * n0, w0**2 * n0, w0 * s0, w0**2 * s0, w1 * n1, w1 * s1)
        sums = [kept * getattr(state, f) + share * a for f, a in zip(_SUMS, added, strict=True)]
        return State(*sums, state.play_baseline)

    def lower_bound(self, state: State) -> Float:
        """(runs,): the lower bound of the baseline's mean, in [0, 1]; 0 before there is any."""
        n, delta = np.maximum(state.n, 1e-9), float(chi2.isf(self.alpha, 1))
        # An unseen weight is 0 where the seen ones sum to too much, else without limit.
        phi = np.where(state.w < n, -(1 + 1 / n + delta), -(_excess(state, n) + delta))
        phi = phi / (2 * (n + 1))
        bounds = np.minimum(_with_infinite(state, n, phi), _with_zero(state, n, phi))
        return np.where(np.isfinite(bounds), np.clip(bounds, 0.0, 1.0), 0.0)


_SUMS = ("n", "w", "w2", "wr", "w2r", "policy_w", "policy_wr")


def _excess(state: State, n: Float) -> Float:
    a, b = state.w / (1 + n), state.w2 / (1 + n)
    spread = np.maximum(b - a * a, 1e-300)
    return (n + 1) * (a - 1) ** 2 / spread


def _with_infinite(state: State, n: Float, phi: Float) -> Float:
    y = state.wr**2 / (n * (1 + n)) - state.w2r / (1 + n)
    z = phi + 1 / (2 * n)
    return _bound(state.wr / n, y, z)


def _with_zero(state: State, n: Float, phi: Float) -> Float:
    w, w2 = state.w / (1 + n), state.w2 / (1 + n)
    wr, w2r = state.wr / (1 + n), state.w2r / (1 + n)
    spread = w2 - w * w
    safe = np.where(spread > 0, spread, np.nan)
    x = wr + (1 - w) * (w2r - w * wr) / safe
    y = (w2r - w * wr) ** 2 / safe - (w2r - wr * wr)
    z = phi + 0.5 * (1 - w) ** 2 / safe
    return _bound(x, y, z)


def _bound(x: Float, y: Float, z: Float) -> Float:
    """x - sqrt(2 y z) where the dual exists, infinity where it does not; 0 where it degenerates."""
    product = y * z
    is_nothing = np.abs(product) <= 1e-9
    exists = (z <= 0) & ((product >= 0) | is_nothing)
    found = x - np.sqrt(2 * np.where(exists & ~is_nothing, product, 0.0))
    return np.where(exists, np.where(is_nothing, 0.0, found), np.inf)

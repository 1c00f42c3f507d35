"""The arena: one seeded stream of traffic, and each rule drives its own split through it.

A fight is a closed loop: the weights that a rule wants are the shares that the next interval's
requests get. The arrivals are the same for every rule (their generator is seeded by scenario and
run alone); who gets which arm, and what users then do, follows the rule's split.

Delays are exponential, so that the rewards still to come of an arm need one number: each of them
comes within the next one with the same probability, however old it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri

from tests.bench.peers import Float, Rule, Seen, Verdict

_MEDIAN_MS, _SIGMA = 40.0, 0.5
"""Latencies are lognormal, the same in both arms: P99 is 128 ms."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What every rule meets. Functions of time take seconds since the rollout began.

    per_minute   requests per minute
    base         probability of a positive reward without effect
    effect       factor on it for the candidate
    errors       error rates: champion, candidate
    delay_s      mean of the exponential delay from request to reward; 0: at once
    duplicates   share of rewards that are sent twice: champion, candidate
    per_user     requests that a user makes in one go, all to one arm; 1: independent requests
    icc          correlation of the rewards of one user
    length_s     how long it lasts
    tick_s       how often rules are asked
    """

    per_minute: Callable[[float], float]
    base: Callable[[float], float]
    effect: Callable[[float], float] = lambda _: 1.0
    errors: tuple[float, float] = (0.005, 0.005)
    delay_s: float = 0.0
    duplicates: tuple[float, float] = (0.0, 0.0)
    per_user: int = 1
    icc: float = 0.0
    length_s: float = 86_400.0
    tick_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """How the rollouts went; arrays (runs,).

    verdict   of `Verdict`; HOLD: none before the end
    time_s    when it came; the end where there was none
    requests  of both arms until then; `harmed` those of the candidate
    lost      expected positive rewards lost to the candidate's effect until then
    weight    the candidate's last share
    """

    verdict: np.ndarray
    time_s: Float
    requests: Float
    harmed: Float
    lost: Float
    weight: Float

    def share(self, verdict: Verdict) -> float:
        """The share of rollouts that ended with this verdict."""
        return float((self.verdict == verdict).mean())


def fight(rule: Rule, traffic: Traffic, *, runs: int, seed: int) -> Result:
    """So many rollouts of one rule, to their verdicts or to the end of the traffic."""
    crowd = _Crowd(rule, traffic, runs, seed)
    state, weight, open_ = rule.start(runs), np.full(runs, rule.first_weight()), np.ones(runs, bool)
    verdict, time_s = np.zeros(runs, np.int64), np.full(runs, traffic.length_s)
    totals = np.zeros((3, runs))
    for number in range(round(traffic.length_s / traffic.tick_s)):
        seen, counted = crowd.interval(weight, number * traffic.tick_s)
        end_s = (number + 1) * traffic.tick_s
        totals += counted * open_
        state, told = rule.judge(state, seen, end_s)
        ends = open_ & (told.verdict != Verdict.HOLD)
        verdict[ends], time_s[ends] = told.verdict[ends], end_s
        open_ &= ~ends
        weight = np.where(open_, told.weight, weight)
        if not open_.any():
            break
    return Result(verdict, time_s, *totals, weight)


class _Crowd:
    """Those who ask and reward, for all rollouts of one rule at once.

    `_pending` (runs, arm, bad or good) are the labels that are still to come.
    """

    def __init__(self, rule: Rule, traffic: Traffic, runs: int, seed: int) -> None:
        self._rule, self._traffic = rule, traffic
        self._arrivals = np.random.default_rng([seed, 0])
        self._users = np.random.default_rng([seed, 1])
        self._pending = np.zeros((runs, 2, 2))

    def interval(self, weight: Float, time_s: float) -> tuple[Seen, Float]:
        """What a rule is shown, and (requests, of these the candidate's, rewards lost): (3, runs).

        `weight` (runs,) is the candidate's share, `time_s` the beginning.
        """
        traffic = self._traffic
        n, rate = self._assigned(weight, time_s), _rates(traffic, time_s)
        trials, good = self._trials(n, rate)
        came = self._come(np.stack([trials - good, good], axis=2))
        if any(traffic.duplicates) and not self._rule.counts_once:
            came = came + self._users.binomial(
                came.astype(np.int64), np.array(traffic.duplicates)[:, np.newaxis]
            )
        errors = self._users.binomial(trials.astype(np.int64), traffic.errors).astype(np.float64)
        seen = Seen(trials, errors, self._p99_ms(trials), came[:, :, 1], came.sum(axis=2))
        lost = n[:, 1] * (rate[0] - rate[1])
        return seen, np.stack([n.sum(axis=1), n[:, 1], lost]) * traffic.per_user

    def _assigned(self, weight: Float, time_s: float) -> Float:
        """Units (requests, or users with all their requests) of the interval per arm: (runs, 2)."""
        rate = self._traffic.per_minute(time_s) * self._traffic.tick_s / 60.0
        total = self._arrivals.poisson(rate / self._traffic.per_user, len(weight))
        candidate = self._users.binomial(total, weight)
        return np.stack([total - candidate, candidate], axis=1).astype(np.float64)

    def _trials(self, n: Float, rate: Float) -> tuple[Float, Float]:
        """Trials as the rule counts them, and the good ones among them: (runs, 2) each."""
        traffic = self._traffic
        if traffic.per_user == 1:
            return n, self._users.binomial(n.astype(np.int64), rate).astype(np.float64)
        most = max(int(n.max()), 1)
        exists = np.arange(most) < n[:, :, np.newaxis]
        strength = (1.0 - traffic.icc) / traffic.icc
        shape = np.broadcast_to(rate[:, np.newaxis] * strength, exists.shape)
        taste = self._users.beta(shape, strength - shape)
        good = self._users.binomial(traffic.per_user, taste) * exists
        if self._rule.by_unit:
            return n, (good > 0).sum(axis=2).astype(np.float64)
        return n * traffic.per_user, good.sum(axis=2).astype(np.float64)

    def _come(self, made: Float) -> Float:
        """Of the labels that are made now or were before, those that come in this interval."""
        if self._traffic.delay_s == 0:
            return made
        rate = self._traffic.tick_s / self._traffic.delay_s
        soon = 1.0 - (1.0 - np.exp(-rate)) / rate  # of labels made evenly within the interval
        at_once = self._users.binomial(made.astype(np.int64), soon)
        later = self._users.binomial(self._pending.astype(np.int64), 1.0 - np.exp(-rate))
        self._pending = self._pending + made - at_once - later
        return (at_once + later).astype(np.float64)

    def _p99_ms(self, n: Float) -> Float:
        """The 99th percentile of n lognormal latencies: an order statistic, drawn exactly."""
        rank = np.maximum(np.ceil(0.99 * n), 1.0)
        chance = betaincinv(rank, np.maximum(n + 1 - rank, 1.0), self._users.random(n.shape))
        z = ndtri(np.clip(chance, 1e-12, 1 - 1e-12))
        return np.where(n > 0, _MEDIAN_MS * np.exp(_SIGMA * z), np.nan)


def _rates(traffic: Traffic, time_s: float) -> Float:
    """Positive rewards per request, (2,): failed answers earn none."""
    base = traffic.base(time_s)
    rates = np.array([base, min(base * traffic.effect(time_s), 1.0)])
    return rates * (1.0 - np.array(traffic.errors))

"""What is true in a simulated world, and nobody in it knows: traffic, base rates, effects.

`Setting` is what a world must know of the policy; `Truth` joins it with a scenario. Both levels of
the world (events and tallies) draw from the same `Truth`, and the account of harm and lost reward
is kept in its terms: expectations, not what chance made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from scipy.special import ndtr, ndtri

from controller.core.model import Float
from controller.core.policy import Policy
from controller.errors import UnderstudyError
from controller.sim.scenario import Candidate, Other, Scenario

Rng: TypeAlias = np.random.Generator  # noqa: TID251 - a type, not a source

_GAUSS, _WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy says about the world."""

    champion: str
    event: str
    others: tuple[str, ...]
    window_s: float
    grace_s: float
    low: float
    high: float
    default: float
    is_binary: bool
    is_minimised: bool
    has_units: bool
    joins_by_unit: bool
    has_latency: bool

    @property
    def event_value(self) -> float:
        """The value of a binary reward event: the end of the range that is not the default."""
        return self.high if self.default < self.high else self.low

    @property
    def is_event_good(self) -> bool:
        """Whether a reward that comes is better than none."""
        return (self.event_value > self.default) != self.is_minimised


def setting(policy: Policy) -> Setting:
    """What a world must know of this policy."""
    spec, reward = policy.spec, policy.spec.reward
    others = (g.event for g in spec.guardrails if g.metric == "reward" and g.event)
    return Setting(
        champion=spec.champion.version,
        event=reward.event,
        others=tuple(dict.fromkeys(name for name in others if name != reward.event)),
        window_s=reward.window,
        grace_s=reward.grace,
        low=reward.range[0],
        high=reward.range[1],
        default=reward.default,
        is_binary=reward.is_binary,
        is_minimised=reward.direction == "minimize",
        has_units=spec.route.unit is not None,
        joins_by_unit=reward.join == "unit",
        has_latency=any(g.metric == "latency" for g in spec.guardrails),
    )


@dataclass(frozen=True, slots=True)
class Means:
    """What one arm does at one time, in expectation.

    rate    share of the answered requests that earn a reward
    value   mean of such a reward
    reward  mean per request, failed answers included, the default where nothing comes
    """

    rate: float
    value: float
    errors: float
    latency_factor: float
    reward: float


class Truth:
    """A scenario in the world of a policy: pure, all times in seconds since the run began."""

    def __init__(self, scenario: Scenario, setting: Setting, horizon_s: float) -> None:
        if scenario.reward.kind != "binary" and setting.is_binary:
            raise UnderstudyError(
                "the scenario's rewards are amounts, but the policy's reward is yes or no: "
                "expected a policy with reward.kind continuous, and a range such as [0, 500]"
            )
        self.scenario = scenario
        self.setting = setting
        self.horizon_s = horizon_s
        self.versions = (setting.champion, *_versions(scenario, setting.champion))
        points = [(moment.of(horizon_s), share) for moment, share in scenario.base_rate]
        self._base = np.array(points, dtype=np.float64)
        self.rewards_end_s = (
            scenario.rewards_end.of(horizon_s) if scenario.rewards_end else math.inf
        )

    @property
    def comes_at(self) -> tuple[float, ...]:
        """When each candidate is offered."""
        return tuple(c.at.of(self.horizon_s) for c in self.scenario.candidates)

    # --- traffic -------------------------------------------------------------------------------

    def traffic(self, time: Float) -> Float:
        """Requests per second at each time."""
        scenario = self.scenario
        wave = scenario.swing.rate * np.sin(2 * np.pi * time / scenario.swing.period)
        rate: Float = scenario.rate * (1.0 + wave)
        if scenario.bursts is None:
            return rate
        every = scenario.bursts.every.of(self.horizon_s)
        lasts = scenario.bursts.lasts.of(self.horizon_s)
        return np.where(np.mod(time, every) >= every - lasts, rate * scenario.bursts.factor, rate)

    @property
    def most_traffic(self) -> float:
        """An upper bound of `traffic`."""
        bursts = self.scenario.bursts
        factor = max(1.0, bursts.factor) if bursts else 1.0
        return self.scenario.rate * (1.0 + self.scenario.swing.rate) * factor

    def volume(self, begin: Float, end: Float) -> Float:
        """Requests expected in each [begin, end); for traffic without bursts."""
        middle, half = (begin + end) / 2, (end - begin) / 2
        at = middle[..., None] + half[..., None] * _GAUSS
        total: Float = (self.traffic(at) * _WEIGHTS).sum(axis=-1) * half
        return total

    # --- rewards -------------------------------------------------------------------------------

    def base(self, time: Float) -> Float:
        """The champion's rate of rewards at each time."""
        swing = self.scenario.swing
        curve = np.interp(time, self._base[:, 0], self._base[:, 1])
        wave = 1.0 + swing.base_rate * np.sin(2 * np.pi * time / swing.period)
        return np.clip(curve * wave, 0.0, 1.0)

    def factor(self, arm: int, time: float, requests: float) -> float:
        """What an arm's effect makes of the champion's rate of rewards.

        Where rewards tell of something bad, a negative effect means more of them.
        """
        effect = self.effect(arm, time, requests)
        return max(0.0, 1.0 + (effect if self.setting.is_event_good else -effect))

    def effect(self, arm: int, time: float, requests: float) -> float:
        """How much better an arm is, relatively, `requests` after the first one of the run."""
        if arm == 0:
            return 0.0
        candidate = self.scenario.candidates[arm - 1]
        later = candidate.later
        if later is None:
            return candidate.effect
        came = self.comes_at[arm - 1]
        if later.at is not None:
            return later.effect if time >= came + later.at.of(self.horizon_s) else candidate.effect
        before = came * self.scenario.rate
        assert later.after_requests is not None
        is_over = requests - before >= later.after_requests
        return later.effect if is_over else candidate.effect

    def forged(self, arm: int) -> tuple[float, float]:
        """The share of exposures of an arm whose label is forged, and the rate of rewards there."""
        forgery = self.scenario.contamination
        if forgery is None or not concerns(forgery.arm, arm):
            return 0.0, 0.0
        comes = (forgery.label == "good") == self.setting.is_event_good
        return forgery.share, 1.0 if comes else 0.0

    def errors(self, arm: int) -> float:
        """The share of an arm's answers that fail."""
        own = self._candidate(arm).errors if arm else None
        return self.scenario.errors if own is None else own

    def latency_factor(self, arm: int) -> float:
        """An arm's latency, in those of the champion."""
        return self._candidate(arm).latency_factor if arm else 1.0

    def other(self, name: str, arm: int) -> float:
        """The rate of a second reward event."""
        law = self.scenario.others.get(name, Other())
        return min(1.0, law.base_rate * (1.0 + law.effect if arm else 1.0))

    @cached_property
    def mean_value(self) -> float:
        """The mean of the champion's reward, where one comes."""
        if self.scenario.reward.kind == "binary":
            return self.setting.event_value
        span = self.setting.high - max(self.setting.default, self.setting.low)
        return self.scenario.reward.mean or span / 50.0

    def means(self, arm: int, time: float, requests: float) -> Means:
        """What an arm does now, forged labels left out."""
        on_value = self.scenario.reward.effect_on == "value"
        factor = self.factor(arm, time, requests)
        base = float(self.base(np.array(time)))
        rate = base if on_value else min(1.0, base * factor)
        value = self.mean_value * (factor if on_value else 1.0)
        errors = self.errors(arm)
        default = self.setting.default
        heard = 1.0 - errors if self.setting.is_event_good else 1.0
        reward = default + heard * rate * (value - default)
        return Means(rate, value, errors, self.latency_factor(arm), reward)

    def _candidate(self, arm: int) -> Candidate:
        return self.scenario.candidates[arm - 1]


def concerns(side: str, arm: int) -> bool:
    """Whether what happens to this side happens to an arm."""
    return side == "both" or (side == "champion") == (arm == 0)


def _versions(scenario: Scenario, champion: str) -> tuple[str, ...]:
    """Names for the candidates: v2, v3, …, other than the champion's."""
    count = len(scenario.candidates)
    names = [f"v{number}" for number in range(2, count + 3)]
    return tuple([name for name in names if name != champion][:count])


class DelayLaw:
    """The law of the time from an exposure to its reward."""

    def __init__(self, truth: Truth) -> None:
        delay = truth.scenario.delay
        self.kind = delay.distribution
        self.mean_s = delay.mean.of(truth.setting.window_s)
        self.sigma = delay.sigma
        self._median = self.mean_s * math.exp(-0.5 * self.sigma**2)

    def quantile(self, share: Float) -> Float:
        """The delay that this share of the rewards does not exceed."""
        if self.kind == "exponential":
            return -self.mean_s * np.log1p(-share)
        if self.kind == "lognormal":
            return self._median * np.exp(self.sigma * ndtri(share))
        return 2.0 * self.mean_s * share if self.kind == "uniform" else share * 0 + self.mean_s

    def share(self, delay: Float) -> Float:
        """The share of the rewards that come within each delay; 0 below 0."""
        late = np.maximum(delay, 0.0)
        if self.mean_s == 0.0 or self.kind == "fixed":
            return (delay >= self.mean_s).astype(np.float64)
        if self.kind == "exponential":
            return -np.expm1(-late / self.mean_s)
        if self.kind == "uniform":
            return np.minimum(late / (2.0 * self.mean_s), 1.0)
        with np.errstate(divide="ignore"):
            return np.asarray(ndtr(np.log(late / self._median) / self.sigma), dtype=np.float64)

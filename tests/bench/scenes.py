"""The scenes of the scoreboard: the simulator's scenarios over one day, for us and for the peers.

Each null scene is met twice: by a candidate that equals the champion (rolling it back is false),
and by one that is worse by at least the margin at every moment (promoting it is false). Shares of
the run in a scenario are shares of the day here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.core.policy import Policy, parse
from controller.sim.quantities import Moment
from controller.sim.scenario import Candidate, Scenario, load
from controller.sim.truth import DelayLaw, Truth, setting
from tests.bench.arena import Traffic

DAY_S = 86_400.0
PER_DAY = 1_000_000
MARGIN = 0.006
ALPHA = 0.01
TICK_S = 600.0
STEPS, STEP_S = (0.05, 0.25, 0.5), 7_200.0
"""The ramp of everyone who ramps by the clock: a third of the drifts' seven hours each."""
LATE_PER_DAY = 1_500_000
GOOD = 200_000
"""Requests before a late regression."""

_POLICY = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {{name: scoreboard}}
spec:
  route: {{prefix: /, {unit}}}
  champion: {{version: v1}}
  reward: {{event: click, window: {window}, grace: {grace}}}
  guardrails:
    - {{metric: error_rate, max_increase: 1%}}
  stages:
    - {stage}
"""


def _canary(
    *,
    min_duration: str = "2h",
    margin: float = MARGIN,
    alpha: float = ALPHA,
    promotion: float = ALPHA,
) -> str:
    return f"""canary:
        steps: [5%, 25%, 50%]
        min_duration: {min_duration}
        min_outcomes: 200
        margin: {margin:.9f}
        budget: 10%
        false_rollback: {alpha:.9f}
        false_promotion: {promotion:.9f}
        max_duration: 1d"""


CANARY = _canary()
UNDECIDED = _canary(margin=1e-5, alpha=1e-9, promotion=1e-9)
"""Looks all day, and comes to no verdict: for what must hold at all times."""
QUICK = _canary(min_duration="20m")
"""For logs that are kept event by event."""
UNPROMOTED = _canary(margin=1e-5, promotion=1e-9)
"""May roll back, and has no way to promote in a day."""
_THOMPSON = """thompson:
        floor: 1%
        update_every: {update_s:g}s
        half_life: 30d
        promote_probability: {probability}
        min_outcomes: 500"""


def policy(
    *, window: str = "60s", grace: str = "60s", unit: bool = False, stage: str = CANARY
) -> Policy:
    """Ours, for a day of a million requests."""
    known = "unit: {header: x-user-id}" if unit else "timeout: 15s"
    text = _POLICY.format(window=window, grace=grace, unit=known, stage=stage)
    return parse(text, "tests/bench/scenes.py")


@dataclass(frozen=True, slots=True)
class Scene:
    """One scenario with the policy under which we meet it.

    least   the lowest base rate of its day: where a relative effect is smallest
    margin  what the policy tolerates
    """

    name: str
    scenario: Scenario
    policy: Policy
    least: float
    margin: float = MARGIN

    def equal(self) -> Scenario:
        """With a candidate that equals the champion."""
        return self.scenario

    def harmful(self) -> Scenario:
        """With a candidate that is worse by at least the margin at every moment.

        What is worse by a margin are outcomes: failed answers earn nothing, late rewards are lost.
        """
        law = DelayLaw(Truth(self.scenario, setting(self.policy), DAY_S))
        seen = float(law.share(np.float64(self.policy.spec.reward.window)))
        worse = Candidate(effect=-self.margin / (self.least * seen * (1.0 - self.scenario.errors)))
        return self.scenario.model_copy(update={"candidates": (worse,)})

    def traffic(self, scenario: Scenario, *, tick_s: float = 60.0) -> Traffic:
        """The same for the peers."""
        truth = Truth(scenario, setting(self.policy), DAY_S)
        return of(truth, tick_s=tick_s)


_LEAST = {"baseline_falls": 0.03, "baseline_rises": 0.03, "daily_swing": 0.03, "common_drift": 0.03}
_WINDOWS = {"delayed_labels": "75m"}

NULLS = (
    "flat",
    "daily_swing",
    "baseline_falls",
    "baseline_rises",
    "delayed_labels",
    "duplicates",
    "out_of_order",
    "bursts",
    "sticky_users",
)


EVENT_LEVEL = {
    "duplicates": 60_000,
    "out_of_order": 60_000,
    "bursts": 60_000,
    "sticky_users": 200_000,
}
"""Scenes that take events one by one: requests per day. A higher base rate and margin decide them
on a twentieth of the requests."""
_EVENT_BASE, _EVENT_MARGIN = 0.3, 0.03


def scene(name: str, *, per_day: int = PER_DAY) -> Scene:
    """The scene of one of the simulator's scenarios."""
    is_small = name in EVENT_LEVEL
    per_day = EVENT_LEVEL.get(name, per_day)
    update = {"rate": per_day / DAY_S, "requests": per_day, "max_time": DAY_S, "tick": TICK_S}
    if is_small:
        update["base_rate"] = ((Moment(), _EVENT_BASE),)
    scenario = load(name).model_copy(update=update)
    margin = _EVENT_MARGIN if is_small else MARGIN
    stage = _canary(margin=margin)
    if name == "common_drift":
        stage = _THOMPSON.format(update_s=600.0, probability="99%")
    known = policy(window=_WINDOWS.get(name, "60s"), unit=scenario.units is not None, stage=stage)
    return Scene(name, scenario, known, _EVENT_BASE if is_small else _LEAST.get(name, 0.05), margin)


def late_ramp() -> Scene:
    """The ramp with labels that come 45 minutes late; steps as soon as their cohorts close.

    No verdict ends it, so that every e-value can be followed to the end.
    """
    late = scene("delayed_labels", per_day=LATE_PER_DAY)
    looking = policy(
        window="75m", stage=_canary(min_duration="1h", margin=1e-5, alpha=1e-9, promotion=1e-9)
    )
    scenario = late.scenario.model_copy(update={"max_time": 4 * 3600.0, "tick": 120.0})
    return Scene("late_ramp", scenario, looking, 0.05)


def bandit(effect: float, delay: int) -> Scene:
    """100 000 requests in micro-batches of 100, 5 % against 6 %, and nothing but weights moves."""
    per_s = 10.0
    mean_s = delay / per_s if delay else 0.01
    window_s = 4 * mean_s if delay else 1.0
    known = policy(
        window=f"{window_s:g}s",
        grace="1s",
        stage=_THOMPSON.format(update_s=10.0, probability="99.9999999%"),
    )
    base = 0.05 if effect > 0 else 0.06
    scenario = Scenario.model_validate(
        {
            "rate": per_s,
            "base_rate": base,
            "errors": 0.0,
            "delay": {"distribution": "exponential", "mean": f"{mean_s:g}s"},
            "candidates": [{"effect": effect}],
            "requests": 100_000,
            "tick": "10s",
        }
    )
    return Scene("bandit", scenario, known, base)


def of(truth: Truth, *, tick_s: float) -> Traffic:
    """What the arena needs of a truth. Order within the grace is nothing that counters see."""
    scenario, law = truth.scenario, DelayLaw(truth)
    twice = scenario.duplicates
    units = scenario.units
    return Traffic(
        per_minute=lambda t: float(truth.traffic(t)) * 60.0,
        base=lambda t: float(truth.base(t)),
        effect=lambda t: 1.0 + truth.effect(1, t, t * scenario.rate),
        errors=(truth.errors(0), truth.errors(1)),
        delay_s=law.mean_s,
        duplicates=(0.0, twice.share) if twice else (0.0, 0.0),
        per_user=round(units.requests_per_unit) if units else 1,
        icc=units.icc if units else 0.0,
        length_s=truth.horizon_s,
        tick_s=tick_s,
    )


def misleading(traffic: Traffic, *, harmful: bool) -> Traffic:
    """The traffic with its duplicates in the arm where they mislead."""
    share = max(traffic.duplicates)
    return replace(traffic, duplicates=(0.0, share) if harmful else (share, 0.0))

"""Small worlds for tests: a policy, a scenario of a few lines, and their plan."""

from __future__ import annotations

from typing import Any

import yaml

from controller.core.model import BASIS, EventBatch, Split
from controller.core.policy import Policy
from controller.sim import scenario as scenarios
from controller.sim.scenario import Scenario
from controller.sim.simulate import Plan, generator, planned, world_of
from controller.sim.world import Level, World
from tests.core.logs import policy

CANARY = {
    "canary": {
        "steps": ["10%", "25%", "50%"],
        "min_duration": "60s",
        "min_outcomes": 100,
        "margin": "3%",
        "false_rollback": "1%",
        "false_promotion": "1%",
        "max_duration": "30m",
        "budget": "100%",
    }
}


def small_policy(**spec: Any) -> Policy:
    """A ramp to 50 % with a window of 10 s and a grace of 5 s."""
    return policy(CANARY, **spec)


def scenario(**fields: Any) -> Scenario:
    """A scenario from its fields, as a file would say them."""
    return scenarios.parse(yaml.safe_dump(fields), "test.yaml")


def plan(level: Level = "auto", *, spec: dict[str, Any] | None = None, **fields: Any) -> Plan:
    """How runs of the small policy are made in such a scenario."""
    return planned(small_policy(**(spec or {})), scenario(**fields), level=level)


def split_of(candidate: float, *, epoch: int = 1, salt: str = "m/1:") -> Split:
    """A split that gives v2 this share."""
    weight = round(candidate * BASIS)
    weights = {arm: w for arm, w in (("v1", BASIS - weight), ("v2", weight)) if w}
    return Split(epoch, "v1", weights, salt, ("v2",))


def batches(
    made: Plan, split: Split, ticks: int, *, seed: int = 0
) -> tuple[World, list[EventBatch]]:
    """What a world gives in so many ticks under one split."""
    world = world_of(made, generator(seed, 0))
    first = world.first()
    found, offset = [], first.count
    for _ in range(ticks):
        batch = world.tick(split, offset)
        assert batch.start == offset
        offset += batch.count
        found.append(batch)
    return world, found

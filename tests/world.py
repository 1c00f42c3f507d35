"""A closed-loop world: users whose requests follow the split that the engine wants.

Columns are made directly, one batch per tick, so that hundreds of rollouts take seconds. Labels are
natural: a click after a random delay, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from controller.core import engine
from controller.core.model import (
    BASIS,
    Decision,
    EventBatch,
    Exposures,
    Phase,
    Rewards,
    Role,
    Split,
    SplitEvent,
    Tick,
    VersionEvent,
)
from controller.core.policy import Policy
from controller.core.state import State, initial

OVER = {Phase.PROMOTED, Phase.ROLLED_BACK}


@dataclass
class World:
    """What users do.

    base     probability of a click at these times, by an arm without effect
    effects  arm -> factor on that probability
    delay_s  mean of the exponential delay of a click; what comes after the window is never seen
    """

    seed: int
    rate: float
    base: Callable[[np.ndarray], np.ndarray | float]
    effects: dict[str, float] = field(default_factory=dict)
    delay_s: float = 5.0
    requests: int = 0
    late: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0, np.uint64))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def tick(self, split: Split, start: int, since: float, now: float) -> EventBatch:
        """All that happens after `since` up to the tick at `now`; offsets from `start`."""
        rng = self.rng
        n = rng.poisson(self.rate * (now - since))
        time = np.sort(rng.uniform(since, now, n))
        names = (*split.weights, "click")
        arm = rng.choice(len(split.weights), n, p=np.array(list(split.weights.values())) / BASIS)
        request = np.arange(self.requests + 1, self.requests + n + 1, dtype=np.uint64)
        self.requests += n
        factor = np.array([self.effects.get(name, 1.0) for name in split.weights])
        chance = self.base(time) * factor[arm]
        clicked = rng.random(n) < chance
        clicks = self._due(time[clicked], request[clicked], now)
        at = start + n
        rewards = _rewards(at, clicks, len(names) - 1)
        end = at + len(rewards.time)
        exposures = _exposures(start, (time, request, arm), split.epoch)
        control = (SplitEvent(end, now, split.epoch, split.weights), Tick(end + 1, now))
        shadows = _exposures(start, (time[:0], request[:0], arm[:0]), 0)
        return EventBatch(start, end + 2 - start, names, exposures, rewards, shadows, control)

    def _due(
        self, time: np.ndarray, request: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The clicks that users have made by now: their times and requests."""
        made = np.concatenate([self.late[0], time + self.rng.exponential(self.delay_s, len(time))])
        request = np.concatenate([self.late[1], request])
        is_due = made <= now
        self.late = made[~is_due], request[~is_due]
        return made[is_due], request[is_due]


def _exposures(
    start: int, columns: tuple[np.ndarray, np.ndarray, np.ndarray], epoch: int
) -> Exposures:
    time, request, arm = columns
    n = len(time)
    return Exposures(
        offset=np.arange(start, start + n),
        time=time,
        request=request,
        unit=np.zeros(n, np.uint64),
        arm=arm.astype(np.int64),
        epoch=np.full(n, epoch),
        propensity=np.full(n, np.nan),
        status=np.full(n, 200),
        latency_ms=np.full(n, np.nan),
        segment=np.full(n, -1),
    )


def _rewards(start: int, clicks: tuple[np.ndarray, np.ndarray], name: int) -> Rewards:
    time, request = clicks
    n = len(time)
    return Rewards(
        offset=np.arange(start, start + n),
        time=time,
        id=request,
        request=request,
        unit=np.zeros(n, np.uint64),
        name=np.full(n, name),
        value=np.ones(n),
    )


def rollout(
    policy: Policy, world: World, *, candidate: str = "v2", every_s: float = 30.0, ticks: int = 200
) -> tuple[State, list[Decision]]:
    """One rollout from the registration of its candidate to its end, or for so many ticks."""
    state, decisions = initial(policy), []
    blank = world.tick(state.split, 0, 0.0, 0.0)
    control = (VersionEvent(0, 0.0, candidate, Role.CANDIDATE), Tick(1, 0.0))
    batch = EventBatch(0, 2, (), blank.exposures, blank.rewards, blank.shadows, control)
    for number in range(ticks):
        state, made, _ = engine.step(policy, state, batch)
        decisions += made
        if state.phase in OVER:
            break
        now = number * every_s
        batch = world.tick(state.split, state.offset, now, now + every_s)
    return state, decisions

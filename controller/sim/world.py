"""A closed-loop world: users whose requests follow the split that the engine wants.

`World.tick` gives all that happens up to the next tick as one `EventBatch`, which `engine.step`
takes as if it came from a log. Two sources draw it from the same `Truth`: `events` makes exposures
and rewards, with everything that may befall them on the way; `tallies` makes the counts that a
joiner would make of them, with the same law, hundreds of times as fast. Which one serves follows
from scenario and policy: `events_needed` says why tallies are not enough.

The routers confirm a split at once: it is in force from the tick after which it was wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from controller.core.model import (
    ControlEvent,
    EventBatch,
    Role,
    Split,
    SplitEvent,
    Tick,
    VersionEvent,
)
from controller.sim.events import EventSource, no_exposures, no_rewards
from controller.sim.scenario import Scenario
from controller.sim.tallies import Chance, TallySource
from controller.sim.truth import Rng, Setting, Truth

Level: TypeAlias = Literal["auto", "events", "tallies"]


def events_needed(scenario: Scenario, setting: Setting) -> tuple[str, ...]:
    """Why this world cannot be drawn as tallies; empty when it can."""
    lost = scenario.loss is not None
    delay = scenario.delay
    reasons = {
        "rewards are amounts": not setting.is_binary or scenario.reward.kind != "binary",
        "users come back": scenario.units is not None,
        "events come twice": scenario.duplicates is not None,
        "events come out of order": scenario.disorder.of(1.0) > 0,
        "events are lost": lost,
        "traffic comes in bursts": scenario.bursts is not None,
        "a guardrail watches latency": setting.has_latency,
        "a guardrail watches a second reward": bool(setting.others or scenario.others),
        "delays are fixed": delay.distribution == "fixed" or delay.mean.of(1.0) == 0.0,
        "rewards beside the default are reported": setting.default
        not in {
            setting.low,
            setting.high,
        },
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


@dataclass
class Account:
    """What the world did to its users, in expectation.

    on_candidate  requests that another version than the first champion answered
    harmed        of these, those while that version was worse, failed more, or was slower
    lost_reward   against the best version that was there at the time
    """

    requests: float = 0.0
    on_candidate: float = 0.0
    harmed: float = 0.0
    lost_reward: float = 0.0


class World:
    """Users, arms and pipes; `rng` is their whole source of chance.

    `chance` takes its place where tallies are drawn.
    """

    def __init__(
        self,
        truth: Truth,
        rng: Rng,
        *,
        tick_s: float,
        level: Literal["events", "tallies"],
        chance: Chance | None = None,
    ) -> None:
        self.truth = truth
        self.account = Account()
        self._tick_s = tick_s
        self._ticks = 0
        self._epoch = 0
        self._offered = 0
        self._events = EventSource(truth, rng)
        self._tallies = TallySource(truth, chance or rng, tick_s) if level == "tallies" else None

    @property
    def now(self) -> float:
        """The time of the last tick."""
        return self._ticks * self._tick_s

    @property
    def has_more(self) -> bool:
        """Whether candidates are still to come."""
        return self._offered < len(self.truth.comes_at)

    def first(self) -> EventBatch:
        """The versions that are there from the beginning, and the first tick."""
        control: list[ControlEvent] = [*self._offers(0, 0.0)]
        control.append(Tick(len(control), 0.0))
        return EventBatch(
            0, len(control), (), no_exposures(), no_rewards(), no_exposures(), tuple(control)
        )

    def tick(self, split: Split, start: int) -> EventBatch:
        """All that happens until the next tick, with offsets from `start`, and that tick."""
        since, until = self.now, self.now + self._tick_s
        self._ticks += 1
        before: list[ControlEvent] = []
        if split.epoch != self._epoch:
            before.append(SplitEvent(start, since, split.epoch, split.weights, split.segments))
            self._epoch = split.epoch
        batch, counts = self._drawn(split, start + len(before), since, until)
        self._book(counts, (since + until) / 2)
        end = batch.start + batch.count
        after: list[ControlEvent] = [*self._offers(end, until)]
        after.append(Tick(end + len(after), until))
        return replace(
            batch,
            start=start,
            count=end + len(after) - start,
            control=(*before, *after),
        )

    def _drawn(
        self, split: Split, start: int, since: float, until: float
    ) -> tuple[EventBatch, np.ndarray]:
        """The traffic of one source, and what is still to come of the other's."""
        requests = self.account.requests
        counted = self._tallies is not None and not split.mirror
        batch, counts = self._events.draw(split, start, since, until, requests, idle=counted)
        if self._tallies is None:
            return batch, counts
        tallies, more = self._tallies.draw(
            split, start + batch.count, self._ticks, requests, idle=not counted
        )
        n = len(tallies.offset)
        return replace(batch, count=batch.count + n, tallies=tallies), counts + more

    def _offers(self, offset: int, until: float) -> list[VersionEvent]:
        offers: list[VersionEvent] = []
        while self.has_more and self.truth.comes_at[self._offered] <= until:
            version = self.truth.versions[1 + self._offered]
            at = offset + len(offers)
            offers.append(VersionEvent(at, until, version, Role.CANDIDATE))
            self._offered += 1
        return offers

    def _book(self, counts: np.ndarray, time: float) -> None:
        """Write down what the requests of one tick meant for users."""
        account, truth = self.account, self.truth
        means = [truth.means(arm, time, account.requests) for arm in range(len(counts))]
        sign = -1.0 if truth.setting.is_minimised else 1.0
        there = means[: 1 + self._offered]
        best = max(sign * m.reward for m in there)
        for arm, count in enumerate(counts.tolist()):
            account.requests += count
            if arm == 0 or not count:
                account.lost_reward += count * (best - sign * means[0].reward) if arm == 0 else 0.0
                continue
            m, champion = means[arm], means[0]
            account.lost_reward += count * (best - sign * m.reward)
            account.on_candidate += count
            is_worse = (
                sign * (m.reward - champion.reward) < -1e-12
                or m.errors > champion.errors
                or m.latency_factor > 1.0
            )
            account.harmed += count * is_worse

"""Tallies: sums that another joiner made lead to what the events themselves lead to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.core import engine
from controller.core.batch import DTYPES
from controller.core.model import (
    EventBatch,
    Exposures,
    Rewards,
    Role,
    SplitEvent,
    Tallies,
    Tick,
    VersionEvent,
)
from controller.core.report import evidence_summary
from controller.core.state import initial
from tests.core.logs import CANARY, policy

WINDOW_S, GRACE_S, TICK_S = 10.0, 5.0, 5.0
POLICY = policy(CANARY)  # window 10 s, grace 5 s
NAMES = ("v1", "v2", "click")


def columns(kind, n, **given):
    types = DTYPES[kind]
    return kind(**{name: np.asarray(given.get(name, np.zeros(n)), types[name]) for name in types})


def nothing(start, control):
    none = columns(Exposures, 0)
    return EventBatch(start, len(control), NAMES, none, columns(Rewards, 0), none, control)


class World:
    """Requests, some of which earn a click; each tick is told as events, or as what they add up to.

    All is kept, so that sums are made by looking at all of it: brute force.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.time, self.arm, self.epoch = np.zeros(0), np.zeros(0, int), np.zeros(0, int)
        self.click, self.failed = np.zeros(0), np.zeros(0, bool)
        self.told = 0
        self.clock = -np.inf

    def live(self, split, now):
        """TICK_S seconds of traffic by this split, 20 requests a second."""
        n = self.rng.poisson(20 * TICK_S)
        arm = (self.rng.random(n) < split.weights.get("v2", 0) / 1e4).astype(int)
        time = np.sort(self.rng.uniform(now - TICK_S, now, n))
        delay = np.where(self.rng.random(n) < 0.3, self.rng.uniform(0, 8.0, n), np.inf)
        self.time, self.arm = np.append(self.time, time), np.append(self.arm, arm)
        self.epoch = np.append(self.epoch, np.full(n, split.epoch))
        self.click = np.append(self.click, time + delay)
        self.failed = np.append(self.failed, self.rng.random(n) < 0.02)

    def events(self, start, now):
        new = np.arange(self.told, len(self.time))
        clicked = np.flatnonzero((self.click <= now) & (self.click > self.clock))
        n, m = len(new), len(clicked)
        self.told, self.clock = len(self.time), now
        exposures = columns(
            Exposures,
            n,
            offset=start + np.arange(n),
            time=self.time[new],
            request=new + 1,
            arm=self.arm[new],
            epoch=self.epoch[new],
            propensity=np.full(n, np.nan),
            latency_ms=np.full(n, np.nan),
            status=np.where(self.failed[new], 500, 200),
            segment=np.full(n, -1),
        )
        rewards = columns(
            Rewards,
            m,
            offset=start + n + np.arange(m),
            time=self.click[clicked],
            id=clicked + 1,
            request=clicked + 1,
            name=np.full(m, 2),
            value=np.ones(m),
        )
        tick = (Tick(start + n + m, now),)
        none = columns(Exposures, 0)
        return EventBatch(start, n + m + 1, NAMES, exposures, rewards, none, tick)

    def tallies(self, start, now):
        """The same tick: the watermark moves from the last tick's clock - grace to this one's."""
        new = np.arange(len(self.time)) >= self.told
        low, high = self.clock - GRACE_S, now - GRACE_S
        matured = (self.time > low) & (self.time <= high)
        event = (self.click > low) & (self.click <= high)
        ended = (self.time + WINDOW_S > low) & (self.time + WINDOW_S <= high)
        clicked = self.click <= self.time + WINDOW_S
        rows = []
        cohort = np.ceil(self.time / TICK_S).astype(int)
        keys = zip(cohort.tolist(), self.epoch.tolist(), self.arm.tolist(), strict=True)
        for place, epoch, arm in sorted(set(keys)):
            mine = (self.epoch == epoch) & (self.arm == arm) & (cohort == place)

            def n(which, mine=mine):
                return float(np.count_nonzero(mine & which))

            rows.append(
                {
                    "time": float(self.time[mine].mean()),
                    "epoch": epoch,
                    "arm": arm,
                    "segment": -1,
                    "exposures": n(new),
                    "errors": n(new & self.failed),
                    "entered": n(new),
                    "entered_errors": n(new & self.failed),
                    "matured": n(matured),
                    "events": n(event),
                    "delay": 4.0,
                    "outcomes": n(ended),
                    "joined": n(ended & clicked),
                    "value": n(ended & clicked),
                    "analysed": n(ended),
                    "analysed_value": n(ended & clicked),
                    "lapsed": n(ended & ~clicked),
                }
            )
        self.told, self.clock = len(self.time), now
        given = {name: [row[name] for row in rows] for name in rows[0]}
        found = columns(Tallies, len(rows), offset=start + np.arange(len(rows)), **given)
        batch = nothing(start, (Tick(start + len(rows), now),))
        return replace(batch, count=len(rows) + 1, tallies=found)


def rollout(world, kind, ticks=60):
    state = initial(POLICY)
    first = (VersionEvent(0, 0.0, "v2", Role.CANDIDATE), Tick(1, 0.0), Tick(2, 0.0))
    state, decisions, _ = engine.step(POLICY, state, nothing(0, first))
    decisions = list(decisions)
    for number in range(1, ticks + 1):
        now = number * TICK_S
        split = SplitEvent(state.offset, now - TICK_S, state.split.epoch, state.split.weights)
        state, more, _ = engine.step(POLICY, state, nothing(state.offset, (split,)))
        world.live(state.split, now)
        state, made, _ = engine.step(POLICY, state, getattr(world, kind)(state.offset, now))
        decisions += [*more, *made]
    return state, decisions


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_another_joiner_lead_to_the_same_decisions_and_evidence(seed):
    by_events, told = rollout(World(seed), "events")
    by_sums, same = rollout(World(seed), "tallies")
    meaning = [(d.time, d.verdict, d.cause, d.weights) for d in told]
    assert meaning == [(d.time, d.verdict, d.cause, d.weights) for d in same]
    assert len(meaning) >= 3
    assert by_events.totals.exposures.tolist() == by_sums.totals.exposures.tolist()
    assert by_events.totals.errors.tolist() == by_sums.totals.errors.tolist()
    assert by_events.sums[0].value.tolist() == by_sums.sums[0].value.tolist()
    left, right = (evidence_summary(POLICY, s) for s in (by_events, by_sums))
    assert left["candidate"] == right["candidate"]
    assert left["champion"] == right["champion"]
    for name, value in left["log_e"].items():
        assert right["log_e"][name] == pytest.approx(value, abs=1e-9), name
    assert left["log_e"]["harm_fast"] != 0.0

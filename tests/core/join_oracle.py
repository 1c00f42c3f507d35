"""The reward joiner once more, in dicts and loops: slow, plain, and written from the rules alone.

It keeps everything for ever and decides from scratch whenever it can: the rewards of a unit's root
are found by looking through all rewards, not by passing them on as they come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Exp:
    offset: int
    time: float
    request: int
    unit: int
    arm: int
    stratum: int
    in_rollout: bool
    rollout: int = 0
    root: bool = False
    rewards: list = field(default_factory=list)
    closed_at: float | None = None

    @property
    def place(self):
        return (self.time, self.request)


@dataclass(frozen=True)
class Rew:
    offset: int
    time: float
    id: int
    request: int
    unit: int
    value: float


class Oracle:
    def __init__(self, rule):
        self.rule = rule
        self.known: dict[int, Exp] = {}
        self.all: list[Exp] = []
        self.ids: dict[int, float] = {}
        self.waiting: list[Rew] = []
        self.roots: dict[int, Exp] = {}
        self.rollout = 0
        self.clock = float("-inf")
        self.joined: dict[int, int] = {}

    def new_rollout(self):
        for e in self.all:
            e.root = False
        self.roots = {}
        self.rollout += 1

    def absorb(self, exposures, rewards):
        refused = {}
        accepted = set()
        for e in sorted(exposures, key=lambda e: (e.time, e.offset)):
            if e.request in self.known:
                refused[e.offset] = "duplicate"
            elif e.time < self.clock - self.rule.grace_s:
                refused[e.offset] = "late"
            else:
                e.rollout = self.rollout
                self.known[e.request] = e
                self.all.append(e)
                accepted.add(e.offset)
        for e in sorted((e for e in exposures if e.offset in accepted), key=lambda e: e.place):
            self._enter(e)
        for r in sorted(rewards, key=lambda r: (r.time, r.offset)):
            self._reward(r, refused)
        for r in list(self.waiting):
            if r.request and r.request in self.known:
                self.waiting.remove(r)
                self._judge(r, self.known[r.request], refused)
        return accepted, refused

    def _enter(self, e):
        if not e.in_rollout:
            return
        if not self.rule.units or e.unit == 0:
            e.root = True
            return
        root = self.roots.get(e.unit)
        if root is None or (root.closed_at is None and e.place < root.place):
            if root:
                root.root = False
            e.root = True
            self.roots[e.unit] = e

    def _reward(self, r, refused):
        if r.id in self.ids:
            refused[r.offset] = "duplicate"
            return
        self.ids[r.id] = r.time
        if not math.isfinite(r.value) or not self.rule.low <= r.value <= self.rule.high:
            refused[r.offset] = "out_of_range"
        elif r.request == 0 and (r.unit == 0 or self.rule.by != "unit"):
            refused[r.offset] = "orphan"
        else:
            self.waiting.append(r)

    def _judge(self, r, e, refused):
        too_early = r.request and r.time < e.time - self.rule.grace_s
        if too_early or e.closed_at is not None or r.time > e.time + self.rule.window_s:
            refused[r.offset] = "late"
        else:
            e.rewards.append(r)
            self.joined[e.arm] = self.joined.get(e.arm, 0) + 1

    def close(self, clock):
        self.clock = clock
        rule, watermark, refused = self.rule, clock - self.rule.grace_s, {}
        for r in list(self.waiting):
            if r.request == 0 and r.time <= watermark:
                self.waiting.remove(r)
                mine = [e for e in self.known.values() if e.unit == r.unit and e.time <= r.time]
                if mine:
                    self._judge(r, max(mine, key=lambda e: e.place), refused)
                else:
                    refused[r.offset] = "orphan"
            elif r.request and r.time + rule.grace_s <= clock:
                self.waiting.remove(r)
                refused[r.offset] = "orphan"
        due = [
            e
            for e in self.known.values()
            if e.closed_at is None and e.time + rule.window_s <= watermark
        ]
        due.sort(key=lambda e: e.place)
        rows = [self._outcome(e) for e in due]
        for e in due:
            e.closed_at = clock
        for e in list(self.known.values()):
            if e.closed_at is not None and e.closed_at + rule.grace_s <= clock:
                del self.known[e.request]
        for key, time in list(self.ids.items()):
            if time + (rule.window_s + rule.grace_s) <= clock:
                del self.ids[key]
        return rows, refused

    def _outcome(self, e):
        value = self._aggregate(e.rewards)
        analysed_value = value
        if e.root and self.rule.units and e.unit:
            analysed_value = self._aggregate(
                [
                    r
                    for other in self.all
                    if other.unit == e.unit
                    and other.rollout == self.rollout
                    and other.place >= e.place
                    for r in other.rewards
                    if other is e or r.time <= e.time + self.rule.window_s
                ]
            )
        return (e.time, e.arm, e.stratum, value, bool(e.rewards), e.root, analysed_value)

    def _aggregate(self, rewards):
        values = [r.value for r in sorted(rewards, key=lambda r: (r.time, r.id))]
        if not values:
            return self.rule.default
        total = 0.0
        for v in values:
            total += v
        return {
            "first": values[0],
            "last": values[-1],
            "max": max(values),
            "sum": min(total, self.rule.high),
            "mean": total / len(values),
        }[self.rule.aggregate]

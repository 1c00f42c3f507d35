"""The reward joiner once more, in dicts and loops: slow, plain, and written from the rules alone.

It keeps everything for ever and decides from scratch whenever it can: a unit's entries are found by
walking through all its exposures again, and an entry's rewards by looking through all rewards.
"""

from __future__ import annotations

import math
from collections import Counter
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
    level: int = 0
    is_candidate: bool = False
    bin: int = 0
    rollout: int = 0
    rewards: list = field(default_factory=list)
    closed_at: float | None = None
    is_settled: bool = False
    is_scored: bool = False

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


@dataclass
class Walk:
    """A unit on its way: `level` as `levels` gives it, and when its last entry was."""

    level: int = 0
    entered_at: float = -math.inf

    def meets(self, e, window_s):
        """Whether the unit enters with its next exposure: None, or the base."""
        base = None
        if self.level == 0:
            if not e.in_rollout:
                return None
            base = 0
        elif self.level > 0 and e.level > self.level and e.in_rollout:
            base = self.level if e.time > self.entered_at + window_s else None
        if base is not None:
            self.entered_at = e.time
        if e.is_candidate or e.stratum == -1 or e.level == 0 == self.level:
            self.level = -1
        elif self.level != -1:
            self.level = max(self.level, e.level)
        return base


class Oracle:
    def __init__(self, rule):
        self.rule = rule
        self.known: dict[int, Exp] = {}
        self.all: list[Exp] = []
        self.ids: dict[int, float] = {}
        self.waiting: list[Rew] = []
        self.walks: dict[int, Walk] = {}
        self.rollout = 0
        self.clock = float("-inf")
        self.joined: Counter = Counter()
        self.lately: Counter = Counter()

    def new_rollout(self):
        self.walks = {}
        self.rollout += 1

    def level(self, unit):
        return self.walks[unit].level if unit and unit in self.walks else 0

    def absorb(self, exposures, rewards):
        refused, dropped, accepted = {}, {}, set()
        for e in sorted(exposures, key=lambda e: (e.time, e.offset)):
            if e.request in self.known:
                refused[e.offset] = "duplicate"
            elif e.time < self.clock - self.rule.grace_s:
                refused[e.offset] = "late"
                dropped.setdefault(e.request, (e.arm, e.stratum, True))
            else:
                e.rollout = self.rollout
                self.known[e.request] = e
                self.all.append(e)
                accepted.add(e.offset)
        come = sorted((e for e in exposures if e.offset in accepted), key=lambda e: e.place)
        lost = list(dropped.values())
        entered = {e.offset: base for e in come if (base := self._arrives(e)) is not None}
        for r in sorted(rewards, key=lambda r: (r.time, r.offset)):
            self._reward(r, refused)
        for r in list(self.waiting):
            if r.request and r.request in self.known:
                self.waiting.remove(r)
                self._judge(r, self.known[r.request], refused, lost)
        return {
            "accepted": accepted,
            "entered": entered,
            "dropped": sorted(lost),
            "refused": refused,
        }

    def _arrives(self, e):
        if not self.rule.units or e.unit == 0:
            return 0 if e.in_rollout else None
        return self.walks.setdefault(e.unit, Walk()).meets(e, self.rule.window_s)

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

    def _judge(self, r, e, refused, lost):
        too_early = r.time < e.time - self.rule.grace_s
        too_late = r.time > e.time + self.rule.window_s
        if too_early or too_late or e.closed_at is not None:
            refused[r.offset] = "late"
            if not too_early and not too_late:
                lost.append((e.arm, e.stratum, False))
        else:
            e.rewards.append(r)
            self.joined[e.arm] += 1
            self.lately[e.arm, e.stratum] += 1

    def close(self, clock):
        self.clock = clock
        watermark, refused, lost = clock - self.rule.grace_s, {}, []
        self._ripen(watermark, refused, lost)
        fresh = [e for e in self.all if not e.is_settled and e.time < watermark]
        for e in fresh:
            e.is_settled = True
        roots = self._roots()
        fresh = sorted((e for e in fresh if id(e) in roots), key=lambda e: e.place)
        answer = {
            "matured": [self._who(e, roots) for e in fresh],
            "events": self._events(roots, watermark),
            "outcomes": self._outcomes(roots, watermark),
            "dropped": sorted(lost),
            "joined": dict(self.lately),
            "refused": refused,
        }
        self.lately = Counter()
        self._forget()
        return answer

    def _ripen(self, watermark, refused, lost):
        for r in list(self.waiting):
            if r.request == 0 and r.time <= watermark:
                self.waiting.remove(r)
                mine = [e for e in self.known.values() if e.unit == r.unit and e.time <= r.time]
                if mine:
                    self._judge(r, max(mine, key=lambda e: e.place), refused, lost)
                else:
                    refused[r.offset] = "orphan"
            elif r.request and r.time + self.rule.grace_s <= self.clock:
                self.waiting.remove(r)
                refused[r.offset] = "orphan"

    def _roots(self):
        """All analysed exposures: {id: (base, the exposures that belong to it)}."""
        roots, walks, last = {}, {}, {}
        mine = [e for e in self.all if e.is_settled and e.rollout == self.rollout]
        for e in sorted(mine, key=lambda e: e.place):
            if not self.rule.units or e.unit == 0:
                if e.in_rollout:
                    roots[id(e)] = (0, [e])
                continue
            base = walks.setdefault(e.unit, Walk()).meets(e, self.rule.window_s)
            if base is not None:
                last[e.unit] = id(e)
                roots[id(e)] = (base, [])
            if e.unit in last:
                roots[last[e.unit]][1].append(e)
        return roots

    def _who(self, e, roots):
        base = roots[id(e)][0] if id(e) in roots else 0
        return (e.time, e.arm, e.stratum, e.unit, e.bin, base)

    def _credited(self, e, members):
        end = e.time + self.rule.window_s
        return sorted(
            (r for x in members for r in x.rewards if x is e or (x.time < end and r.time <= end)),
            key=lambda r: (r.time, r.id),
        )

    def _events(self, roots, watermark):
        found = []
        for e in self.all:
            if id(e) not in roots or e.is_scored or e.closed_at is not None:
                continue
            first = [r for r in self._credited(e, roots[id(e)][1]) if r.time <= watermark][:1]
            e.is_scored = bool(first)
            found += [(r.time, r.id, e, r.value) for r in first]
        found.sort(key=lambda f: f[:2])
        default, is_low = self.rule.default, self.rule.default < self.rule.high
        return [
            (
                *self._who(e, roots),
                value,
                max(0.0, time - e.time),
                value > default if is_low else value < default,
            )
            for time, _, e, value in found
        ]

    def _outcomes(self, roots, watermark):
        due = [
            e
            for e in self.known.values()
            if e.closed_at is None and e.is_settled and e.time + self.rule.window_s <= watermark
        ]
        due.sort(key=lambda e: e.place)
        for e in due:
            e.closed_at = self.clock
        return [self._outcome(e, roots) for e in due]

    def _outcome(self, e, roots):
        value = self._aggregate(sorted(e.rewards, key=lambda r: (r.time, r.id)))
        analysed, together = id(e) in roots, value
        if analysed:
            together = self._aggregate(self._credited(e, roots[id(e)][1]))
        time, arm, stratum, unit, bin_, base = self._who(e, roots)
        row = (time, arm, stratum, value, bool(e.rewards), analysed, together)
        return (*row, unit, bin_, base, e.is_scored)

    def _aggregate(self, rewards):
        values = [r.value for r in rewards]
        if not values:
            return self.rule.default
        total = 0.0
        for v in values:
            total += v
        return {
            "first": values[0],
            "last": values[-1],
            "max": max(values),
            "sum": max(self.rule.low, min(total, self.rule.high)),
            "mean": total / len(values),
        }[self.rule.aggregate]

    def _forget(self):
        for e in list(self.known.values()):
            if e.closed_at is not None and e.closed_at + self.rule.grace_s <= self.clock:
                del self.known[e.request]
        for key, time in list(self.ids.items()):
            if time + (self.rule.window_s + 2.0 * self.rule.grace_s) <= self.clock:
                del self.ids[key]

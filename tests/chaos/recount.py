"""Exposures and rewards counted once more, in dicts and loops, from the rules in docs/events.md.

Nothing of Understudy's is used: not its reader of access logs, not its joiner. There are two
recounts. `by_time` knows only what happened: the raw access logs, and the rewards that were
acknowledged. `by_log` also knows in which order the event log has it all, and between which ticks;
so it can tell what came too late or twice.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

_TIME = re.compile(rb"\d{10}\.\d{6}")
_BEHIND = re.compile(rb"(.+)(\d{10}\.\d{6}\x1fexposure\x1f.*)")
_ID = 36
NEVER = float("inf")
_BROKEN = {"UC", "UR", "UPE", "UT", "SI", "LR", "OM"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What the policy says of rewards."""

    name: str
    window_s: float
    grace_s: float
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered request."""

    time: float
    arm: str
    status: int
    epoch: int

    @property
    def is_error(self) -> bool:
        return self.status >= 500 or self.status == 0


@dataclass
class Count:
    """Per arm, and what could not be used by reason."""

    exposures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    rewards: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def exposed(self, one: Asked) -> None:
        self.exposures[one.arm] += 1
        self.errors[one.arm] += one.is_error

    def add(self, other: Count) -> None:
        """What was counted in another log, too."""
        for mine, its in (
            (self.exposures, other.exposures),
            (self.errors, other.errors),
            (self.rewards, other.rewards),
            (self.outcomes, other.outcomes),
            (self.refused, other.refused),
        ):
            mine.update(its)


# --- the raw access logs ----------------------------------------------------------------------


@dataclass
class Raw:
    """What stands in the access logs of all routers.

    twice      requests that stand in them more than once, which no router should write
    half       lines that are none, such as what a killed router left
    unmatched  requests of no model
    """

    asked: dict[str, Asked] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    half: list[bytes] = field(default_factory=list)
    unmatched: int = 0

    def read(self, content: bytes) -> None:
        """Add one file."""
        for line in content.split(b"\n"):
            if (two := _BEHIND.fullmatch(line)) is not None:
                self.half.append(two[1])
                self._take(two[2])
            elif line:
                self._take(line)

    def _take(self, line: bytes) -> None:
        fields = line.split(b"\x1f")
        if not _is_whole(fields):
            self.half.append(line)
            return
        if not fields[2]:
            self.unmatched += 1
            return
        request_id = fields[8].decode()
        if request_id in self.asked:
            self.twice.append(request_id)
        status = int(fields[4])
        if 200 <= status < 300 and _BROKEN & set(fields[6].decode().split(",")):
            status = 502
        epoch = int(fields[2].split(b"\x1e")[1])
        arm = fields[3].decode().partition("/")[2]
        self.asked[request_id] = Asked(float(fields[0]), arm, status, epoch)


def _has_end(fields: list[bytes]) -> bool:
    """Behind the request id stands the unit, where the route names one."""
    if len(fields) == 9:
        return fields[2].endswith(b"\x1e") and len(fields[8]) == _ID
    return len(fields) > 9


def _is_whole(fields: list[bytes]) -> bool:
    return (
        _has_end(fields)
        and _TIME.fullmatch(fields[0]) is not None
        and fields[1] == b"exposure"
        and fields[4].isdigit()
        and all(b"=" in each for each in fields[9:])
        and (not fields[2] or len(fields[2].split(b"\x1e")) in {3, 4})
    )


def by_time(
    raw: Mapping[str, Asked],
    rewards: Iterable[Mapping[str, Any]],
    rule: Rule,
    clock: float = NEVER,
    overdue: Collection[str] = (),
) -> Count:
    """What happened until `clock`, whenever anybody heard of it.

    overdue  rewards that were heard of when it was too late; counted as such if nothing else is
             wrong with them
    """
    count = Count()
    for one in raw.values():
        count.exposed(one)
        count.outcomes[one.arm] += one.time + rule.window_s + rule.grace_s <= clock
    known = set()
    for event in rewards:
        if event["name"] != rule.name:
            count.refused["unknown_name"] += 1
        elif event["id"] not in known:
            known.add(event["id"])
            asked = raw.get(event["request_id"])
            refused = _refusal(event, asked, rule)
            if refused is None and event["id"] in overdue:
                refused = "overdue"
            _judged(count, asked, refused)
    return count


def _refusal(event: Mapping[str, Any], one: Asked | None, rule: Rule) -> str | None:
    if not rule.low <= event["value"] <= rule.high:
        return "out_of_range"
    if one is None:
        return "orphan"
    timely = one.time - rule.grace_s <= event["time"] <= one.time + rule.window_s
    return None if timely else "late"


def _judged(count: Count, one: Asked | None, refused: str | None) -> None:
    if refused is not None or one is None:
        count.refused[refused or "orphan"] += 1
    else:
        count.rewards[one.arm] += 1


# --- the event log ----------------------------------------------------------------------------


@dataclass
class _Known:
    request_id: str
    asked: Asked
    closed_at: float = NEVER


class Joiner:
    """The rules, with ticks: what is late, what is closed, what is forgotten.

    late        requests whose exposures came too late
    late_times  how often that was; some are sent again
    clock       the time of the last tick
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.count = Count()
        self.late: set[str] = set()
        self.late_times = 0
        self._overdue: set[str] = set()
        self._joined: set[str] = set()
        self.clock = float("-inf")
        self._known: dict[str, _Known] = {}
        self._open: list[tuple[float, str]] = []
        self._closed: deque[_Known] = deque()
        self._ids: set[str] = set()
        self._told: set[tuple[int, int, int]] = set()
        self._lapsing: list[tuple[float, str]] = []
        self._waiting: list[Mapping[str, Any]] = []
        self._exposures: list[Mapping[str, Any]] = []
        self._rewards: list[Mapping[str, Any]] = []

    def read(self, event: Mapping[str, Any]) -> None:
        """The next event of the log."""
        match event["type"]:
            case "exposure":
                self._exposures.append(event)
            case "reward":
                self._rewards.append(event)
            case "tallies":
                self._tallies(event)
            case "tick":
                self._tick(event["time"])

    def _tallies(self, event: Mapping[str, Any]) -> None:
        """What a worker told of its log counts once, whoever tells it; here only whether."""
        stretch = event["partition"], event["start"], event.get("part", 0)
        self.count.refused["repeated"] += stretch in self._told
        self._told.add(stretch)

    @property
    def pending(self) -> int:
        """Exposures that are not outcomes yet."""
        return len(self._open)

    @property
    def overdue(self) -> set[str]:
        """Rewards that never counted, for their exposures were closed, or had not come.

        One that was posted again when its first copy was long counted is none.
        """
        return self._overdue - self._joined

    def _tick(self, time: float) -> None:
        for event in sorted(self._exposures, key=lambda e: float(e["time"])):
            self._expose(event)
        for event in sorted(self._rewards, key=lambda e: float(e["time"])):
            self._reward(event)
        self._exposures, self._rewards = [], []
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._match(event)
        self.clock = max(self.clock, time)
        self._close()

    def _expose(self, event: Mapping[str, Any]) -> None:
        request_id = event["request_id"]
        if request_id in self._known:
            self.count.refused["duplicate"] += 1
        elif event["time"] < self.clock - self._rule.grace_s:
            self.count.refused["late"] += 1
            self.late.add(request_id)
            self.late_times += 1
        else:
            one = Asked(event["time"], event["arm"], event["status"], event["epoch"])
            self._known[request_id] = _Known(request_id, one)
            heappush(self._open, (one.time, request_id))
            self.count.exposed(one)

    def _reward(self, event: Mapping[str, Any]) -> None:
        if event["name"] != self._rule.name:
            self.count.refused["unknown_name"] += 1
        elif event["id"] in self._ids:
            self.count.refused["duplicate"] += 1
        else:
            self._ids.add(event["id"])
            heappush(self._lapsing, (event["time"], event["id"]))
            if self._rule.low <= event["value"] <= self._rule.high:
                self._waiting.append(event)
            else:
                self.count.refused["out_of_range"] += 1

    def _match(self, event: Mapping[str, Any]) -> None:
        found = self._known.get(event["request_id"])
        if found is None:
            self._waiting.append(event)
        elif found.closed_at < NEVER:
            self.count.refused["late"] += 1
            self._overdue.add(event["id"])
        else:
            refused = _refusal(event, found.asked, self._rule)
            _judged(self.count, found.asked, refused)
            if refused is None:
                self._joined.add(event["id"])

    def _close(self) -> None:
        rule, clock = self._rule, self.clock
        orphans = [e for e in self._waiting if e["time"] + rule.grace_s <= clock]
        self.count.refused["orphan"] += len(orphans)
        self._overdue.update(e["id"] for e in orphans)
        self._waiting = [e for e in self._waiting if e["time"] + rule.grace_s > clock]
        while self._open and self._open[0][0] + rule.window_s <= clock - rule.grace_s:
            one = self._known[heappop(self._open)[1]]
            one.closed_at = clock
            self.count.outcomes[one.asked.arm] += 1
            self._closed.append(one)
        while self._closed and self._closed[0].closed_at + rule.grace_s <= clock:
            del self._known[self._closed.popleft().request_id]
        lapse_s = rule.window_s + rule.grace_s
        while self._lapsing and self._lapsing[0][0] + lapse_s <= clock:
            self._ids.discard(heappop(self._lapsing)[1])

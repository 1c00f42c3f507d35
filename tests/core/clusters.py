"""Logs of models that run in a cluster: the lines of `tests.core.logs`, and capacities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from controller.core.model import (
    ArmRole,
    Decision,
    KeepRejected,
    PointService,
    Scale,
    SetRole,
    SetSplit,
)
from controller.core.policy import Policy
from controller.core.state import initial
from controller.stream import codec
from tests.core import logs
from tests.core.logs import CANARY, MODEL, Log, Told, Traffic, drive, fold

PACE: dict[str, Any] = {
    "warmup": "10s",
    "progress_deadline": "2m",
    "retain": "5m",
    "drain": "30s",
}


def policy(*stages: dict[str, Any], target: dict[str, Any] | None = None, **spec: Any) -> Policy:
    """The policy of `logs.policy` with Deployments, and short times."""
    kubernetes = {"service": "m", "port": 8080} | PACE | (target or {})
    return logs.policy(*(stages or (CANARY,)), **{"deploy": {"kubernetes": kubernetes}} | spec)


@dataclass
class Cluster:
    """A model whose arms run in a cluster: its log, its story, and a clock of 5 s."""

    policy: Policy = field(default_factory=policy)
    log: Log = field(default_factory=Log)
    told: Told = None  # type: ignore[assignment]
    now: float = 0.0

    def __post_init__(self) -> None:
        self.told = Told(initial(self.policy))

    @property
    def state(self):
        return self.told.state

    def capacity(self, arm: str, ready: int, replicas: int | None = None, **rest: Any) -> None:
        """The line that says how much of the arm runs."""
        fields = {"state": "known", "ready": ready, "replicas": replicas or ready} | rest
        self.log.lines.append(codec.capacity_line(MODEL, time=self.now, arm=arm, **fields))

    def lost(self, arm: str, state: str = "gone") -> None:
        self.log.lines.append(codec.capacity_line(MODEL, time=self.now, arm=arm, state=state))

    def offered(self, arm: str = "v2", **rest: Any) -> None:
        self.log.version(self.now, arm, **rest)

    def command(self, name: str, **rest: Any) -> None:
        self.log.command(self.now, name, by="ana", **rest)

    def confirm(self) -> None:
        split = self.state.split
        self.log.split(self.now, split.epoch, **split.weights)

    def exposed(self, **rest: Any) -> None:
        split = self.state.split
        fields = {"arm": split.champion, "epoch": split.epoch} | rest
        self.log.exposure(self.now, **fields)

    def tick(self, seconds: float = 5.0) -> list[Decision]:
        """The clock moves; gives what was decided."""
        begin = getattr(self, "_folded", 0)
        self.now += seconds
        self.log.tick(self.now)
        before = len(self.told.decisions)
        fold(self.policy, self.told, self.log.lines[begin:])
        self._folded = len(self.log.lines)
        return self.told.decisions[before:]

    def ticks(self, seconds: float, step: float = 5.0) -> list[Decision]:
        """Ticks for so long, with every split confirmed as soon as it is wanted."""
        found: list[Decision] = []
        end = self.now + seconds
        while self.now < end:
            if self.state.in_force_epoch < self.state.split.epoch:
                self.confirm()
            found += self.tick(step)
        return found

    def drive(self, seconds: float, seed: int = 1, **means: float) -> None:
        """Traffic for so long, as `logs.drive` makes it."""
        traffic = Traffic(means or {"v1": 0.2, "v2": 0.6, "v3": 0.2})
        begin = getattr(self, "_folded", 0)
        fold(self.policy, self.told, self.log.lines[begin:])
        drive(
            self.policy, self.log, traffic,
            seconds=seconds, seed=seed, start=self.now, told=self.told,
        )  # fmt: skip
        self.now += seconds
        self._folded = len(self.log.lines)

    def started(self, full: int = 6) -> Cluster:
        """The champion serves everything."""
        self.capacity("v1", full)
        self.ticks(10)
        return self

    def ramping(self, full: int = 6) -> Cluster:
        """v2 is at the first step, 10 %."""
        self.started(full)
        self.offered("v2")
        self.capacity("v2", 1)
        self.ticks(30)
        assert self.state.split.weights == {"v1": 9000, "v2": 1000}
        return self


def wanted(told: Told, number: int | None = None) -> list[tuple[Any, ...]]:
    """The effects of one decision (or of all), readable: ("scale", "v2", 3), ("split", {...}) …"""
    found: list[tuple[Any, ...]] = []
    for effect in told.effects:
        if isinstance(effect, KeepRejected) or (number and effect.decision != number):
            continue
        match effect:
            case SetSplit():
                found.append(("split", effect.split.weights))
            case Scale():
                found.append(("scale", effect.arm, effect.replicas))
            case SetRole():
                found.append(("role", effect.arm, ArmRole(effect.role).value))
            case PointService():
                found.append(("service", effect.arm))
    return found

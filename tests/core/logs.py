"""Logs made by hand, as the lines of the contract, and what the engine makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import yaml

from controller.core import engine
from controller.core.model import BASIS, Decision, Effect, SetSplit
from controller.core.policy import Policy, parse
from controller.core.record import canonical, decision_document
from controller.core.state import State, initial
from controller.stream import codec

MODEL = "m"

CANARY = {
    "canary": {
        "steps": ["10%", "50%"],
        "min_duration": "10s",
        "min_outcomes": 20,
        "margin": "5%",
        "max_duration": "1h",
        "budget": "100%",
    }
}


def policy(*stages: dict[str, Any], **spec: Any) -> Policy:
    """A policy with short times: window 10 s, grace 5 s, no cooldown."""
    document = {
        "apiVersion": "understudy.dev/v1alpha1",
        "kind": "RolloutPolicy",
        "metadata": {"name": MODEL},
        "spec": {
            "route": {"prefix": "/m/"},
            "champion": {"version": "v1"},
            "reward": {"event": "click", "window": "10s", "grace": "5s"},
            "guardrails": [{"metric": "error_rate", "max_increase": "1%"}],
            "gates": {"cooldown": "0s"},
            "stages": list(stages or (CANARY,)),
        }
        | spec,
    }
    return parse(yaml.safe_dump(document), "test")


@dataclass
class Log:
    """Lines, one method per kind of event."""

    lines: list[bytes] = field(default_factory=list)
    requests: int = 0

    def add(self, type_: str, time: float, **fields: Any) -> None:
        event = {"type": type_, "time": time} | {k: v for k, v in fields.items() if v is not None}
        self.lines.append(json.dumps(event).encode())

    def tick(self, time: float) -> None:
        self.add("tick", time)

    def ticks(self, start: float, stop: float, step: float = 5.0) -> None:
        for time in np.arange(start, stop + step / 2, step):
            self.tick(float(time))

    def version(self, time: float, name: str = "v2", role: str = "candidate", **rest: Any) -> None:
        self.add("version", time, model=MODEL, version=name, role=role, **rest)

    def split(self, time: float, epoch: int, **weights: int) -> None:
        self.add("split", time, model=MODEL, epoch=epoch, weights=weights)

    def command(self, time: float, command: str, **rest: Any) -> None:
        self.add("command", time, model=MODEL, command=command, **rest)

    def exposure(self, time: float, arm: str, **rest: Any) -> str:
        self.requests += 1
        request = rest.pop("request_id", f"r{self.requests}")
        self.add("exposure", time, model=MODEL, request_id=request, arm=arm, **rest)
        return request

    def reward(self, time: float, request: str, value: float = 1, **rest: Any) -> None:
        rest = {"name": "click", "id": f"w-{request}"} | rest
        self.add("reward", time, model=MODEL, request_id=request, value=value, **rest)


@dataclass
class Told:
    """What a log led to."""

    state: State
    decisions: list[Decision] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    @property
    def causes(self) -> list[str]:
        return [decision.cause for decision in self.decisions]

    @property
    def documents(self) -> list[str]:
        return [canonical(decision_document(decision)) for decision in self.decisions]

    @property
    def meaning(self) -> list[tuple[Any, ...]]:
        """The decisions without their place in the log, which inserted lines move."""
        return [
            (d.time, d.phase, d.verdict, d.cause, d.reason, d.epoch, tuple(d.weights.items()))
            for d in self.decisions
        ]

    @property
    def splits(self) -> list[dict[str, int]]:
        return [e.split.weights for e in self.effects if isinstance(e, SetSplit)]


def fold(policy: Policy, told: Told, lines: Sequence[bytes]) -> Told:
    """The story goes on with these lines; the invariant must hold afterwards."""
    before = told.state.split
    batch = codec.decode(MODEL, told.state.offset, lines)
    state, decisions, effects = engine.step(policy, told.state, batch)
    if state.split.epoch:
        engine.check_invariant(state)
    assert state.split.epoch >= before.epoch
    assert (state.split == before) or decisions, "a split changed without a decision"
    told.state = state
    told.decisions += decisions
    told.effects += effects
    return told


def run(policy: Policy, lines: Sequence[bytes], cuts: Sequence[int] = ()) -> Told:
    """The whole log, cut into blocks at these indices."""
    told = Told(initial(policy))
    edges = [0, *sorted(cuts), len(lines)]
    for start, end in pairwise(edges):
        fold(policy, told, lines[start:end])
    return told


@dataclass(frozen=True)
class Traffic:
    """Users whose requests follow the split that is wanted.

    rate   requests per second; each user makes one request, unless `per_user` says more
    means  arm -> probability of a click, which comes within `delay_s`
    fails  arm -> probability of a status 500
    """

    means: dict[str, float]
    rate: float = 20.0
    delay_s: float = 4.0
    fails: dict[str, float] = field(default_factory=dict)
    per_user: int = 1
    confirm: bool = True


def drive(
    policy: Policy,
    log: Log,
    traffic: Traffic,
    *,
    seconds: float,
    seed: int,
    start: float = 0.0,
    step: float = 5.0,
    told: Told | None = None,
) -> Told:
    """A closed loop, written into `log`: traffic, rewards, ticks, and confirmed splits."""
    rng = np.random.default_rng(seed)
    told = told or run(policy, log.lines)
    late: list[tuple[float, str]] = []
    for now in np.arange(start, start + seconds, step):
        begin = len(log.lines)
        if traffic.confirm and told.state.split.epoch > told.state.in_force_epoch:
            split = told.state.split
            log.split(float(now), split.epoch, **split.weights)
        late += _requests(log, traffic, told.state, rng, (float(now), step))
        due = [(time, request) for time, request in late if time <= now + step]
        late = [pair for pair in late if pair not in due]
        for time, request in sorted(due):
            log.reward(time, request)
        log.tick(float(now + step))
        fold(policy, told, log.lines[begin:])
    return told


def _requests(
    log: Log, traffic: Traffic, state: State, rng: np.random.Generator, slot: tuple[float, float]
) -> list[tuple[float, str]]:
    """The requests of one step; gives the clicks that will come of them."""
    start, length = slot
    split = state.split
    arms = list(split.weights)
    shares = np.array(list(split.weights.values())) / BASIS
    clicks = []
    times = np.sort(rng.uniform(start, start + length, rng.poisson(traffic.rate * length)))
    for time in times.tolist():
        arm = arms[rng.choice(len(arms), p=shares)] if split.epoch else split.champion
        status = 500 if rng.random() < traffic.fails.get(arm, 0.0) else 200
        unit = f"u{log.requests // traffic.per_user}" if traffic.per_user > 1 else None
        request = log.exposure(time, arm, epoch=split.epoch, status=status, unit=unit)
        if rng.random() < traffic.means[arm]:
            clicks.append((time + rng.uniform(0, traffic.delay_s), request))
    return clicks

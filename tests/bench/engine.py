"""What a log costs from lines to decisions, and what a tick costs.

`lines to decisions`  decode, join, estimate and decide, streaming, in one process
`tick`                100 models, each with a test of four candidates that has seen 10 000 splits:
                      a tick at which nothing came, and one after ten exposures of each model
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time

import msgspec
import numpy as np

from controller.core import engine
from controller.core.model import (
    BASIS,
    EventBatch,
    Exposures,
    Phase,
    Rewards,
    Role,
    SplitEvent,
    Tick,
    VersionEvent,
)
from controller.core.policy import Policy, parse
from controller.core.state import State, initial
from controller.sim.events import no_exposures, no_rewards
from controller.sim.replay import Clockwork
from controller.stream import codec
from tests.bench import Row

POLICY = Path(__file__).parents[2] / "policies" / "canary.yaml"
EVENTS, BLOCK, MODELS = 300_000, 50_000, 100
EPOCHS, PER_TICK, CANDIDATES = 10_000, 10, 4
"""Splits in the history, how many of them between two ticks, and arms beside the champion."""
EXPOSED = 10
"""Exposures of each model since its last tick."""
MEASURED = 100


def run() -> list[Row]:
    """Both, in under a minute."""
    policy = parse(POLICY.read_text(encoding="utf-8"), "bench")
    lines = log(policy, EVENTS)
    past = History.made()
    name = f"engine: a tick of {MODELS} models of {1 + CANDIDATES} arms, {EPOCHS:,} splits each"
    return [
        Row("engine: lines to decisions", EVENTS / fold_s(policy, lines), "events/s", ""),
        Row(f"{name}, quiet", 1e3 * MODELS * past.tick_s(0), "ms", "<= 50"),
        Row(f"{name}, {EXPOSED} exposures", 1e3 * MODELS * past.tick_s(EXPOSED), "ms", "<= 50"),
    ]


def log(policy: Policy, events: int) -> list[bytes]:
    """A rollout's log at 1 000 requests/s: one exposure in ten is rewarded."""
    rng = np.random.default_rng(11)
    encode = msgspec.json.Encoder().encode
    model, champion = policy.model, policy.spec.champion.version
    shared = {"model": model, "epoch": 2, "status": 200, "latency_ms": 3.2}
    found: list[tuple[float, bytes]] = []
    exposures = round(events / 1.1)
    candidate = rng.random(exposures) < 0.05
    for i in range(exposures):
        time = 1.8e9 + i / 1000
        arm = "next" if candidate[i] else champion
        identity = {"request_id": f"0a1b2c3d-{i:012d}", "unit": f"user-{i}", "arm": arm}
        event = {"type": "exposure", "time": time, **identity, **shared}
        found.append((time, encode(event)))
        if i % 10 == 0:
            reward = {"type": "reward", "time": time + 5, "model": model, "id": f"r{i}"}
            name = policy.spec.reward.event
            about = {"request_id": identity["request_id"], "name": name, "value": 1}
            found.append((time + 5, encode(reward | about)))
    version = {"type": "version", "time": 1.8e9, "model": model, "version": "next"}
    split = {"type": "split", "time": 1.8e9, "model": model, "epoch": 2}
    head = [
        encode(version | {"role": "candidate", "metrics": {"accuracy": 0.99}}),
        encode(split | {"weights": {champion: 9500, "next": 500}}),
    ]
    return head + [line for _, line in sorted(found)]


def fold_s(policy: Policy, lines: list[bytes]) -> float:
    """CPU seconds for the whole log, in blocks, with a tick each second of event time."""
    state, clockwork = initial(policy), Clockwork(1.0)
    began = process_time()
    start = 0
    for i in range(0, len(lines), BLOCK):
        batch = clockwork.with_ticks(codec.decode(policy.model, start, lines[i : i + BLOCK]))
        state, _, _ = engine.step(policy, state, batch)
        start = batch.start + batch.count
    return process_time() - began


# --- a tick --------------------------------------------------------------------------------------

_TEST = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: tick}
spec:
  route: {prefix: /}
  champion: {version: v0}
  reward: {event: click, window: 10s, grace: 5s}
  guardrails:
    - {metric: error_rate, max_increase: 1%}
  stages:
    - ab: {share: 80%, alpha: 0.000001%, min_effect: 1%, min_duration: 300d, max_duration: 360d}
  candidates: {on_new: join}
"""
ARMS = tuple(f"v{i}" for i in range(1 + CANDIDATES))
NAMES = (*ARMS, "click")


@dataclass
class History:
    """One model in the midst of a long test. A tick moves it on, as it would live."""

    policy: Policy
    state: State
    rng: np.random.Generator
    epoch: int
    requests: int = 0

    @classmethod
    def made(cls) -> History:
        """All arms equal, the share of each drawn anew at every split."""
        policy = parse(_TEST, "bench")
        versions = [VersionEvent(i, 0.0, ARMS[i + 1], Role.CANDIDATE) for i in range(CANDIDATES)]
        control = (*versions, Tick(CANDIDATES, 0.0))
        first = EventBatch(
            0, len(control), NAMES, no_exposures(), no_rewards(), no_exposures(), control
        )
        state, _, _ = engine.step(policy, initial(policy), first)
        past = cls(policy, state, np.random.default_rng(5), epoch=state.split.epoch)
        for _ in range(EPOCHS // PER_TICK):
            past.step(per_split=2 * len(ARMS), splits=PER_TICK)
        assert past.state.phase is Phase.TESTING, past.state.said.reason
        assert past.state.rollout is not None
        assert len(past.state.rollout.live) == CANDIDATES
        return past

    def tick_s(self, exposed: int) -> float:
        """CPU seconds of a tick, the median of many, after so many exposures."""
        splits = 0 if exposed == 0 else 1
        spent = [self.step(per_split=exposed, splits=splits, is_new=False) for _ in range(MEASURED)]
        return float(np.median(spent))

    def step(self, *, per_split: int, splits: int, is_new: bool = True) -> float:
        """One tick on; gives its CPU seconds."""
        batch = self._batch(per_split, splits, is_new=is_new)
        began = process_time()
        self.state, _, _ = engine.step(self.policy, self.state, batch)
        return process_time() - began

    def _batch(self, per_split: int, splits: int, *, is_new: bool) -> EventBatch:
        since, start = self.state.clock, self.state.offset
        control: list[SplitEvent | Tick] = []
        if is_new:
            for i in range(splits):
                self.epoch += 1
                control.append(SplitEvent(start + i, since, self.epoch, self._weights()))
        n = per_split * splits
        exposures, rewards = self._events(start + len(control), n, since, len(control))
        end = start + len(control) + n + len(rewards.time)
        control.append(Tick(end, since + 1.0))
        return EventBatch(
            start, end + 1 - start, NAMES, exposures, rewards, no_exposures(), tuple(control)
        )

    def _weights(self) -> dict[str, int]:
        shares = self.rng.dirichlet(np.full(len(ARMS), 50.0))
        weights = np.floor(shares * BASIS).astype(int)
        weights[0] += BASIS - weights.sum()
        return dict(zip(ARMS, weights.tolist(), strict=True))

    def _events(self, start: int, n: int, since: float, splits: int) -> tuple[Exposures, Rewards]:
        """Exposures spread over the splits since the last tick; one in ten is rewarded."""
        rng = self.rng
        request = np.arange(self.requests + 1, self.requests + n + 1, dtype=np.uint64)
        self.requests += n
        time = since + np.sort(rng.random(n))
        known = max(splits, 1)
        exposures = Exposures(
            offset=np.arange(start, start + n),
            time=time,
            request=request,
            unit=np.zeros(n, np.uint64),
            arm=rng.integers(len(ARMS), size=n),
            epoch=self.epoch - known + 1 + np.arange(n) * known // max(n, 1),
            propensity=np.full(n, np.nan),
            status=np.full(n, 200),
            latency_ms=np.full(n, np.nan),
            segment=np.full(n, -1),
        )
        good = rng.random(n) < 0.1
        k = int(good.sum())
        rewards = Rewards(
            offset=np.arange(start + n, start + n + k),
            time=time[good],
            id=request[good],
            request=request[good],
            unit=np.zeros(k, np.uint64),
            name=np.full(k, len(ARMS)),
            value=np.ones(k),
        )
        return exposures, rewards

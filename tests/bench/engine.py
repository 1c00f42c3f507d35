"""What a log costs from lines to decisions, and what a tick costs.

`lines to decisions`  decode, join, estimate and decide, streaming, in one process
`tick`                100 models with a rollout each, one micro-batch of outcomes each
"""

from __future__ import annotations

from pathlib import Path
from time import process_time

import msgspec
import numpy as np

from controller.core import engine
from controller.core.batch import between
from controller.core.model import EventBatch
from controller.core.policy import Policy, parse
from controller.core.state import State, initial
from controller.sim.replay import Clockwork
from controller.stream import codec
from tests.bench import Row

POLICY = Path(__file__).parents[2] / "policies" / "canary.yaml"
EVENTS, BLOCK, MODELS = 300_000, 50_000, 100


def run() -> list[Row]:
    """Both, in some seconds."""
    policy = parse(POLICY.read_text(encoding="utf-8"), "bench")
    lines = log(policy, EVENTS)
    return [
        Row("engine: lines to decisions", EVENTS / fold_s(policy, lines), "events/s", ""),
        Row(
            f"engine: a tick of {MODELS} models at 1 000/s",
            1e3 * tick_s(policy, lines),
            "ms",
            "<= 50",
        ),
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


def tick_s(policy: Policy, lines: list[bytes]) -> float:
    """CPU seconds for one tick of all models, the median of the log's last twenty ticks."""
    clockwork = Clockwork(1.0)
    batch = clockwork.with_ticks(codec.decode(policy.model, 0, lines))
    state, _, _ = engine.step(policy, initial(policy), _until(batch, 250.0))
    costs = []
    for second in range(251, 270):
        piece = _until(batch, float(second), state)
        began = process_time()
        state, _, _ = engine.step(policy, state, piece)
        costs.append(process_time() - began)
    return float(np.median(costs)) * MODELS


def _until(batch: EventBatch, second: float, state: State | None = None) -> EventBatch:
    """The events of the batch from where the state is to the tick at this second."""
    start = state.offset if state is not None else batch.start
    ticks = [e for e in batch.control if type(e).__name__ == "Tick"]
    end = next((t.offset + 1 for t in ticks if t.time >= 1.8e9 + second), batch.start + batch.count)
    return between(batch, start, end)

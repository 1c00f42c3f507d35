"""How the cost of an event grows with rate, window, arms and models: decode, join and estimate.

A second of event time is a micro-batch, as in `serve`; events come at a rate, and everything is
folded by `engine.step`. Costs of the store and of snapshots are in `streaming` and `join`.
"""

from __future__ import annotations

from statistics import median
from time import process_time

import numpy as np

from controller.core import engine
from controller.core.policy import Policy, parse
from controller.core.state import initial
from controller.stream import codec
from tests.bench import Row

SECONDS = 20
STEADY = 13
BEGAN = 1_795_423_600.0

_POLICY = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {{name: m}}
spec:
  route: {{prefix: /}}
  champion: {{version: v0}}
  reward: {{event: click, window: {window}s, grace: 2s}}
  guardrails: [{{metric: error_rate, max_increase: 1%}}]
  stages:
    - ab: {{share: 90%, alpha: 0.000001%, min_effect: 1%, min_duration: 300d, max_duration: 360d}}
  candidates: {{on_new: join}}
"""


def run() -> list[Row]:
    """One quantity at a time, the others at 10 000 events/s, 5 s, 2 arms and 1 model."""
    changes: list[tuple[str, dict[str, int]]] = [
        *((f"{rate:,} events/s", {"rate": rate}) for rate in (100, 1_000, 10_000, 30_000)),
        *((f"a window of {window} s", {"window_s": window}) for window in (1, 5, 10)),
        *((f"{arms} arms", {"arms": arms}) for arms in (2, 5, 10)),
        *((f"{models} models share the rate", {"models": models}) for models in (1, 10, 100)),
    ]
    return [_row(name, cost_us(**change)) for name, change in changes]


def _row(name: str, cost: float) -> Row:
    return Row(f"an event: {name}", cost, "us of CPU", "")


def cost_us(*, rate: int = 10_000, window_s: int = 5, arms: int = 2, models: int = 1) -> float:
    """Microseconds of the processor per event, the median of the seconds of the steady state."""
    policy = parse(_POLICY.format(window=window_s), "bench")
    own = max(rate // models, 1)
    seconds = [_second(i, own, window_s, arms) for i in range(SECONDS)]
    states = [initial(policy) for _ in range(models)]
    spent = []
    for second, lines in enumerate(seconds):
        began = process_time()
        states = [_stepped(policy, state, lines) for state in states]
        if second >= STEADY:
            spent.append((process_time() - began) / (models * len(lines)))
    return 1e6 * median(spent)


def _stepped(policy: Policy, state, lines: list[bytes]):
    return engine.step(policy, state, codec.decode("m", state.offset, lines))[0]


def _second(number: int, rate: int, window_s: int, arms: int) -> list[bytes]:
    """A second's lines: exposures, a reward for one in ten of a random second, and a tick."""
    rng = np.random.default_rng(number)
    exposures = rate * 10 // 11
    time = BEGAN + number
    names = [f"v{i}" for i in range(arms)]
    lines = []
    if number == 0:
        lines += [_version(time, name) for name in names[1:]]
        share = 10_000 // arms
        weights = dict.fromkeys(names[1:], share)
        weights["v0"] = 10_000 - sum(weights.values())
        lines.append(_line("split", time, epoch=2, weights=weights))
    for i, arm in enumerate(rng.integers(0, arms, exposures).tolist()):
        asked = f"0a1b2c3d-4e5f-6071-{number:04d}-{i:012d}"
        lines.append(
            b'{"type":"exposure","time":%.6f,"model":"m","request_id":"%s","unit":"user-%d",'
            b'"arm":"%s","epoch":2,"status":200,"latency_ms":3.2}'
            % (time + i / exposures, asked.encode(), i % 997, names[arm].encode())
        )
        if i % 10 == 0:
            earlier = max(0, number - int(rng.integers(0, window_s)))
            about = f"0a1b2c3d-4e5f-6071-{earlier:04d}-{i:012d}"
            lines.append(
                b'{"type":"reward","time":%.6f,"model":"m","id":"r%d-%d","request_id":"%s",'
                b'"name":"click","value":1}' % (time + i / exposures, number, i, about.encode())
            )
    return [*lines, codec.tick_line(time + 1.0)]


def _version(time: float, name: str) -> bytes:
    return _line("version", time, version=name, role="candidate")


def _line(kind: str, time: float, **fields: object) -> bytes:
    return codec.canonical({"type": kind, "time": time, "model": "m", **fields}).line

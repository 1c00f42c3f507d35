"""One file of events, as JSON Lines in order of time, that every contender of `columns` reads.

RATE exposures a second of event time, of 100 000 users and two arms; one in ten is rewarded, a
uniformly random part of the window later. Lines are as the router's access log and an application
make them: a UUID per request, an id per reward.
"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import numpy as np

from controller.core.policy import Policy, parse

MODEL, CHAMPION, CANDIDATE = "digits", "v1", "v2"
RATE = 50_000
WINDOW_S = 20.0
GRACE_S = 5.0
USERS = 100_000
BEGAN = 1_795_423_600.0
_CHUNK = 100_000

Timed = tuple[float, bytes]
_EXPOSURE = (
    '{"type":"exposure","time":%.6f,"model":"digits","request_id":"%s","unit":"user-%d",'
    '"arm":"%s","epoch":2,"status":200,"latency_ms":%s}\n'
)
_REWARD = (
    '{"type":"reward","time":%.6f,"model":"digits","id":"evt-%s","request_id":"%s",'
    '"name":"correct","value":%d}\n'
)

_POLICY = """
apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {{name: digits}}
spec:
  route: {{prefix: /{unit}}}
  champion: {{version: v1}}
  reward: {{event: correct, window: {window}s, grace: {grace}s}}
  guardrails: [{{metric: error_rate, max_increase: 1%}}]
  stages:
    - canary: {{steps: [50%], min_duration: 30d, max_duration: 90d, budget: 100%}}
"""


def policy(*, units: bool = False, window_s: float = WINDOW_S) -> Policy:
    """A canary at half of the traffic that never ends; `units`: each user is analysed once."""
    return parse(document(units=units, window_s=window_s), "bench")


def document(*, units: bool = False, window_s: float = WINDOW_S) -> str:
    """The policy's text."""
    unit = ", unit: {header: x-user-id}" if units else ""
    return _POLICY.format(unit=unit, window=f"{window_s:g}", grace=f"{GRACE_S:g}")


def head() -> list[bytes]:
    """What the log says before the first request: a candidate, and the split in force."""
    version = {"version": CANDIDATE, "role": "candidate", "metrics": {"accuracy": 0.99}}
    split = {"epoch": 2, "weights": {CHAMPION: 5000, CANDIDATE: 5000}}
    return [
        _line("version", model=MODEL, **version),
        _line("tick"),
        _line("split", model=MODEL, **split),
    ]


def _line(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, "time": BEGAN} | fields).encode()


def write(path: Path, exposures: int, *, seed: int = 5) -> int:
    """Write the file; how many events it has."""
    rng = np.random.default_rng(seed)
    count, later = 0, []
    with path.open("wb") as file:
        for first in range(0, exposures, _CHUNK):
            size = min(_CHUNK, exposures - first)
            times = BEGAN + 1.0 + (first + np.arange(size)) / RATE
            made, rewards = _chunk(times, rng)
            later += rewards
            later.sort()
            now = float(times[-1])
            due = [pair for pair in later if pair[0] <= now]
            later = later[len(due) :]
            made = sorted(made + due)
            file.write(b"".join(line for _, line in made))
            count += len(made)
        file.write(b"".join(line for _, line in later))
    return count + len(later)


def _chunk(times: np.ndarray, rng: np.random.Generator) -> tuple[list[Timed], list[Timed]]:
    """The exposures at these times, and their rewards."""
    size = len(times)
    ids = [str(UUID(bytes=rng.bytes(16), version=4)) for _ in range(size)]
    arms = np.where(rng.random(size) < 0.5, CHAMPION, CANDIDATE).tolist()
    users = rng.integers(0, USERS, size).tolist()
    latency = np.round(rng.gamma(4, 2, size), 3).tolist()
    columns = zip(times.tolist(), ids, users, arms, latency, strict=True)
    exposures = [(row[0], (_EXPOSURE % row).encode()) for row in columns]
    chosen = np.flatnonzero(rng.random(size) < 0.1)
    asked = [ids[i] for i in chosen.tolist()]
    later = (times[chosen] + rng.random(len(chosen)) * WINDOW_S).tolist()
    values = rng.integers(0, 2, len(chosen)).tolist()
    columns = zip(later, asked, asked, values, strict=True)
    return exposures, [(row[0], (_REWARD % row).encode()) for row in columns]

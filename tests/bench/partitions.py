"""A hot model's log, folded by one controller, and split over partitions with a worker each.

The same events, written beforehand: exposures of two arms in a rollout, one in ten rewarded, a tick
after each 10 000. Measured is all from the log to the ledger: read, decode, join, tell, keep; of
partitions until the last worker is done. Side by side in one run, on real SQLite stores; the best
of three. What the leader pays for the partitions is measured on what the workers have told.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from controller.core.partition import log_name, place
from controller.core.policy import digest, parse
from controller.ledger import Ledger, open_ledger
from controller.ledger.leases import PartitionLog
from controller.loop.fold import Fold, PolicySource
from controller.loop.partitions import PartitionFold
from controller.stream import Stream, codec, open_stream
from tests.bench import Row

EVENTS = 300_000
PER_TICK = 10_000
RUNS = 3
TEXT = """apiVersion: understudy.dev/v1alpha1
kind: RolloutPolicy
metadata: {{name: m}}
spec:
  partitions: {partitions}
  route: {{prefix: /m/}}
  champion: {{version: v1, endpoints: ["127.0.0.1:1"]}}
  reward: {{event: ok, window: 10s, grace: 2s}}
  stages:
    - canary: {{steps: [50%], min_duration: 10h, false_rollback: 0.01%, max_duration: 10d}}
"""


def run() -> list[Row]:
    """Events per second without partitions and with one and two; the leader's cost."""
    rate, per_core = {}, {}
    leader_ms = 0.0
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warmed, range(4)))
        for count in (0, 1, 2):
            with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
                filled = Path(folder) / "filled"
                ticks = fill(filled, source(count), count)
                found = [measured(pool, filled, count, ticks) for _ in range(RUNS)]
            rate[count] = EVENTS / min(seconds for seconds, _, _ in found)
            per_core[count] = EVENTS / min(cpu_s for _, cpu_s, _ in found)
            leader_s = min(leader_s for _, _, leader_s in found)
            if count:
                leader_ms = 1e3 * leader_s / (ticks * count)
    return [
        Row("log to ledger, no partitions", rate[0], "events/s", ""),
        Row("log to ledger, 1 partition", rate[1], "events/s", ""),
        Row("log to ledger, 2 partitions on two cores", rate[2], "events/s", ""),
        Row("2 partitions / none, by the clock", rate[2] / rate[0], "ratio", ""),
        Row("no partitions, by CPU", per_core[0], "events/s", ""),
        Row("1 partition, by CPU of its worker", per_core[1], "events/s", ""),
        Row("2 partitions, by CPU of the busier worker", per_core[2], "events/s", ""),
        Row("2 partitions / none, by CPU", per_core[2] / per_core[0], "ratio", ""),
        Row("leader, per partition and tick", leader_ms, "ms CPU", ""),
    ]


def warmed(_: int) -> None:
    """So that imports are paid before anything is measured."""


def source(count: int) -> PolicySource:
    """The policy of a model with so many partitions."""
    text = TEXT.format(partitions=max(count, 1))
    return PolicySource(parse(text, "bench"), text)


def measured(
    pool: ProcessPoolExecutor, filled: Path, count: int, ticks: int
) -> tuple[float, float, float]:
    """Seconds until all is folded: wall, CPU of the busiest process; CPU of the leader after it."""
    folder = filled.with_name("run")
    shutil.copytree(filled, folder)
    stream, ledger = stores(folder)
    begin, cpu = perf_counter(), process_time()
    if count:
        cpu_s = max(pool.map(folded, [(str(folder), n) for n in range(count)]))
    else:
        Fold(source(0), stream, ledger).turn()
        cpu_s = process_time() - cpu
    seconds = perf_counter() - begin
    leader_s = 0.0
    if count:
        stream.append({"m": [codec.tick_line(1.0 + ticks + 60.0)]})
        cpu = process_time()
        turned = Fold(source(count), stream, ledger).turn()
        leader_s = process_time() - cpu
        assert sum(arm.exposures for arm in turned.report.arms) == int(EVENTS / 1.1)
    stream.close()
    ledger.close()
    shutil.rmtree(folder)
    return seconds, cpu_s, leader_s


def stores(folder: Path) -> tuple[Stream, Ledger]:
    """The log and the ledger in this folder."""
    stream = open_stream(f"sqlite:///{folder}/events.db")
    return stream, open_ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: 0.0)


def folded(task: tuple[str, int]) -> float:
    """A worker's turn over one partition: CPU seconds."""
    begin = process_time()
    folder, number = task
    stream, ledger = stores(Path(folder))
    place_ = PartitionLog(log_name("m", number), "m", number)
    PartitionFold(place_, stream, ledger, lambda: True).turn()
    stream.close()
    ledger.close()
    return process_time() - begin


def fill(folder: Path, policy_source: PolicySource, count: int) -> int:
    """Write the events, in `count` partitions; 0: in the model's own log. How many ticks."""
    folder.mkdir()
    stream, ledger = stores(folder)
    if count:
        own = digest(policy_source.policy)
        ledger.adopt_policy("m", 0, own, policy_source.document)
    fields = {"type": "version", "time": 0.5, "model": "m", "version": "v2", "role": "candidate"}
    begin = [
        codec.tick_line(0.0, partitions=count if count > 1 else 0),
        json.dumps(fields).encode(),
        codec.tick_line(1.0),
        codec.split_line("m", time=1.0, epoch=2, weights={"v1": 5_000, "v2": 5_000}),
    ]
    stream.append({"m": begin})
    rng = np.random.default_rng(3)
    logs = [log_name("m", n) for n in range(count)] or ["m"]
    policy = digest(policy_source.policy) if count else ""
    number, exposures, ticks = 0, int(EVENTS / 1.1), 0
    while number < exposures:
        ticks += 1
        lines: dict[str, list[bytes]] = {log: [] for log in logs}
        for _ in range(min(PER_TICK, exposures - number)):
            number += 1
            log = logs[place(f"request-{number:012d}", count) if count else 0]
            lines[log] += pair(number, ticks, rng)
        stream.append(lines)
        tell_time(stream, [*logs, "m"] if count else logs, 1.0 + ticks, policy)
    tell_time(stream, [*logs, "m"] if count else logs, 1.0 + ticks + 30.0, policy)
    stream.close()
    ledger.close()
    return ticks + 1


def tell_time(stream: Stream, logs: list[str], now: float, policy: str) -> None:
    """A tick in each of the logs."""
    stream.append({log: [codec.tick_line(now, policy=policy)] for log in logs})


def pair(number: int, tick: int, rng: np.random.Generator) -> list[bytes]:
    """An exposure, and for one in ten its reward."""
    request, at = f"request-{number:012d}", tick + float(rng.random())
    arm = "v2" if rng.random() < 0.5 else "v1"
    found = [
        b'{"type":"exposure","time":%.6f,"model":"m","request_id":"%s","arm":"%s","epoch":2,'
        b'"status":200,"latency_ms":3.25}' % (at, request.encode(), arm.encode())
    ]
    if number % 10 == 0:
        found.append(
            b'{"type":"reward","time":%.6f,"model":"m","id":"w%d","request_id":"%s","name":"ok",'
            b'"value":1}' % (at + 1e-3, number, request.encode())
        )
    return found

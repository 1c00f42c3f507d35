"""Bytewax: a join of two streams by request id. FILE WORK [--unbounded] [--recovery].

The documented way: `join_window` with an `EventClock` and sessions of one window's length, keyed by
request. --unbounded is the plain `join` instead: quicker, but a request without a reward is never
told and never forgotten. With --recovery its state is snapshotted every 10 s; without, nothing
survives the process.
"""

import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

path, work = sys.argv[1], Path(sys.argv[2])
count, value, read = Counter(), Counter(), [0]


def parsed(line: str) -> dict:
    """One event, and its time as Bytewax wants it."""
    read[0] += 1
    event = json.loads(line)
    event["at"] = datetime.fromtimestamp(event["time"], UTC)
    return event


class _Sums(StatelessSinkPartition):
    def write_batch(self, items: list) -> None:
        for _key, found in items:
            exposure, reward = found if "--unbounded" in sys.argv else found[1]
            if exposure is not None:
                count[exposure["arm"]] += 1
                value[exposure["arm"]] += reward["value"] if reward else 0.0


class Sums(DynamicSink):
    """Sums per arm."""

    def build(self, _step_id: str, _index: int, _count: int) -> _Sums:
        return _Sums()


flow = Dataflow("join")
lines = op.input("lines", flow, FileSource(path, batch_size=1_000))
events = op.map("parse", lines, parsed)
kinds = op.branch("kind", events, lambda event: event["type"] == "exposure")
clock = win.EventClock(
    ts_getter=lambda event: event["at"], wait_for_system_duration=timedelta(seconds=5)
)
asked = op.key_on("exposure", kinds.trues, lambda event: event["request_id"])
told = op.key_on("reward", kinds.falses, lambda event: event["request_id"])
if "--unbounded" in sys.argv:
    joined = op.join("join", asked, told)
else:
    sessions = win.SessionWindower(gap=timedelta(seconds=20))
    joined = win.join_window("join", clock, sessions, asked, told).down
op.output("sums", joined, Sums())

options = {}
if "--recovery" in sys.argv:
    store = work / "recovery"
    store.mkdir()
    init_db_dir(store, 1)
    options = {
        "recovery_config": RecoveryConfig(str(store)),
        "epoch_interval": timedelta(seconds=10),
    }
began, began_cpu = perf_counter(), process_time()
cluster_main(flow, [], 0, **options)
wall_s, cpu_s = perf_counter() - began, process_time() - began_cpu
arms = {arm: [count[arm], value[arm]] for arm in count}
print(json.dumps({"events": read[0], "wall_s": wall_s, "cpu_s": cpu_s, "arms": arms}))

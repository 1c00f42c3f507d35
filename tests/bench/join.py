"""What the reward joiner costs, by how much is pending, in a steady stream, snapshots included.

As many exposures come as close; one in ten is rewarded, at a random time within the window. Each
size runs the same ticks of the same stream; only the window, and thus what is pending, differs.
Snapshots go to a ledger in SQLite as often as `Fold` takes them. What is told is the median tick
and its share of a snapshot; once in three windows an index is made anew, which adds some 40 ns an
event at every size. 10^7 pending takes 2 GB and two minutes: `python -m tests.bench.join --large`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from time import process_time

import numpy as np
from numpy.random import Generator

from controller.core import join
from controller.core.state import State, image, initial
from controller.ledger import Ledger, open_ledger
from controller.ledger.codec import encode
from controller.ledger.parts import Cut
from controller.loop.fold import SNAPSHOT_EVENTS, SNAPSHOT_SHARE
from tests.bench import Row, flow

RATE = 2_000.0
"""Exposures a second."""

BATCH = 20_000
EVENTS = BATCH * 11 // 10
LEAST = 20
"""Ticks that are measured at least."""
KEY = np.uint64(0x9E3779B97F4A7C15)
SIZES = (100_000, 1_000_000)
LARGEST = 10_000_000


def run(*, large: bool = False) -> list[Row]:
    """Events per second and bytes at several sizes, and the ratio of the costs per event."""
    rows, costs = [], {}
    for pending in (*SIZES, *([LARGEST] if large else [])):
        cost_s, snapshot_s, size = measure(pending)
        costs[pending] = cost_s
        name = f"join, {pending:.0e} pending"
        rows.append(Row(f"{name}, with snapshots", 1 / cost_s, "events/s", ""))
        rows.append(Row(f"{name}: of this the snapshots", 100 * snapshot_s / cost_s, "%", ""))
        rows.append(Row(f"{name}: memory", size, "bytes/exposure", "<= 64" if large else ""))
    size = bytes_in_fine_ticks(SIZES[0])
    name = f"join, {SIZES[0]:.0e} pending, ticks of {BATCH // 10}"
    rows.append(Row(f"{name}: memory", size, "bytes/exposure", "<= 64"))
    most = max(costs)
    ratio = costs[most] / costs[100_000]
    rows.append(Row(f"join: cost at {most:.0e} pending / at 1e+05", ratio, "ratio", "<= 1.3"))
    return rows


def measure(pending: int) -> tuple[float, float, float]:
    """CPU seconds per event, those of snapshots among them, bytes per pending exposure."""
    state = initial(flow.policy())
    table = state.joins[0]
    count = _between_snapshots(pending)
    steps: list[float] = []
    snapshots: list[float] = []
    known: frozenset[bytes] = frozenset()
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(f"sqlite:///{folder}/ledger.db", clock=time.time)
        for number, (tick, step_s) in enumerate(
            ticks(table, pending, measured=max(LEAST, 3 * count) + 1)
        ):
            steps.append(step_s)
            if number % count:
                continue
            began = process_time()
            known = kept(ledger, state, tick, known)
            snapshots.append(process_time() - began)
        ledger.close()
    snapshot_s = float(np.mean(snapshots[1:])) / (count * EVENTS)  # the first one writes everything
    cost_s = float(np.median(steps)) / EVENTS + snapshot_s
    return cost_s, snapshot_s, table.nbytes / float(table.pending.sum())


def bytes_in_fine_ticks(pending: int) -> float:
    """Bytes per pending exposure where ticks and grace are a tenth as long.

    A table has room for all that is pending at the end of a tick, that is kept within the grace,
    and that comes within the next tick. In ticks of a fifth of the window that is 1.4 times what is
    pending, in ticks of a fiftieth 1.04.
    """
    table = initial(flow.policy()).joins[0]
    for _ in ticks(table, pending, measured=LEAST, batch=BATCH // 10):
        pass
    return table.nbytes / float(table.pending.sum())


def _between_snapshots(pending: int) -> int:
    """Ticks from one snapshot to the next, as `Fold` has it."""
    rows = 1.2 * pending
    return max(1, round(min(SNAPSHOT_EVENTS, SNAPSHOT_SHARE * rows) / EVENTS))


def kept(ledger: Ledger, state: State, offset: int, known: frozenset[bytes]) -> frozenset[bytes]:
    """Take a snapshot; the parts that it names."""
    cut = Cut(known)
    blob = encode(image(state), compress=True, cut=cut)
    parts = cut.parts()
    ledger.commit("m", snapshot=(offset, blob), parts=parts)
    return parts.named


def rule_of(pending: int, *, batch: int = BATCH) -> join.JoinRule:
    """The rule under which so many exposures are pending, of which `batch` come in a tick."""
    tick_s = batch / RATE
    window_s = tick_s * (pending // batch - 1)
    return join.JoinRule(window_s=window_s, grace_s=tick_s, default=0.0, low=0.0, high=1.0)


def ticks(
    table: join.Table, pending: int, *, measured: int, batch: int = BATCH
) -> Iterator[tuple[int, float]]:
    """Run the stream until it is steady, then give the number of each of `measured` ticks, and what
    it took of the processor."""
    rule, rng = rule_of(pending, batch=batch), np.random.default_rng(7)
    warm = pending // batch + 5
    for tick in range(warm + measured):
        came = exposures(tick, rng, batch=batch), rewards(tick, pending, rng, batch=batch)
        began = process_time()
        join.absorb(table, rule, *came)
        join.close(table, rule, (tick + 1) * batch / RATE)
        spent = process_time() - began
        if tick >= warm:
            yield tick, spent


def exposures(tick: int, rng: Generator, *, batch: int = BATCH) -> join.JoinExposures:
    """One tick's exposures, in order of time."""
    number = np.arange(tick * batch, (tick + 1) * batch)
    return join.JoinExposures(
        offset=number,
        time=(tick + np.sort(rng.random(batch))) * batch / RATE,
        request=request_keys(number),
        unit=request_keys(number % 1_000_003),
        arm=number % 2,
        stratum=np.zeros(batch, np.int64),
        in_rollout=np.ones(batch, np.bool_),
        level=np.zeros(batch, np.int64),
        is_candidate=number % 2 == 1,
        bin=np.zeros(batch, np.int64),
    )


def rewards(tick: int, pending: int, rng: Generator, *, batch: int = BATCH) -> join.JoinRewards:
    """One tick's rewards, of random exposures of the window."""
    count = batch // 10
    age = rng.integers(batch, max(pending - 3 * batch, 2 * batch), count)
    number = np.maximum(tick * batch - age, 0)
    return join.JoinRewards(
        offset=tick * count + np.arange(count),
        time=(tick + np.sort(rng.random(count))) * batch / RATE,
        id=request_keys(tick * count + np.arange(count)) ^ KEY,
        request=request_keys(number),
        unit=np.zeros(count, np.uint64),
        value=np.ones(count),
    )


def request_keys(number: np.ndarray) -> np.ndarray:
    """Keys that look like hashes, without repetition."""
    key = (number.astype(np.uint64) + np.uint64(1)) * KEY
    return (key ^ (key >> np.uint64(29))) * KEY


if __name__ == "__main__":
    for row in run(large="--large" in sys.argv):
        print(f"{row.name:45} {row.value:14,.2f} {row.unit:16} {row.target}")

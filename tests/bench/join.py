"""What the reward joiner costs, by how much is pending, in a steady stream.

As many exposures come as close; one in ten is rewarded, half a window later. Each size runs the
same ticks of the same stream; only the window, and thus what is pending, differs. 10^7 pending
takes 1.5 GB and a minute: `python -m tests.bench.join --large`.
"""

from __future__ import annotations

import sys
from time import process_time

import numpy as np
from numpy.random import Generator

from controller.core import join
from tests.bench import Row

TICK_S = 10.0
BATCH = 20_000
MEASURED = 20
KEY = np.uint64(0x9E3779B97F4A7C15)


def run(*, large: bool = False) -> list[Row]:
    """Events per second and bytes at several sizes, and the ratio of the costs per event."""
    rows, costs = [], {}
    for pending in (100_000, 1_000_000, *([10_000_000] if large else [])):
        cost_s, size = measure(pending)
        costs[pending] = cost_s
        rows.append(Row(f"join, {pending:.0e} pending", 1 / cost_s, "events/s", ""))
        rows.append(Row(f"join, {pending:.0e} pending: memory", size, "bytes/exposure", "<= 64"))
    most = max(costs)
    ratio = costs[most] / costs[100_000]
    rows.append(Row(f"join: cost at {most:.0e} pending / at 1e+05", ratio, "ratio", "<= 1.3"))
    return rows


def measure(pending: int) -> tuple[float, float]:
    """(CPU seconds per event, bytes per pending exposure) in the steady state."""
    ticks = pending // BATCH
    window_s = TICK_S * (ticks - 1)
    rule = join.JoinRule(window_s=window_s, grace_s=TICK_S, default=0.0, low=0.0, high=1.0)
    table = join.Table()
    rng = np.random.default_rng(7)
    warm = ticks + 5
    times = []
    for tick in range(warm + MEASURED):
        batch = exposures(tick, rng), rewards(tick, ticks // 2, rng)
        clock = (tick + 1) * TICK_S
        begin = process_time()
        join.absorb(table, rule, *batch)
        join.close(table, rule, clock)
        times.append(process_time() - begin)
    cost_s = float(np.median(times[warm:])) / (BATCH * 1.1)
    return cost_s, table.nbytes / float(table.pending.sum())


def exposures(tick: int, rng: Generator) -> join.JoinExposures:
    """One tick's exposures, in order of time."""
    number = np.arange(tick * BATCH, (tick + 1) * BATCH)
    return join.JoinExposures(
        offset=number,
        time=tick * TICK_S + np.sort(rng.random(BATCH)) * TICK_S,
        request=request_keys(number),
        unit=np.zeros(BATCH, np.uint64),
        arm=number % 2,
        stratum=np.zeros(BATCH, np.int64),
        in_rollout=np.ones(BATCH, np.bool_),
        level=np.zeros(BATCH, np.int64),
        is_candidate=number % 2 == 1,
        bin=np.zeros(BATCH, np.int64),
    )


def rewards(tick: int, age: int, rng: Generator) -> join.JoinRewards:
    """One tick's rewards, of random exposures that came `age` ticks before."""
    count = BATCH // 10
    number = (tick - age) * BATCH + rng.choice(BATCH, count, replace=False)
    return join.JoinRewards(
        offset=tick * count + np.arange(count),
        time=tick * TICK_S + np.sort(rng.random(count)) * TICK_S,
        id=request_keys(number + 1) ^ KEY,
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

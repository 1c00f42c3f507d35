"""Snapshots of a joiner with 10^5 to 10^7 pending exposures: what they write, and the way back.

The stream is that of `join`: as many exposures come as close, one in ten is rewarded at a random
time within the window, all in 20 000 exposures between two snapshots.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from statistics import median
from time import perf_counter, process_time

import numpy as np

from controller.core import join
from controller.core.state import initial
from controller.ledger import Ledger, open_ledger
from controller.loop.origin import state_of
from tests.bench import Row, flow
from tests.bench import join as stream

SIZES = (100_000, 1_000_000, 10_000_000)
SNAPSHOTS = 5


def run(*, sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """Each size in turn."""
    return [row for pending in sizes for row in measured(pending)]


def measured(pending: int) -> list[Row]:
    """Megabytes and milliseconds per snapshot, and seconds to have the state again."""
    name = f"snapshot, {pending:.0e} pending"
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        first, later = written(open_ledger(url, clock=time.time), pending)
        back = recovered(url)
    rows = [
        Row(f"{name}: the first", first[1] / 1e6, "MB", ""),
        Row(f"{name}: each later one", later[1] / 1e6, "MB", ""),
        Row(f"{name}: each later one", 1e3 * later[0], "ms of CPU", "<= 50"),
        Row(f"recovery, {pending:.0e} pending, by the clock", back["wall_s"], "s", "<= 10"),
        Row(f"recovery, {pending:.0e} pending", back["cpu_s"], "s of CPU", ""),
    ]
    if pending > 1_000_000:
        rows[2] = Row(f"{name}: each later one", 1e3 * later[0], "ms of CPU", "")
    return rows


def written(ledger: Ledger, pending: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(CPU seconds, bytes) of the first snapshot, and the median of later ones."""
    state = initial(flow.policy())
    taken: list[tuple[float, float]] = []
    known: frozenset[bytes] = frozenset()
    for tick, _ in stream.ticks(state.joins[0], pending, measured=SNAPSHOTS + 1):
        began = process_time()
        before, known = known, stream.kept(ledger, state, tick, known)
        cpu_s = process_time() - began
        bodies = ledger.parts("m", known - before)
        taken.append((cpu_s, sum(len(body) for _, body in bodies)))
    ledger.close()
    cpu_s, size = (median(column) for column in zip(*taken[1:], strict=True))
    return taken[0], (cpu_s, size)


def recovered(url: str) -> dict[str, float]:
    """What the way back takes, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.recovery", url]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(url: str) -> None:
    """Read the newest snapshot, and let the joiner work on."""
    ledger = open_ledger(url, clock=time.time)
    began, began_cpu = perf_counter(), process_time()
    kept = ledger.snapshot("m")
    assert kept is not None
    state, _ = state_of(ledger, "m", kept[1])
    wall_s, cpu_s = perf_counter() - began, process_time() - began_cpu
    table = state.joins[0]
    assert int(table.pending.sum()) == len(table.by_request) - sum(r.size for _, r in table.closed)
    key = table.exposures.request[table.live_rows()[:1_000]]
    assert np.all(table.by_request.find(key, table.exposures.request) >= 0)
    join.close(table, stream.rule_of(100_000), table.clock)
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main(sys.argv[1])

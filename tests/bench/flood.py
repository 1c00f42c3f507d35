"""Floods at full size: how long each takes, what `serve` needs in memory, and who had to wait.

A real `serve` on an empty state folder; beside each flood a good client posts an exposure and its
reward five times a second, and a probe asks for `/healthz`. Nothing that was good may be refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench import Row
from tests.bench.intake import serving
from tests.service import floods
from tests.service.floods import Target, Watch

MODEL = "digits"
MIB = 1 << 20


def run() -> list[Row]:
    """Three figures for each flood: seconds, peak memory, the slowest probe."""
    with serving() as (pid, port):
        target = Target(pid, port, MODEL)
        rows = [Row("flood: serve before any", target.peak_bytes() / MIB, "MiB", "")]
        for name, work in _floods(target):
            rows += _measured(target, name, work)
    return rows


def _floods(target: Target) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("10^6 malformed events, 20 bodies", lambda: floods.malformed(target, 1_000_000)),
        ("10^6 events and 1 GiB in bombs", lambda: floods.bombs(target, 1_000_000)),
        ("1 GiB body", lambda: floods.huge(target, 1 << 30, is_chunked=False)),
        ("1 GiB body in chunks", lambda: floods.huge(target, 1 << 30, is_chunked=True)),
        ("16 bodies of 10^5 events at once", lambda: floods.crowd(target, 16)),
        ("10^5 orphans", lambda: floods.orphans(target, 100_000)),
        ("10^5 of unknown models", lambda: floods.orphans(target, 100_000, model="no")),
        ("10^5 invented arms, segments", lambda: floods.inventions(target, 100_000)),
        ("2,000 idle or slow connections", lambda: _held(target, 2_000)),
        ("300 clients of the stream", lambda: _listening(target, 300)),
    ]


def _measured(target: Target, name: str, work: Callable[[], object]) -> list[Row]:
    target.forget_peak()
    began = time.perf_counter()
    with Watch(target) as watch:
        work()
        took = time.perf_counter() - began
        time.sleep(2)
    assert watch.faults == [], (name, watch.faults)
    assert watch.sent > 0
    return [
        Row(f"flood: {name}", took, "s", ""),
        Row("  peak memory", target.peak_bytes() / MIB, "MiB", "<= 512"),
        Row("  slowest /healthz", watch.slowest_probe_s, "s", "<= 5"),
        Row("  slowest good POST", watch.slowest_post_s, "s", "<= 10"),
    ]


def _held(target: Target, count: int) -> None:
    with floods.idlers(target, count):
        time.sleep(3)


def _listening(target: Target, count: int) -> None:
    with floods.listeners(target, count):
        time.sleep(3)

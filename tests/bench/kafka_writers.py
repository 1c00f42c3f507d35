"""What it costs that a controller and two workers append to one Kafka: `... bench.kafka_writers`.

The controller appends what came and ticks, to a model's log and its two partitions' logs; each
worker appends what it tells of its partition to the model's log, with a mark. First each at a pace
as in service, then all as fast as they can. `begun` counts how often a process had to begin anew to
append, the first time included.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.synchronize import Event as Started
from statistics import median
from time import perf_counter, sleep
from typing import Any, Final

from controller.stream import Mark, open_stream
from controller.stream.kafka import writer
from tests.bench.event_log import EXPOSURE, TICK
from tests.stores.kafka import Kafka

SECONDS: Final = 20.0
WARM_S: Final = 3.0
PACES_S: Final = {"controller": 0.25, "worker 0": 1.0, "worker 1": 1.0}


def appends(role: str, url: str, pace_s: float, start: Started, told: Any) -> None:
    """One process: the seconds of each of its appends, and how often it began."""
    begun, producer = [0], writer.Producer

    def counted(settings: Any) -> Any:
        begun[0] += 1
        return producer(settings)

    writer.Producer = counted  # type: ignore[assignment, misc]
    partitions = [f"m/{number}" for number in range(2)]
    lines: dict[str, Sequence[bytes]] = {"m": [b'{"type":"tallies","rows":[]}']}
    if role == "controller":
        lines = {name: [EXPOSURE % (i, i) for i in range(100)] + TICK for name in partitions}
        lines["m"] = TICK
    found = []
    with closing(open_stream(url)) as stream:
        stream.append(dict.fromkeys(("m", *partitions), ()))
        start.wait()
        began = perf_counter()
        while (asked := perf_counter()) < began + WARM_S + SECONDS:
            stream.append(lines, mark=Mark(role, str(len(found))))
            if asked > began + WARM_S:
                found.append(perf_counter() - asked)
            sleep(max(0.0, asked + pace_s - perf_counter()))
    told.put((role, found, begun[0]))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    print(f"{'':<28}{'appends/s':>10}{'median ms':>10}{'p99 ms':>9}{'max ms':>9}{'begun':>7}")
    with Kafka() as kafka:
        for way, paced in (("at a pace", True), ("as fast as can be", False)):
            url, start, told = kafka.address(), spawn.Event(), spawn.Queue()
            running = [
                spawn.Process(target=appends, args=(role, url, pace_s * paced, start, told))
                for role, pace_s in PACES_S.items()
            ]
            for each in running:
                each.start()
            sleep(3)
            start.set()
            for role, found, begun in sorted(told.get() for _ in running):
                ms = sorted(1e3 * each for each in found)
                p99 = ms[int(0.99 * (len(ms) - 1))]
                print(
                    f"{f'{way}, {role}':<28}{len(ms) / SECONDS:>10.1f}{median(ms):>10.1f}"
                    f"{p99:>9.0f}{ms[-1]:>9.0f}{begun:>7}",
                    flush=True,
                )
            for each in running:
                each.join()


if __name__ == "__main__":
    main()

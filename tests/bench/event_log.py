"""What an append and a read cost in each store of the event log: `python -m tests.bench.event_log`.

A turn of the controller is an append of what came, an append of a tick, and a read of both. Times
are in milliseconds, median and least of the turns, all stores in one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median
from time import perf_counter, sleep

from controller.stream import Mark, Stream, open_stream
from tests.stores.kafka import Kafka
from tests.stores.redis import Redis

TURNS, WARM, EXPOSURES = 120, 10, 200
EXPOSURE = (
    b'{"type":"exposure","time":1795423623.144,"model":"m","request_id":"7310cb0f-%06d",'
    b'"unit":"u%d","arm":"v2","epoch":17,"propensity":0.05,"status":200,"latency_ms":3.2}'
)
TICK = [b'{"type":"tick","time":1795423624.0}']


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Addresses of new logs."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Redis() as redis,
        Kafka() as kafka,
        Kafka(log_flush_interval_messages=1) as synced,
    ):
        yield {
            "SQLite": f"sqlite:///{folder}/events.db",
            "Redis": redis.address(),
            "Kafka": kafka.address(),
            "Kafka, always": synced.address(durability="always"),
        }


def turns(stream: Stream) -> list[list[float]]:
    """Milliseconds of the four columns, for each turn."""
    found, end = [], 0
    for turn in range(TURNS):
        lines = [EXPOSURE % (turn * EXPOSURES + i, i) for i in range(EXPOSURES)]
        began = perf_counter()
        stream.append({"m": lines}, mark=Mark("access_log", str(turn)))
        drained = perf_counter()
        stream.append({"m": TICK})
        ticked = perf_counter()
        end += sum(len(block.lines) for block in stream.read("m", end))
        done = perf_counter()
        assert end == (turn + 1) * (EXPOSURES + 1)
        found.append([drained - began, ticked - drained, done - ticked, done - began])
        sleep(0.02)
    return [[1e3 * each for each in row] for row in found[WARM:]]


def main() -> None:
    print(f"{'ms, median (least)':<20}{'drain':>15}{'tick':>15}{'read':>15}{'turn':>15}")
    with stores() as urls:
        for name, url in urls.items():
            with closing(open_stream(url)) as stream:
                columns = zip(*turns(stream), strict=True)
            cells = [f"{median(each):.1f} ({min(each):.1f})" for each in columns]
            print(f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

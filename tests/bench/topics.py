"""What it costs to bring records of others into the log: read, map, store, on one core.

Records are read from real brokers on this machine. Processor time of our process is counted, not
that of the broker, so the figure is that of one core whatever else runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import structlog

from tests.bench import Row
from tests.stores.kafka import Kafka
from tests.stores.redis import Redis
from tests.topics.brokers import KafkaTopics, RedisTopics, Topics, topic_name
from tests.topics.conftest import MAP, Desk, policy

RECORDS = 200_000
AT_ONCE = 50_000


def run() -> list[Row]:
    """Records a second, from a topic of each kind into a log in SQLite."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with Kafka() as broker:
        rows = [_measured(KafkaTopics(broker))]
    with Redis() as server:
        rows.append(_measured(RedisTopics(server)))
    return rows


def _measured(topics: Topics) -> Row:
    topic = topic_name()
    topics.make(topic)
    for _ in range(RECORDS // AT_ONCE):
        topics.produce(topic, [_record()] * AT_ONCE)
    source = topics.source(
        topic, start="earliest", map={**MAP, "time_unit": "ms"}, when={"$.event": "click"}
    )
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder), {topics.kind: topics.url}, policy("m", source))
        begin = time.process_time()
        _drain(desk)
        cost_s = time.process_time() - begin
        desk.close()
    name = f"records of {topics.kind}: read, mapped, stored"
    return Row(name, RECORDS / cost_s, "a core second", ">= 50000")


def _record() -> bytes:
    record = {
        "ctx": {"rid": "7310cb0f-8f0c-4a4e-9d0e-1f7c7a3d9d7e", "page": "/x", "user": "u1"},
        "event": "click",
        "v": 1,
        "ts": round(time.time() * 1_000),
        "agent": "Mozilla/5.0 (X11; Linux)",
        "tags": ["a", "b"],
    }
    return json.dumps(record).encode()


def _drain(desk: Desk) -> None:
    (feed,) = desk.feeds.each
    used = 0
    while used < RECORDS:
        batch = feed.next(time.time())
        if batch is None:
            time.sleep(0.01)
            continue
        desk.stream.append({"m": [event.line for event in batch.events]}, mark=feed.mark(batch))
        feed.stored()
        used += len(batch.events)


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:14,.0f} {row.unit:16} {row.target}")
